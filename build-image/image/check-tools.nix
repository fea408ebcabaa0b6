# The package set that the tools are from, or one sentence if it lacks what they need.
#
# The oldest nixpkgs that works is 21.11: the one before has Python 3.8.
tools:
let
  missing = builtins.filter (name: !(tools ? ${name})) [
    "bash"
    "coreutils"
    "fakeroot"
    "gnutar"
    "libdeflate"
    "nix"
    "python3"
    "skopeo"
    "zstd"
  ];
  python = (builtins.parseDrvName tools.python3.name).version;
  refuse = what: throw "the package set has ${what}: take nixpkgs of NixOS 21.11 or later";
in
if missing != [ ] then
  refuse "no ${builtins.concatStringsSep ", " missing}"
else if builtins.compareVersions python "3.9" < 0 then
  refuse "Python ${python} and not 3.9"
else
  tools
