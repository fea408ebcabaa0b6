# How an image differs from an older one: a report for people, and as `json` for programs.
{ build, ... }:
{
  # Name and tag of the image
  imageName,
  tag,
  # What describe_image.py or describe_index.py wrote, and write_sbom.py
  documents,
  sbom,
  # The older image: its `documents`, or a file with its `plan`
  older,
}@attributes:
build (
  {
    name = "changes.md";
    outputs = [
      "out"
      "json"
    ];
  }
  // attributes
)
