"""Put an image together from packed layers: configuration, manifest, OCI image layout, answer.

Reads a few kilobytes and writes a few: the layers' blobs are links to the store paths that hold
them, and their digests were computed when they were packed.

Attributes: `imageName`, `tag`; `layers`, folders as pack_layer.py writes them, in the image's
order; `base`, an OCI layout with one image, or null; `config`, the image's configuration as the OCI
image specification has it; `environment`, variables that give way to those of the base and the
configuration; `architecture`, `variant`; `created`, a time as tar takes it. Writes

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

from builder import (
    CREATED_BY,
    STORE_PATHS,
    encode_json,
    fail,
    parse_time,
    read_attributes,
    write_json,
)
from read_base import blob_path, find_manifest, read_blob

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"

# Of media types, by a file's first two bytes
_ENDINGS = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}


def timestamp(created: str) -> str:
    """Return a time as RFC 3339 wants it, in UTC.

    >>> timestamp("@1"), timestamp("@253402300799")
    ('1970-01-01T00:00:01Z', '9999-12-31T23:59:59Z')
    """
    moment = datetime.fromtimestamp(parse_time(created), timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def merge_environment(*environments: list[str]) -> list[str]:
    """Return the variables of all, each once: at its first place, with its last value.

    >>> merge_environment(["A=1", "PATH=/bin"], ["PATH=/sbin", "B=2"])
    ['A=1', 'PATH=/sbin', 'B=2']
    """
    merged: dict[str, str] = {}
    for variable in (variable for environment in environments for variable in environment):
        merged[variable.partition("=")[0]] = variable
    return list(merged.values())


def history_of(layer: dict, created: str) -> dict[str, str]:
    """Return the history entry of a packed layer: what made it and the store paths in it."""
    paths = layer["storePaths"]
    comment = STORE_PATHS + " ".join(paths) if paths else "symlinks and files of the root"
    return {"created": created, "created_by": CREATED_BY, "comment": comment}


def image_config(attributes: dict, layers: list[dict], base: dict) -> dict:
    """Return the image's configuration: the base's, overlaid with what the attributes say."""
    created = timestamp(attributes["created"])
    inherited = base.get("config") or {}
    config = {**inherited, **attributes["config"]}
    environment = merge_environment(
        attributes["environment"],
        inherited.get("Env") or [],
        attributes["config"].get("Env", []),
    )
    if environment:
        config["Env"] = environment
    for key in ("Labels", "ExposedPorts", "Volumes"):
        merged = {**(inherited.get(key) or {}), **attributes["config"].get(key, {})}
        if merged:
            config[key] = merged
    history = list(base.get("history") or [])
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


def write_blob(layout: str, value: object, media_type: str) -> dict:
    """Write `value` as a JSON blob of the layout; return its descriptor."""
    data = encode_json(value)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with open(blob_path(layout, digest), "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def base_layers(layout: str, manifest: dict) -> list[dict]:
    """Return the layers of a base image as pack_layer.py describes its own.

    Their media types are told by their first bytes: docker has other names for the same types, and
    skopeo 1.9 calls gzip what it copied from a docker archive as plain tar.
    """
    layers = []
    for layer in manifest["layers"]:
        file = os.path.realpath(blob_path(layout, layer["digest"]))
        with open(file, "rb") as blob:
            ending = _ENDINGS.get(blob.read(2), "")
            blob.seek(0)
            md5 = hashlib.md5(usedforsecurity=False)
            while chunk := blob.read(1 << 20):
                md5.update(chunk)
        kind = "application/vnd.oci.image.layer.v1.tar" + ending
        layers.append({**layer, "mediaType": kind, "file": file, "md5": md5.hexdigest()})
    return layers


def packed_layers(outputs: list[str]) -> list[dict]:
    """Return the descriptions of the layers in `outputs`, each of which has one layer or many."""
    folders = []
    for output in outputs:
        if os.path.exists(os.path.join(output, "layer.json")):
            folders.append(output)
        else:
            folders += [os.path.join(output, name) for name in sorted(os.listdir(output))]
    layers = []
    for folder in folders:
        with open(os.path.join(folder, "layer.json"), encoding="utf-8") as file:
            layer = json.load(file)
        layers.append({**layer, "file": os.path.join(folder, layer["file"])})
    return layers


def descriptor_of(layer: dict) -> dict:
    """Return what a manifest says of a layer."""
    return {key: layer[key] for key in ("mediaType", "digest", "size")}


def location_of(blob: dict) -> dict:
    """Return where a blob is, as the answer has it."""
    md5 = base64.b64encode(bytes.fromhex(blob["md5"])).decode()
    return {"path": blob["file"], "size": blob["size"], "md5": md5}


def main() -> None:
    attributes = read_attributes()
    out, architecture = attributes["outputs"]["out"], attributes["architecture"]
    base_config, below, annotations = {}, [], {}
    if attributes["base"]:
        base = find_manifest(attributes["base"], architecture)
        base_manifest = read_blob(attributes["base"], base)
        base_config = read_blob(attributes["base"], base_manifest["config"])
        below = base_layers(attributes["base"], base_manifest)
        annotations["org.opencontainers.image.base.digest"] = base["digest"]
        if base_config.get("architecture") != architecture:
            fail(f"fromImage is for {base_config.get('architecture')}, this for {architecture}")
    layers = packed_layers(attributes["layers"])

    os.makedirs(os.path.join(out, "blobs/sha256"))
    for digest, file in {layer["digest"]: layer["file"] for layer in below + layers}.items():
        os.symlink(file, blob_path(out, digest))
    config = write_blob(out, image_config(attributes, layers, base_config), CONFIG_TYPE)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": [descriptor_of(layer) for layer in below + layers],
    }
    if annotations:
        manifest["annotations"] = annotations
    image = {
        **write_blob(out, manifest, MANIFEST_TYPE),
        "annotations": {
            "org.opencontainers.image.ref.name": attributes["tag"],
            # What podman and containerd call the image that they load
            "io.containerd.image.name": f"{attributes['imageName']}:{attributes['tag']}",
        },
        "platform": {"architecture": architecture, "os": "linux"},
    }
    write_json(f"{out}/oci-layout", {"imageLayoutVersion": "1.0.0"})
    write_json(f"{out}/index.json", {"schemaVersion": 2, "manifests": [image]})
    docker = {
        "Config": blob_path("", config["digest"]),
        "RepoTags": [f"{attributes['imageName']}:{attributes['tag']}"],
        "Layers": [blob_path("", layer["digest"]) for layer in below + layers],
    }
    write_json(f"{out}/manifest.json", [docker])

    config_file = blob_path(out, config["digest"])
    with open(config_file, "rb") as file:
        md5 = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
    blobs = [{**config, "file": config_file, "md5": md5}, *below, *layers]
    locations = {blob["digest"].partition(":")[2]: location_of(blob) for blob in blobs}
    # Not `write_json`: the answer keeps alive what it names.
    with open(attributes["outputs"]["answer"], "w", encoding="utf-8") as file:
        answer = {"manifest": manifest, "layerLocations": locations}
        json.dump(answer, file, sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
