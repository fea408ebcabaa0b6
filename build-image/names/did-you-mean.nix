# A misspelt name -> " (did you mean NAME?)" for the nearest of the right ones, or "" if none is
# near.
#
# Nearest by Levenshtein distance, ignoring case, and at most a third of the name away. Names of
# more than 40 characters have none.
{
  # The right names, a list of strings
  names,
}:
name:
let
  inherit (builtins) elemAt foldl' genList head stringLength substring;

  lower = builtins.replaceStrings upperLetters lowerLetters;
  letters = text: genList (n: substring n 1 text) (stringLength text);
  upperLetters = letters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  lowerLetters = letters "abcdefghijklmnopqrstuvwxyz";
  min = a: b: if a < b then a else b;

  # Each row of the table from the one above: the distances of the beginnings of `to` from that of
  # `from`.
  distance =
    from: to:
    let
      columns = genList (n: n) (stringLength to);
      nextRow =
        row: letter:
        foldl' (
          next: n:
          let
            replaced = elemAt row n + (if substring n 1 to == letter then 0 else 1);
            left = elemAt next n;
          in
          next ++ [ (min replaced (1 + min left (elemAt row (n + 1)))) ]
        ) [ (head row + 1) ] columns;
      row = foldl' nextRow (columns ++ [ (stringLength to) ]) (letters from);
    in
    elemAt row (stringLength to);

  nearest = foldl' (
    best: candidate:
    let
      new = {
        inherit candidate;
        distance = distance (lower name) (lower candidate);
      };
    in
    if best == null || new.distance < best.distance then new else best
  ) null names;
in
if stringLength name > 40 || nearest == null || nearest.distance * 3 > stringLength name then
  ""
else
  " (did you mean ${nearest.candidate}?)"
