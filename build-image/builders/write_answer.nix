# What a registry server needs to serve an image, or an index of images.
{ build, ... }:
{
  name,
  # What describe_image.py or describe_index.py wrote
  documents,
  # All store paths that hold layers
  blobs,
  # "docker" or "oci"; of an index, the latter
  mediaTypes,
}@attributes:
build (attributes // { outputs = [ "answer" ]; })
