# One name for two kinds of machines: an image index, from which each machine gets its image. The
# program is compiled for each of them; the time zones are data, so both images share that layer.
#
#   $(nix-build examples/index.nix -A copyTo --no-out-link)/bin/copy-to docker://REGISTRY/index
#   docker run --rm REGISTRY/index          # on an amd64 or an arm64 machine
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
}:
let
  nixeryFor = packages: import ../. { pkgs = packages; };

  imageFor =
    packages:
    (nixeryFor packages).buildImage {
      name = "index";
      contents = [
        packages.hello
        pkgs.tzdata
      ];
      config.Cmd = [ "hello" ];
    };
in
(nixeryFor pkgs).buildIndex {
  name = "index";
  tag = "latest";
  images = map imageFor [
    pkgs
    pkgs.pkgsCross.aarch64-multiplatform
  ];
}
