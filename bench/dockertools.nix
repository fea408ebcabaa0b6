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
    go.GOARCH = pkgs.stdenv.hostPlatform.go.GOARCH;
    lib = pkgs.lib // {
      makeOverridable = function: function;
    };
    # Called as: makeWrapper PROGRAM FILE --add-flags ARGUMENT
    makeWrapper = pkgs.writeShellScriptBin "makeWrapper" ''
      printf '#!%s\nexec %s %s\n' ${pkgs.bash}/bin/bash "$1" "$4" >"$2"
      chmod +x "$2"
    '';
    writePython3 =
      name: _: file:
      pkgs.writeScript name ("#!${pkgs.python3}/bin/python3\n" + builtins.readFile file);
    buildPackages = pkgs // {
      referencesByPopularity =
        path:
        let
          program = builtins.path {
            name = "closure-graph.py";
            path = nixpkgs + "/pkgs/build-support/references-by-popularity/closure-graph.py";
          };
        in
        pkgs.runCommand "closure-paths" {
          exportReferencesGraph.graph = path;
          __structuredAttrs = true;
        } "${pkgs.python3}/bin/python3 ${program} .attrs.json graph >$out";
    };
  };
in
(makeTools (missing // builtins.intersectAttrs arguments pkgs // substitutes)).streamLayeredImage {
  name = "application";
  tag = "latest";
  inherit contents;
}
