# Images that together use every part of the project, for dev/same-digests: a folder of links to them.
{
  # Folder of the small package set
  packages,
}:
let
  pkgs = import packages { };
  nixery = import ../. { inherit pkgs; };
  named =
    name: given:
    import ../build-image/build-image.nix (
      {
        packages = builtins.toJSON given;
        srcType = "path";
        srcArgs = packages;
        inherit name;
        tag = "1";
      }
    );
  build =
    arguments:
    nixery.buildImage (
      {
        name = "image";
        tag = "1";
        contents = [
          pkgs.git
          pkgs.curl
        ];
      }
      // arguments
    );
  base = build {
    name = "base";
    contents = [ pkgs.bash pkgs.coreutils ];
    includeNixDB = true;
    extraCommands = "mkdir -p home/app && ln -s home/app srv";
    config = {
      Cmd = [ "bash" ];
      Env = [ "A=1" ];
    };
  };
  fleet = nixery.buildImages {
    defaults.tag = "1";
    images = {
      git.contents = [ pkgs.git ];
      python.contents = [
        pkgs.python3
        pkgs.git
      ];
      web.contents = [ pkgs.nginx ];
    };
  };
  images = {
    names = (named "names" [ "git" "curl" ]).image;
    shell = (named "shell" [ "shell" ]).image;
    contents = build { };
    few-layers = build { maxLayers = 12; };
    base = base;
    on-base = build {
      fromImage = base.archive;
      config.Env = [ "B=2" ];
      maxLayers = 30;
    };
    zstd = build { compressor = "zstd"; };
    uncompressed = build { compressor = "none"; };
    database = build { includeNixDB = true; };
    commands = build {
      extraCommands = "mkdir -m 1777 data && echo hello >data/hello";
      fakeRootCommands = "mkdir -p home/user && chown 1000:100 home/user";
      uid = 1000;
      gid = 100;
    };
    groups = build { layers = [ [ pkgs.curl ] ]; };
    links-only = build { includeStorePaths = false; };
    without-import = build { importFromDerivation = false; };
    cross = build { architecture = "arm64"; };
    fleet-git = fleet.git;
    fleet-python = fleet.python;
    fleet-web = fleet.web;
    index = nixery.buildIndex {
      name = "index";
      tag = "1";
      images = [
        (build { })
        (build { architecture = "arm64"; })
      ];
    };
  };
in
derivation {
  name = "images";
  inherit (pkgs.stdenv.buildPlatform) system;
  builder = "${pkgs.bash}/bin/bash";
  args = [
    "-c"
    ''
      ${pkgs.coreutils}/bin/mkdir $out
      ${builtins.concatStringsSep "\n" (
        builtins.attrValues (
          builtins.mapAttrs (name: image: "${pkgs.coreutils}/bin/ln -s ${image} $out/${name}") images
        )
      )}
    ''
  ];
}
