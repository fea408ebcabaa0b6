# An image for another machine, with packages that are compiled for it. The tools that build the image
# run on this one.
#
#   $(nix-build examples/cross.nix -A copyTo --no-out-link)/bin/copy-to docker://REGISTRY/cross
#   docker run --rm REGISTRY/cross          # on an arm64 machine
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
}:
let
  arm = pkgs.pkgsCross.aarch64-multiplatform;
  nixery = import ../. { pkgs = arm; };
in
nixery.buildImage {
  name = "cross";
  tag = "latest";
  contents = arm.hello;
  config.Cmd = [ "hello" ];
}
