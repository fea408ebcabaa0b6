# Split a closure into layers, each a derivation of its own.
#
# Nix exports the reference graph, group_layers.py decides which store paths share a layer, and the
# evaluation reads its plan back in (import from derivation). A layer's derivation depends on its
# own store paths and on the tools that pack it, not on the image: another image, or the next
# revision of this one, has the same derivation where it has the same layer.
{
  # The programs that make derivations (builders/default.nix)
  builders,
}:
{
  # What the plan depends on: the arguments of plan_layers.nix, except the next two
  planArguments,
  # Popularity table, a file, or null
  popularity,
  # Plans of layers that exist, a file, or null
  known,
  # How a layer is packed: see pack_layer.nix
  packing,
  # Whether the evaluation may build the plan; otherwise one derivation packs all layers
  importFromDerivation,
}:
let
  groupedLayers = builders.plan_layers (planArguments // { inherit known popularity; });

  # The plan, read back into the evaluation, which builds it first (import from derivation). Its text
  # keeps no references: fromJSON refuses them, and a layer must depend on its own paths alone. Each
  # path gets back the reference to itself.
  plan = builtins.fromJSON (builtins.unsafeDiscardStringContext (builtins.readFile groupedLayers));
  withContext = path: builtins.appendContext path { ${path}.path = true; };

  # A name that says in the build log what is packed, and depends on the contents alone. It must not
  # be that of a derivation, which an image with Nix may contain.
  nameLayer =
    paths:
    let
      storeName = builtins.substring 33 150 (baseNameOf (builtins.head paths));
    in
    if builtins.length paths == 1 then
      "layer-" + builtins.replaceStrings [ ".drv" ] [ "-drv" ] storeName
    else
      "layer-of-${toString (builtins.length paths)}-paths";

  packLayer =
    layer:
    builders.pack_layer {
      inherit packing;
      name = nameLayer (if layer ? archive then [ layer.archive ] else layer.contents);
      contents = map withContext layer.contents;
      archive = if layer ? archive then withContext layer.archive else null;
    };
in
{
  inherit groupedLayers;
  picture = builders.draw_picture { inherit (groupedLayers) explanation; };
  layers =
    if importFromDerivation then
      map packLayer plan
    else
      [ (builders.pack_layers { inherit groupedLayers packing; }) ];
}
