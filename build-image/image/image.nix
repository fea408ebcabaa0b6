# Contents and a configuration -> an OCI image layout, and other forms of the image.
#
# The arguments are those of arguments.nix.
{
  # The package set with the tools, for the machine that builds
  tools,
  # System of the machine that the image is for
  system ? tools.stdenv.hostPlatform.system,
  # What errors begin with where this call is one of several, such as "buildImages: images.web"
  caller ? "",
}@given:
let
  inherit (builtins)
    attrNames
    concatLists
    concatStringsSep
    filter
    hasContext
    head
    isFunction
    isString
    storeDir
    stringLength
    substring
    toJSON
    ;

  inherit (import ../lib.nix) unique;

  tools = import ./check-tools.nix given.tools;
  builders = import ../builders { inherit tools; };
  makeLayers = import ./layers.nix { inherit builders; };
  readArguments = import ./arguments.nix { inherit tools system caller; };

  # Contents may be folders in store paths; Nix exports the references of whole store paths only.
  wholePath =
    path:
    let
      start = stringLength storeDir + 1;
      name = head (builtins.split "/" (substring start (-1) path));
    in
    substring 0 (start + stringLength name) path;
in
arguments:
let
  inherit (readArguments arguments)
    name
    tag
    contents
    environment
    packages
    config
    architecture
    variant
    created
    mtime
    owner
    group
    maxLayers
    layers
    popularity
    known
    importFromDerivation
    fromImage
    extraCommands
    fakeRootCommands
    includeStorePaths
    includeNixDB
    compressor
    mediaTypes
    annotations
    meta
    passthru
    ;

  compressors = {
    gz = "${tools.libdeflate}/bin/libdeflate-gzip";
    zstd = "${tools.zstd}/bin/zstd";
    none = "";
  };

  # For store names; never in that of a layer, which another image may share
  shortName = substring 0 100 (baseNameOf name);

  contentsList = unique contents;

  configText = toJSON config;

  # Names of the OCI image specification; a derivation's `meta` has the name with the version.
  metaAnnotations =
    let
      parsed = builtins.parseDrvName (meta.name or "");
      values = {
        title = if meta ? name then parsed.name else null;
        version = meta.version or (if parsed.version == "" then null else parsed.version);
        description = meta.description or null;
        licenses = meta.license.spdxId or null;
        url = meta.homepage or null;
      };
    in
    builtins.listToAttrs (
      map (key: {
        name = "org.opencontainers.image.${key}";
        value = values.${key};
      }) (filter (key: isString values.${key}) (attrNames values))
    );
  allAnnotations = metaAnnotations // annotations;

  base =
    if fromImage == null then
      null
    else
      builders.read_base_image {
        inherit
          fromImage
          architecture
          variant
          storeDir
          ;
        storePath = wholePath fromImage;
      };

  baseDescription = if base == null then null else base.description;
  baseTree = if base == null then null else base.tree;

  root = builders.link_contents {
    contents = contentsList;
    storePaths = unique (map wholePath contentsList);
    inherit
      baseTree
      extraCommands
      fakeRootCommands
      includeStorePaths
      includeNixDB
      owner
      group
      storeDir
      mtime
      ;
  };

  references =
    if hasContext configText then
      [
        "${builders.write_references {
          text = configText;
          base = if base == null then null else base.image;
          inherit storeDir;
        }}"
      ]
    else
      [ ];
  roots = unique (map wholePath contents) ++ references;
  groups = map (map wholePath) layers;

  database = builders.make_database {
    roots = roots ++ [ root ] ++ concatLists groups;
    leftOut = [ "${root}" ] ++ references;
    inherit
      base
      baseDescription
      baseTree
      storeDir
      mtime
      owner
      group
      ;
  };

  packing = {
    tar = "${tools.gnutar}/bin/tar";
    inherit compressor;
    compressorProgram = compressors.${compressor};
    inherit
      storeDir
      mtime
      owner
      group
      ;
  };

  layered = makeLayers {
    inherit
      roots
      references
      groups
      maxLayers
      includeStorePaths
      importFromDerivation
      popularity
      known
      packing
      ;
    base = baseDescription;
    archives = (if includeNixDB then [ "${database}" ] else [ ]) ++ [ "${root}" ];
  };

  packed = (if base == null then [ ] else [ base ]) ++ layered.layers;

  # Everything that determines the image's contents, and its tag unless one is given
  ingredients = {
    inherit
      architecture
      variant
      environment
      created
      ;
    descriptions = map (layer: layer.description) packed;
    # Without context: the documents name the blobs but do not need them.
    blobs = map (layer: builtins.unsafeDiscardStringContext layer.outPath) packed;
    base = if base == null then null else base.image;
    # Without context: what the configuration refers to is in the layers; the layout only names it.
    config = builtins.fromJSON (builtins.unsafeDiscardStringContext configText);
  }
  // (
    if allAnnotations == { } then
      { }
    else
      {
        annotations = builtins.fromJSON (
          builtins.unsafeDiscardStringContext (toJSON allAnnotations)
        );
      }
  );
  imageTag =
    if tag != null then
      tag
    else
      substring 0 32 (
        builtins.hashString "sha256" (builtins.unsafeDiscardStringContext (toJSON ingredients))
      );

  # Configuration, manifest, and layers.json, which says of each layer in which store path it is (as
  # text, so that building the documents builds no layer). They are made from the layers'
  # descriptions, so a machine with a binary cache knows the image, and can push the blobs that a
  # registry lacks without having the others: `nix-store --realise` of their store paths or, where
  # no cache has them, of the derivations in `layers`, whose outputs they are, except those of a
  # base image.
  documents = builders.describe_image ingredients;

  # What is in it, as CycloneDX has it
  sbom = builders.write_sbom {
    imageName = name;
    tag = imageTag;
    inherit documents packages;
    inherit (ingredients) base;
    inherit (layered.toPlan) roots;
  };

  outputs = import ./outputs.nix { inherit tools builders; } {
    inherit
      name
      documents
      packed
      sbom
      architecture
      ;
    tag = imageTag;
  };

  # What a registry server needs: the manifest, and where the blobs are.
  answer = builders.write_answer {
    name = "${shortName}-image";
    inherit documents mediaTypes;
    blobs = packed;
  };
in
outputs.layout
// passthru
// {
  inherit meta passthru imageTag;
  imageName = name;

  # As in nixpkgs: the image with additional or changed arguments
  override =
    changes:
    import ./image.nix { inherit tools system caller; } (
      arguments // (if isFunction changes then changes arguments else changes)
    );
  overrideAttrs = _: throw "an image has no overrideAttrs: write override { ... }, which changes arguments of buildImage";

  inherit (layered) layers groupedLayers picture;
  inherit sbom;
  # For a fleet that this image is in
  inherit (layered) toPlan;
  # Without outputSpecified, `nix build` of newer versions of Nix builds the output `out`.
  explain = layered.groupedLayers.explain // {
    outputSpecified = true;
  };
  inherit answer;
  # For an index that this image is in
  inherit documents packed architecture;
  platform = "linux/${architecture}${if variant == "" then "" else "/${variant}"}";

  inherit (outputs)
    archive
    stream
    copyTo
    reference
    changesFrom
    ;

  # What other machines need besides the packages to get this image without building anything, and
  # the next one without packing shared layers: copy its closure to a binary cache.
  cache = tools.writeText "${shortName}-cache" (
    concatStringsSep "\n" (
      map toString (
        [
          outputs.layout
          outputs.copyTo
          answer
          layered.groupedLayers
        ]
        ++ ingredients.descriptions
      )
    )
  );
}
