# An image's configuration and manifest, and layers.json, which says of each layer in which store path
# it is (as text, so that building the documents builds no layer).
{ build, ... }:
{
  # Files with lists of layers (layer.py), in the image's order, those of the base first
  descriptions,
  # The store paths of the outputs that they describe, without context
  blobs,
  # What read_base_image.py writes as `image`, or null
  baseImage,
  # The configuration of the container, without context
  config,
  # Annotations of the manifest, without context
  annotations,
  # Variables that those of the base and of the configuration override
  environment,
  # Names of the machine in the OCI image specification; "" for no variant
  architecture,
  variant,
  # Seconds since 1970
  created,
}@attributes:
build ({ name = "image-documents"; } // attributes)
