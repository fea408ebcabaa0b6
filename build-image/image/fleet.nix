# Calls of buildImage -> images that share layers, since all of them are planned together.
#
# Each image gets the plan of the fleet as `known`, and uses its own part of it. So each image is an
# ordinary result of buildImage, and depends only on its own layers.
{
  # The package set with the tools, for the machine that builds
  tools,
  # System of the machine that the images are for
  system,
}:
{
  # Arguments of buildImage by image; `name` defaults to the attribute's name
  images,
  # Arguments for all of them
  defaults ? { },
  # An earlier `lock` of the fleet, whose layers are kept: a file, or null
  known ? null,
}:
let
  inherit (builtins)
    attrNames
    attrValues
    concatStringsSep
    filter
    groupBy
    hasAttr
    head
    isAttrs
    isString
    length
    mapAttrs
    readFile
    seq
    ;

  buildImage =
    name:
    import ./image.nix {
      inherit tools system;
      caller = "buildImages: images.${name}";
    };
  builders = import ../builders { inherit tools; };
  show = import ./show.nix;

  calls =
    if !isAttrs images || images == { } then
      throw "buildImages: images must be a set of calls of buildImage, as in images.web = { contents = [ pkgs.nginx ]; }"
    else
      mapAttrs (
        name: call:
        if !(isAttrs defaults && !(defaults ? outPath)) then
          throw "buildImages: defaults must be arguments of buildImage, as in defaults.tag = \"v1\", not ${show defaults}"
        else if isAttrs call && !(call ? outPath) then
          { inherit name; } // defaults // call
        else
          throw "buildImages: images.${name} must be the arguments of a call of buildImage, as in images.${name} = { contents = [ pkgs.nginx ]; }, not ${show call}"
      ) images;

  requests = mapAttrs (name: call: (buildImage name call).planArguments) calls;
  lock = builders.plan_fleet {
    images = requests;
    # Read and copied to the store as buildImage does.
    inherit (readArguments { name = "fleet"; inherit known; }) known;
  };
  readArguments = import ./arguments.nix {
    inherit tools system;
    caller = "buildImages";
  };

  planned = mapAttrs (name: call: buildImage name (call // { known = lock; })) calls;
  # Without this, the evaluation would build the images' plans one after the other.
  plans = tools.writeText "fleet-plans" (
    concatStringsSep "\n" (map (image: "${image.groupedLayers}") (attrValues planned))
  );
  built = mapAttrs (
    name: image:
    if calls.${name}.importFromDerivation or true then seq (readFile plans) image else image
  ) planned;

  fleet = {
    # The plans of all images: a file to commit, and to pass as `known`
    inherit lock;
    groupedLayers = lock;
    explain = lock.explain // {
      outputSpecified = true;
    };
    picture = builders.draw_picture { inherit (lock) explanation; };
    # Pushes each image to DESTINATION/NAME:TAG, and writes its name and digest.
    copyTo = import ./copy-to.nix { inherit tools; } {
      isFleet = true;
      images = mapAttrs (_: image: {
        place = "${image.imageName}:${image.imageTag}";
        inherit (image) documents blobs sbom;
      }) built;
    };
    # What is in each image: a folder of CycloneDX documents
    sbom = import ./link-files.nix { inherit tools; } "fleet-sboms" (
      builtins.listToAttrs (
        map (name: {
          name = "${name}.cdx.json";
          value = built.${name}.sbom;
        }) (attrNames built)
      )
    );
    # Where copyTo pushes to -> what names exactly each image there
    reference =
      registry:
      mapAttrs (
        _: image:
        image.reference (
          if isString registry then "${registry}/${image.imageName}" else registry
        )
      ) built;
    # What other machines need besides the packages to get all images without building anything
    cache = tools.writeText "fleet-cache" (
      concatStringsSep "\n" (
        map toString (
          [
            fleet.copyTo
            plans
          ]
          ++ map (image: image.cache) (attrValues built)
        )
      )
    );
  };
  taken = filter (name: hasAttr name fleet) (attrNames images);
  # Images by name and tag; those whose tag is a hash differ
  named = groupBy (name: "${planned.${name}.imageName}:${planned.${name}.imageTag}") (
    filter (name: calls.${name}.tag or null != null) (attrNames calls)
  );
  repeated = filter (name: length named.${name} > 1) (attrNames named);
in
if repeated != [ ] then
  throw "buildImages: ${concatStringsSep " and " named.${head repeated}} are called ${head repeated}: give each its own name or tag"
else if taken != [ ] then
  throw "buildImages: an image cannot be called ${head taken}: the fleet has an attribute of that name. Write images.my-${head taken}.name = \"${head taken}\""
else
  built // fleet
