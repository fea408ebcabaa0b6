# The small package set: about seventy programs made from Debian packages, under nixpkgs' names, for
# machines that cannot reach nixpkgs. `fetch` puts this file into a folder together with the .deb files,
# their index and the seed that unpacks them.
#
# Each name of the index is a store path of its own: a program of programs.txt, or a library's
# Debian package. Nothing is taken from outside the store while building.
{
  system ? builtins.currentSystem,
  config ? { },
  overlays ? [ ],
  # The system that packages are for, where it is not the one that builds: "aarch64-linux"
  crossSystem ? null,
  ...
}:
let
  lib = import ./lib.nix;

  # { system; seed; programs = { attribute = main program or null; }; packages = { name = ...; }; }
  index = lib.importJSON ./index.json;
  seed = builtins.path {
    path = ./seed;
    name = "seed";
    sha256 = index.seed;
  };
  loaders = {
    aarch64-linux = "ld-linux-aarch64.so.1";
    x86_64-linux = "ld-linux-x86-64.so.2";
  };

  corrections = import ./corrections.nix { inherit lib entries; };

  # { name of the index = derivation; }, for the system that was downloaded for
  entries = builtins.mapAttrs (makePackage index.system) index.packages;

  # The same for another system: data is the same there, and programs can be evaluated but not
  # built.
  entriesFor =
    system:
    if system == index.system then
      entries
    else
      builtins.mapAttrs (
        name: entry:
        if entry.any_architecture && index.programs.${name} or "" == null then
          entries.${name}
        else
          makePackage system name entry
      ) index.packages;

  makePackage =
    system: name: entry:
    let
      # "python3Packages.six" is an attribute path, "libldap-2.5-0" a Debian package's name.
      isAttribute = index.programs ? ${name};
      lastPart = lib.last (lib.splitString "." name);
      pname = if isAttribute then lib.removePrefix "_" lastPart else name;
    in
    derivation (
      {
        links = { };
        replace = { };
        strings = { };
        wrap = { };
        needs = [ ];
        patch = true;
        bundle = false;
        remove = [ ];
      }
      // corrections.${name} or { }
      // {
        inherit pname system seed;
        inherit (entry) version;
        name = "${pname}-${entry.version}";
        __structuredAttrs = true;
        builder = "${seed}/lib/${loaders.${index.system}}";
        args = [
          "--library-path"
          "${seed}/lib"
          "${seed}/bin/python3.11"
          "-I"
          "-B"
          ./unpack.py
        ];
        deps = map (other: entries.${other}) entry.depends ++ corrections.${name}.deps or [ ];
        debs = map (
          deb:
          builtins.path {
            path = ./debs + "/${deb.file}";
            name = "${pname}.deb";
            recursive = false;
            inherit (deb) sha256;
          }
        ) entry.debs;
      }
    )
    // {
      inherit pname;
      inherit (entry) version;
      meta = {
        inherit (entry) description;
        platforms = lib.platforms.linux;
      }
      // lib.optionalAttrs (index.programs.${name} or null != null) {
        mainProgram = index.programs.${name};
      };
    };

  buildSystem = system;
  hostSystem = if crossSystem == null then system else crossSystem.system or crossSystem;

  packages =
    let
      available = entriesFor hostSystem;
    in
    lib.foldl' lib.recursiveUpdate { } (
      map (attribute: lib.setAttrByPath (lib.splitString "." attribute) available.${attribute}) (
        builtins.attrNames index.programs
      )
    );

  functions = import ./functions.nix {
    inherit lib buildSystem hostSystem;
    tools = entriesFor buildSystem;
  };

  base =
    self:
    packages
    // functions
    // {
      inherit lib config overlays;
      inherit (functions.stdenv) system;
      pkgs = self;
      buildPackages =
        if crossSystem == null then self else import ./. { inherit system config overlays; };
      pkgsCross.aarch64-multiplatform = import ./. {
        inherit system config overlays;
        crossSystem = "aarch64-linux";
      };
      bashInteractive = self.bash;
      python3 = packages.python3 // {
        # A python3 with libraries, which must not need others
        withPackages =
          choose:
          let
            folderOf = library: "${library}/lib/python3.11/site-packages";
          in
          self.writeShellScriptBin "python3" ''
            export PYTHONPATH=${lib.concatMapStringsSep ":" folderOf (choose self.python3Packages)}
            exec ${self.python3}/bin/python3 "$@"
          '';
      };
    };
in
lib.fix (lib.foldl' (f: overlay: lib.extends overlay f) base overlays)
