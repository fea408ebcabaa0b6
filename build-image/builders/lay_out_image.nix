# An OCI image layout, which refers to the blobs.
{ build, ... }:
{
  name,
  # What describe_image.py or describe_index.py wrote
  documents,
  # All store paths that hold layers
  blobs,
  imageName,
  tag,
  # Architecture of the image; of an index, the one whose image `docker load` takes
  architecture,
}@attributes:
build attributes
