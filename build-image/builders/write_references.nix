# A file with the store paths that the image's configuration refers to, so that Nix finds the
# references. It is in no image; what it refers to is.
{ build, ... }:
{
  # What errors begin with where the image is one of several, or ""
  caller,
  # The configuration, JSON with context
  text,
  # What read_base_image.py writes as `image`, or null
  baseImage,
  storeDir,
}@attributes:
build (
  attributes
  // {
    name = "references";
    preferLocalBuild = true;
  }
)
