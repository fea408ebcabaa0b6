# Images -> the program that pushes them: `copy-to DESTINATION ... [OPTION ...]`.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
{
  # Images by name: `place` (NAME:TAG), `documents` (a folder that describe_image.py or
  # describe_index.py has written), `blobs` (the derivations whose outputs hold the layers), `sbom`
  images,
  # Whether each destination gets all of them, below it
  isFleet ? false,
}:
let
  inherit (builtins) compareVersions mapAttrs parseDrvName toJSON unsafeDiscardStringContext;

  settings = {
    inherit isFleet;
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
        }) image.blobs
      );
    }) images;
  };

  program = import ../programs/package.nix { inherit tools; } "push_image";
in
# The settings are no argument, since a command line has a limit, and no file of their own, which
# would be one build more between an edit and a push.
tools.writeShellScriptBin "copy-to" ''
  exec ${program}/bin/push-image /dev/fd/3 "$@" 3<<'END'
  ${toJSON settings}
  END
''
