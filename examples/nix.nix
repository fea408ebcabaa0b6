# Nix inside, which knows the store paths that the image has: it builds on them, and does not delete
# or fetch them again.
#
#   docker load <$(nix-build examples/nix.nix -A archive)
#   docker run -it --rm nix
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
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
  # In a container there are neither build users nor the rights to make a sandbox.
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
