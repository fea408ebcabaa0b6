# A misspelt name -> " (did you mean NAME?)" with those of the right ones that are similar, or "".
{
  # The right names, a list of strings
  names,
}:
name:
(import ../lib.nix).didYouMean ((import ./spellings.nix names).nearest true name)
