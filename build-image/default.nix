# The program `nixery-build-image`, which a registry server calls to build an image.
#
# It refers to the Nix files and programs that it needs as store paths, so that it needs only the
# store: it works inside another build or a container, without channels or NIX_PATH. Its contract is
# in nixery_build_image.py.
{
  # Package set with Nix and Python
  pkgs ? import ./names/load-pkgs.nix { },
}:
let
  # This folder, the program that its files run, and the version, at the same relative paths
  sources = builtins.path {
    name = "nixery-build-image";
    path = ./..;
    filter =
      path: _:
      path == toString ./.
      || path == toString ../group_layers.py
      || path == toString ../VERSION
      || isBelow (toString ./.) path && baseNameOf path != "__pycache__";
  };
  program = import ./programs/package.nix { tools = pkgs; } "nixery_build_image";
  isBelow =
    folder: path: builtins.substring 0 (builtins.stringLength folder + 1) path == "${folder}/";
in
pkgs.writeShellScriptBin "nixery-build-image" ''
  exec ${program}/bin/nixery-build-image ${pkgs.nix}/bin/nix-build ${sources}/build-image "$@"
''
