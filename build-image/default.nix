# The program `nixery-build-image`, which a registry server calls to have an image built.
#
# It carries the Nix files and programs that it needs as store paths, so that it works from the
# store alone: inside another build, in a container, without channels or NIX_PATH. What callers can
# rely on is told in nixery_build_image.py.
{
  # Package set with Nix and Python
  pkgs ? import <nixpkgs> { },
}:
let
  sources = builtins.path {
    name = "nixery-build-image";
    path = ./..;
    filter =
      path: _:
      builtins.elem (baseNameOf path) [
        "build-image"
        "builders"
        "group_layers.py"
      ]
      || builtins.elem (baseNameOf (dirOf path)) [
        "build-image"
        "builders"
      ]
      && builtins.match ".*\\.(nix|py)" (baseNameOf path) != null;
  };
in
pkgs.writeShellScriptBin "nixery-build-image" ''
  exec ${pkgs.python3}/bin/python3 -BEsS ${sources}/build-image/nixery_build_image.py \
    ${pkgs.nix}/bin/nix-build ${sources}/build-image "$@"
''
