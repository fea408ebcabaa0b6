"""Put an image together from packed layers: configuration, manifest, OCI image layout, answer.

Reads a few kilobytes and writes a few: the layers' blobs are links to the store paths that hold
them, and their digests were computed when they were packed.

Attributes: `name`, `tag`; `layers`, folders as pack_layer.py writes them, in the image's order;
`base`, an OCI layout with one image, or null; `config`, the image's configuration
as the OCI image specification has it; `environment`, variables that give way to those of the
base and the configuration; `architecture`, `variant`; `created`, seconds since 1970 or a time in
ISO 8601. Writes

    out      the OCI image layout, with a manifest.json besides: a tar of its files is an archive
             that `docker load` reads, too
    answer   {"manifest", "layerLocations"}, what a registry server needs; see the README

Follows the OCI image specification 1.1: image-layout.md, manifest.md, config.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import datetime, timezone
from typing import Any

from builder import encode_json, fail, read_attributes, write_json
from read_base import blob_path, find_manifest, read_blob

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def timestamp(created: str | int) -> str:
    """Return a time as RFC 3339 wants it, in UTC.

    >>> timestamp("1970-01-01T00:00:01Z"), timestamp(86400), timestamp("2024-05-06")
    ('1970-01-01T00:00:01Z', '1970-01-02T00:00:00Z', '2024-05-06T00:00:00Z')
    """
    if isinstance(created, int):
        moment = datetime.fromtimestamp(created, timezone.utc)
    else:
        moment = datetime.fromisoformat(created.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge_environment(*environments: list[str]) -> list[str]:
    """Return the variables of all, each once: at its first place, with its last value.

    >>> merge_environment(["A=1", "PATH=/bin"], ["PATH=/sbin", "B=2"])
    ['A=1', 'PATH=/sbin', 'B=2']
    """
    merged: dict[str, str] = {}
    for variable in (variable for environment in environments for variable in environment):
        merged[variable.partition("=")[0]] = variable
    return list(merged.values())


def history_of(layer: dict[str, Any], created: str) -> dict[str, str]:
    """Return the history entry of a packed layer: what made it and the store paths in it."""
    paths = layer["storePaths"]
    comment = "store paths: " + " ".join(paths) if paths else "symlinks and files of the root"
    return {"created": created, "created_by": "nixery-build-image", "comment": comment}


def image_config(
    attributes: dict[str, Any], layers: list[dict[str, Any]], base: dict[str, Any]
) -> dict[str, Any]:
    """Return the image's configuration: the base's, overlaid with what the attributes say."""
    created = timestamp(attributes["created"])
    config = {**base.get("config", {}), **attributes["config"]}
    environment = merge_environment(
        attributes["environment"],
        base.get("config", {}).get("Env") or [],
        attributes["config"].get("Env", []),
    )
    if environment:
        config["Env"] = environment
    for key in ("Labels", "ExposedPorts", "Volumes"):
        merged = {**(base.get("config", {}).get(key) or {}), **attributes["config"].get(key, {})}
        if merged:
            config[key] = merged
    history = list(base.get("history", []))
    # A base without a complete history would make ours name the wrong layers.
    described = sum(not entry.get("empty_layer", False) for entry in history)
    base_layers = base.get("rootfs", {}).get("diff_ids", [])
    history += [{"created": created, "comment": "base image"}] * (len(base_layers) - described)
    result = {
        "architecture": attributes["architecture"],
        "os": base.get("os", "linux"),
        "created": created,
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": base_layers + [layer["diffId"] for layer in layers],
        },
        "history": history + [history_of(layer, created) for layer in layers],
    }
    if attributes["variant"]:
        result["variant"] = attributes["variant"]
    return result


def layer_folders(outputs: list[str]) -> list[str]:
    """Return the folders with one layer each, of outputs that hold one layer or many."""
    folders = []
    for output in outputs:
        if os.path.exists(os.path.join(output, "layer.json")):
            folders.append(output)
        else:
            folders += [os.path.join(output, name) for name in sorted(os.listdir(output))]
    return folders


def main() -> None:
    attributes = read_attributes()
    out = attributes["outputs"]["out"]
    blobs = os.path.join(out, "blobs/sha256")
    os.makedirs(blobs)

    # Where each layer's blob is, by digest. The same layer twice is one blob.
    files: dict[str, str] = {}
    descriptors, base = [], {}
    if attributes["base"]:
        layout = attributes["base"]
        manifest = read_blob(layout, find_manifest(layout, attributes["architecture"]))
        base = read_blob(layout, manifest["config"])
        for layer in manifest["layers"]:
            # A docker archive's layers have docker's names for the same formats.
            ending = layer["mediaType"].rpartition(".tar")[2].replace(".", "+")
            kind = "application/vnd.oci.image.layer.v1.tar" + ending
            descriptors.append({**layer, "mediaType": kind})
            files[layer["digest"]] = os.path.realpath(blob_path(layout, layer["digest"]))
    layers = []
    for folder in layer_folders(attributes["layers"]):
        with open(os.path.join(folder, "layer.json"), encoding="utf-8") as file:
            layer = json.load(file)
        layers.append(layer)
        descriptors.append({key: layer[key] for key in ("mediaType", "digest", "size")})
        files[layer["digest"]] = os.path.join(folder, layer["file"])
    if base and base.get("architecture") != attributes["architecture"]:
        fail(
            f"fromImage is for {base.get('architecture')}, the image for "
            f"{attributes['architecture']}"
        )
    for digest, file in files.items():
        os.symlink(file, os.path.join(blobs, digest.partition(":")[2]))

    def write_blob(value: Any, media_type: str) -> dict[str, Any]:
        data = encode_json(value)
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    config = write_blob(image_config(attributes, layers, base), CONFIG_TYPE)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": descriptors,
    }
    image = write_blob(manifest, MANIFEST_TYPE)
    image["annotations"] = {"org.opencontainers.image.ref.name": attributes["tag"]}
    image["platform"] = {"architecture": attributes["architecture"], "os": "linux"}
    write_json(f"{out}/oci-layout", {"imageLayoutVersion": "1.0.0"})
    write_json(f"{out}/index.json", {"schemaVersion": 2, "manifests": [image]})
    docker = {
        "Config": "blobs/" + config["digest"].replace(":", "/"),
        "RepoTags": [f"{attributes['imageName']}:{attributes['tag']}"],
        "Layers": ["blobs/" + layer["digest"].replace(":", "/") for layer in descriptors],
    }
    write_json(f"{out}/manifest.json", [docker])

    md5 = {layer["digest"]: layer["md5"] for layer in layers}
    locations = {}
    files[config["digest"]] = os.path.join(blobs, config["digest"].partition(":")[2])
    for descriptor in [config, *descriptors]:
        digest = descriptor["digest"]
        file = files[digest]
        if digest not in md5:
            with open(file, "rb") as blob:
                hashed = hashlib.md5(blob.read(), usedforsecurity=False).hexdigest()
            md5[digest] = hashed
        locations[digest.partition(":")[2]] = {
            "path": file,
            "size": descriptor["size"],
            "md5": base64.b64encode(bytes.fromhex(md5[digest])).decode(),
        }
    answer = {"manifest": manifest, "layerLocations": locations}
    # Not `write_json`: the answer keeps alive what it names.
    with open(attributes["outputs"]["answer"], "w", encoding="utf-8") as file:
        json.dump(answer, file, sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
