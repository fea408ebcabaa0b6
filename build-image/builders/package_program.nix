# A Python program, byte-compiled: bin/NAME, and its modules in lib/.
{ tools, build, ... }:
{
  # Name of the command
  name,
  # The module whose `main` it calls
  module,
  # A folder with that module and those that it imports, also in folders of it
  source,
}@attributes:
build (attributes // { python = "${tools.python3}/bin/python3"; })
