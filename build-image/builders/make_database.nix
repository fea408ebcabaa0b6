# The archive of a Nix database in which the image's store paths are registered.
{ tools, build, ... }:
{
  # The store paths whose closure is in the image
  roots,
  # Those of the closure that are not in it
  leftOut,
  # The folder that read_base_image.py wrote, its `description` and its `tree`; or null
  base,
  baseDescription,
  baseTree,
  storeDir,
  # Seconds since 1970
  mtime,
  # NAME:ID each
  owner,
  group,
}@attributes:
build (
  removeAttrs attributes [ "roots" ]
  // {
    name = "nix-database.tar";
    exportReferencesGraph.closure = roots;
    nixStore = "${tools.nix}/bin/nix-store";
    unsafeDiscardReferences.out = true;
  }
)
