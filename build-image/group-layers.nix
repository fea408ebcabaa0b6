# The program `group-layers`, and its module for builders that call its functions.
{
  # Package set with Python
  tools,
}:
import ./builders { inherit tools; } "package_program" {
  name = "group-layers";
  program = "${../group_layers.py}";
  command = "group-layers";
  module = "group_layers";
  python = "${tools.python3}/bin/python3";
}
// {
  meta = {
    description = "Group the store paths of a container image into layers";
    mainProgram = "group-layers";
  };
}
