# Images for several platforms -> an OCI image index: one name, from which each machine gets the
# image for its platform.
#
# The images stay as they are; layers that they share are stored once.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
{
  # Name of the index, without a tag
  name,
  # Tag, or null for a hash of all that the index is made from
  tag ? null,
  # Images made by buildImage, one for each platform
  images,
}@given:
let
  inherit (builtins)
    all
    attrNames
    concatMap
    filter
    groupBy
    head
    isAttrs
    isList
    length
    substring
    unsafeDiscardStringContext
    ;

  builders = import ../builders { inherit tools; };
  # Name and tag follow the same rules as in buildImage.
  named = import ./arguments.nix {
    inherit tools;
    caller = "buildIndex";
    # On a Mac, docker runs images of Linux on the same processor.
    system = builtins.replaceStrings [ "-darwin" ] [ "-linux" ] tools.stdenv.buildPlatform.system;
  } { inherit name tag; };

  images =
    let
      byPlatform = groupBy (image: image.platform) given.images;
      repeated = filter (platform: length byPlatform.${platform} > 1) (attrNames byPlatform);
    in
    if !(isList given.images && all (image: isAttrs image && image ? platform) given.images) then
      throw "buildIndex: images must be a list of what buildImage returns"
    else if given.images == [ ] then
      throw "buildIndex: images is empty: give one image for each platform"
    else if repeated != [ ] then
      throw "buildIndex: two images are for ${head repeated}: give one image for each platform"
    else
      given.images;

  documents = builders.describe_index { images = map (image: image.documents) images; };
  blobs = concatMap (image: image.blobs) images;
  imageTag =
    if named.tag != null then
      named.tag
    else
      substring 0 32 (builtins.hashString "sha256" (unsafeDiscardStringContext documents.drvPath));

  # An archive's manifest.json can name only one image: the one for this machine, if there is one.
  native = filter (image: image.platform == "linux/${named.architecture}") images;

  # What is in the image for each platform: a folder of CycloneDX documents
  sbom = import ./link-files.nix { inherit tools; } "index-sboms" (
    builtins.listToAttrs (
      map (image: {
        name = "${image.platform}.cdx.json";
        value = image.sbom;
      }) images
    )
  );

in
import ./forms.nix { inherit tools builders; } {
  inherit (named) name;
  tag = imageTag;
  inherit documents blobs sbom;
  inherit (head (native ++ images)) architecture;
  mediaTypes = "oci";
  ingredients = map (image: image.cache) images;
}
// {
  inherit images;
}
