# The images that speed.py, push.py and pull.py time: programs of the small package set, and packages
# made here.
{
  # Folder of the small package set (tests/packages/fetch)
  set,
  # "small" or "large": some 50 or 500 store paths; "application": 96, of git, python3, nginx and
  # forty small packages; "service": 306, with more of them; "files": 100 small packages alone
  size ? "small",
  # Which packages to have: { bytes = revision; }, both strings. Another revision is another path.
  revisions ? { },
  # Arguments of the image
  mtime ? "1970-01-01T00:00:01Z",
  importFromDerivation ? true,
  # Layers whose contents are given: JSON, a list of lists of store paths
  groups ? "[ ]",
  # Checkouts of nixpkgs and of nix2container, which are run beside: the folders
  nixpkgs ? null,
  nix2container ? null,
}:
let
  pkgs = import set { };

  # Packages with the bytes of real files, one an output, `sizes` of them in bytes. `revision` is in
  # the first file of each. All need `needs`, and every fifth the four before it.
  madePackages =
    name: revision: needs: sizes:
    let
      output = number: if number == 0 then "out" else "package${toString number}";
    in
    derivation {
      inherit name revision needs sizes;
      outputs = builtins.genList output (builtins.length sizes);
      system = builtins.currentSystem;
      sources = [
        pkgs.git
        pkgs.perl
      ];
      __structuredAttrs = true;
      builder = "${pkgs.coreutils}/bin/env";
      args = [
        "${pkgs.python3}/bin/python3"
        "-BEsS"
        ./make_packages.py
      ];
    };
  # On top of the image's programs, as one's own
  changing = map (
    bytes:
    madePackages "changing-${bytes}" revisions.${bytes} chosen.${size} [ (builtins.fromJSON bytes) ]
  ) (builtins.attrNames revisions);

  # From two kilobytes to a megabyte, as many small ones as large ones, in a mixed order.
  steps = [ 2 5 10 20 50 100 200 500 1000 ];
  mixed = number: builtins.elemAt steps (number * 4 - number * 4 / 9 * 9) * 1000 + number;
  filler = madePackages "filler" "only" [ ] (builtins.genList mixed 310);
  fifths = count: builtins.genList (number: filler."package${toString (number * 5 + 4)}") count;

  names = builtins.attrNames (builtins.fromJSON (builtins.readFile (set + "/index.json"))).programs;
  named = name: pkgs.lib.attrByPath (pkgs.lib.splitString "." name) null pkgs;

  programs = [
    pkgs.git
    pkgs.python3
    pkgs.nginx
  ];
  chosen = {
    small = [ pkgs.git ];
    large = map named names ++ fifths 62;
    application = programs ++ fifths 8;
    service = programs ++ fifths 50;
    files = fifths 20;
  };
  contents = changing ++ chosen.${size};
in
{
  # What an expression comes to that only names the packages
  inherit contents;

  image = import ../build-image/image/image.nix { tools = pkgs; } {
    name = "image";
    inherit contents mtime importFromDerivation;
    layers = map (map (path: builtins.appendContext path { ${path}.path = true; })) (
      builtins.fromJSON groups
    );
  };

  # What the time of a small layer is spent on: fifty derivations of each kind, new for each
  # revision; each kind does more than the one before it
  stages =
    let
      revision = builtins.head (builtins.attrValues revisions);
      fifty = make: builtins.genList (number: make "stage-${revision}-${toString number}") 50;
      python =
        statement:
        fifty (
          name:
          derivation {
            inherit name;
            system = builtins.currentSystem;
            builder = "${pkgs.coreutils}/bin/env";
            args = [
              "${pkgs.python3}/bin/python3"
              "-BEsS"
              "-c"
              "${statement}; open(os.environ['out'], 'w')"
            ];
          }
        );
    in
    {
      sandbox = fifty (
        name:
        derivation {
          inherit name;
          system = builtins.currentSystem;
          builder = "${pkgs.bash}/bin/bash";
          args = [
            "-c"
            "echo >$out"
          ];
        }
      );
      python = python "import os";
      hashlib = python "import hashlib, os";
      json = python "import hashlib, json, os, re";
      layer = fifty (
        name:
        (import ../build-image/builders { tools = pkgs; }).pack_layer {
          inherit name;
          contents = [ (builtins.toFile name name) ];
          archive = null;
          tar = "${pkgs.gnutar}/bin/tar";
          compressor = "gz";
          compressorProgram = "${pkgs.libdeflate}/bin/libdeflate-gzip";
          inherit (builtins) storeDir;
          mtime = 1;
          owner = "root:0";
          group = "root:0";
        }
      );
    };

  others = import ./other-builders.nix {
    inherit
      pkgs
      nixpkgs
      nix2container
      contents
      ;
  };

  # What speed.py runs beside the image's builders, and what those run
  tools = [
    pkgs.gnutar
    pkgs.gzip
    pkgs.pigz
    pkgs.bash
    pkgs.coreutils
    pkgs.libdeflate
    pkgs.zstd
    pkgs.python3
    pkgs.skopeo
  ];
}
