# A file with what a program writes to standard output.
{ build, ... }:
{
  name,
  # The program and its arguments
  command,
}:
build {
  inherit name command;
  unsafeDiscardReferences.out = true;
}
