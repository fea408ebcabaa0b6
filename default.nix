# What other Nix code uses. `nix-build -A ATTRIBUTE` and the flake provide the same.
{
  # Package set for the contents, with the tools in its `buildPackages`. A pinned nixpkgs by
  # default, since not every Nix has a channel; Debian's has none.
  pkgs ? import ./build-image/names/load-pkgs.nix { },
  # With "...", a misspelt argument comes so far as to be explained.
  ...
}@given:
let
  tools = pkgs.buildPackages;

  checkCall = import ./build-image/image/check-call.nix;
  checked =
    name: function: arguments:
    checkCall {
      inherit name;
      formals = builtins.functionArgs function;
    } arguments (function arguments);

  # Build an image of derivations; the arguments are in build-image/image/arguments.nix
  buildImage = import ./build-image/image/image.nix {
    inherit tools;
    inherit (pkgs.stdenv.hostPlatform) system;
  };
in
checkCall {
  name = "default.nix";
  formals = builtins.functionArgs (import ./default.nix);
} given {
  # The package set, for callers who leave the choice to this project
  inherit pkgs;

  # Decide which store paths share a layer: the program by itself
  group-layers = import ./build-image/programs/package.nix { inherit tools; } "group_layers" // {
    meta = {
      description = "Group the store paths of a container image into layers";
      mainProgram = "group-layers";
    };
  };

  # Build an image from package names: the program that a registry server calls
  nixery-build-image = import ./build-image { pkgs = tools; };

  inherit buildImage;

  # Build images that share layers; the arguments are in build-image/image/fleet.nix
  buildImages = checked "buildImages" (
    import ./build-image/image/fleet.nix {
      inherit tools;
      inherit (pkgs.stdenv.hostPlatform) system;
    }
  );

  # Make one image of several for different platforms; the arguments are in build-image/image/index.nix
  buildIndex = checked "buildIndex" (import ./build-image/image/index.nix { inherit tools; });

  # nixpkgs' dockerTools -> the same with layers of buildImage, for an overlay
  dockerTools = import ./build-image/image/docker-tools.nix { inherit buildImage tools; };

  # Ready-made contents: binSh, usrBinEnv, caCertificates, fakeNss
  inherit (import ./build-image/image/essentials.nix { inherit pkgs; })
    binSh
    usrBinEnv
    caCertificates
    fakeNss
    ;

  # The tests that build nothing, for `nix flake check`. Those of the benchmarks are left to dev/check:
  # matplotlib is larger than all else together.
  tests.unit =
    let
      python = tools.python3.withPackages (python: [
        python.pytest
        python.hypothesis
      ]);
      project = builtins.path {
        name = "project";
        path = ./.;
        filter = path: _: baseNameOf path != ".git";
      };
    in
    tools.runCommand "unit-tests" { } ''
      cp -r ${project} project
      chmod -R +w project
      cd project
      # Builds have no /usr/bin/env.
      sed -i '1c #!${python}/bin/python3' group_layers.py
      HOME=$TMPDIR ${python}/bin/python3 -m pytest -p no:cacheprovider tests/unit --ignore-glob='*bench*'
      touch $out
    '';
}
