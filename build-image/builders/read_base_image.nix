# A base image, read and checked: its blobs, and what the image upon it needs to know.
{ tools, build, ... }:
{
  # An OCI image layout or an image archive in the store
  fromImage,
  # The store path that it is in
  storePath,
  # To choose from an image for several
  architecture,
  storeDir,
}@attributes:
build (
  removeAttrs attributes [ "storePath" ]
  // {
    name = "base-image";
    outputs = [
      "out"
      "description"
      "image"
      "links"
    ];
    exportReferencesGraph.closure = [ storePath ];
    skopeo = "${tools.skopeo}/bin/skopeo";
    gzip = "${tools.gzip}/bin/gzip";
    zstd = "${tools.zstd}/bin/zstd";
  }
)
