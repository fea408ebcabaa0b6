# The documents and layers of an image, or of an image index -> an OCI image layout and, as its
# attributes, the other ways out of the store: an archive, a stream, the program that pushes, and what
# registry servers and other machines need.
{
  # The package set with the tools, for the machine that builds
  tools,
  # The programs that make derivations (builders/default.nix)
  builders,
}:
{
  # Name and tag of the image
  name,
  tag,
  # Folder that describe_image.py or describe_index.py has written. It is made from the layers'
  # descriptions alone, so a machine with a binary cache knows the image, and can push the blobs that a
  # registry lacks without having the others: `nix-store --realise` of their store paths or, where no
  # cache has them, of the derivations in `layers`.
  documents,
  # Derivations whose outputs hold the layers, those of a base first
  blobs,
  # The CycloneDX document, or a folder of them
  sbom,
  # Architecture of the image; of an index, the one whose image `docker load` takes
  architecture,
  # Media types of the answer: "docker" or "oci"
  mediaTypes,
  # What another machine needs to make all this without the layers
  ingredients,
}:
let
  show = import ./show.nix;

  # For store names
  shortName = builtins.substring 0 100 (baseNameOf name);

  layout = builders.lay_out_image {
    name = "${shortName}-image";
    imageName = name;
    inherit
      tag
      architecture
      documents
      blobs
      ;
  };

  program = import ../programs/package.nix { inherit tools; } "stream_image";
  stream = tools.writeShellScript "stream-${shortName}" ''
    exec ${program}/bin/stream-image ${tools.gnutar}/bin/tar ${layout} "$@"
  '';

  answer = builders.write_answer {
    name = "${shortName}-image";
    inherit documents mediaTypes blobs;
  };

  copyTo = import ./copy-to.nix { inherit tools; } {
    images.${name} = {
      place = "${name}:${tag}";
      inherit documents blobs sbom;
    };
  };
in
layout
// {
  imageName = name;
  imageTag = tag;
  inherit
    documents
    blobs
    sbom
    stream
    answer
    copyTo
    ;

  # Where the image has been pushed to, or will be -> what names exactly this image there. By import
  # from derivation: reading the manifest needs the layers' descriptions, but no layer.
  reference =
    repository:
    let
      part = "[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*";
      isRepository =
        builtins.isString repository
        && builtins.match "([a-z0-9.-]+(:[0-9]+)?/)?${part}(/${part})*" repository != null;
      manifest = builtins.readFile "${documents}/manifest.json";
    in
    if isRepository then
      "${repository}@sha256:${builtins.hashString "sha256" manifest}"
    else
      throw "reference takes a name in a registry without a tag, such as \"registry.example.org/team/app\", not ${show repository}";

  # An older image, or the file of its plan or a fleet's lock -> how this one differs
  changesFrom =
    older:
    let
      isImage = builtins.isAttrs older && older ? documents;
      isPath = builtins.isPath older || builtins.isString older && !builtins.hasContext older;
      isInStore = builtins.isString older || builtins.isAttrs older && older ? outPath;
      file =
        if isPath && !builtins.pathExists (/. + older) then
          throw "changesFrom names ${toString older}, and there is no such file, or evaluation may not read it"
        else if isPath then
          builtins.path {
            name = "older-plan.json";
            path = /. + older;
          }
        else if isInStore then
          older
        else
          throw "changesFrom takes an image, or a file with a plan (groupedLayers) or a fleet's lock, not ${show older}";
    in
    builders.compare_images {
      imageName = name;
      inherit tag documents sbom;
      older = if isImage then { inherit (older) documents; } else { plan = "${file}"; };
    };

  # The image as one file: an OCI archive that `docker load` reads, too.
  archive = builders.capture_output {
    name = "${shortName}.tar";
    command = [ "${stream}" ];
  };

  # What other machines need besides the packages to get this image without building anything, and
  # the next one without packing shared layers: copy its closure to a binary cache.
  cache = tools.writeText "${shortName}-cache" (
    builtins.concatStringsSep "\n" (
      map toString (
        [
          layout
          copyTo
          answer
        ]
        ++ ingredients
      )
    )
  );
}
