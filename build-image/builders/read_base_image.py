"""Read and check a base image. Nothing in it is used unchecked.

The attributes are those of read_base_image.nix. Writes

    out          a folder with the blobs, or links to them; and the base's Nix database, if it has
                 one, as db.sqlite
    description  its layers, as layer.py describes layers
    image        {"config", "about", "history", "layerCount", "digest", "id"}: configuration of
                 the container; what else its configuration says that stays, by key; history with an
                 entry for each layer, number of layers, digests of the manifest ("" if it has none)
                 and of the configuration
    tree         its files, as image_tree.py has them

`storePaths` of a layer are those that are in it as a whole, and that no other layer touches. They
are found in the archives alone, not in what the image says about itself, such as its history, and
are used where they have the NAR hash that this machine knows.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from typing import Any

from attributes import fail, read_attributes, write_json
from chunks import read_chunks
from image_tree import OPAQUE, Entry, ImageTree
from layer import LayerDescription
from oci import LAYER_TYPE, WHITEOUT, blob_path
from open_image import FormatError, Image, field, open_archive, open_folder
from read_layer import ImageError, decompress, find_compressor, read_layer

# By the program that decompresses a layer: ending of the media type. Docker has other names for
# the same types, and images can be found whose names are wrong.
_ENDINGS = {None: "", "gzip": "+gzip", "zstd": "+zstd"}

DATABASE = "nix/var/nix/db/db.sqlite"
# What SQLite has not yet written into a database that was in use
DATABASE_LOG = DATABASE + "-wal"

# The keys of a container's configuration that FROM in a Dockerfile keeps, by type: as buildkit
# reads a base image (moby/docker-image-spec, specs-go/v1).
_KEPT = {
    "ArgsEscaped": bool,
    "Cmd": list,
    "Entrypoint": list,
    "Env": list,
    "ExposedPorts": dict,
    "Healthcheck": dict,
    "Labels": dict,
    "Shell": list,
    "StopSignal": str,
    "User": str,
    "Volumes": dict,
    "WorkingDir": str,
}
_HEALTHCHECK = {
    "Interval": int,
    "Retries": int,
    "StartInterval": int,
    "StartPeriod": int,
    "Test": list,
    "Timeout": int,
}
# What it keeps of each entry of the history
_HISTORY = {
    "author": str,
    "comment": str,
    "created": str,
    "created_by": str,
    "empty_layer": bool,
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)

# What it keeps that is not about the container
_ABOUT = {"author": str, "os.features": list, "os.version": str, "variant": str}


def check_strings(values: list, name: str) -> None:
    """Raise ImageError unless the values, a list or a set, are strings."""
    if not all(isinstance(value, str) for value in values):
        raise ImageError(f"{name} is not a list of strings")


def check_keys(value: dict, keys: dict[str, Any]) -> dict:
    """Return those of the keys that are not null. Raises ImageError if one has another type."""
    found = {}
    for name, kind in keys.items():
        if value.get(name) is not None:
            found[name] = field(value, name, kind)
            if kind is list:
                check_strings(found[name], name)
    return found


def check_container(config: dict) -> dict:
    """Return what an image on top of it keeps of the configuration of a container.

    Raises ImageError if a key has another type than docker reads.
    """
    kept = check_keys(config, _KEPT)
    if not all(isinstance(text, str) for text in kept.get("Labels", {}).values()):
        raise ImageError("Labels is not an object of strings")
    for name in ("ExposedPorts", "Volumes"):
        if not all(value in ({}, None) for value in kept.get(name, {}).values()):
            raise ImageError(f"{name} is not an object of empty objects")
        if name in kept:
            kept[name] = {key: {} for key in kept[name]}
    if "Healthcheck" in kept:
        kept["Healthcheck"] = check_keys(kept["Healthcheck"], _HEALTHCHECK)
    if triggers := field(config, "OnBuild", list, []):
        check_strings(triggers, "OnBuild")
        print(
            f"fromImage: its OnBuild is left out, instructions for docker build: {triggers[0]}",
            file=sys.stderr,
        )
    return kept


def check_config(config: Any, architecture: str, layer_count: int) -> list[str]:
    """Check the parts of an image's configuration that are used; return the layers' diff ids."""
    system = field(config, "os", str, "linux")
    if system != "linux":
        raise ImageError(f"it is for {system}, and this is for linux")
    if field(config, "architecture", str) != architecture:
        raise ImageError(f"it is for {config['architecture']}, and this is for {architecture}")
    diff_ids = field(field(config, "rootfs", dict), "diff_ids", list, [])
    if len(diff_ids) != layer_count:
        raise ImageError("its configuration and its manifest differ in the number of layers")
    return diff_ids


def complete_history(config: dict, layer_count: int) -> list[dict]:
    """Return an image's history with an entry for each layer, or later entries would not match.

    Raises ImageError if it has other types than docker reads.
    """
    history = []
    for entry in field(config, "history", list, []):
        if not isinstance(entry, dict):
            raise ImageError("history is not a list of objects")
        history.append(check_keys(entry, _HISTORY))
        if not _TIME.fullmatch(entry.get("created") or "1970-01-01T00:00:01Z"):
            raise ImageError(f"created is not a time of RFC 3339: {entry['created']}")
    described = sum(not entry.get("empty_layer", False) for entry in history)
    if described > layer_count:
        history, described = [], 0
    filler = {"comment": "base image", "created": "1970-01-01T00:00:01Z"}
    return history + [filler] * (layer_count - described)


def find_store_paths(layers: list[list[tuple[str, Entry]]], store: str) -> list[list[str]]:
    """Return the store paths in each layer that no other one touches; sorted."""
    touched: list[set[str]] = []
    present: list[set[str]] = []
    for members in layers:
        touched.append(set())
        present.append(set())
        for name, entry in members:
            folder, _, base = name.rpartition("/")
            is_whiteout = base.startswith(WHITEOUT)
            if is_whiteout:
                name = folder if base == OPAQUE else f"{folder}/{base[len(WHITEOUT) :]}".lstrip("/")
            is_above = f"{store}/".startswith(name + "/" if name else "")
            if is_above and (is_whiteout or entry.kind != "folder"):
                return [[] for _ in layers]  # the store was removed, or is not a folder
            # Names with a dot are Nix's own: .links has what store paths share.
            if name.startswith(store + "/") and not name.startswith(store + "/."):
                path = "/".join(name.split("/")[: store.count("/") + 2])
                touched[-1].add(path)
                if name == path and not is_whiteout:
                    present[-1].add(path)
    times = Counter(path for paths in touched for path in paths)
    return [sorted(path for path in paths if times[path] == 1) for paths in present]


def keep_file(blob: str, digest: str, out: str, scratch: str) -> str:
    """Make a blob a file of the folder `out`; return its name there."""
    file = blob_path("", digest)
    place = os.path.join(out, file)
    if not os.path.lexists(place):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if blob.startswith(scratch + "/"):
            os.link(blob, place)
        else:
            os.symlink(blob, place)
    return file


def read_layers(
    image: Image, diff_ids: list[str], attributes: dict, scratch: str
) -> tuple[list[LayerDescription], ImageTree]:
    """Return the descriptions of an image's layers, whose digests are checked; and its files."""
    out, store = attributes["outputs"]["out"], attributes["storeDir"].strip("/")
    layers: list[Any] = []
    members, tree, hashes = [], ImageTree(store), {}
    kept = {DATABASE: f"{out}/db.sqlite", DATABASE_LOG: f"{out}/db.sqlite-wal"}
    for descriptor, diff_id in zip(image.manifest["layers"] or [], diff_ids):
        blob = image.find_blob(descriptor)
        md5 = hashlib.md5(usedforsecurity=False)
        for chunk in read_chunks(blob):
            md5.update(chunk)
        compressor = find_compressor(blob)
        if compressor not in _ENDINGS:
            raise ImageError(f"the layer {descriptor['digest']} is compressed with {compressor}")
        chunks = decompress(blob, compressor and attributes["decompressors"][compressor])
        try:
            files = read_layer(chunks, store, kept.get)
        except tarfile.TarError as error:
            raise ImageError(
                f"the layer {descriptor['digest']} is not a tar file: {error}"
            ) from None
        if files.diff_id != diff_id:
            raise ImageError(
                f"the layer {descriptor['digest']} has another diff id: {files.diff_id}"
            )
        members.append(files.members)
        tree.add_layer(files.members)
        hashes.update(files.nar_hashes)
        layers.append(
            {
                "digest": descriptor["digest"],
                "diffId": diff_id,
                "size": descriptor["size"],
                "mediaType": LAYER_TYPE + _ENDINGS[compressor],
                "md5": md5.hexdigest(),
                "file": keep_file(blob, descriptor["digest"], out, scratch),
                "annotations": field(descriptor, "annotations", dict, {}),
            }
        )
    for place, file in kept.items():
        if place not in tree.entries and os.path.exists(file):
            os.unlink(file)  # a later layer removed it
    for layer, paths in zip(layers, find_store_paths(members, store)):
        layer["storePaths"] = [f"/{path}" for path in paths]
        layer["narHashes"] = [hashes[path] for path in paths]
        if not layer["annotations"]:
            del layer["annotations"]
    return layers, tree


def read_image(image: Image, attributes: dict, scratch: str) -> None:
    """Check an image and write the descriptions of it."""
    outputs = attributes["outputs"]
    layer_count = len(field(image.manifest, "layers", list, []))
    diff_ids = check_config(image.config, attributes["architecture"], layer_count)
    described = {
        "config": check_container(field(image.config, "config", dict, {})),
        "about": check_keys(image.config, _ABOUT),
        "history": complete_history(image.config, layer_count),
        "layerCount": layer_count,
        "digest": image.digest,
        "id": image.id,
    }
    layers, tree = read_layers(image, diff_ids, attributes, scratch)
    write_json(outputs["description"], layers)
    with open(outputs["tree"], "w", encoding="utf-8") as file:
        file.write(tree.to_json())
    write_json(outputs["image"], described)


def main() -> None:
    attributes = read_attributes()
    source, out = attributes["fromImage"], attributes["outputs"]["out"]
    machine = attributes["architecture"], attributes["variant"]
    # In the folder of the blobs, which need not be copied then.
    scratch = os.path.join(out, "unpacked")
    os.makedirs(scratch)
    try:
        if os.path.isdir(source):
            closure = {entry["path"] for entry in attributes["closure"]}
            image = open_folder(source, closure, *machine)
        else:
            image = open_archive(source, scratch, attributes["decompressors"], *machine)
        read_image(image, attributes, scratch)
    except RecursionError:
        fail(f"fromImage {source} cannot be read as an image: its JSON is nested too deeply")
    except FormatError as error:
        fail(f"fromImage {source} is neither an OCI layout nor an image archive: {error}")
    except (OSError, ValueError, EOFError, tarfile.TarError, subprocess.SubprocessError) as error:
        fail(f"fromImage {source} cannot be read as an image: {error}")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
