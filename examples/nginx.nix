# A server with its configuration and a page. Each is a store path of its own: when the page changes,
# the layers of nginx stay as they are.
#
#   docker load <"$(nix-build examples/nginx.nix -A archive --no-out-link)"
#   docker run -d --rm -p 8080:80 nginx
#   curl http://localhost:8080
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
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
  # The first for messages before the configuration is read, the second for uploads.
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
