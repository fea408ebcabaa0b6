"""Lay an image out as a folder that skopeo, podman and umoci read: an OCI image layout.

The layers are links to the store paths that hold them. Beside the layout's own files there is a
manifest.json: a tar of its files is an archive that `docker load` reads, too.

The attributes are those of lay_out_image.nix. Writes the layout as `out`.

Follows the OCI image specification 1.1, image-layout.md.
"""

from __future__ import annotations

import json
import os
import sys

from attributes import read_attributes, read_json, write_json
from group_layers import format_bytes
from oci import blob_path, digest_of, qualify


def read_documents(folder: str) -> dict[str, bytes]:
    """Return the blobs among an image's documents, by the names of their files."""
    contents = {}
    for name in os.listdir(folder):
        if name != "layers.json":
            with open(os.path.join(folder, name), "rb") as file:
                contents[name] = file.read()
    return contents


def find_manifest(top: dict, architecture: str, documents: dict[str, bytes]) -> dict:
    """Return the manifest for an architecture: `top` itself, or the one that an index names."""
    if "manifests" not in top:
        return top
    by_digest = {digest_of(content): content for content in documents.values()}
    wanted = next(
        descriptor["digest"]
        for descriptor in top["manifests"]
        if descriptor["platform"]["architecture"] == architecture
    )
    return json.loads(by_digest[wanted])


def main() -> None:
    attributes = read_attributes()
    out, architecture = attributes["outputs"]["out"], attributes["architecture"]
    layers = read_json(os.path.join(attributes["documents"], "layers.json"))
    documents = read_documents(attributes["documents"])
    name = f"{attributes['imageName']}:{attributes['tag']}"

    os.makedirs(os.path.join(out, "blobs/sha256"))
    for digest, file in {layer["digest"]: layer["path"] for layer in layers}.items():
        os.symlink(file, blob_path(out, digest))
    for content in documents.values():
        with open(blob_path(out, digest_of(content)), "wb") as file:
            file.write(content)

    top = json.loads(documents["manifest.json"])
    descriptor = {
        "mediaType": top["mediaType"],
        "digest": digest_of(documents["manifest.json"]),
        "size": len(documents["manifest.json"]),
        "annotations": {
            "org.opencontainers.image.ref.name": attributes["tag"],
            # The name that podman and containerd give the image that they load
            "io.containerd.image.name": qualify(name),
        },
    }
    if "manifests" not in top:
        descriptor["platform"] = {"architecture": architecture, "os": "linux"}
    manifest = find_manifest(top, architecture, documents)
    docker = {
        "Config": blob_path("", manifest["config"]["digest"]),
        "RepoTags": [name],
        "Layers": [blob_path("", layer["digest"]) for layer in manifest["layers"]],
    }
    write_json(os.path.join(out, "oci-layout"), {"imageLayoutVersion": "1.0.0"})
    write_json(os.path.join(out, "index.json"), {"schemaVersion": 2, "manifests": [descriptor]})
    write_json(os.path.join(out, "manifest.json"), [docker])
    size = sum({layer["digest"]: layer["size"] for layer in layers}.values())
    count = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
    print(f"{name}: {count}, {format_bytes(size)}", file=sys.stderr)


if __name__ == "__main__":
    main()
