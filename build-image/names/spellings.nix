# Names as people type them: in any case, and with slips.
let
  inherit (builtins)
    concatLists
    concatMap
    filter
    genList
    groupBy
    length
    sort
    stringLength
    substring
    ;
  inherit (import ../lib.nix) characters lower unique;

  # The characters of nixpkgs' names in lower case
  alphabet = characters "abcdefghijklmnopqrstuvwxyz0123456789-_";

  # All spellings that are one slip away, the likeliest slips first. Looking these up takes the same
  # time in a large set of names as in a small one; measuring the distance to each name does not.
  slips =
    name:
    let
      size = stringLength name;
      before = index: substring 0 index name;
      after = index: substring index size name;
      # At each place, each character of the alphabet, before what begins at `rest`
      put =
        rest: places:
        concatLists (genList (index: map (each: before index + each + after (rest index)) alphabet) places);
    in
    # Two characters changed places,
    genList (
      index: before index + substring (index + 1) 1 name + substring index 1 name + after (index + 2)
    ) (size - 1)
    # one is too many,
    ++ genList (index: before index + after (index + 1)) size
    # one is missing,
    ++ put (index: index) (size + 1)
    # one is wrong.
    ++ put (index: index + 1) size;

  atMost = count: list: genList (builtins.elemAt list) (if length list < count then length list else count);
in
# The existing names; not evaluated until a name is looked up
names:
let
  byLowerCase = groupBy lower names;

  # Names by their first characters; a name must have that many to be completed
  startLength = 4;
  byStart = groupBy (name: substring 0 startLength (lower name)) names;
  beginningWith =
    typed:
    let
      size = stringLength typed;
      found = filter (name: substring 0 size (lower name) == typed) (
        byStart.${substring 0 startLength typed} or [ ]
      );
    in
    if size < startLength then [ ] else sort (a: b: stringLength a < stringLength b) found;

  ignoringCase = name: byLowerCase.${lower name} or [ ];
in
{
  # The names that differ from the given one only in case
  inherit ignoringCase;

  # Up to three names that are similar, or differ only in case if those are `wanted`, too. One or two
  # characters are too few to guess from, and more than thirty are not a slip.
  nearest =
    wanted: name:
    let
      typed = lower name;
      near = concatMap ignoringCase ([ typed ] ++ slips typed);
    in
    if stringLength name < 3 || stringLength name > 30 then
      [ ]
    else
      atMost 3 (unique (filter (each: wanted || lower each != typed) (near ++ beginningWith typed)));
}
