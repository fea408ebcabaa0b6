# Files that commands make: they run in the image's root, after the contents are linked there.
#
# Programs that they use, here hello, are not in the image unless what they write names them.
#
#   docker load <$(nix-build examples/extra-commands.nix -A archive)
#   docker run --rm extra-commands
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
}:
let
  nixery = import ../. { inherit pkgs; };
in
nixery.buildImage {
  name = "extra-commands";
  tag = "latest";
  contents = [
    pkgs.bash
    pkgs.coreutils
  ];
  extraCommands = ''
    mkdir -p srv var/lib/private
    ${pkgs.buildPackages.hello}/bin/hello >srv/greeting
    chmod 0700 var/lib/private
    # A folder that packages bring is a folder here: there is room beside their links.
    printf '#!/bin/bash\ncat /srv/greeting\n' >bin/greet
    chmod +x bin/greet
  '';
  config.Cmd = [ "greet" ];
}
