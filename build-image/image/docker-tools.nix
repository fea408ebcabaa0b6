# nixpkgs' dockerTools -> the same with buildLayeredImage and streamLayeredImage made of buildImage.
#
# Arguments and results have the shape of theirs, so that other people's Nix code gets these layers
# without a change. Images that ask for what buildImage does not do are left to nixpkgs.
{
  # The function of image.nix
  buildImage,
  # The package set with the tools, for the machine that builds
  tools,
}:
dockerTools:
let
  isLeft =
    arguments:
    arguments.enableFakechroot or false || (arguments.layeringPipeline or null) != null;

  # One of an image's forms, with all that the image has besides
  formOf =
    form: arguments:
    if isLeft arguments then
      dockerTools.${theirs.${form}} (withDockerArchive arguments)
    else
      ours form arguments;
  theirs = {
    archive = "buildLayeredImage";
    stream = "streamLayeredImage";
  };
  ours =
    form: arguments:
    let
      # A base image that was made here is read as it is, not from an archive.
      base = arguments.fromImage.image or arguments.fromImage or null;
      image = buildImage (arguments // { fromImage = base; });
      added = {
        inherit (image) imageName imageTag;
        inherit image;
        stream = formOf "stream" arguments;
        isExe = form == "stream"; # as nixpkgs tells a script from a file
        # Of the older kind, with uncompressed layers, which nixpkgs' other functions read
        dockerArchive = tools.runCommand "${image.archive.name}" { } ''
          ${tools.skopeo}/bin/skopeo --insecure-policy --tmpdir="$TMPDIR" copy --quiet \
            oci:${image} docker-archive:$out:${image.imageName}:${image.imageTag}
        '';
      };
    in
    image
    // image.${form}
    // added
    // {
      inherit (image) meta overrideAttrs;
      passthru = image.passthru // added;
      override =
        changes:
        formOf form (arguments // (if builtins.isFunction changes then changes arguments else changes));
    };
  withDockerArchive =
    arguments:
    arguments // { fromImage = arguments.fromImage.dockerArchive or arguments.fromImage or null; };
in
dockerTools
// rec {
  buildLayeredImage = formOf "archive";
  streamLayeredImage = formOf "stream";
  buildLayeredImageWithNixDb = arguments: buildLayeredImage (arguments // { includeNixDB = true; });

  buildImage = arguments: dockerTools.buildImage (withDockerArchive arguments);
  buildImageWithNixDb = arguments: dockerTools.buildImageWithNixDb (withDockerArchive arguments);
  exportImage = arguments: dockerTools.exportImage (withDockerArchive arguments);
  mergeImages =
    images: dockerTools.mergeImages (map (image: image.dockerArchive or image) images);
}
