"""Lay an image out as a folder that skopeo, podman and umoci read: an OCI image layout.

The layers are links to the store paths that hold them. Beside the layout's own files there is a
manifest.json: a tar of its files is an archive that `docker load` reads, too.

Attributes: `documents`, the folder that describe_image.py wrote; `blobs`, all store paths that hold
layers; `imageName`, `tag`; `architecture`. Writes the layout as `out`.

Follows the OCI image specification 1.1, image-layout.md.
"""

from __future__ import annotations

import json
import os

from attributes import read_attributes, read_json, write_json
from oci import MANIFEST_TYPE, blob_path, digest_of


def main() -> None:
    attributes = read_attributes()
    out, documents = attributes["outputs"]["out"], attributes["documents"]
    layers = read_json(os.path.join(documents, "layers.json"))
    name = f"{attributes['imageName']}:{attributes['tag']}"

    os.makedirs(os.path.join(out, "blobs/sha256"))
    for digest, file in {layer["digest"]: layer["path"] for layer in layers}.items():
        os.symlink(file, blob_path(out, digest))
    blobs = []
    for document in ("config.json", "manifest.json"):
        with open(os.path.join(documents, document), "rb") as file:
            blobs.append(file.read())
        with open(blob_path(out, digest_of(blobs[-1])), "wb") as file:
            file.write(blobs[-1])
    config, manifest = blobs

    image = {
        "mediaType": MANIFEST_TYPE,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": {
            "org.opencontainers.image.ref.name": attributes["tag"],
            # What podman and containerd call the image that they load
            "io.containerd.image.name": name,
        },
        "platform": {"architecture": attributes["architecture"], "os": "linux"},
    }
    docker = {
        "Config": blob_path("", digest_of(config)),
        "RepoTags": [name],
        "Layers": [blob_path("", layer["digest"]) for layer in json.loads(manifest)["layers"]],
    }
    write_json(os.path.join(out, "oci-layout"), {"imageLayoutVersion": "1.0.0"})
    write_json(os.path.join(out, "index.json"), {"schemaVersion": 2, "manifests": [image]})
    write_json(os.path.join(out, "manifest.json"), [docker])


if __name__ == "__main__":
    main()
