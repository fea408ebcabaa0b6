# A Python module of this project -> a package of the program that its `main` is: bin/NAME and, in
# lib/, the module with those that it imports, byte-compiled.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
let
  inherit (builtins)
    attrNames
    concatMap
    elemAt
    filter
    genericClosure
    isList
    listToAttrs
    map
    match
    placeholder
    readDir
    readFile
    replaceStrings
    split
    ;

  # The files of all modules, by name
  files = listToAttrs (
    concatMap
      (
        folder:
        map (file: {
          name = elemAt (match "(.*)\\.py" file) 0;
          value = folder + "/${file}";
        }) (filter (file: match ".*\\.py" file != null) (attrNames (readDir folder)))
      )
      [
        ../..
        ../builders
        ./.
        ./copy_to
      ]
  );

  # What a module imports at the beginning of a line, directly or not, and itself
  withImports =
    module:
    map (item: item.key) (genericClosure {
      startSet = [ { key = module; } ];
      operator =
        item:
        map (words: { key = elemAt words 0; }) (
          filter (words: isList words && files ? ${elemAt words 0}) (
            split "\nfrom ([a-z_]+) import" (readFile files.${item.key})
          )
        );
    });
in
module:
let
  name = replaceStrings [ "_" ] [ "-" ] module;
in
derivation {
  inherit name;
  inherit (tools.stdenv.buildPlatform) system;
  # Nix gives a builder its base name alone, and Python finds its library by its full path, so env
  # starts Python.
  builder = "${tools.coreutils}/bin/env";
  args = [
    "${tools.python3}/bin/python3"
    # Ignore the environment and site-packages, and write no bytecode.
    "-BEsS"
    ./package.py
    (placeholder "out")
    name
    module
  ]
  ++ map (each: files.${each}) (withImports module);
}
