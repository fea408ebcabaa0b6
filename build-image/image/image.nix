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
    concatLists
    hasContext
    head
    isAttrs
    isFunction
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

  contentsList = unique contents;

  configText = toJSON config;
  withoutContext = value: builtins.fromJSON (builtins.unsafeDiscardStringContext (toJSON value));

  base =
    if fromImage == null then
      {
        out = null;
        description = null;
        image = null;
        tree = null;
      }
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

  rootArchive = builders.link_contents {
    contents = contentsList;
    storePaths = unique (map wholePath contentsList);
    baseTree = base.tree;
    inherit
      caller
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
          baseImage = base.image;
          inherit caller storeDir;
        }}"
      ]
    else
      [ ];
  contentRoots = unique (map wholePath contents) ++ references;
  groups = map (map wholePath) layers;

  databaseArchive = builders.make_database {
    roots = contentRoots ++ [ rootArchive ] ++ concatLists groups;
    leftOut = [ "${rootArchive}" ] ++ references;
    baseFolder = base.out;
    baseLayers = base.description;
    baseTree = base.tree;
    inherit
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

  planArguments = rec {
    archives = (if includeNixDB then [ "${databaseArchive}" ] else [ ]) ++ [ "${rootArchive}" ];
    roots = contentRoots ++ archives ++ concatLists groups;
    baseLayers = base.description;
    inherit
      references
      groups
      maxLayers
      includeStorePaths
      ;
  };
  layered = makeLayers {
    inherit
      planArguments
      popularity
      known
      packing
      importFromDerivation
      ;
  };

  # The derivations whose outputs hold the layers, those of the base first
  blobs = (if fromImage == null then [ ] else [ base ]) ++ layered.layers;

  # Everything that determines the image's contents, and its tag unless one is given
  ingredients = {
    inherit
      architecture
      variant
      environment
      created
      ;
    descriptions = map (layer: layer.description) blobs;
    # Without context: the documents name the blobs but do not need them.
    blobs = map (layer: builtins.unsafeDiscardStringContext layer.outPath) blobs;
    baseImage = base.image;
    # What the configuration refers to is in the layers; the layout only names it.
    config = withoutContext config;
    annotations = withoutContext annotations;
  };
  imageTag =
    if tag != null then
      tag
    else
      substring 0 32 (
        builtins.hashString "sha256" (builtins.unsafeDiscardStringContext (toJSON ingredients))
      );

  documents = builders.describe_image ingredients;

  # What is in it, as CycloneDX has it
  sbom = builders.write_sbom {
    imageName = name;
    tag = imageTag;
    inherit documents packages;
    inherit (ingredients) baseImage;
    inherit (planArguments) roots;
  };

  forms = import ./forms.nix { inherit tools builders; } {
    inherit
      name
      documents
      blobs
      sbom
      architecture
      mediaTypes
      ;
    tag = imageTag;
    ingredients = [ layered.groupedLayers ] ++ ingredients.descriptions;
  };
in
passthru
// forms
// {
  inherit meta passthru;

  # As in nixpkgs: the image with additional or changed arguments
  override =
    changes:
    let
      changed = if isFunction changes then changes arguments else changes;
    in
    if isAttrs changed then
      import ./image.nix { inherit tools system caller; } (arguments // changed)
    else
      throw "override takes arguments of buildImage, as in override { tag = \"2\"; }, not ${import ./show.nix changed}";
  overrideAttrs = _: throw "an image has no overrideAttrs: write override { ... }, which changes arguments of buildImage";

  inherit (layered) layers groupedLayers picture;
  # For a fleet that this image is in
  inherit planArguments;
  # Without outputSpecified, `nix build` of newer versions of Nix builds the output `out`.
  explain = layered.groupedLayers.explain // {
    outputSpecified = true;
  };
  # For an index that this image is in
  inherit architecture;
  platform = "linux/${architecture}${if variant == "" then "" else "/${variant}"}";
}
