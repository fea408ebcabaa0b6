# What several files need before a package set with nixpkgs' lib is there, or faster than lib has it.
let
  inherit (builtins) genList stringLength substring;

  characters = text: genList (index: substring index 1 text) (stringLength text);
in
{
  # "git" -> [ "g" "i" "t" ]
  inherit characters;

  # Upper case to lower case
  lower = builtins.replaceStrings (characters "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (
    characters "abcdefghijklmnopqrstuvwxyz"
  );

  # One line that moves no cursor, for messages with text from outside
  printable =
    builtins.replaceStrings
      [
        "\n"
        "\r"
        (builtins.fromJSON ''"\u001b"'')
      ]
      [
        " "
        " "
        " "
      ];

  # Each value once, where it comes first; lib.unique takes quadratic time.
  unique =
    list:
    map (value: value.key) (
      builtins.genericClosure {
        startSet = map (key: { inherit key; }) list;
        operator = _: [ ];
      }
    );

  # Similar names -> " (did you mean git or gitui?)", or "" if there are none
  didYouMean =
    similar:
    if similar == [ ] then "" else " (did you mean ${builtins.concatStringsSep " or " similar}?)";
}
