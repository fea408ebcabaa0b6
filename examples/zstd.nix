# Layers that are compressed with zstd, which unpacks faster than gzip, for registries and machines that
# support it.
#
#   $(nix-build examples/zstd.nix -A copyTo --no-out-link)/bin/copy-to docker://REGISTRY/zstd
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
}:
let
  nixery = import ../. { inherit pkgs; };
in
nixery.buildImage {
  name = "zstd";
  tag = "latest";
  contents = pkgs.lua5_4;
  compressor = "zstd";
  config.Cmd = [ "lua" ];
}
