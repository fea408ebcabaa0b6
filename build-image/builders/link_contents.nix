# The archive of the image's root: links to the contents, and what commands add.
{ tools, build, ... }:
{
  # What errors of commands begin with where the image is one of several, or ""
  caller,
  # Store paths, or folders in some, whose files are linked
  contents,
  # The store paths that these are in; their closure is what links may lead to
  storePaths,
  # Shell commands that run in the root, the latter as a simulated root user; "" for none
  extraCommands,
  fakeRootCommands,
  # What read_base_image.py writes as `tree`, or null
  baseTree,
  # Which layers of the image's own are below, and the owner of what is in them, NAME:ID each
  includeStorePaths,
  includeNixDB,
  owner,
  group,
  storeDir,
  # Seconds since 1970
  mtime,
}@attributes:
let
  # The PATH of the commands: the programs of every stdenv
  path = builtins.concatStringsSep ":" (
    map (package: "${package}/bin") [
      tools.coreutils
      tools.findutils
      tools.diffutils
      tools.gnused
      tools.gnugrep
      tools.gawk
      tools.gnutar
      tools.gzip
      tools.bzip2
      tools.gnumake
      tools.bash
      tools.gnupatch
      tools.xz
      tools.file
    ]
  );
  # Without commands, the derivation does not depend on the programs that run them.
  commands =
    if extraCommands == "" && fakeRootCommands == "" then
      {
        shell = "";
        path = "";
        caller = "";
      }
    else
      {
        shell = "${tools.bash}/bin/bash";
        inherit path caller;
      };
in
build (
  removeAttrs attributes [ "storePaths" ]
  // commands
  // {
    name = "image-root.tar";
    exportReferencesGraph.closure = storePaths;
    fakeroot = if fakeRootCommands == "" then "" else "${tools.fakeroot}/bin/fakeroot";
  }
)
