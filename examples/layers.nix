# Layers that you choose: each list becomes a layer, and the rest is grouped as usual.
#
# Here two parts of a program that are always released together share a layer.
#
#   docker load <"$(nix-build examples/layers.nix -A archive --no-out-link)"
#   docker run --rm layers
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
}:
let
  nixery = import ../. { inherit pkgs; };

  words = pkgs.writeText "words" "as one";
  program = pkgs.writeShellScriptBin "program" ''
    echo "released $(<${words})"
  '';
in
nixery.buildImage {
  name = "layers";
  tag = "latest";
  contents = program;
  layers = [
    [
      program
      words
    ]
  ];
  config.Cmd = [ "program" ];
}
