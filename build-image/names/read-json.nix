# JSON in a string -> its value, or null if the text is obviously not JSON.
#
# Nix's own error for invalid JSON ends the evaluation without naming the argument. So this looks for
# what people get wrong: quotes that the shell removed, and commas.
{
  # Name of the argument
  argument,
  # The characters with which the text must begin and end: "[" and "]", or "{" and "}"
  opening,
  closing,
}:
text:
let
  inherit (builtins)
    concatStringsSep
    elemAt
    filter
    genList
    isString
    length
    replaceStrings
    split
    stringLength
    substring
    ;

  substitute = new: words: replaceStrings words (map (_: new) words);
  # Without escaped characters, which end no string, and white space
  bare = substitute "" [ "\\\\" "\\\"" " " "\n" "\t" "\r" ] text;

  # What is between strings, and in them, in turn
  parts = filter isString (split "\"" bare);
  # With one quotation mark for each string, and a zero for each word that needs no quotes
  outline = substitute "0" [ "true" "false" "null" ] (
    concatStringsSep "\"" (genList (index: elemAt parts (2 * index)) ((length parts + 1) / 2))
  );
  # Two strings with nothing in between, a comma with nothing on one side, and words
  mistake = ''""|[[{,],|,[]}]|[^][{}:,"0-9eE.+-]'';
in
if !isString text then
  null
else if
  substring 0 1 outline != opening
  || substring (stringLength outline - 1) 1 outline != closing
  || length (split mistake outline) > 1
then
  null
# Nix 2.8 ends a string there.
else if substitute "" [ "\\u0000" ] bare != bare then
  throw "${argument} has \\u0000 in a string, which Nix cannot hold"
else
  builtins.addErrorContext "while reading the argument ${argument} as JSON" (builtins.fromJSON text)
