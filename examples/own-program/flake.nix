# A container image of greet.py. Write your registry in place of registry.example.org, and the address
# of nixery-build-image below; then, in this folder:
#
#   nix build .#image.archive && docker load <result && docker run --rm greet
#   nix run .#image.copyTo -- docker://registry.example.org/greet:latest
#   nix build .#compose && docker compose --file result up
{
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";
  inputs.nixery.url = "git+file:///path/to/nixery-build-image";
  inputs.nixery.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    {
      self,
      nixpkgs,
      nixery,
    }:
    let
      packagesFor =
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};

          greet = pkgs.writeShellScriptBin "greet" ''
            exec ${pkgs.python3}/bin/python3 ${./greet.py} "$@"
          '';
        in
        rec {
          default = image;

          image = nixery.lib.${system}.buildImage {
            name = "greet";
            tag = "latest";
            contents = [ greet ];
            config.Cmd = [ "greet" ];
            annotations = {
              "org.opencontainers.image.title" = "greet";
              "org.opencontainers.image.revision" = self.rev or "dirty";
              "org.opencontainers.image.source" = "https://git.example.org/team/greet";
            };
          };

          # Names the image by its digest: what `compose up` starts is what this flake describes.
          compose = pkgs.writeText "compose.json" (
            builtins.toJSON {
              name = "greet";
              services.greet.image = image.reference "registry.example.org/greet";
            }
          );
        };
    in
    {
      packages = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] packagesFor;
    };
}
