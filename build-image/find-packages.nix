# Look packages up by the names that somebody typed.
#
# A name is an attribute path with dots and nothing else: it is compared, never evaluated. As image
# names have no capitals, a name that is not there as written is tried once more without regard to
# case in its first part; as they do not begin with "_", `1password` finds `_1password`.
{
  # The package set to look in
  pkgs,
  # Names, a list of strings
  names,
  # System for which the packages must be meant, to explain those that are not
  system,
}:
let
  inherit (builtins)
    any
    attrNames
    concatLists
    elem
    filter
    hasAttr
    head
    isAttrs
    isList
    isString
    replaceStrings
    split
    tail
    tryEval
    ;

  capitals = filter (letter: isString letter && letter != "") (split "" "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
  smalls = filter (letter: isString letter && letter != "") (split "" "abcdefghijklmnopqrstuvwxyz");
  lower = replaceStrings capitals smalls;

  # What is at the attribute path: { found = false; } or { found = true; value = ...; } or, when it
  # cannot be evaluated, { found = true; broken = true; }.
  lookUp =
    set: path:
    let
      at = tryEval (isAttrs set && hasAttr (head path) set);
      value = tryEval set.${head path};
    in
    if !at.success || !at.value then
      { found = false; }
    else if !value.success then
      { found = true; }
    else if tail path == [ ] then
      {
        found = true;
        inherit (value) value;
      }
    else
      lookUp value.value (tail path);

  isPackage =
    result:
    result.found
    && (
      !(result ? value) || isAttrs result.value && (tryEval (result.value.type or "")).value == "derivation"
    );

  # What a name stands for: the first package among its spellings.
  find =
    name:
    let
      path = filter isString (split "\\." name);
      first = head path;
      others = filter (other: other != first && lower other == lower first) (attrNames pkgs);
      firstPackage =
        spellings:
        if spellings == [ ] then
          { found = false; }
        else
          let
            result = lookUp pkgs ([ (head spellings) ] ++ tail path);
          in
          if isPackage result then result else firstPackage (tail spellings);
      asWritten = firstPackage [
        first
        "_${first}"
      ];
    in
    # Most names are found as written; only then is there no need to go through all that there are.
    if asWritten.found then asWritten else firstPackage others;

  # Why a package cannot be had, from what nixpkgs says in `meta`.
  explain =
    package:
    let
      meta = package.value.meta or { };
      says = test: (tryEval (test == true)) == {
        success = true;
        value = true;
      };
      licenses = if isList (meta.license or null) then meta.license else [ (meta.license or null) ];
      supported = meta.platforms or [ system ];
    in
    if !(package ? value) then
      "cannot be evaluated"
    else if says (meta.broken or false) then
      "is marked as broken"
    else if says (meta.unfree or false || any (license: !(license.free or true)) licenses) then
      "is unfree"
    else if says ((meta.knownVulnerabilities or [ ]) != [ ]) then
      "is insecure"
    else if says (meta.unsupported or (!elem system supported)) then
      "is not available for ${system}"
    else
      "cannot be evaluated";

  # Errors that cannot be caught end the evaluation; this names the package in their trace.
  evaluate =
    name:
    builtins.addErrorContext "while looking up the package '${name}'" (
      let
        package = find name;
        path = tryEval (builtins.seq package.value.outPath package.value);
      in
      { inherit name; }
      // (
        if !package.found then
          { problem = "not found"; }
        else if !(package ? value) || !path.success then
          { problem = explain package; }
        else
          { package = path.value; }
      )
    );

  results = map evaluate names;
in
{
  # Those that were found, in the order of their names
  packages = concatLists (map (result: if result ? package then [ result.package ] else [ ]) results);
  # Names of which there is no package
  notFound = map (result: result.name) (filter (result: result.problem or "" == "not found") results);
  # Packages that exist but cannot be had: [ { name, reason } ]
  unavailable = map (result: {
    inherit (result) name;
    reason = result.problem;
  }) (filter (result: result ? problem && result.problem != "not found") results);
}
