# Images -> the program that pushes them: `copy-to DESTINATION ... [OPTION ...]`.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
{
  # Images by name: `place` (NAME:TAG), `documents` (a folder that describe_image.py or
  # describe_index.py has written), `packed` (the derivations whose outputs hold the layers), `sbom`
  images,
  # Whether each destination gets all of them, below it
  isFleet ? false,
}:
let
  inherit (builtins) compareVersions mapAttrs parseDrvName toJSON unsafeDiscardStringContext;

  settings = {
    inherit isFleet;
    # The module changes.py, and what it imports
    modules = builtins.path {
      name = "changes";
      path = ../builders;
      filter =
        file: _:
        builtins.elem (baseNameOf file) [
          "changes.py"
          "store_names.py"
        ];
    };
    skopeo = "${tools.skopeo}/bin/skopeo";
    # Its option that makes it push an image as it is, since version 1.6
    preserveDigests =
      if compareVersions (parseDrvName tools.skopeo.name).version "1.6" < 0 then
        ""
      else
        "--preserve-digests";
    images = mapAttrs (_: image: {
      inherit (image) place;
      documents = "${image.documents}";
      # Without context: only a dry run reads it, and has Nix realise it then.
      sbom = {
        path = unsafeDiscardStringContext image.sbom.outPath;
        derivation = unsafeDiscardStringContext image.sbom.drvPath;
      };
      # Without context: the program needs a layer only where a destination lacks it, and has Nix
      # realise it then.
      derivations = builtins.listToAttrs (
        map (layer: {
          name = unsafeDiscardStringContext layer.outPath;
          value = unsafeDiscardStringContext layer.drvPath;
        }) image.packed
      );
    }) images;
  };

  # Without bytecode that Python may have written beside it
  program = builtins.path {
    name = "copy-to.py";
    path = ../programs/copy_to;
    filter = file: _: builtins.match ".*\\.py" file != null;
  };
in
# In a file, since a command line has a limit. With -I, Python takes modules of the program's folder
# only.
tools.writeShellScriptBin "copy-to" ''
  exec ${tools.python3}/bin/python3 -BIS ${program} \
    ${tools.writeText "copy-to.json" (toJSON settings)} "$@"
''
