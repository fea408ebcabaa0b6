# An image on top of another one: its layers come first, its environment and its other settings hold
# where this image does not say otherwise.
#
# The base is another image of ours, or any archive that `docker save` or `skopeo copy` wrote:
#
#   docker save debian:12 -o debian.tar
#   docker load <$(nix-build examples/base-image.nix -A archive --arg base ./debian.tar)
#   docker run --rm base-image
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
  # The image to build upon: an OCI image layout or an image archive
  base ? import ./environment.nix { inherit pkgs; },
}:
let
  nixery = import ../. { inherit pkgs; };
in
nixery.buildImage {
  name = "base-image";
  tag = "latest";
  fromImage = base;
  contents = pkgs.coreutils;
  config = {
    Env = [ "GREETING=good evening" ];
    Entrypoint = [ ];
    Cmd = [ "env" ];
  };
}
