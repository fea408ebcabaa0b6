# Cut a closure into layers, each a derivation of its own.
#
# Nix exports the reference graph, group_layers.py decides which store paths share a layer, and the
# evaluation reads its plan back in (import from derivation). A layer's derivation depends on its
# own store paths and on the tools that pack it, not on the image: another image, or the next
# revision of this one, has the same derivation where it has the same layer.
{
  # Makes derivations of this folder's programs (builders/default.nix)
  runBuilder,
}:
{
  # Store paths (strings with context) whose closures the image holds
  roots,
  # Those of the roots that only say what the image holds, and are not in it themselves
  references,
  # Uncompressed tar files for the last layer; what they refer to is in the image as well
  archives,
  # Lists of store paths, each of which is a layer whatever the grouping says
  grouped,
  # The most layers that the image may have, those of the base and the last one included
  maxLayers,
  # Base image, an OCI layout, or null
  base,
  # Popularity table, a file, or null
  popularity,
  # How layers are packed: attributes of pack_layer.py
  packing,
  # Whether the store paths are in the image, or only what links to them
  includeStorePaths,
  # Whether the evaluation may build the plan; otherwise one derivation plans and packs all
  importFromDerivation,
}:
let
  planning = {
    exportReferencesGraph.graph = roots ++ archives ++ builtins.concatLists grouped;
    groupLayers = "${../group_layers.py}";
    inherit
      archives
      references
      grouped
      maxLayers
      base
      popularity
      ;
    preferLocalBuild = true;
  };

  plan = runBuilder [ "plan_layers.py" "read_base.py" ] (
    planning
    // {
      name = "layer-plan.json";
      outputs = [
        "out"
        "explain"
      ];
    }
  );

  # The plan's text keeps no references: fromJSON refuses them, and a layer must depend on its own
  # paths alone. Each path gets back the reference to itself.
  withContext = path: builtins.appendContext path { ${path}.path = true; };
  contentsOf =
    plan:
    map (layer: layer.contents) (
      builtins.fromJSON (builtins.unsafeDiscardStringContext (builtins.readFile plan))
    );

  # A name that tells the build log what is packed, and no more than the contents tell.
  nameOf =
    contents:
    if builtins.length contents == 1 then
      "layer-" + builtins.substring 33 150 (baseNameOf (builtins.head contents))
    else
      "layer-of-${toString (builtins.length contents)}-paths";

  packLayer = runBuilder [ "pack_layer.py" ];
  pack =
    contents: archives:
    packLayer (
      packing
      // {
        name = if contents == [ ] then "layer-of-root" else nameOf contents;
        storePaths = map withContext contents;
        inherit archives;
        # A packed layer needs nothing to be unpacked. Plain tar and zstd would keep alive what they
        # hold (Nix before 2.18 does not know this attribute, and there they do).
        unsafeDiscardReferences.out = true;
      }
    );

  storeLayers = if includeStorePaths then contentsOf plan else [ ];
  layers =
    if maxLayers == 1 then
      [ (pack (builtins.concatLists storeLayers) archives) ]
    else
      map (contents: pack contents [ ]) storeLayers ++ [ (pack [ ] archives) ];

  packed = runBuilder [ "pack_image.py" "pack_layer.py" "plan_layers.py" "read_base.py" ] (
    planning
    // packing
    // {
      name = "layers";
      inherit includeStorePaths;
      outputs = [
        "out"
        "explain"
      ];
      unsafeDiscardReferences.out = true;
    }
  );
in
if importFromDerivation then
  {
    inherit layers plan;
    inherit (plan) explain;
  }
else
  {
    layers = [ packed ];
    plan = packed;
    inherit (packed) explain;
  }
