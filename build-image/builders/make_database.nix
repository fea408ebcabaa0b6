# The archive of a Nix database in which the image's store paths are registered.
{ tools, build, ... }:
{
  # The store paths whose closure is in the image
  roots,
  # Those of the closure that are not in it
  leftOut,
  # What read_base_image.py writes as `out`, `description` and `tree`, or null each
  baseFolder,
  baseLayers,
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
