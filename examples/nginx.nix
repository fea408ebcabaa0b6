# A server with its configuration and its page: each is a store path, so that a changed page leaves
# the layers of nginx as they are.
#
#   docker load <$(nix-build examples/nginx.nix -A archive)
#   docker run -d --rm -p 8080:80 nginx
#   curl http://localhost:8080
{
  # The package set: nixpkgs, or one that is like it
  pkgs ? import <nixpkgs> { },
}:
let
  nixery = import ../. { inherit pkgs; };

  pages = pkgs.writeTextDir "index.html" ''
    <h1>Hello from nginx</h1>
  '';

  configuration = pkgs.writeText "nginx.conf" ''
    daemon off;
    user nobody nobody;
    pid /tmp/nginx.pid;
    error_log stderr;
    events { }
    http {
      access_log off;
      server {
        listen 80;
        root ${pages};
      }
    }
  '';
in
nixery.buildImage {
  name = "nginx";
  tag = "latest";
  contents = [
    pkgs.nginx
    nixery.fakeNss
  ];
  # The first for messages from before the configuration is read, the second for uploads.
  extraCommands = "mkdir -p var/log/nginx var/lib/nginx";
  config = {
    Cmd = [
      "nginx"
      "-c"
      configuration
    ];
    ExposedPorts."80/tcp" = { };
  };
}
