# A program in Python with a library, which any user can run.
#
# Python finds libraries in its own folder only. withPackages makes a python3 that finds these; with
# `contents = [ pkgs.python3 pkgs.python3Packages.pyyaml ]` the import would fail.
#
#   docker load <"$(nix-build examples/python.nix -A archive --no-out-link)"
#   docker run --rm python
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
}:
let
  nixery = import ../. { inherit pkgs; };

  python = pkgs.python3.withPackages (libraries: [ libraries.pyyaml ]);

  program = pkgs.writeText "greet.py" ''
    import yaml

    print(yaml.safe_dump({"greeting": "good morning"}), end="")
  '';
in
nixery.buildImage {
  name = "python";
  tag = "latest";
  contents = python;
  config = {
    Cmd = [
      "python3"
      program
    ];
    User = "1000";
  };
}
