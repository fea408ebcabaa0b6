# `groupedLayers`: what is in each layer of an image, decided by group_layers.py on the reference graph
# that Nix exports.
{ build, ... }:
{
  # Store paths, with context, whose closures the image holds
  roots,
  # Those of the roots that only refer to the image's contents, and are not in it themselves
  references,
  # Those that are uncompressed tar files, each of which is a layer
  archives,
  # Lists of store paths, each of which is a layer whatever group_layers.py says
  groups,
  # Whether the store paths are in the image, or only what links to them
  includeStorePaths,
  # The maximum number of layers of the image, those of the base included
  maxLayers,
  # The layers of a base image: what read_base_image.py writes as `description`, or null
  baseLayers,
  # Popularity table, a file, or null
  popularity,
  # Plans of layers that exist, a file, or null
  known,
}@attributes:
build (
  removeAttrs attributes [ "roots" ]
  // {
    name = "grouped-layers.json";
    outputs = [
      "out"
      "explain"
      "explanation"
    ];
    exportReferencesGraph.graph = roots;
    preferLocalBuild = true;
  }
)
