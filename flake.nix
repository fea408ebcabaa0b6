{
  description = "Container images from Nix packages, in layers that other images have as well";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      # Images are of Linux, and so are the machines that build them.
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      # `value` of the package set of each system; of those only where it has all of `names`
      whereThereAre =
        names: value:
        let
          hasAll = system: lib.all (name: nixpkgs.legacyPackages.${system} ? ${name}) names;
        in
        lib.genAttrs (lib.filter hasAll systems) (system: value nixpkgs.legacyPackages.${system});
      forSystems = whereThereAre [ ];

      projectOf = pkgs: import ./. { inherit pkgs; };
      programsOf = pkgs: { inherit (projectOf pkgs) group-layers nixery-build-image; };
      functionsOf = pkgs: {
        inherit (projectOf pkgs)
          buildImage
          buildImages
          buildIndex
          binSh
          usrBinEnv
          caCertificates
          fakeNss
          ;
      };
    in
    {
      lib = forSystems functionsOf;

      # The functions have one name, beside nixpkgs' dockerTools.
      overlays.default = final: _: programsOf final // { nixery = functionsOf final; };

      # Images of other people's Nix code get these layers, too.
      overlays.dockerTools = final: prev: {
        dockerTools = (projectOf final).dockerTools prev.dockerTools;
      };

      packages = forSystems (
        pkgs: programsOf pkgs // { default = (programsOf pkgs).nixery-build-image; }
      );

      templates.default = {
        path = ./examples/own-program;
        description = "A container image of your own program, pushed and named in a compose file";
        welcomeText = "Read the first lines of flake.nix: they have the commands.";
      };

      checks = forSystems (pkgs: (projectOf pkgs).tests);

      # For contributors; a package set that is too old for this can still build images.
      devShells = whereThereAre [ "ruff" ] (pkgs: {
        default = pkgs.mkShell {
          packages = [
            (pkgs.python3.withPackages (python: [
              python.hypothesis
              python.matplotlib
              python.mypy
              python.pytest
            ]))
            pkgs.ruff
            pkgs.skopeo
          ];
        };
      });

      formatter = whereThereAre [ "nixfmt-tree" ] (pkgs: pkgs.nixfmt-tree);
    };
}
