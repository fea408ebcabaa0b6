"""What is known of a layer without reading it: the form of all descriptions of layers.

A description is made by whoever has the blob, pack_layer.py or read_base_image.py, and is in the
output `description`, a JSON list. The documents of an image collect those of all its layers in
layers.json; images, indexes, answers and pushes are made from them. Digests are those of the OCI
image specification 1.1.
"""

from __future__ import annotations

from typing import TypedDict


class LayerDescription(TypedDict, total=False):
    """A layer. All fields are there but those that say when they are."""

    digest: str  # "sha256:" and the hash of the blob, the layer as it is stored
    diffId: str  # the same of the uncompressed archive
    size: int  # bytes of the blob
    mediaType: str  # OCI's
    md5: str  # of the blob, in hexadecimal: what the Nixery server of 2019 compares
    storePaths: list[str]  # those that are in the layer as a whole
    # Of each of them, "sha256:" and 64 digits, or null where it is not known; set by
    # read_base_image.py
    narHashes: list[str | None]
    # The blob's path within the output; "" if it is the output. A build does not always know the
    # output's final path, since Nix may build a path again beside the valid one.
    file: str
    annotations: dict[str, str]  # set by read_base_image.py, where the base image has some
    path: str  # absolute, set by describe_image.py in layers.json alone
