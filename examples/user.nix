# A user with a name and a home folder.
#
# fakeRootCommands run as a simulated root user, who can change the owner of files.
#
#   docker load <"$(nix-build examples/user.nix -A archive --no-out-link)"
#   docker run -it --rm user
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
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
