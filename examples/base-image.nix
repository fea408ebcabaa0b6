# An image on top of another one. The layers of the base come first, and its settings stay unless
# this image replaces them.
#
# The base is another image of this project, or an archive that `docker save` or `skopeo copy` wrote:
#
#   docker save debian:12 -o debian.tar
#   docker load <"$(nix-build examples/base-image.nix -A archive --arg base ./debian.tar --no-out-link)"
#   docker run --rm base-image
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
  # The image to build on: an OCI image layout or an image archive
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
