# A package set, and beside its packages those that cannot be had, for all the reasons there are.
#
# The first argument is the folder of the set, the second what is passed to it.
packages: arguments:
let
  pkgs = import packages arguments;

  # Refused when it is evaluated, as nixpkgs refuses; `meta` says why.
  refused = meta: {
    type = "derivation";
    name = "refused-1.0";
    outPath = throw "Package 'refused-1.0' is refused, refusing to evaluate.";
    inherit meta;
  };
  build =
    name: attributes:
    derivation (
      {
        inherit name;
        system = builtins.currentSystem;
        builder = "${pkgs.bash}/bin/bash";
      }
      // attributes
    );
in
pkgs
// {
  # Refused, and it can be told why
  broken = refused { broken = true; };
  unfree = refused { license.free = false; };
  partlyUnfree = refused {
    license = [
      { free = true; }
      { free = false; }
    ];
  };
  insecure = refused { knownVulnerabilities = [ "everybody can read everything" ]; };
  elsewhere = refused { platforms = [ "x86_64-darwin" ]; };
  # Refused, nobody knows why
  removed = throw "removed in 2020";
  asserting = assert false; pkgs.hello;
  nameless = build (throw "no name") { };

  # What no expression can catch
  aborting = abort "everything stops";
  illTyped = pkgs.hello // {
    outPath = 1 + "a";
  };
  infinite = let x = x; in x;
  deep = let f = n: 1 + f (n + 1); in f 0;
  missing = pkgs.hello.nothing;

  # Packages that are evaluated and cannot be built
  failing = build "failing" {
    args = [
      "-c"
      "echo first line; echo last line >&2; exit 3"
    ];
  };
  missingStorePath = build "missing-store-path" {
    args = [
      "-c"
      "exec 2>&1; ${pkgs.coreutils}/bin/cat ${builtins.storeDir}/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-gone"
    ];
  };
  slowlyFailing = build "slowly-failing" {
    args = [
      "-c"
      "${pkgs.coreutils}/bin/sleep 2; exit 1"
    ];
  };
  sleeping = build "sleeping" {
    builder = "${pkgs.coreutils}/bin/sleep";
    args = [ "600" ];
  };
  filling = build "filling" {
    args = [
      "-c"
      # The last command is no program: Nix ends a builder that has closed its output, as programs
      # of coreutils do before they exit.
      "${pkgs.coreutils}/bin/head -c 16M /dev/zero > file || exit; echo > $out"
    ];
  };

  # A package, of which Nix says more than fits into a pipe
  noisy = builtins.trace (builtins.concatStringsSep "\n" (builtins.genList toString 20000)) pkgs.hello;

  # No packages
  number = 7;
  function = name: name;
}
