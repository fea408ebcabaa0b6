# Files by name -> a folder with links to them.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
name: files:
let
  inherit (builtins) attrNames concatStringsSep map;
  inherit (tools.lib) escapeShellArg;
  # Names of images have slashes.
  place = file: escapeShellArg (builtins.replaceStrings [ "/" ] [ "-" ] file);
in
tools.runCommand name { } (
  concatStringsSep "\n" (
    [ "mkdir $out" ] ++ map (file: "ln -s ${files.${file}} $out/${place file}") (attrNames files)
  )
)
