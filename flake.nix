{
  description = "Container images of Nix packages, cut into layers that other images have too";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";

  outputs =
    { self, nixpkgs }:
    let
      # Images are of Linux, and so are the machines that build them.
      forSystems = nixpkgs.lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forPackages = pkgs: import ./. { inherit pkgs; };
      here = forSystems (system: forPackages nixpkgs.legacyPackages.${system});
      # buildImage and the ready-made contents
      functions =
        all:
        removeAttrs all [
          "group-layers"
          "nixery-build-image"
          "tests"
        ];
    in
    {
      lib = forSystems (system: functions here.${system});

      overlays.default = final: _: {
        inherit (forPackages final) group-layers nixery-build-image;
        # The functions under one name, beside nixpkgs' dockerTools.
        nixery = functions (forPackages final);
      };

      packages = forSystems (system: {
        inherit (here.${system}) group-layers nixery-build-image;
        default = here.${system}.nixery-build-image;
      });

      checks = forSystems (system: here.${system}.tests);

      devShells = forSystems (system: {
        default = nixpkgs.legacyPackages.${system}.mkShell {
          packages = [
            nixpkgs.legacyPackages.${system}.python3
            nixpkgs.legacyPackages.${system}.ruff
            nixpkgs.legacyPackages.${system}.skopeo
          ];
        };
      });

      formatter = forSystems (system: nixpkgs.legacyPackages.${system}.nixfmt-tree);
    };
}
