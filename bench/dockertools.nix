# nixpkgs' own streamLayeredImage on the small package set, for push.py to measure beside.
{
  # The small package set
  pkgs,
  # A checkout of nixpkgs: the folder
  nixpkgs,
  # Contents of the image
  contents,
}:
let
  makeTools = import (nixpkgs + "/pkgs/build-support/docker");
  arguments = builtins.functionArgs makeTools;

  # What the set lacks and streamLayeredImage does not run
  missing = builtins.mapAttrs (_: _: null) (removeAttrs arguments [ "storeDir" ]);

  # What the set lacks and streamLayeredImage does run
  substitutes = {
    callPackage = _: _: null;
    go.GOARCH = "amd64"; # only a word in the image
    lib = import (nixpkgs + "/lib");
    # Called as: makeWrapper PROGRAM FILE --add-flags ARGUMENT
    makeWrapper = pkgs.writeShellScriptBin "makeWrapper" ''
      printf '#!%s\nexec %s %s\n' ${pkgs.bash}/bin/bash "$1" "$4" >"$2"
      chmod +x "$2"
    '';
    symlinkJoin =
      arguments:
      pkgs.runCommand arguments.name (removeAttrs arguments [ "name" ]) ''
        mkdir $out
        # All contents are in the image, also those whose files have the names of others.
        echo $paths >$out/contents
        for path in $paths; do
          cp --recursive --symbolic-link --no-clobber "$path/." $out
          chmod --recursive u+w $out
        done
        ${arguments.postBuild}
      '';
    writePython3 =
      name: _: file:
      pkgs.writeTextFile {
        inherit name;
        text = "#!${pkgs.python3}/bin/python3\n" + builtins.readFile file;
        executable = true;
      };
    buildPackages = pkgs // {
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
(makeTools (missing // builtins.intersectAttrs arguments pkgs // substitutes)).streamLayeredImage {
  name = "application";
  tag = "latest";
  inherit contents;
}
