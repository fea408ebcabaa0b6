# Layers compressed by zstd, which unpacks faster than gzip, for registries and machines that know
# it. The contents of the layers are the same either way.
#
#   $(nix-build examples/zstd.nix -A copyTo)/bin/copy-to docker://REGISTRY/zstd
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
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
