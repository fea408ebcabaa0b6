# The programs of this folder as functions: `builders.pack_layer { ... }` is a derivation that
# pack_layer.py builds. NAME.nix has the arguments of NAME.py, and says what it writes.
#
# There is no stdenv around them: its setup takes longer than packing a small layer, and each
# layer would be packed again whenever any part of stdenv changes. A derivation depends on its
# attributes, on Python, and on the files that it runs.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
let
  inherit (builtins)
    attrNames
    concatMap
    elem
    elemAt
    filter
    genericClosure
    isList
    listToAttrs
    map
    match
    readDir
    readFile
    split
    ;

  files = readDir ./.;
  programs = concatMap (
    file:
    let
      name = match "([a-z_]+)\\.nix" file;
    in
    if name == null || file == "default.nix" then [ ] else name
  ) (attrNames files);

  # The module and the modules of this folder that it imports, directly or not
  modulesOf =
    module:
    let
      found = filter isList (split "\nfrom ([a-z_]+) import" (readFile (./. + "/${module}.py")));
      imported = filter (name: files ? "${name}.py") (map (groups: elemAt groups 0) found);
    in
    map (key: { inherit key; }) imported;
  filesOf =
    module:
    map (item: "${item.key}.py") (genericClosure {
      startSet = [ { key = module; } ];
      operator = item: modulesOf item.key;
    });

  makeBuilder =
    name:
    let
      source = builtins.path {
        name = "builders";
        path = ./.;
        filter = path: _: elem (baseNameOf path) (filesOf name);
      };
    in
    import (./. + "/${name}.nix") {
      inherit tools source builders;
      # The derivation with these attributes, all of which are passed to the program
      build =
        attributes:
        derivation (
          {
            inherit (tools.stdenv.buildPlatform) system;
            __structuredAttrs = true;
            # Nix gives a builder its base name alone, and Python finds its library by its full path,
            # so env starts Python.
            builder = "${tools.coreutils}/bin/env";
            args = [
              "${tools.python3}/bin/python3"
              # Ignore the environment and site-packages, and write no bytecode.
              "-BEsS"
              "${source}/${name}.py"
            ];
          }
          // attributes
        );
    };

  builders = listToAttrs (
    map (name: {
      inherit name;
      value = makeBuilder name;
    }) programs
  );
in
builders
