# What is in an image: a CycloneDX document.
{ build, ... }:
{
  # Name of the file in the store
  name,
  # Name and tag of the image
  imageName,
  tag,
  # What describe_image.py wrote
  documents,
  # What read_base_image.py writes as `image`, or null
  base,
  # Store paths, with context, whose closures the image holds
  roots,
  # What is known of packages among them (sbom.nix)
  packages,
}@attributes:
build (removeAttrs attributes [ "roots" ] // { exportReferencesGraph.graph = roots; })
