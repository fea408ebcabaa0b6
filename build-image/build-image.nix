# Package names -> an image, for callers who have only strings, such as registry servers.
#
#   nix-build build-image/build-image.nix --argstr packages '["git"]'
#
# builds the answer, a JSON file: the image's manifest and where its blobs are, or which packages
# are not available. The image itself is an attribute, -A image, and its other forms are, too.
{
  # Names of packages: a JSON array in a string. Nested ones have dots: "python3Packages.ipython".
  packages ? "[]",
  # Further contents, for callers in Nix
  contents ? [ ],

  # Where packages come from; see load-pkgs.nix
  srcType ? "nixpkgs",
  srcArgs ? null,
  # Arguments for the package set: a set, or JSON in a string
  importArgs ? { },
  # What loads the package set: a path
  loadPkgs ? ./names/load-pkgs.nix,
  # System of the machine that the image is for
  system ? builtins.currentSystem or "x86_64-linux",
  # Systems of several machines, a JSON array in a string: an image index with an image for each
  systems ? null,

  # Name of the image
  name ? "image",
  # Tag of the image
  tag ? "latest",
  # The maximum number of layers
  maxLayers ? 96,
  # Popularity table: its URL, or the absolute path of a local file
  popularityUrl ? null,
  popularity ? null,
  # Plans of existing layers, which are used where they fit: the absolute path of a local file
  known ? null,
  # Whether evaluation may build the plan; otherwise one derivation packs all layers
  importFromDerivation ? true,
  # Media types of the answer: "docker", which registry servers of 2019 send, or "oci"
  mediaTypes ? "docker",
  # With "...", nix-build also passes misspelt arguments, which can then be refused.
  ...
}@given:
let
  inherit (builtins)
    all
    any
    attrNames
    concatMap
    concatStringsSep
    elem
    filter
    fromJSON
    hasAttr
    head
    intersectAttrs
    isAttrs
    isList
    isString
    length
    map
    mapAttrs
    match
    seq
    toJSON
    ;

  # What `nix-build -A NAME` builds in place of the answer
  attributesOf = image: {
    # An OCI image layout, and other forms of the same image
    inherit image;
    inherit (image) archive stream copyTo;

    # This is Nixery's idea. Nix exports the reference graph of the contents to the derivation
    # `groupedLayers`, in which group_layers.py decides which store paths share a layer. The evaluation
    # builds it and reads the result back in (import from derivation): so each of `layers` is a
    # derivation of its own, which other images have as well. All of it is in image/layers.nix.
    inherit (image) groupedLayers layers;
    # The reason for each layer, as a table and as a picture
    inherit (image) explain picture;
    # What is in it, as scanners read it
    inherit (image) sbom;

    # What another machine needs to have all this without building anything
    inherit (image) cache;
  };

  architectures = import ./image/architectures.nix;
  inherit (import ./lib.nix) didYouMean printable;
  readJSON = import ./names/read-json.nix;
  isStrings = value: isList value && all isString value;

  importAttributes = readJSON {
    argument = "importArgs";
    what = "a set, or a JSON object such as '{\"config\": {\"allowUnfree\": true}}'";
    isRight = isAttrs;
  } importArgs;

  load =
    importArgs:
    builtins.addErrorContext "while loading the package set" (
      import loadPkgs (
        {
          inherit srcType importArgs;
        }
        // (if srcArgs == null then { } else { inherit srcArgs; })
      )
    );
  # nixpkgs refuses `system` together with `localSystem` and the like.
  pkgs = load (
    (if importAttributes ? localSystem then { } else { inherit system; }) // importAttributes
  );
  inherit (pkgs.stdenv) buildPlatform hostPlatform;

  # Tools run here, whatever machine the image is for.
  native = builtins.currentSystem or buildPlatform.system;
  platforms = {
    localSystem = null;
    crossSystem = null;
  };
  tools =
    if buildPlatform.system == native then
      pkgs.buildPackages
    else
      load (removeAttrs importAttributes (attrNames platforms) // { system = native; });

  names = readJSON {
    argument = "packages";
    what = "a JSON array of strings such as '[\"git\"]'";
    isRight = isStrings;
  } packages;

  # A name for the tools that people want in an interactive container, as in Nixery.
  shell = [
    "bashInteractive"
    "cacert"
    "coreutils"
    "iana-etc"
    "moreutils"
    "nano"
  ];
  lookup = import ./names/find-packages.nix {
    inherit pkgs;
    inherit (hostPlatform) system;
    names = concatMap (name: if name == "shell" then shell else [ name ]) names;
  };
  hasCertificates = elem "shell" names || elem "cacert" names;

  # nix-build's --argstr gives strings; image/arguments.nix refuses those that are no numbers.
  toNumber =
    given:
    let
      digits = if isString given then match "0*([0-9]{1,9})" given else null;
    in
    if digits == null then given else fromJSON (head digits);
  toBoolean =
    given:
    {
      "true" = true;
      "false" = false;
    }
    .${toString given} or given;

  makeImage = import ./image/image.nix {
    inherit tools;
    inherit (hostPlatform) system;
  };
  image = makeImage {
    inherit name tag mediaTypes known;
    contents = lookup.packages ++ contents;
    maxLayers = toNumber maxLayers;
    importFromDerivation = toBoolean importFromDerivation;
    config =
      (if elem "shell" names then { Cmd = [ "bash" ]; } else { })
      // (
        if hasCertificates then { Env = [ "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt" ]; } else { }
      );
    popularity =
      if popularity == null && popularityUrl != null then
        builtins.fetchurl {
          name = "popularity.json";
          url = popularityUrl;
        }
      else
        popularity;
  };

  # The result of this file for each of `systems`
  systemNames = readJSON {
    argument = "systems";
    what = "a JSON array of strings such as '[\"x86_64-linux\", \"aarch64-linux\"]'";
    isRight = value: isStrings value && value != [ ];
  } systems;
  results = map (
    system: import ./build-image.nix (removeAttrs given [ "systems" ] // { inherit system; })
  ) systemNames;
  refused = filter (result: result ? missing) results;
  index = import ./image/index.nix { inherit tools; } {
    inherit name tag;
    images = map (result: result.image) results;
  };

  # Another machine needs the answer in addition to what the image needs.
  cache = tools.writeText "cache" "${image.cache}\n${image.answer}\n";

  # Unavailable packages are an answer, too; docs/nixery-build-image.md has its form. `not_found` is the only
  # error that servers know.
  inherit (lookup) missing similar;
  unavailable = filter (hasAttr "failure") missing;
  errorAnswer = {
    error = "not_found";
    pkgs = map (package: package.name) missing;
  }
  // (
    if unavailable == [ ] then
      { }
    else
      {
        unavailable = map (package: { inherit (package) name reason; }) unavailable;
      }
  )
  // (if similar == { } then { } else { inherit similar; });

  # -A image ends with Nix's own error for the first package that has one which `meta` does not
  # explain, and otherwise with one sentence about all packages.
  sentences = map (
    package: "'${printable package.name}' ${package.reason}" + didYouMean (similar.${package.name} or [ ])
  ) missing;
  isStrange = package: package.unknown or false && !(similar ? ${package.name});
  sizeOfSet =
    if any isStrange missing then
      "; the package set has ${toString (length (attrNames pkgs))} names"
    else
      "";
  sentence = "no image: ${concatStringsSep ", " sentences}${sizeOfSet}";
  unexplained = filter (package: package.unexplained or false) missing;
  noImage = if unexplained != [ ] then seq (head unexplained).failure null else throw sentence;
in
import ./image/check-call.nix {
  name = "build-image.nix";
  formals = builtins.functionArgs (import ./build-image.nix);
} given (
  if !isList contents then
    throw "contents must be a list of derivations, which only callers in Nix have, not ${toJSON contents}: pass names as packages"
  else if names == [ ] && contents == [ ] then
    throw "packages is empty: name at least one package, as in '[\"git\"]'"
  else if systems != null then
    if refused != [ ] then
      head refused
    else
      index.answer // intersectAttrs (attributesOf null) (index // { image = index; })
  else if !(architectures ? ${system}) && intersectAttrs platforms importAttributes == { } then
    throw "system must be one of ${concatStringsSep ", " (attrNames architectures)}, not ${toJSON system}${
      import ./names/did-you-mean.nix { names = attrNames architectures; } system
    }"
  else if missing == [ ] then
    image.answer // attributesOf image // { inherit cache; }
  else
    # The answer is a success for Nix, so it says what it is; each attribute ends with the same.
    tools.writeText "answer.json" (builtins.trace sentence (toJSON errorAnswer))
    // mapAttrs (_: _: noImage) (attributesOf null)
    // {
      inherit missing;
    }
)
