# What a program finds when it starts: variables, working folder, arguments. Labels are for people who
# inspect the image.
#
# Store paths that the configuration names are in the image with their closures: here bash and the
# time zones, without any contents.
#
#   $(nix-build examples/environment.nix -A stream --no-out-link) | docker load
#   docker run --rm environment
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
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
