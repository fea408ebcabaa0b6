# The functions of nixpkgs' `lib` that this set and the expressions that use it call, under the same
# names.
let
  inherit (builtins)
    concatStringsSep
    elemAt
    filter
    genList
    head
    isAttrs
    isString
    length
    listToAttrs
    replaceStrings
    split
    stringLength
    substring
    tail
    ;
in
rec {
  inherit (builtins)
    all
    concatMap
    filter
    foldl'
    genList
    ;

  # Functions
  id = x: x;
  fix =
    f:
    let
      x = f x;
    in
    x;
  extends =
    overlay: f: final:
    let
      prev = f final;
    in
    prev // overlay final prev;
  importJSON = path: builtins.fromJSON (builtins.readFile path);

  # Lists
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: list: if condition then list else [ ];
  last = list: elemAt list (length list - 1);

  # Attribute sets
  genAttrs =
    names: f:
    listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  optionalAttrs = condition: set: if condition then set else { };
  attrByPath =
    path: default: set:
    if path == [ ] then
      set
    else if isAttrs set && set ? ${head path} then
      attrByPath (tail path) default set.${head path}
    else
      default;
  setAttrByPath =
    path: value: if path == [ ] then value else { ${head path} = setAttrByPath (tail path) value; };
  recursiveUpdate =
    a: b:
    a
    // builtins.mapAttrs (
      name: value:
      if isAttrs value && isAttrs (a.${name} or null) then
        recursiveUpdate a.${name} value
      else
        value
    ) b;

  # Strings
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  removePrefix =
    prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  concatMapStringsSep =
    separator: f: list:
    concatStringsSep separator (map f list);
  stringToCharacters = text: genList (n: substring n 1 text) (stringLength text);
  splitString =
    let
      special = stringToCharacters "\\[{()^$?*+|.";
      escape = replaceStrings special (map (character: "\\${character}") special);
    in
    separator: text: filter isString (split (escape separator) text);
  toLower = replaceStrings (stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (
    stringToCharacters "abcdefghijklmnopqrstuvwxyz"
  );
  escapeShellArg = argument: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString argument)}'";

  # Packages
  getBin = package: package.bin or package.out or package;
  getExe =
    package: "${getBin package}/bin/${package.meta.mainProgram or package.pname or package.name}";
  makeBinPath = packages: concatMapStringsSep ":" (package: "${getBin package}/bin") packages;
  platforms.linux = [
    "x86_64-linux"
    "aarch64-linux"
  ];
  systems.flakeExposed = platforms.linux;
}
