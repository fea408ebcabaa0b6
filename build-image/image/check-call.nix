# Say in one sentence what is wrong with the arguments of a function, before Nix does in its own way.
{
  # Name of the function, for people
  name,
  # Its arguments, as builtins.functionArgs has them
  formals,
}:
# The arguments that were given, and the result if they are right
given: result:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    filter
    head
    isAttrs
    ;

  known = attrNames formals;
  unknown = attrNames (removeAttrs given known);
  missing = filter (argument: !formals.${argument} && !(given ? ${argument})) known;
  suggest = import ../names/did-you-mean.nix { names = known; };
  refuse = problem: throw "${name}: ${problem}; the arguments are ${concatStringsSep ", " known}";
in
if !isAttrs given then
  throw "${name} takes a set of arguments: ${concatStringsSep ", " known}"
else if unknown != [ ] then
  refuse "there is no argument ${head unknown}${suggest (head unknown)}"
else if missing != [ ] then
  refuse "the argument ${head missing} is missing"
else
  result
