# The program `group-layers`, and its module for builders that call its functions.
{
  # Package set with Python
  tools,
}:
import ../builders { inherit tools; } "package_program" {
  name = "group-layers";
  source = builtins.path {
    name = "source";
    path = ../..;
    filter = path: _: baseNameOf path == "group_layers.py";
  };
  module = "group_layers";
  command = "group-layers";
  python = "${tools.python3}/bin/python3";
}
// {
  meta = {
    description = "Group the store paths of a container image into layers";
    mainProgram = "group-layers";
  };
}
