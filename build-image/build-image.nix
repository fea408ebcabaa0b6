# Package names -> an image: the door for callers who have strings, such as a registry server.
#
#   nix-build build-image/build-image.nix --argstr packages '["git"]'
#
# yields the answer, a JSON file: the image's manifest and where its blobs are, or what the client
# asked for that is not there. The image itself is an attribute of it: -A image.
{
  # Names of packages: a JSON array in a string. Nested ones have dots: "python3Packages.numpy".
  packages ? "[]",
  # Derivations to put beside them, for callers in Nix
  contents ? [ ],

  # Where packages come from; see load-pkgs.nix
  srcType ? "nixpkgs",
  srcArgs ? null,
  # Arguments for the package set: a set, or JSON in a string
  importArgs ? { },
  # What loads the package set: a path
  loadPkgs ? ./load-pkgs.nix,
  # System of the machine that the image is for
  system ? builtins.currentSystem or "x86_64-linux",

  # Name of the image
  name ? "image",
  # Tag of the image
  tag ? "latest",
  # The most layers that the image may have
  maxLayers ? 96,
  # Popularity table: its URL, or a local file
  popularityUrl ? null,
  popularity ? null,
}:
let
  inherit (builtins)
    all
    concatLists
    concatStringsSep
    elem
    fromJSON
    isList
    isString
    map
    match
    toJSON
    ;

  load =
    system:
    import loadPkgs (
      {
        inherit srcType;
        importArgs = {
          inherit system;
        }
        // (if isString importArgs then fromJSON importArgs else importArgs);
      }
      // (if srcArgs == null then { } else { inherit srcArgs; })
    );

  # Tools run here, whatever machine the image is for.
  native = builtins.currentSystem or system;
  pkgs = load system;
  tools = if native == system then pkgs else load native;

  names =
    let
      # fromJSON's own words for what is no JSON at all do not say what was to be JSON.
      start = builtins.substring 0 1 (builtins.replaceStrings [ " " "\n" "\t" ] [ "" "" "" ] packages);
      isArray = isString packages && start == "[";
      parsed = if isArray then fromJSON packages else packages;
    in
    if isList parsed && all isString parsed then
      parsed
    else
      throw "packages must be a JSON array of strings, not ${toJSON packages}";

  # A name for what people want at hand in a container that they look around in, as in Nixery.
  shell = [
    "bashInteractive"
    "cacert"
    "coreutils"
    "iana-etc"
    "moreutils"
    "nano"
  ];
  found = import ./find-packages.nix {
    inherit pkgs system;
    names = concatLists (map (name: if name == "shell" then shell else [ name ]) names);
  };
  hasCertificates = elem "shell" names || elem "cacert" names;

  layerLimit =
    let
      digits = if isString maxLayers then match "0*([0-9]{1,9})" maxLayers else null;
    in
    if digits == null then maxLayers else fromJSON (builtins.head digits);

  image = import ./image.nix { inherit tools system; } {
    inherit name tag;
    contents = found.packages ++ contents;
    maxLayers = layerLimit;
    config =
      (if elem "shell" names then { Cmd = [ "bash" ]; } else { })
      // (
        if hasCertificates then { Env = [ "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt" ]; } else { }
      );
    popularity =
      if popularity != null then
        /. + popularity
      else if popularityUrl != null then
        builtins.fetchurl {
          name = "popularity.json";
          url = popularityUrl;
        }
      else
        null;
  };

  # What the client asked for and cannot have is an answer as well.
  inherit (found) notFound unavailable;
  errorAnswer =
    if notFound != [ ] then
      {
        error = "not_found";
        pkgs = notFound;
      }
      // (if unavailable == [ ] then { } else { inherit unavailable; })
    else
      {
        error = "unavailable";
        pkgs = map (package: package.name) unavailable;
        inherit unavailable;
      };
  noImage = throw (
    "no image: "
    + concatStringsSep ", " (
      map (name: "'${name}' was not found") notFound
      ++ map (package: "'${package.name}' ${package.reason}") unavailable
    )
  );
in
if names == [ ] && contents == [ ] then
  throw "packages is empty: name at least one package, as in '[\"git\"]'"
else if notFound == [ ] && unavailable == [ ] then
  image.answer
  // {
    inherit image;
    inherit (image)
      layers
      plan
      explain
      cache
      ;
  }
else
  tools.writeText "answer.json" (toJSON errorAnswer)
  // {
    image = noImage;
    layers = noImage;
    plan = noImage;
    explain = noImage;
    cache = noImage;
  }
