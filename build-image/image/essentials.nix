# Files that programs expect in a container, as derivations for an image's contents. `/tmp` is in
# every image. The names are those of dockerTools.
{
  # The package set with the packages that go into the image
  pkgs,
}:
let
  # A link, or a file, at a place in the image.
  place =
    name: commands:
    pkgs.runCommand name { } ''
      mkdir $out
      cd $out
      ${commands}
    '';
in
{
  # /bin/sh
  binSh = place "bin-sh" ''
    mkdir bin
    ln -s ${pkgs.bash}/bin/bash bin/sh
  '';

  # /usr/bin/env
  usrBinEnv = place "usr-bin-env" ''
    mkdir -p usr/bin
    ln -s ${pkgs.coreutils}/bin/env usr/bin/env
  '';

  # Certificates of the authorities that the package set trusts, where most programs look for them,
  # and the variable for other programs
  caCertificates =
    place "ca-certificates" ''
      mkdir -p etc/ssl/certs etc/pki/tls/certs
      for name in etc/ssl/certs/ca-bundle.crt etc/ssl/certs/ca-certificates.crt \
        etc/pki/tls/certs/ca-bundle.crt; do
        ln -s ${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt $name
      done
    ''
    // {
      imageEnv = [ "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt" ];
    };

  # The users root and nobody, their groups, and how host names are looked up
  fakeNss = place "fake-nss" ''
    mkdir -p etc var/empty
    echo 'root:x:0:0:root user:/var/empty:/bin/sh' >etc/passwd
    echo 'nobody:x:65534:65534:nobody:/var/empty:/bin/sh' >>etc/passwd
    echo 'root:x:0:' >etc/group
    echo 'nobody:x:65534:' >>etc/group
    echo 'hosts: files dns' >etc/nsswitch.conf
  '';
}
