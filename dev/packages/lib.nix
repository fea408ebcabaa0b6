# The functions of nixpkgs' `lib` that a package set and the expressions that use it need, under the
# same names.
let
  inherit (builtins)
    attrNames
    concatLists
    concatStringsSep
    elem
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
    map
    match
    replaceStrings
    split
    stringLength
    substring
    tail
    ;
in
rec {
  inherit (builtins)
    add
    all
    any
    attrNames
    attrValues
    catAttrs
    compareVersions
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    fromJSON
    functionArgs
    genList
    getAttr
    groupBy
    hasAttr
    head
    intersectAttrs
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isPath
    isString
    length
    lessThan
    listToAttrs
    map
    mapAttrs
    match
    partition
    readFile
    removeAttrs
    replaceStrings
    seq
    sort
    split
    stringLength
    substring
    tail
    toJSON
    trace
    ;

  # Functions and control.
  id = x: x;
  const = x: _: x;
  flip =
    f: a: b:
    f b a;
  pipe = foldl' (x: f: f x);
  fix =
    f:
    let
      x = f x;
    in
    x;
  throwIf = condition: message: if condition then throw message else x: x;
  throwIfNot = condition: throwIf (!condition);
  assertMsg = condition: message: condition || throw message;
  warn = message: builtins.trace "warning: ${message}";
  warnIf = condition: message: if condition then warn message else x: x;
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  mod = a: b: a - b * (a / b);
  boolToString = b: if b then "true" else "false";
  importJSON = path: builtins.fromJSON (builtins.readFile path);
  inPureEvalMode = !builtins ? currentSystem;

  # Lists.
  singleton = x: [ x ];
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: list: if condition then list else [ ];
  flatten = x: if isList x then builtins.concatMap flatten x else [ x ];
  toList = x: if isList x then x else [ x ];
  remove = x: filter (y: y != x);
  unique = foldl' (list: x: if elem x list then list else list ++ [ x ]) [ ];
  last = list: builtins.elemAt list (length list - 1);
  init = list: genList (builtins.elemAt list) (length list - 1);
  take = n: list: genList (builtins.elemAt list) (min n (length list));
  drop = n: list: genList (i: builtins.elemAt list (i + n)) (max 0 (length list - n));
  range = first: final: if first > final then [ ] else genList (n: first + n) (final - first + 1);
  imap0 = f: list: genList (n: f n (builtins.elemAt list n)) (length list);
  imap1 = f: list: genList (n: f (n + 1) (builtins.elemAt list n)) (length list);
  zipListsWith =
    f: a: b:
    genList (n: f (builtins.elemAt a n) (builtins.elemAt b n)) (min (length a) (length b));
  reverseList = list: genList (n: builtins.elemAt list (length list - n - 1)) (length list);
  foldr =
    f: start: list:
    foldl' (x: y: f y x) start (reverseList list);
  findFirst =
    predicate: default: list:
    let
      found = filter predicate list;
    in
    if found == [ ] then default else head found;
  subtractLists = a: filter (x: !elem x a);
  intersectLists = a: filter (x: elem x a);
  concatMapStringsSep =
    separator: f: list:
    concatStringsSep separator (map f list);
  concatMapStrings = concatMapStringsSep "";
  concatStrings = concatStringsSep "";
  concatLines = concatMapStrings (line: line + "\n");

  # Attribute sets.
  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  optionalAttrs = condition: set: if condition then set else { };
  filterAttrs =
    predicate: set:
    removeAttrs set (filter (name: !predicate name set.${name}) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
  concatMapAttrs = f: set: foldl' (a: b: a // b) { } (mapAttrsToList f set);
  mergeAttrsList = foldl' (a: b: a // b) { };
  attrByPath =
    path: default: set:
    if path == [ ] then
      set
    else if isAttrs set && set ? ${head path} then
      attrByPath (tail path) default set.${head path}
    else
      default;
  hasAttrByPath =
    path: set:
    path == [ ] || isAttrs set && set ? ${head path} && hasAttrByPath (tail path) set.${head path};
  getAttrFromPath =
    path: attrByPath path (throw "cannot find attribute '${concatStringsSep "." path}'");
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
  recurseIntoAttrs = set: set // { recurseForDerivations = true; };
  dontRecurseIntoAttrs = set: set // { recurseForDerivations = false; };

  # Strings.
  optionalString = condition: text: if condition then text else "";
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      start = stringLength text - stringLength suffix;
    in
    start >= 0 && substring start (-1) text == suffix;
  removePrefix =
    prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  removeSuffix =
    suffix: text:
    if hasSuffix suffix text then
      substring 0 (stringLength text - stringLength suffix) text
    else
      text;
  hasInfix = infix: text: length (split (escapeRegex infix) text) > 1;
  splitString =
    separator: text: filter isString (split (escapeRegex separator) (toString text));
  stringToCharacters = text: genList (n: substring n 1 text) (stringLength text);
  escape = characters: replaceStrings characters (map (c: "\\${c}") characters);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  escapeShellArg =
    argument:
    let
      text = toString argument;
    in
    if match "[[:alnum:],._+:@%/-]+" text == null then
      "'${replaceStrings [ "'" ] [ "'\\''" ] text}'"
    else
      text;
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  lowerChars = stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  upperChars = stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  toLower = replaceStrings upperChars lowerChars;
  toUpper = replaceStrings lowerChars upperChars;
  trim = text: head (match "[[:space:]]*(.*[^[:space:]]|)[[:space:]]*" text);
  toInt =
    text:
    let
      number = builtins.fromJSON text;
    in
    if match "[[:space:]]*-?[0-9]+[[:space:]]*" text != null && builtins.isInt number then
      number
    else
      throw "Could not convert ${text} to int.";
  versionOlder = a: b: builtins.compareVersions b a == 1;
  versionAtLeast = a: b: !versionOlder a b;
  getName = x: x.pname or (builtins.parseDrvName (x.name or x)).name;
  getVersion = x: x.version or (builtins.parseDrvName (x.name or x)).version;

  # Derivations.
  isDerivation = x: isAttrs x && (x.type or null) == "derivation";
  isStorePath =
    x:
    (isString x || builtins.isPath x || x ? outPath)
    && builtins.dirOf (toString x) == builtins.storeDir;
  getOutput = output: package: package.${output} or package.out or package;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
  getDev = getOutput "dev";
  getExe' = package: program: "${getBin package}/bin/${program}";
  getExe = package: getExe' package (package.meta.mainProgram or (getName package));
  makeSearchPath =
    folder: packages:
    concatMapStringsSep ":" (package: "${package}/${folder}") (filter (x: x != null) packages);
  makeBinPath = packages: makeSearchPath "bin" (map getBin packages);
  makeLibraryPath = packages: makeSearchPath "lib" (map getLib packages);
  addMetaAttrs = meta: package: package // { meta = package.meta or { } // meta; };
  hydraJob = package: package;
  toDerivation = path: {
    type = "derivation";
    name = baseNameOf (toString path);
    outPath = toString path;
    outputs = [ "out" ];
  };
  makeOverridable =
    f: arguments:
    let
      result = f arguments;
    in
    if isAttrs result then
      result
      // {
        override =
          changes:
          makeOverridable f (
            arguments // (if isFunction changes then changes arguments else changes)
          );
      }
    else
      result;
  callPackageWith =
    set: f: arguments:
    let
      function = if isFunction f then f else import f;
    in
    makeOverridable function (
      builtins.intersectAttrs (builtins.functionArgs function) set // arguments
    );
  composeExtensions =
    f: g: final: prev:
    let
      first = f final prev;
    in
    first // g final (prev // first);
  composeManyExtensions = foldr composeExtensions (_: _: { });
  extends =
    overlay: f: final:
    let
      prev = f final;
    in
    prev // overlay final prev;

  cleanSource = src: src;
  cleanSourceWith = { src, ... }: src;

  licenses = builtins.mapAttrs (shortName: spdxId: { inherit shortName spdxId; free = true; }) {
    asl20 = "Apache-2.0";
    bsd3 = "BSD-3-Clause";
    gpl3Plus = "GPL-3.0-or-later";
    isc = "ISC";
    lgpl21Plus = "LGPL-2.1-or-later";
    mit = "MIT";
  };
  maintainers = { };
  platforms = rec {
    linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    unix = linux;
    all = linux;
  };
  systems.flakeExposed = platforms.linux;

  version = "0-small";
  trivial = {
    inherit id const version;
    release = version;
  };
  strings = {
    inherit
      concatMapStringsSep
      concatStringsSep
      escapeShellArg
      escapeShellArgs
      hasPrefix
      hasSuffix
      makeBinPath
      removePrefix
      removeSuffix
      splitString
      toInt
      toLower
      toUpper
      ;
  };
  attrsets = {
    inherit
      attrByPath
      filterAttrs
      genAttrs
      getAttrFromPath
      hasAttrByPath
      isDerivation
      mapAttrsToList
      optionalAttrs
      recursiveUpdate
      ;
  };
  lists = {
    inherit
      flatten
      foldr
      optional
      optionals
      remove
      toList
      unique
      ;
  };
}
