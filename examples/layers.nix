# Layers of one's own: each list has a layer to itself, and the grouping is left with the rest.
#
# Here the two parts of a program that are always released together are fetched together.
#
#   docker load <$(nix-build examples/layers.nix -A archive)
#   docker run --rm layers
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
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
