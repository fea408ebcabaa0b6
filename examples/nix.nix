# Nix in the image. It knows the store paths that are there: it uses them for builds, and neither
# deletes them nor fetches them again.
#
#   docker load <"$(nix-build examples/nix.nix -A archive --no-out-link)"
#   docker run -it --rm nix
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
}:
let
  nixery = import ../. { inherit pkgs; };
in
nixery.buildImage {
  name = "nix";
  tag = "latest";
  contents = [
    pkgs.nix
    pkgs.bashInteractive
    pkgs.coreutils
    nixery.binSh
    nixery.caCertificates
    nixery.fakeNss
  ];
  includeNixDB = true;
  # A container has neither build users nor the right to make a sandbox.
  extraCommands = ''
    mkdir -p etc/nix
    echo 'build-users-group =' >>etc/nix/nix.conf
    echo 'sandbox = false' >>etc/nix/nix.conf
  '';
  config = {
    Cmd = [ "bash" ];
    Env = [ "USER=root" ];
  };
}
