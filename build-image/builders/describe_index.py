"""Make an OCI image index of images for several platforms, from their documents.

The attributes are those of describe_index.nix. Writes the folder `out` in the form of
describe_image.py:

    manifest.json     the blob of the index
    N-manifest.json   the blobs of the images' manifests and configurations, N from 0
    N-config.json
    layers.json       the descriptions of all layers, each once

Follows the OCI image specification 1.1: image-index.md.
"""

from __future__ import annotations

import os

from attributes import read_attributes, read_json, write_json
from oci import INDEX_TYPE, MANIFEST_TYPE, digest_of


def main() -> None:
    attributes = read_attributes()
    out = attributes["outputs"]["out"]
    os.mkdir(out)
    manifests, layers = [], {}
    for number, documents in enumerate(attributes["images"]):
        for name in ("manifest.json", "config.json"):
            with open(os.path.join(documents, name), "rb") as file:
                content = file.read()
            with open(os.path.join(out, f"{number}-{name}"), "wb") as file:
                file.write(content)
            if name == "manifest.json":
                digest, size = digest_of(content), len(content)
        config = read_json(os.path.join(documents, "config.json"))
        platform = {key: config[key] for key in ("architecture", "os", "variant") if key in config}
        manifests.append(
            {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size, "platform": platform}
        )
        for layer in read_json(os.path.join(documents, "layers.json")):
            layers[layer["digest"]] = layer
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    write_json(os.path.join(out, "manifest.json"), index)
    write_json(os.path.join(out, "layers.json"), list(layers.values()))


if __name__ == "__main__":
    main()
