# A shell to look around in: bash, coreutils, and the files that programs expect of a system.
#
#   $(nix-build examples/shell.nix -A copyTo --no-out-link)/bin/copy-to docker-daemon:shell:latest
#   docker run -it --rm shell
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
}:
let
  nixery = import ../. { inherit pkgs; };
in
nixery.buildImage {
  name = "shell";
  tag = "latest";
  contents = [
    pkgs.bashInteractive
    pkgs.coreutils
    nixery.binSh
    nixery.usrBinEnv
    nixery.caCertificates
    nixery.fakeNss
  ];
  config.Cmd = [ "bash" ];
}
