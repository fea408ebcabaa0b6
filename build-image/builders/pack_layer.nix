# One layer: the blob and, as output `description`, what layer.py says of it.
{ build, ... }:
{
  # Depends on the layer's contents alone, never on the image, or images could not share the layer
  name,
  # Store paths, in order
  contents,
  # An uncompressed tar file in their place, or null
  archive,
  # How every layer of the image is packed:
  #   tar, compressorProgram  the programs
  #   compressor              "gz", "zstd" or "none"
  #   storeDir
  #   mtime                   of all files, in seconds since 1970
  #   owner, group            of the store paths, NAME:ID each
  packing,
}@attributes:
build (
  attributes
  // {
    outputs = [
      "out"
      "description"
    ];
    # A packed layer does not need its store paths. Without this attribute, as with Nix before 2.18,
    # layers in plain tar or zstd keep them alive.
    unsafeDiscardReferences.out = true;
  }
)
