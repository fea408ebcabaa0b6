# All layers of an image in one derivation, where the evaluation may not build the plan: a folder of
# blobs and, as output `description`, what layer.py says of them.
{ build, ... }:
{
  # The plan, as plan_layers.py writes it
  groupedLayers,
  # How every layer is packed: see pack_layer.nix
  packing,
}@attributes:
build (
  attributes
  // {
    name = "layers";
    outputs = [
      "out"
      "description"
    ];
    unsafeDiscardReferences.out = true;
  }
)
