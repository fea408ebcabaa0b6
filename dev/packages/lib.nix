# As many functions of nixpkgs' `lib` as this set and the expressions that use it call, under the same
# names.
let
  inherit (builtins)
    attrNames
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    genList
    head
    isAttrs
    isFunction
    isList
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
    any
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genList
    head
    isAttrs
    isFunction
    isInt
    isList
    isString
    length
    listToAttrs
    mapAttrs
    replaceStrings
    stringLength
    substring
    tail
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
  callPackageWith =
    set: f: arguments:
    let
      function = if isFunction f then f else import f;
    in
    function (builtins.intersectAttrs (builtins.functionArgs function) set // arguments);
  importJSON = path: builtins.fromJSON (builtins.readFile path);

  # Lists
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: list: if condition then list else [ ];
  flatten = x: if isList x then builtins.concatMap flatten x else [ x ];
  toList = x: if isList x then x else [ x ];
  unique = foldl' (list: x: if elem x list then list else list ++ [ x ]) [ ];
  last = list: elemAt list (length list - 1);

  # Attribute sets
  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  optionalAttrs = condition: set: if condition then set else { };
  filterAttrs =
    predicate: set:
    removeAttrs set (filter (name: !predicate name set.${name}) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
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
  optionalString = condition: text: if condition then text else "";
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  removePrefix =
    prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  concatMapStringsSep =
    separator: f: list:
    concatStringsSep separator (map f list);
  concatMapStrings = concatMapStringsSep "";
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
  isDerivation = x: isAttrs x && (x.type or null) == "derivation";
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
