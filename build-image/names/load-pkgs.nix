# Load the package set from the source that the caller chose.
{
  # Where packages come from: "nixpkgs", "git" or "path"
  srcType ? "nixpkgs",
  # nixpkgs: a channel, branch, tag or commit; by default a commit that is known to work.
  # git: the arguments of builtins.fetchGit, as JSON. path: the absolute path of a package set.
  srcArgs ? null,
  # Arguments for the package set's function
  importArgs ? { },
}:
let
  inherit (builtins)
    compareVersions
    isAttrs
    isPath
    isString
    match
    nixVersion
    substring
    toJSON
    ;

  # Fetched with a hash, so that it is pure.
  default =
    # The Nix version that newer nixpkgs needs (its lib/minfeatures.nix)
    if compareVersions nixVersion "2.18" < 0 then
      {
        # nixos-25.05, as it was left
        revision = "ac62194c3917d5f474c1a844b6fd6da2db95077d";
        sha256 = "sha256-16KkgfdYqjaeRGBaYsNrhPRRENs0qzkQVUooNHtoy2w=";
      }
    else
      {
        # nixpkgs-unstable of June 2026
        revision = "cbb5cf358f50aa6acc9efd6113b7bcfbc352cd73";
        sha256 = "sha256-IX7G1dlKrOqPOImfbo7ADDfV5yU1+j+MRChI3TL4tAA=";
      };

  # The name of a branch, tag or commit. A ".." in the address could lead to any other repository,
  # and anybody can open a pull request.
  isRevision =
    text:
    isString text
    && match "[a-zA-Z0-9][a-zA-Z0-9_-]*([./][a-zA-Z0-9_-]+)*" text != null
    && match "(refs/)?pull/.*" text == null;

  archiveOf = revision: "https://github.com/NixOS/nixpkgs/archive/${revision}.tar.gz";

  mustBe =
    what:
    throw (
      "srcArgs for srcType '${srcType}' must be ${what}"
      + (if srcArgs == null then "" else ", not ${toJSON srcArgs}")
    );

  sources = {
    nixpkgs =
      if srcArgs == null || srcArgs == default.revision then
        builtins.fetchTarball {
          url = archiveOf default.revision;
          inherit (default) sha256;
        }
      else if isRevision srcArgs then
        builtins.fetchTarball { url = archiveOf srcArgs; }
      else
        mustBe "a channel, branch, tag or commit of nixpkgs";

    git =
      builtins.fetchGit (
        import ./read-json.nix {
          argument = "srcArgs";
          what = "the arguments of fetchGit for srcType 'git', JSON such as '{\"url\": \"https://...\", \"ref\": \"main\"}'";
          isRight = isAttrs;
        } srcArgs
      );

    path =
      if isPath srcArgs || isString srcArgs && substring 0 1 srcArgs == "/" then
        srcArgs
      else
        mustBe "the absolute path of a package set";
  };
in
import (sources.${srcType} or (throw "srcType must be 'nixpkgs', 'git' or 'path', not ${toJSON srcType}")) importArgs
