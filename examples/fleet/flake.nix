# Images of one repository, which run on the same hosts: four services and a nightly job, in two
# languages. They are planned together, so that they share layers. From this folder:
#
#   nix build .#api.archive && docker load <result && docker run --rm api
#   nix build .#explain && cat result-explain
#   nix run .#copyTo -- docker://registry.example.org/team
#   nix build .#lock && install -m 644 result layers.json
#
# Commit layers.json before you add an image: the others then stay as they are.
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
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};

      # What the programs say that they are
      revision = self.shortRev or "dirty";

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
    {
      packages.${system} = nixery.lib.${system}.buildImages {
        known = if builtins.pathExists ./layers.json then ./layers.json else null;
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
      };
    };
}
