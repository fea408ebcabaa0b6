# What is in an image: a CycloneDX document.
{ build, ... }:
{
  # Name and tag of the image
  imageName,
  tag,
  # What describe_image.py wrote
  documents,
  # What read_base_image.py writes as `image`, or null
  baseImage,
  # Store paths, with context, whose closures the image holds
  roots,
  # Derivations with `meta` among them
  packages,
}@attributes:
let
  inherit (builtins) map parseDrvName unsafeDiscardStringContext;

  # Without context: a package's text may refer to what is not in the image, and its outputs other
  # than the one in `contents` may be there. What `meta` refuses to say is not known.
  known =
    value:
    let
      text = builtins.tryEval (unsafeDiscardStringContext (builtins.toJSON value));
    in
    if text.success then builtins.fromJSON text.value else null;

  describe = package: {
    paths = known (map (output: "${package.${output}}") package.outputs or [ "outPath" ]);
    pname = package.pname or (parseDrvName package.name).name;
    version = package.version or (parseDrvName package.name).version;
    license = known (package.meta.license or null);
    homepage = known (package.meta.homepage or null);
    description = known (package.meta.description or null);
    cpe = known (package.meta.identifiers.cpe or null);
    purl = known (package.meta.identifiers.purl or null);
  };
in
build (
  removeAttrs attributes [ "roots" ]
  // {
    name = "${builtins.substring 0 100 (baseNameOf imageName)}.cdx.json";
    packages = map describe packages;
    exportReferencesGraph.graph = roots;
  }
)
