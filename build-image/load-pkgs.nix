# A package set from wherever the caller says that it is.
{
  # Where packages come from: "nixpkgs", "git" or "path"
  srcType ? "nixpkgs",
  # nixpkgs: a channel, branch, tag or commit. git: the arguments of builtins.fetchGit, as JSON.
  # path: the absolute path of a package set.
  srcArgs ? "cbb5cf358f50aa6acc9efd6113b7bcfbc352cd73",
  # Arguments for the package set's function
  importArgs ? { },
}:
let
  # The default revision is fetched with its hash, so that it is pure.
  hashes.cbb5cf358f50aa6acc9efd6113b7bcfbc352cd73 = "sha256-IX7G1dlKrOqPOImfbo7ADDfV5yU1+j+MRChI3TL4tAA=";

  given = if builtins.isString srcArgs then "'${srcArgs}'" else "a ${builtins.typeOf srcArgs}";

  fetchers = {
    nixpkgs =
      if !builtins.isString srcArgs || builtins.match "[a-zA-Z0-9][a-zA-Z0-9._/-]*" srcArgs == null then
        throw "srcArgs for srcType 'nixpkgs' must be a channel, branch, tag or commit, not ${given}"
      else
        builtins.fetchTarball (
          { url = "https://github.com/NixOS/nixpkgs/archive/${srcArgs}.tar.gz"; }
          // (if hashes ? ${srcArgs} then { sha256 = hashes.${srcArgs}; } else { })
        );

    git =
      if builtins.isAttrs srcArgs then
        builtins.fetchGit srcArgs
      else if builtins.isString srcArgs && builtins.match "[[:space:]]*\\{.*" srcArgs != null then
        builtins.fetchGit (builtins.fromJSON srcArgs)
      else
        throw "srcArgs for srcType 'git' must be the arguments of fetchGit as JSON, not ${given}";

    path =
      if builtins.isPath srcArgs then
        srcArgs
      else if builtins.isString srcArgs && builtins.substring 0 1 srcArgs == "/" then
        srcArgs
      else
        throw "srcArgs for srcType 'path' must be an absolute path, not ${given}";
  };
in
import
  (fetchers.${srcType} or (throw "srcType must be 'nixpkgs', 'git' or 'path', not '${srcType}'"))
  importArgs
