# The layers of images that are planned together, each as `known` of plan_layers.nix.
{ build, ... }:
{
  # By name of the image, the arguments of plan_layers.nix, except `popularity` and `known`
  images,
  # Plans of layers that exist, a file, or null
  known,
}:
build {
  name = "fleet-layers.json";
  outputs = [
    "out"
    "explain"
    "explanation"
  ];
  images = builtins.mapAttrs (_: image: removeAttrs image [ "roots" ]) images;
  exportReferencesGraph = builtins.listToAttrs (
    map (name: {
      name = "image-${name}";
      value = images.${name}.roots;
    }) (builtins.attrNames images)
  );
  inherit known;
  preferLocalBuild = true;
}
