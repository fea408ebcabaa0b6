"""Write what a registry server needs to serve an image: its manifest, and where its blobs are.

The attributes are those of write_answer.nix. Writes as output `answer`

    {"manifest": {...}, "layerLocations": {sha256 in hexadecimal: {"path", "size", "md5"}}}

The blobs are the same with either kind of media types; only the manifest names them differently.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os

from attributes import fail, read_attributes, read_json
from oci import DOCKER_TYPES, digest_of


def with_docker_types(manifest: dict) -> dict:
    """Return a manifest with Docker's media types; ends the build if there is none for a layer.

    Annotations are left out, since Docker's manifest has none.
    """

    def translate(described: dict) -> dict:
        media_type = DOCKER_TYPES.get(described["mediaType"])
        if media_type is None:
            fail(
                f"Docker has no media type for {described['mediaType']}: an image with zstd layers "
                'needs mediaTypes = "oci"'
            )
        kept = {key: value for key, value in described.items() if key != "annotations"}
        return {**kept, "mediaType": media_type}

    return {
        **translate(manifest),
        "config": translate(manifest["config"]),
        "layers": [translate(layer) for layer in manifest["layers"]],
    }


def describe_blob(path: str) -> dict:
    """Return a description of a file in the form of layers.json."""
    with open(path, "rb") as file:
        content = file.read()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return {"digest": digest_of(content), "path": path, "size": len(content), "md5": md5}


def main() -> None:
    attributes = read_attributes()
    documents = attributes["documents"]
    manifest = read_json(os.path.join(documents, "manifest.json"))
    blobs = read_json(os.path.join(documents, "layers.json"))
    for name in os.listdir(documents):
        if name not in ("layers.json", "manifest.json"):
            blobs.append(describe_blob(os.path.join(documents, name)))
    locations = {
        blob["digest"].partition(":")[2]: {
            "path": blob["path"],
            "size": blob["size"],
            "md5": base64.b64encode(bytes.fromhex(blob["md5"])).decode(),
        }
        for blob in blobs
    }
    if attributes["mediaTypes"] == "docker":
        manifest = with_docker_types(manifest)
    # Not `write_json`: the answer keeps alive what it names.
    with open(attributes["outputs"]["answer"], "w", encoding="utf-8") as file:
        answer = {"manifest": manifest, "layerLocations": locations}
        json.dump(answer, file, sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
