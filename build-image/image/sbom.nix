# An image -> a CycloneDX document that says what is in it, and what is known of each package.
{
  # The programs that make derivations (builders/default.nix)
  builders,
}:
{
  # Name and tag of the image
  name,
  tag,
  # Its documents, the description of its base image or null, and the store paths that it is made of
  documents,
  base,
  roots,
  # Derivations with `meta` among its contents
  packages,
}:
let
  inherit (builtins)
    fromJSON
    map
    parseDrvName
    toJSON
    unsafeDiscardStringContext
    ;

  # Without context: a package's text may refer to what is not in the image, and its outputs other
  # than the one in `contents` may be there. What `meta` refuses to say is not known.
  known =
    value:
    let
      text = builtins.tryEval (unsafeDiscardStringContext (toJSON value));
    in
    if text.success then fromJSON text.value else null;

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
builders.write_sbom {
  name = "${builtins.substring 0 100 (baseNameOf name)}.cdx.json";
  imageName = name;
  inherit
    tag
    documents
    base
    roots
    ;
  packages = map describe packages;
}
