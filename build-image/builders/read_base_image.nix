# A base image, read and checked: its blobs, and what the image on top of it needs to know.
{ tools, build, ... }:
{
  # An OCI image layout or an image archive in the store
  fromImage,
  # The store path that it is in
  storePath,
  # To choose from an image for several: names of the OCI image specification; "" for no variant
  architecture,
  variant,
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
      "tree"
    ];
    exportReferencesGraph.closure = [ storePath ];
    decompressors = {
      bzip2 = "${tools.bzip2}/bin/bzip2";
      gzip = "${tools.gzip}/bin/gzip";
      xz = "${tools.xz}/bin/xz";
      zstd = "${tools.zstd}/bin/zstd";
    };
  }
)
