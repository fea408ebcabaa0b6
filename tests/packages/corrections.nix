# What a program needs in addition to its packages' files, by name of the index:
#   links    { "bin/awk" = "gawk"; }: symbolic links to make
#   replace  { "bin/script" = { "old" = "new"; }; }: text to replace
#   wrap     { "bin/git" = "export ..."; }: shell lines to run first; @out@ is the package itself
#   strings  { "/bin/sh" = "sh"; }: whole strings to replace in programs, by ones no longer
#   needs    libraries that each of its programs loads at startup
#   deps     what it refers to in addition to Debian's dependencies
#   patch    false if patchelf must not change it
#   bundle   true: put the certificates into one file
#   remove   folders to leave out
{
  lib,
  # The packages, by name of the index
  entries,
}:
let
  withTerminals = "export TERMINFO_DIRS=\${TERMINFO_DIRS-${entries.ncurses}/lib/terminfo}";
  withPerlModules =
    names:
    let
      folders = name: "${entries.${name}}/share/perl5:${entries.${name}}/lib/perl5/5.36";
    in
    "export PERL5LIB=${lib.concatMapStringsSep ":" folders names}";
in
{
  bash.links."bin/sh" = "bash";
  cacert = {
    bundle = true;
    remove = [
      "bin"
      "share"
    ];
  };
  cowsay.wrap."bin/cowsay" = ''
    export COWPATH=''${COWPATH-@out@/share/cowsay/cows}
    ${withPerlModules [ "libtext-charwidth-perl" ]}
  '';
  fakeroot = {
    links."bin/fakeroot" = "fakeroot-sysv";
    links."bin/faked" = "faked-sysv";
    replace."bin/fakeroot-sysv" = {
      "FAKEROOT_BINDIR=/usr/bin" = "FAKEROOT_BINDIR=@out@/bin";
      "_LIB=libfakeroot-sysv.so" = "_LIB=@out@/lib/libfakeroot/libfakeroot-sysv.so";
      "PATHS=/usr/lib/" = "PATHS= #/usr/lib/";
      "`getopt " = "`${entries.util-linux}/bin/getopt ";
      "cat -" = "${entries.coreutils}/bin/cat -";
      "cut -d" = "${entries.coreutils}/bin/cut -d";
      "/bin/ls" = "${entries.coreutils}/bin/ls";
      "sleep 0" = "${entries.coreutils}/bin/sleep 0";
    };
    deps = [
      entries.coreutils
      entries.util-linux
    ];
  };
  fd.links."bin/fd" = "fdfind";
  figlet = {
    links."bin/figlet" = "figlet-figlet";
    wrap."bin/figlet-figlet" = "export FIGLET_FONTDIR=\${FIGLET_FONTDIR-@out@/share/figlet}";
  };
  file.wrap."bin/file" = "export MAGIC=\${MAGIC-@out@/lib/file/magic.mgc}";
  gawk.links."bin/awk" = "gawk";
  git = {
    # It looks a shell up in the search path if that has no folder in its name.
    strings."/bin/sh" = "sh";
    replace = {
      "lib/git-core/git-instaweb"."'/usr/bin/perl'" = "${entries.perl}/bin/perl";
      "lib/git-core/git-request-pull"."/usr/bin/perl" = "${entries.perl}/bin/perl";
    };
    wrap."bin/git" = ''
      export GIT_EXEC_PATH=''${GIT_EXEC_PATH-@out@/lib/git-core}
      export GIT_TEMPLATE_DIR=''${GIT_TEMPLATE_DIR-@out@/share/git-core/templates}
      export GITPERLLIB=''${GITPERLLIB-@out@/share/perl5:${entries.liberror-perl}/share/perl5}
      if [ -z "''${GIT_SSL_CAINFO-}" ] && [ -n "''${SSL_CERT_FILE-}" ]; then
        export GIT_SSL_CAINFO=$SSL_CERT_FILE
      fi
      export PATH=$PATH:${
        lib.makeBinPath [
          entries.bash
          entries.coreutils
          entries.gnugrep
          entries.gnused
        ]
      }
    '';
  };
  htop.wrap."bin/htop" = withTerminals;
  less.wrap."bin/less" = withTerminals;
  libc6.patch = false;
  lua5_4.links."bin/lua" = "lua5.4";
  moreutils.wrap = lib.genAttrs [ "bin/chronic" "bin/ts" ] (
    _:
    withPerlModules [
      "libio-pty-perl"
      "libipc-run-perl"
      "libtime-duration-perl"
      "libtimedate-perl"
    ]
  );
  nano.wrap."bin/nano" = withTerminals;
  ncurses.wrap = lib.genAttrs [ "bin/clear" "bin/infocmp" "bin/tput" "bin/tset" ] (
    _: "export TERMINFO_DIRS=\${TERMINFO_DIRS-@out@/lib/terminfo}"
  );
  netcat-openbsd.links."bin/nc" = "nc.openbsd";
  nix.wrap."bin/nix" = "export NIX_BIN_DIR=@out@/bin NIX_LIBEXEC_DIR=@out@/libexec";
  perl.wrap."bin/perl" = ''
    export PERL5LIB=''${PERL5LIB:+$PERL5LIB:}${
      lib.concatMapStringsSep ":" (folder: "@out@/${folder}") [
        "lib/perl/5.36"
        "share/perl/5.36"
        "lib/perl-base"
      ]
    }
  '';
  python3 = {
    # The C library looks for it where Debian has it when a thread ends.
    needs = [ "libgcc_s.so.1" ];
    deps = [ entries.libgcc-s1 ];
  };
  vim = {
    links."bin/vim" = "vim.tiny";
    wrap."bin/vim.tiny" = withTerminals;
  };
  which.links."bin/which" = "which.debianutils";
}
