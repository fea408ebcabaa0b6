# The small set in the form of nixpkgs' flake, as a replacement for it: --override-input nixpkgs
# path:<here>.
{
  description = "A small set of packages made from Debian's";

  outputs =
    { self }:
    let
      lib = import ./lib.nix;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs lib.systems.flakeExposed (
        system: import ./. { inherit system; }
      );
    };
}
