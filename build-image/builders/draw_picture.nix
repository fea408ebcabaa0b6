# A picture of the layers, and of the paths in them.
{ tools, build, ... }:
{
  # What plan_layers.py or plan_fleet.py writes as `explanation`
  explanation,
}@attributes:
build (
  {
    name = "picture.svg";
    groupLayers = "${import ../group-layers.nix { inherit tools; }}/lib";
  }
  // attributes
)
