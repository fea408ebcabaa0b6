"""Make an image's configuration and manifest from the descriptions of its layers.

The layers themselves are not needed: with the descriptions from a binary cache, a machine can ask a
registry for an image's digests before it has any of the blobs.

The attributes are those of describe_image.nix. Writes the folder `out`:

    config.json     the blob of the configuration
    manifest.json   the blob of the manifest
    layers.json     the descriptions of all layers in one list, each with the `path` of its blob

Follows the OCI image specification 1.1: manifest.md, config.md.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone

from attributes import encode_json, read_attributes, read_json, write_json
from layer import LayerDescription
from oci import CONFIG_TYPE, MANIFEST_TYPE, digest_of

# The default of `created`, which stands for no time
NO_TIME = 1


def timestamp(seconds: int) -> str:
    """Return a time, in seconds since 1970, as RFC 3339 wants it, in UTC.

    >>> timestamp(1), timestamp(253402300799)
    ('1970-01-01T00:00:01Z', '9999-12-31T23:59:59Z')
    """
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge_environment(*environments: list[str]) -> list[str]:
    """Return all variables, each once: at its first position, with its last value.

    >>> merge_environment(["A=1", "PATH=/bin"], ["PATH=/sbin", "B=2"])
    ['A=1', 'PATH=/sbin', 'B=2']
    """
    merged: dict[str, str] = {}
    for variable in (variable for environment in environments for variable in environment):
        merged[variable.partition("=")[0]] = variable
    return list(merged.values())


def describe_history(layers: list[LayerDescription], created: str) -> list[dict[str, str]]:
    """Return the history entries of packed layers: what is in each, and when it was made.

    Only the last one, which `docker history` shows first, says by what the image was made. All have
    a time: without it, older clients crash when they show the history (moby/moby#47729).
    """
    # The root's is the last one, the database's before it.
    others = {len(layers) - 1: "symlinks and files of the root", len(layers) - 2: "Nix database"}
    entries = [
        {"comment": " ".join(layer["storePaths"]) or others[number], "created": created}
        for number, layer in enumerate(layers)
    ]
    entries[-1]["created_by"] = "nixery-build-image"
    return entries


def annotate(attributes: dict) -> dict[str, str]:
    """Return the image's annotations, which are labels as well: `created` if there is a time."""
    annotations = dict(attributes["annotations"])
    if attributes["created"] != NO_TIME:
        annotations.setdefault("org.opencontainers.image.created", timestamp(attributes["created"]))
    return annotations


def container_config(inherited: dict, given: dict, environment: list[str]) -> dict:
    """Return the configuration of the container: what a base image has, and what is given.

    The same comes of them as of the instructions of a Dockerfile (buildkit, dockerfile2llb): sets
    and variables are merged, other keys are replaced, and an entrypoint drops the inherited
    command, which would become its arguments. `environment` has variables that both override.
    """
    config = {**inherited, **given}
    if "Entrypoint" in given and "Cmd" not in given:
        config.pop("Cmd", None)
    merged = merge_environment(environment, inherited.get("Env", []), given.get("Env", []))
    if merged:
        config["Env"] = merged
    for key in ("Labels", "ExposedPorts", "Volumes"):
        union = {**inherited.get(key, {}), **given.get(key, {})}
        if union:
            config[key] = union
    return config


def image_config(attributes: dict, layers: list[LayerDescription], base: dict) -> dict:
    """Return the image's configuration: the base's, overridden by the attributes."""
    created = timestamp(attributes["created"])
    result = {
        **base.get("about", {}),
        "architecture": attributes["architecture"],
        "os": "linux",
        "created": created,
        "config": container_config(base["config"], attributes["config"], attributes["environment"]),
        "rootfs": {"type": "layers", "diff_ids": [layer["diffId"] for layer in layers]},
        "history": base["history"] + describe_history(layers[base["layerCount"] :], created),
    }
    if attributes["variant"]:
        result["variant"] = attributes["variant"]
    return result


def image_manifest(
    config: bytes, layers: list[LayerDescription], base: dict, annotations: dict[str, str]
) -> dict:
    """Return the image's manifest; `config` is the blob of its configuration."""
    descriptors = [
        {key: layer[key] for key in ("mediaType", "digest", "size", "annotations") if key in layer}
        for layer in layers
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": descriptors,
    }
    if base.get("digest"):
        annotations = {"org.opencontainers.image.base.digest": base["digest"], **annotations}
    if annotations:
        manifest["annotations"] = annotations
    return manifest


def main() -> None:
    attributes = read_attributes()
    out = attributes["outputs"]["out"]
    base = {"config": {}, "history": [], "layerCount": 0}
    if attributes["baseImage"]:
        base = read_json(attributes["baseImage"])
    layers: list[LayerDescription] = [
        {**layer, "path": os.path.join(output, layer["file"]).rstrip("/")}
        for file, output in zip(attributes["descriptions"], attributes["blobs"])
        for layer in read_json(file)
    ]
    annotations = annotate(attributes)
    if annotations:  # docker shows labels alone
        given = attributes["config"]
        given["Labels"] = {**annotations, **given.get("Labels", {})}
    config = encode_json(image_config(attributes, layers, base))
    os.mkdir(out)
    with open(os.path.join(out, "config.json"), "wb") as file:
        file.write(config)
    manifest = image_manifest(config, layers, base, annotations)
    write_json(os.path.join(out, "manifest.json"), manifest)
    write_json(os.path.join(out, "layers.json"), layers)


if __name__ == "__main__":
    main()
