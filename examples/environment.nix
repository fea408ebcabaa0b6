# What a program finds when it starts: its variables, its folder, its arguments. Labels are for
# those who look at the image.
#
# What the configuration names is in the image, with its closure: bash and the time zones here,
# which no contents bring.
#
#   $(nix-build examples/environment.nix -A stream) | docker load
#   docker run --rm environment
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
}:
let
  nixery = import ../. { inherit pkgs; };
in
nixery.buildImage {
  name = "environment";
  tag = "latest";
  config = {
    Entrypoint = [
      "${pkgs.bash}/bin/bash"
      "-c"
    ];
    Cmd = [ "printf '%s from %s, %(%H:%M %Z)T\\n' \"$GREETING\" \"$PWD\" 0" ];
    Env = [
      "GREETING=good morning"
      "TZ=Asia/Tokyo"
      "TZDIR=${pkgs.tzdata}/share/zoneinfo"
    ];
    WorkingDir = "/srv";
    Labels = {
      "org.opencontainers.image.title" = "environment";
      "org.opencontainers.image.description" = "An example";
    };
  };
}
