# Images of one repository, which run on the same hosts: four services and a nightly job, in two
# languages. They are planned together, so that they share layers.
#
#   docker load <"$(nix-build examples/fleet.nix -A api.archive --no-out-link)"
#   docker run --rm api
#   cat $(nix-build examples/fleet.nix -A explain --no-out-link)
#
# Commit what `-A lock` yields, and pass it as `known`, before you add an image: the others then stay
# as they are.
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/load-pkgs.nix { },
  # What the programs say that they are
  revision ? "1",
}:
let
  nixery = import ../. { inherit pkgs; };

  program =
    name: text:
    pkgs.writeTextFile {
      inherit name text;
      executable = true;
      destination = "/bin/${name}";
    };
  python =
    name:
    program name ''
      #!${pkgs.python3}/bin/python3
      print("${name}, revision ${revision}")
    '';
  perl =
    name:
    program name ''
      #!${pkgs.perl}/bin/perl
      print "${name}, revision ${revision}\n";
    '';
  image = name: contents: {
    inherit contents;
    config.Cmd = [ name ];
  };
in
nixery.buildImages {
  defaults = {
    tag = "latest";
    maxLayers = 12;
  };
  images = builtins.mapAttrs image {
    api = [
      (python "api")
      pkgs.curl
    ];
    worker = [
      (python "worker")
      pkgs.git
    ];
    mailer = [
      (perl "mailer")
      pkgs.openssl
    ];
    search = [
      (perl "search")
      pkgs.curl
      pkgs.jq
    ];
    nightly = [
      (python "nightly")
      pkgs.git
      pkgs.openssh
    ];
  };
}
