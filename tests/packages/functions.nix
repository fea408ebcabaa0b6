# nixpkgs' trivial builders, and the part of stdenv that says which machine builds and which one
# packages are for: with the same names, arguments and meaning.
{
  lib,
  # The packages whose programs run in a build: always those of the building machine
  tools,
  # Where builds run, and what they are for: "x86_64-linux"
  buildSystem,
  hostSystem,
}:
let
  inherit (tools) bash;

  platform =
    system:
    let
      cpu = builtins.head (lib.splitString "-" system);
    in
    {
      inherit system;
      isLinux = true;
      isx86_64 = cpu == "x86_64";
      isAarch64 = cpu == "aarch64";
    };

  runCommand =
    name: attributes: command:
    derivation (
      {
        inherit name;
        system = buildSystem;
        builder = lib.getExe bash;
        # A long script does not fit into an argument or the environment.
        buildCommand = command;
        args = [
          "-eo"
          "pipefail"
          "-c"
          ''source "$buildCommandPath"''
        ];
        PATH = lib.makeBinPath (
          attributes.nativeBuildInputs or [ ]
          ++ [
            bash
            tools.coreutils
            tools.diffutils
            tools.findutils
            tools.gawk
            tools.gnugrep
            tools.gnused
            tools.gnutar
            tools.gzip
          ]
        );
      }
      // removeAttrs attributes [
        "meta"
        "passthru"
      ]
      // {
        passAsFile = [ "buildCommand" ] ++ attributes.passAsFile or [ ];
      }
    )
    // {
      meta = attributes.meta or { };
      passthru = attributes.passthru or { };
    }
    // attributes.passthru or { };

  writeTextFile =
    {
      name,
      text,
      executable ? false,
      # Where the text goes below the output; the output is the file itself without it
      destination ? "",
      meta ? { },
    }:
    runCommand name
      {
        inherit text executable meta;
        passAsFile = [ "text" ];
      }
      ''
        target=$out${lib.escapeShellArg destination}
        mkdir -p "$(dirname "$target")"
        mv "$textPath" "$target"
        if [ -n "$executable" ]; then
          chmod +x "$target"
        fi
      '';

  withShell = text: "#!${lib.getExe bash}\n${text}\n";
in
{
  inherit runCommand writeTextFile;
  writeText = name: text: writeTextFile { inherit name text; };
  writeTextDir =
    path: text:
    writeTextFile {
      inherit text;
      name = baseNameOf path;
      destination = "/${path}";
    };
  writeShellScript =
    name: text:
    writeTextFile {
      inherit name;
      text = withShell text;
      executable = true;
    };
  writeShellScriptBin =
    name: text:
    writeTextFile {
      inherit name;
      text = withShell text;
      executable = true;
      destination = "/bin/${name}";
      meta.mainProgram = name;
    };

  # For an overlay to put functions into
  dockerTools = { };

  stdenv = {
    hostPlatform = platform hostSystem;
    buildPlatform = platform buildSystem;
    system = hostSystem;
  };
}
