# The value of an argument that may be given as JSON in a string, checked.
{
  # Name of the argument
  argument,
  # What it must be, with an example, for people
  what,
  # Whether a value is that
  isRight,
}:
given:
let
  inherit (builtins)
    addErrorContext
    fromJSON
    isString
    match
    substring
    toJSON
    ;

  # Where Nix can't parse a text, only a trace names the argument. Texts whose brackets or quotes the
  # shell has removed, as most are, don't get that far; nixery-build-image has a parser for the rest.
  isDocument = match "[[:space:]]*[[{][[:space:]]*[]}\"].*" (substring 0 100 given) != null;
  value =
    if isString given && isDocument then
      addErrorContext "while reading the argument ${argument} as JSON" (fromJSON given)
    else
      given;
in
if isRight value then value else throw "${argument} must be ${what}, not ${toJSON given}"
