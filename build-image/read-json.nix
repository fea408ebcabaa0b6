# JSON in a string -> its value, or null if the text is obviously not JSON.
#
# Nix's own error for invalid JSON ends the evaluation without naming the argument.
{
  # Name of the argument
  argument,
  # The characters with which the text must begin and end: "[" and "]", or "{" and "}"
  opening,
  closing,
}:
text:
let
  bare = builtins.replaceStrings [ " " "\n" "\t" "\r" ] [ "" "" "" "" ] text;
in
if !builtins.isString text then
  null
else if
  builtins.substring 0 1 bare != opening
  || builtins.substring (builtins.stringLength bare - 1) 1 bare != closing
then
  null
# Nix 2.8 ends a string there.
else if builtins.replaceStrings [ "\\u0000" ] [ "" ] text != text then
  throw "${argument} has \\u0000 in a string, which Nix cannot hold"
else
  builtins.addErrorContext "while reading the argument ${argument} as JSON" (builtins.fromJSON text)
