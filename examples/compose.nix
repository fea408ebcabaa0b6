# A compose file that names the images of a fleet by digest: what `docker compose up` starts is what
# this file describes, whatever has happened to the tags in the registry.
#
#   $(nix-build examples/compose.nix -A images.copyTo --no-out-link)/bin/copy-to \
#     docker://registry.example.org
#   docker compose -f $(nix-build examples/compose.nix -A file --no-out-link) up
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
  # The registry, and the folder in it if there is one
  registry ? "registry.example.org",
}:
let
  nixery = import ../. { inherit pkgs; };
in
rec {
  images = nixery.buildImages {
    images = {
      store.contents = [ pkgs.redis ];
      store.config.Cmd = [
        "redis-server"
        "--protected-mode"
        "no"
      ];
      client.contents = [ pkgs.redis ];
      client.config.Cmd = [
        "redis-cli"
        "-h"
        "store"
        "ping"
      ];
    };
  };

  # JSON, which is YAML as well
  file = pkgs.writeText "compose.json" (
    builtins.toJSON {
      name = "compose";
      services = {
        store.image = (images.reference registry).store;
        client.image = (images.reference registry).client;
        client.depends_on = [ "store" ];
      };
    }
  );
}
