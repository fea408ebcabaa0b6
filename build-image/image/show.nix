# A value as a message shows it, in at most some hundred characters.
let
  inherit (builtins)
    attrNames
    concatStringsSep
    isAttrs
    isFunction
    isList
    isPath
    length
    match
    substring
    toJSON
    ;

  # What takes no look inside, which could fail or not end
  showSimple =
    value:
    if isFunction value then
      "a function"
    else if isAttrs value && value ? outPath then
      "the derivation ${value.name or "without a name"}"
    else if isPath value then
      toString value
    else
      substring 0 100 (toJSON value);
  isNested = value: isList value || isAttrs value && !(value ? outPath);
  showInner =
    value:
    if value == [ ] then
      "[ ]"
    else if value == { } then
      "{ }"
    else if isNested value then
      "..."
    else
      showSimple value;
  showName = name: if match "[A-Za-z_][A-Za-z0-9_-]*" name != null then name else toJSON name;
in
value:
if isList value && length value <= 3 then
  concatStringsSep " " ([ "[" ] ++ map showInner value ++ [ "]" ])
else if isList value then
  "a list"
else if isNested value && length (attrNames value) <= 3 then
  concatStringsSep " " (
    [ "{" ] ++ map (name: "${showName name} = ${showInner value.${name}};") (attrNames value) ++ [ "}" ]
  )
else if isNested value then
  "a set"
else
  showSimple value
