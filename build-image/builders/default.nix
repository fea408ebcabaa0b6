# A derivation that is built by Python programs of this folder.
#
# There is no stdenv around them: its set-up takes longer than packing a small layer does, and a
# layer would be packed anew whenever any part of stdenv changes. A derivation depends on its
# attributes, on Python, and on those programs that it runs.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
# File names of this folder: the program first, then what it imports
programs:
let
  # Bound here, once for all derivations of a program: the folder is read and hashed for it, which for
  # each of a hundred layers would be half of an image's evaluation.
  sources = builtins.path {
    name = "builders";
    path = ./.;
    filter = path: _: builtins.elem (baseNameOf path) (programs ++ [ "builder.py" ]);
  };
in
# Attributes of the derivation, all passed to the program
attributes:
derivation (
  {
    inherit (tools.stdenv.buildPlatform) system;
    # Nix starts a builder by its base name alone; Python finds its library by its full path.
    builder = "${tools.coreutils}/bin/env";
    args = [
      "${tools.python3}/bin/python3"
      # Neither the environment nor site-packages play a part, and no bytecode is written.
      "-BEsS"
      "${sources}/${builtins.head programs}"
    ];
    __structuredAttrs = true;
  }
  // attributes
)
