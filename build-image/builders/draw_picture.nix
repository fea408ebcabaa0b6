# A picture of the layers, and of the paths in them.
{ build, ... }:
{
  # What plan_layers.py or plan_fleet.py writes as `explanation`
  explanation,
}@attributes:
build ({ name = "picture.svg"; } // attributes)
