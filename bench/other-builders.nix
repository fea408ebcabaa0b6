# Other builders on the small package set, for speed.py and push.py to measure beside: nixpkgs' own
# streamLayeredImage and buildLayeredImage, and nix2container's own buildImage.
{
  # The small package set
  pkgs,
  # A checkout of nixpkgs: the folder
  nixpkgs,
  # A checkout of nix2container: the folder, whose `bin` has its programs
  nix2container,
  # Contents of the images
  contents,
}:
let
  lib = import (nixpkgs + "/lib");

  # The set's own does not take structured attributes.
  runCommand =
    name: attributes: command:
    if attributes ? __structuredAttrs then
      derivation (
        attributes
        // {
          inherit name;
          system = builtins.currentSystem;
          builder = "${pkgs.bash}/bin/bash";
          args = [
            "-ec"
            "source .attrs.sh; NIX_ATTRS_JSON_FILE=.attrs.json; PATH=${lib.makeBinPath attributes.nativeBuildInputs}; out=\${outputs[out]}; ${command}"
          ];
        }
      )
    else
      pkgs.runCommand name attributes command;

  # A command under fakeroot reads its setup.
  emptyStdenv.stdenv = pkgs.writeTextDir "setup" "";

  symlinkJoin =
    arguments:
    pkgs.runCommand arguments.name (emptyStdenv // removeAttrs arguments [ "name" ]) ''
      mkdir $out
      # All contents are in the image, also those whose files have the names of others.
      echo $paths >$out/contents
      for path in $paths; do
        cp --recursive --symbolic-link --no-clobber "$path/." $out
        chmod --recursive u+w $out
      done
      ${arguments.postBuild or ""}
    '';

  dockerTools =
    let
      makeTools = import (nixpkgs + "/pkgs/build-support/docker");
      arguments = builtins.functionArgs makeTools;

      # What the set lacks and layered images do not need
      missing = builtins.mapAttrs (_: _: null) (removeAttrs arguments [ "storeDir" ]);

      # What the set lacks and layered images need
      substitutes = {
        inherit lib symlinkJoin;
        callPackage = _: _: null;
        go.GOARCH = "amd64"; # only a word in the image
        # Called as: makeWrapper PROGRAM FILE --add-flags ARGUMENT
        makeWrapper = pkgs.writeShellScriptBin "makeWrapper" ''
          printf '#!%s\nexec %s %s\n' ${pkgs.bash}/bin/bash "$1" "$4" >"$2"
          chmod +x "$2"
        '';
        writePython3 =
          name: _: file:
          pkgs.writeTextFile {
            inherit name;
            text = "#!${pkgs.python3}/bin/python3\n" + builtins.readFile file;
            executable = true;
          };
        buildPackages = pkgs // {
          # Of newer checkouts, and of older ones
          dockerAutoLayer = import (nixpkgs + "/pkgs/build-support/docker/auto-layer.nix") {
            inherit lib runCommand;
            inherit (pkgs) jq python3 writeText;
          };
          referencesByPopularity =
            path:
            let
              program = builtins.path {
                name = "closure-graph.py";
                path = nixpkgs + "/pkgs/build-support/references-by-popularity/closure-graph.py";
              };
            in
            derivation {
              name = "closure-paths";
              system = builtins.currentSystem;
              __structuredAttrs = true;
              exportReferencesGraph.graph = path;
              builder = "${pkgs.bash}/bin/bash";
              args = [
                "-c"
                "source .attrs.sh; ${pkgs.python3}/bin/python3 ${program} .attrs.json graph >\${outputs[out]}"
              ];
            };
        };
      };
    in
    makeTools (missing // builtins.intersectAttrs arguments pkgs // substitutes);

  layered = {
    name = "application";
    tag = "latest";
    inherit contents;
  };
in
{
  stream = dockerTools.streamLayeredImage layered;
  archive = dockerTools.buildLayeredImage layered;

  nix2container =
    let
      built = builtins.path {
        name = "bin";
        path = nix2container + "/bin";
      };
      programs = pkgs.runCommand "nix2container-programs" { } "mkdir $out; cp -r ${built} $out/bin";
      tools = import (/. + nix2container) {
        pkgs = pkgs // {
          # An older checkout of nixpkgs lacks this one.
          lib = lib // {
            defaultTo = default: value: if value == null then default else value;
          };
          inherit runCommand;
          buildGoModule = _: programs;
          skopeo.overrideAttrs = _: programs;
          go.GOARCH = "amd64";
          runCommandLocal = pkgs.runCommand;
          writeShellApplication =
            {
              name,
              runtimeInputs,
              text,
              ...
            }:
            pkgs.writeShellScriptBin name "export PATH=${lib.makeBinPath runtimeInputs}:$PATH\n${text}";
        };
      };
    in
    (tools.nix2container.buildImage {
      name = "application";
      tag = "latest";
      maxLayers = 100;
      copyToRoot = symlinkJoin {
        name = "root";
        paths = contents;
      };
    }).copyTo;
}
