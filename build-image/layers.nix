# Cut a closure into layers, each a derivation of its own.
#
# Nix exports the reference graph, group_layers.py decides which store paths share a layer, and the
# evaluation reads its plan back in (import from derivation). A layer's derivation depends on its
# own store paths and on the tools that pack it, not on the image: another image, or the next
# revision of this one, has the same derivation where it has the same layer.
{
  # Makes derivations of programs (builders/default.nix)
  runBuilder,
  # The folder with the module group_layers
  groupLayers,
}:
{
  # Store paths (strings with context) whose closures the image holds
  roots,
  # Those of the roots that only say what the image holds, and are not in it themselves
  references,
  # Uncompressed tar files, each of which is a layer; what they refer to is in the image as well
  archives,
  # Lists of store paths, each of which is a layer whatever group_layers.py says
  groups,
  # The most layers that the image may have, those of the base included
  maxLayers,
  # The description of a base image's layers, a file, or null
  base,
  # Popularity table, a file, or null
  popularity,
  # Plans of layers that exist, a file, or null
  known,
  # How a layer is packed: attributes of pack_layer.py
  packing,
  # Whether the store paths are in the image, or only what links to them
  includeStorePaths,
  # Whether the evaluation may build the plan; otherwise one derivation packs all layers
  importFromDerivation,
}:
let
  # What decides on the plan; images of a fleet are planned together from theirs (fleet.nix).
  toPlan = {
    exportReferencesGraph.graph = roots ++ archives ++ builtins.concatLists groups;
    inherit
      archives
      base
      groups
      includeStorePaths
      maxLayers
      references
      ;
  };
  groupedLayers = runBuilder "plan_layers" (
    toPlan
    // {
      name = "grouped-layers.json";
      outputs = [
        "out"
        "explain"
        "explanation"
      ];
      inherit groupLayers known popularity;
      preferLocalBuild = true;
    }
  );

  # The idea that all of this rests on is Nixery's: before any layer is made, a program sorts the
  # store paths into layers, for which Nix gives it the graph of all references; and the result is
  # read back into the evaluation, so that each layer can be a derivation.
  #
  # The plan's text keeps no references: fromJSON refuses them, and a layer must depend on its own
  # paths alone. Each path gets back the reference to itself.
  plan = builtins.fromJSON (builtins.unsafeDiscardStringContext (builtins.readFile groupedLayers));
  withContext = path: builtins.appendContext path { ${path}.path = true; };

  # A name that tells the build log what is packed, and no more than the contents tell. It can't be a
  # derivation's, which a container with Nix may well have.
  nameLayer =
    paths:
    let
      storeName = builtins.substring 33 150 (baseNameOf (builtins.head paths));
    in
    if builtins.length paths == 1 then
      "layer-" + builtins.replaceStrings [ ".drv" ] [ "-drv" ] storeName
    else
      "layer-of-${toString (builtins.length paths)}-paths";

  packed = {
    outputs = [
      "out"
      "description"
    ];
    # A packed layer needs nothing to be unpacked. Plain tar and zstd would keep alive what they
    # hold (Nix before 2.18 does not know this attribute, and there they do).
    unsafeDiscardReferences.out = true;
  };
  packLayer =
    layer:
    runBuilder "pack_layer" (
      packing
      // packed
      // {
        name = nameLayer (if layer ? archive then [ layer.archive ] else layer.contents);
        contents = map withContext layer.contents;
        archive = if layer ? archive then withContext layer.archive else null;
      }
    );
in
{
  inherit groupedLayers toPlan;
  picture = runBuilder "draw_picture" {
    name = "picture.svg";
    inherit (groupedLayers) explanation;
    inherit groupLayers;
  };
  layers =
    if importFromDerivation then
      map packLayer plan
    else
      [
        (runBuilder "pack_layers" (
          packing
          // packed
          // {
            name = "layers";
            inherit groupedLayers;
          }
        ))
      ];
}
