# Files that are made by commands, which run in the image's root after the contents are linked there.
#
# A program that the commands run, here hello, is not in the image unless a file names it.
#
#   docker load <"$(nix-build examples/extra-commands.nix -A archive --no-out-link)"
#   docker run --rm extra-commands
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
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
    # Folders are real, whatever packages they come from: commands can write next to the links.
    printf '#!/bin/bash\ncat /srv/greeting\n' >bin/greet
    chmod +x bin/greet
  '';
  config.Cmd = [ "greet" ];
}
