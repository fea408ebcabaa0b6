# A user of the image's own: its name, and a home that it can write to.
#
# fakeRootCommands run as an imitated root user, who can give files away.
#
#   docker load <$(nix-build examples/user.nix -A archive)
#   docker run -it --rm user
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
}:
let
  nixery = import ../. { inherit pkgs; };
in
nixery.buildImage {
  name = "user";
  tag = "latest";
  contents = [
    pkgs.bashInteractive
    pkgs.coreutils
  ];
  extraCommands = ''
    mkdir -p etc home/ada
    echo 'ada:x:1000:1000:Ada:/home/ada:/bin/bash' >etc/passwd
    echo 'ada:x:1000:' >etc/group
  '';
  fakeRootCommands = "chown -R 1000:1000 home/ada";
  config = {
    User = "ada";
    WorkingDir = "/home/ada";
    Env = [ "HOME=/home/ada" ];
    Cmd = [ "bash" ];
  };
}
