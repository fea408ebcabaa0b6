# What nixpkgs calls trivial builders, and a stdenv without a compiler: same names, arguments and
# meaning.
{
  lib,
  # The packages whose programs run in a build: always those of the building machine.
  tools,
  # Where builds run, and what they are for: "x86_64-linux".
  buildSystem,
  hostSystem,
}:
let
  inherit (tools) bash python3;

  platform =
    system:
    let
      cpu = builtins.head (lib.splitString "-" system);
    in
    {
      inherit system;
      config = "${cpu}-unknown-linux-gnu";
      isLinux = true;
      isDarwin = false;
      isx86_64 = cpu == "x86_64";
      isAarch64 = cpu == "aarch64";
      is64bit = true;
      linuxArch = if cpu == "aarch64" then "arm64" else cpu;
      go = {
        GOOS = "linux";
        GOARCH = { x86_64 = "amd64"; aarch64 = "arm64"; }.${cpu};
      };
    };

  initialPath = [
    bash
    tools.coreutils
    tools.diffutils
    tools.findutils
    tools.gawk
    tools.gnugrep
    tools.gnused
    tools.gnutar
    tools.gzip
    tools.xz
  ];

  mkDerivation =
    arguments:
    let
      attrs = if builtins.isFunction arguments then lib.fix arguments else arguments;
      structured = attrs.__structuredAttrs or false;
      name = attrs.name or "${attrs.pname}-${attrs.version}";
      result = derivation (
        removeAttrs attrs [
          "env"
          "meta"
          "passthru"
        ]
        // (if structured && attrs ? env then { inherit (attrs) env; } else attrs.env or { })
        // {
          inherit name;
          system = buildSystem;
          builder = lib.getExe bash;
          args = [
            ./setup.sh
            (lib.makeBinPath initialPath)
          ];
        }
        // lib.optionalAttrs (!structured && attrs ? buildCommand) {
          # A long script does not fit into the environment.
          passAsFile = [ "buildCommand" ] ++ attrs.passAsFile or [ ];
        }
      );
    in
    result
    // {
      meta = attrs.meta or { };
      passthru = attrs.passthru or { };
      overrideAttrs =
        changes:
        mkDerivation (attrs // (if builtins.isFunction changes then changes attrs else changes));
    }
    // attrs.passthru or { };

  runCommand =
    name: attrs: buildCommand:
    mkDerivation ({ inherit name buildCommand; } // attrs);

  writeTextFile =
    {
      name,
      text,
      executable ? false,
      # Where the text goes below the output; the output is the file itself without it.
      destination ? "",
      checkPhase ? "",
      meta ? { },
      passthru ? { },
      derivationArgs ? { },
      ...
    }:
    runCommand name
      (
        {
          inherit text executable checkPhase meta passthru;
          passAsFile = [ "text" ];
          preferLocalBuild = true;
          allowSubstitutes = false;
        }
        // derivationArgs
      )
      ''
        target=$out${lib.escapeShellArg destination}
        mkdir -p "$(dirname "$target")"
        mv "$textPath" "$target"
        if [ -n "$executable" ]; then
          chmod +x "$target"
        fi
        eval "$checkPhase"
      '';

  writeText = name: text: writeTextFile { inherit name text; };
  writeTextDir =
    path: text:
    writeTextFile {
      inherit text;
      name = baseNameOf path;
      destination = "/${path}";
    };
  writeScript =
    name: text:
    writeTextFile {
      inherit name text;
      executable = true;
    };
  writeScriptBin =
    name: text:
    writeTextFile {
      inherit name text;
      executable = true;
      destination = "/bin/${name}";
      meta.mainProgram = name;
    };
  withShell = text: "#!${lib.getExe bash}\n${text}\n";
  writeShellScript = name: text: writeScript name (withShell text);
  writeShellScriptBin = name: text: writeScriptBin name (withShell text);
  writeShellApplication =
    {
      name,
      text,
      runtimeInputs ? [ ],
      runtimeEnv ? { },
      meta ? { },
      passthru ? { },
      bashOptions ? [
        "errexit"
        "nounset"
        "pipefail"
      ],
      ...
    }:
    writeTextFile {
      inherit name passthru;
      executable = true;
      destination = "/bin/${name}";
      meta = { mainProgram = name; } // meta;
      text = withShell (
        lib.concatLines (
          map (option: "set -o ${option}") bashOptions
          ++ lib.mapAttrsToList (key: value: "export ${key}=${lib.escapeShellArg value}") runtimeEnv
          ++ lib.optional (
            runtimeInputs != [ ]
          ) ''export PATH="${lib.makeBinPath runtimeInputs}:$PATH"''
        )
        + text
      );
      checkPhase = ''bash -n "$target"'';
    };

  join =
    attrs:
    runCommand attrs.name
      (
        {
          __structuredAttrs = true;
          pathsToLink = [ "/" ];
          ignoreCollisions = false;
          postBuild = "";
          preferLocalBuild = true;
          allowSubstitutes = false;
        }
        // removeAttrs attrs [ "name" ]
      )
      ''
        ${lib.getExe python3} ${./join.py}
        eval "$postBuild"
      '';
  symlinkJoin =
    arguments:
    join (
      {
        linkFolders = false;
        ignoreCollisions = true;
        name = "${arguments.pname}-${arguments.version}";
      }
      // arguments
    );
  buildEnv = arguments: join ({ linkFolders = true; } // arguments);

  linkFarm =
    name: entries:
    runCommand name
      {
        preferLocalBuild = true;
        allowSubstitutes = false;
        passthru.entries = entries;
      }
      ''
        mkdir -p $out
        cd $out
        ${lib.concatMapStrings
          (entry: ''
            mkdir -p "$(dirname ${lib.escapeShellArg entry.name})"
            ln -s ${lib.escapeShellArg "${entry.path}"} ${lib.escapeShellArg entry.name}
          '')
          (
            if builtins.isAttrs entries then
              lib.mapAttrsToList (name: path: { inherit name path; }) entries
            else
              entries
          )
        }
      '';
  linkFarmFromDrvs =
    name: packages:
    linkFarm name (
      map (package: {
        inherit (package) name;
        path = package;
      }) packages
    );

  closureInfo =
    { rootPaths }:
    runCommand "closure-info"
      {
        __structuredAttrs = true;
        exportReferencesGraph.closure = rootPaths;
        nativeBuildInputs = [ tools.jq ];
        preferLocalBuild = true;
      }
      ''
        mkdir $out
        jq -r '.closure[].path' .attrs.json >$out/store-paths
        jq -r '[.closure[].narSize] | add' .attrs.json >$out/total-nar-size
        # What nix-store --load-db reads: no deriver, then the number of references.
        jq -r '.closure[] | .path, .narHash, .narSize, "", (.references | length), .references[]' \
          .attrs.json >$out/registration
      '';
in
{
  inherit
    buildEnv
    closureInfo
    linkFarm
    linkFarmFromDrvs
    runCommand
    symlinkJoin
    writeScript
    writeScriptBin
    writeShellApplication
    writeShellScript
    writeShellScriptBin
    writeText
    writeTextDir
    writeTextFile
    ;
  runCommandLocal =
    name: attrs:
    runCommand name (
      {
        preferLocalBuild = true;
        allowSubstitutes = false;
      }
      // attrs
    );
  runCommandNoCC = runCommand;
  runtimeShell = lib.getExe bash;
  runtimeShellPackage = bash;
  emptyFile = writeText "empty-file" "";
  emptyDirectory = runCommand "empty-directory" { } "mkdir $out";

  stdenv = {
    inherit initialPath mkDerivation;
    hostPlatform = platform hostSystem;
    buildPlatform = platform buildSystem;
    targetPlatform = platform hostSystem;
    system = hostSystem;
    shell = lib.getExe bash;
    isLinux = true;
    isDarwin = false;
  };

  writers = rec {
    writePython3 =
      name: _: text:
      writeScript name "#!${lib.getExe python3}\n${text}";
    writePython3Bin =
      name: _: text:
      writeScriptBin name "#!${lib.getExe python3}\n${text}";
    writeBash = writeShellScript;
    writeBashBin = writeShellScriptBin;
    writeJSON = name: value: writeText name (builtins.toJSON value);
  };
}
