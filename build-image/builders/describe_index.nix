# An image index, in the form of an image's documents.
{ build, ... }:
{
  # Folders that describe_image.py wrote, each for a different platform
  images,
}@attributes:
build ({ name = "index-documents"; } // attributes)
