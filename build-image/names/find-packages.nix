# Look up packages by name.
#
# A name is an attribute path with dots and nothing else: it is compared, never evaluated. If there
# is no exact match, the case of the first part is ignored, since image names have no capitals; as
# they do not begin with "_" either, `7zz` finds `_7zz`.
{
  # The package set to look in
  pkgs,
  # Names, a list of strings
  names,
  # System that the packages must support, to explain those that do not
  system,
}:
let
  inherit (builtins)
    any
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    genList
    hasAttr
    head
    isAttrs
    isList
    isString
    length
    listToAttrs
    split
    stringLength
    tail
    tryEval
    ;

  spellings = import ./spellings.nix (builtins.attrNames pkgs);

  # Longer names do not exist, and looking them up takes long.
  longestName = 255;

  # The most unknown names of one request for which similar ones are looked for
  mostGuesses = 10;

  # What is at the attribute path: { found = false; } or { found = true; value = ...; } or, when it
  # cannot be evaluated, { found = true; failure = ...; } whose evaluation ends with Nix's error.
  lookUp =
    set: path:
    let
      name = head path;
      at = tryEval (isAttrs set && hasAttr name set);
      value = tryEval set.${name};
    in
    if !at.success || !at.value then
      { found = false; }
    else if !value.success then
      {
        found = true;
        failure = set.${name};
      }
    else if tail path == [ ] then
      {
        found = true;
        inherit (value) value;
      }
    else
      lookUp value.value (tail path);

  pathOf = name: filter isString (split "\\." name);

  isPackage =
    result:
    result.found
    && (
      result ? failure || isAttrs result.value && (tryEval (result.value.type or "")).value == "derivation"
    );

  # The package of a name: the first one among its spellings. Other capitals are tried only if the name
  # as written is no package: one that nobody asked for could end the evaluation, and large sets have
  # many names to compare.
  find =
    name:
    let
      path = pathOf name;
      first = head path;
      exact = [
        first
        "_${first}"
      ];
      resultsOf = map (spelling: lookUp pkgs ([ spelling ] ++ tail path));
      results = resultsOf exact;
      asWritten = filter isPackage results;
      otherwise = filter isPackage (
        resultsOf (filter (spelling: !(elem spelling exact)) (concatMap spellings.ignoringCase exact))
      );
      # What cannot be evaluated may not be a package. It counts only if nothing else has the name.
      inOtherCapitals =
        filter (result: !(result ? failure)) otherwise
        ++ (if any (spelling: hasAttr spelling pkgs) exact then [ ] else otherwise);
    in
    if stringLength name > longestName then
      {
        found = false;
        unknown = true;
      }
    else if asWritten != [ ] then
      head asWritten
    else if inOtherCapitals != [ ] then
      head inOtherCapitals
    else
      {
        found = false;
        unknown = !(any (result: result.found) results);
      };

  # Names similar to one that is not found. They are not evaluated: an error in one of them would
  # replace the answer.
  similarTo =
    name:
    let
      # A set has one version of each: what is meant by "nodejs@20.1" may be nodejs.
      unversioned = head (split "[@:=]" name);
      isVersioned = unversioned != name;
      path = pathOf unversioned;
      first = head path;
      rest = tail path;
      set = lookUp pkgs [ first ];
      nested = import ./spellings.nix (builtins.attrNames set.value);
    in
    if length rest == 1 && isAttrs (set.value or null) then
      map (each: "${first}.${each}") (nested.nearest isVersioned (head rest))
    else
      map (each: concatStringsSep "." ([ each ] ++ rest)) (spellings.nearest isVersioned first);

  # Why a package is not available, according to nixpkgs' `meta`; null if it says nothing.
  explain =
    package:
    let
      meta = package.value.meta or { };
      says =
        test:
        tryEval test == {
          success = true;
          value = true;
        };
      licenses = if isList (meta.license or null) then meta.license else [ (meta.license or null) ];
      supported = meta.platforms or [ system ];
    in
    if !(package ? value) then
      null
    else if says (meta.broken or false) then
      "is marked as broken"
    else if says (meta.unfree or false || any (license: !(license.free or true)) licenses) then
      "is unfree"
    else if says ((meta.knownVulnerabilities or [ ]) != [ ]) then
      "is insecure"
    else if says (meta.unsupported or (!elem system supported)) then
      "is not available for ${system}"
    else
      null;

  # Errors that cannot be caught end the evaluation; this names the package in their trace.
  evaluate =
    name:
    builtins.addErrorContext "while looking up the package '${(import ../lib.nix).printable name}'" (
      let
        package = find name;
        outPath = package.failure or package.value.outPath;
        reason = explain package;
      in
      { inherit name; }
      // (
        if !package.found then
          {
            reason = if package.unknown then "was not found" else "is not a package";
            inherit (package) unknown;
          }
        else if (tryEval outPath).success then
          { package = package.value; }
        else
          {
            reason = if reason == null then "cannot be evaluated (-A image says why)" else reason;
            failure = outPath;
            unexplained = reason == null;
          }
      )
    );

  # The set comes first: its own errors are no package's fault.
  results = map (name: builtins.seq pkgs (evaluate name)) names;
  missing = filter (result: !(result ? package)) results;
  unknown = filter (result: result.unknown or false) missing;
  guesses = map (result: {
    inherit (result) name;
    value = similarTo result.name;
  }) (genList (elemAt unknown) (if length unknown < mostGuesses then length unknown else mostGuesses));
in
{
  # Those that are available, in the order of their names
  packages = map (result: result.package) (filter (result: result ? package) results);
  # All others: [ { name, reason } ]. Packages that exist have `failure`, too, which ends with Nix's
  # own error when it is evaluated, and `unexplained`: whether nobody but Nix knows why. The rest have
  # `unknown`: whether the set has nothing of that name, or something else than a package.
  inherit missing;
  # Names similar to those that do not exist: { name = [ names ]; }
  similar = listToAttrs (filter (guess: guess.value != [ ]) guesses);
}
