# The programs of this folder as functions: `builders.pack_layer { ... }` is a derivation that
# pack_layer.py builds. NAME.nix has the arguments of NAME.py, and says what it writes.
#
# There is no stdenv around them: its setup takes longer than packing a small layer, and each
# layer would be packed again whenever any part of stdenv changes. A derivation depends on its
# attributes, on Python, and on the modules that it runs.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
let
  inherit (builtins)
    attrNames
    concatMap
    listToAttrs
    map
    match
    readDir
    replaceStrings
    ;

  package = import ../programs/package.nix { inherit tools; };

  programs = concatMap (
    file:
    let
      name = match "([a-z_]+)\\.nix" file;
    in
    if name == null || file == "default.nix" then [ ] else name
  ) (attrNames (readDir ./.));
in
listToAttrs (
  map (name: {
    inherit name;
    value = import (./. + "/${name}.nix") {
      inherit tools;
      # The derivation with these attributes, all of which are passed to the program
      build =
        attributes:
        derivation (
          {
            inherit (tools.stdenv.buildPlatform) system;
            __structuredAttrs = true;
            builder = "${package name}/bin/${replaceStrings [ "_" ] [ "-" ] name}";
          }
          // attributes
        );
    };
  }) programs
)
