# Nix's names of machines -> their names in the OCI image specification, which are GOARCH values.
{
  x86_64-linux.architecture = "amd64";
  i686-linux.architecture = "386";
  aarch64-linux.architecture = "arm64";
  armv7l-linux = {
    architecture = "arm";
    variant = "v7";
  };
  armv6l-linux = {
    architecture = "arm";
    variant = "v6";
  };
  riscv64-linux.architecture = "riscv64";
  powerpc64le-linux.architecture = "ppc64le";
  s390x-linux.architecture = "s390x";
  loongarch64-linux.architecture = "loong64";
}
