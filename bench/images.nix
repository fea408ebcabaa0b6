# The images that speed.py, push.py and pull.py time: programs of the small package set, and packages
# made here.
{
  # Folder of the small package set (tests/packages/fetch)
  set,
  # "application": 96 store paths, of git, python3, nginx and forty small packages; "service": 306,
  # with more of them; "files": 100 small packages alone; "smallest": one's own programs alone
  size,
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

  programs = [
    pkgs.git
    pkgs.python3
    pkgs.nginx
  ];
  chosen = {
    application = programs ++ fifths 8;
    service = programs ++ fifths 50;
    files = fifths 20;
    smallest = [ ];
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

  others = import ./other-builders.nix {
    inherit
      pkgs
      nixpkgs
      nix2container
      contents
      ;
  };

  # What push.py's machines have, and pull from a cache
  tools = [
    pkgs.gnutar
    pkgs.gzip
    pkgs.pigz
    pkgs.bash
    pkgs.coreutils
    pkgs.diffutils
    pkgs.findutils
    pkgs.gawk
    pkgs.gnugrep
    pkgs.gnused
    pkgs.libdeflate
    pkgs.zstd
    pkgs.python3
    pkgs.skopeo
  ];
}
