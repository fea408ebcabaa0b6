# The program `group-layers`, which decides what shares a layer. The derivation `groupedLayers` of an
# image (image/layers.nix) calls its functions.
{
  # Package set with Python
  tools,
}:
(import ./builders { inherit tools; }).package_program {
  name = "group-layers";
  module = "group_layers";
  source = builtins.path {
    name = "source";
    path = ./..;
    filter = path: _: baseNameOf path == "group_layers.py";
  };
}
// {
  meta = {
    description = "Group the store paths of a container image into layers";
    mainProgram = "group-layers";
  };
}
