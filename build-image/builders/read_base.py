"""Bring a base image into one form: an OCI image layout with exactly one image.

A layout is used where it is, by links, so that its layers are in the store once. An archive (of
`docker save`, or of a layout, compressed or not) is unpacked by skopeo, which checks the digests.

Attributes: `fromImage`, a folder or a file; `architecture`, to choose from an image for several;
`skopeo`, the program. Writes the layout as `out`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import zlib

from builder import fail, read_attributes, write_json

_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


def find_manifest(layout: str, architecture: str | None) -> dict:
    """Return the descriptor of the image for `architecture` (any: None) in an OCI image layout.

    Raises ValueError when there is none, OSError or ValueError for a broken layout.
    """
    with open(os.path.join(layout, "index.json"), encoding="utf-8") as file:
        candidates = json.load(file)["manifests"]
    while candidates:
        descriptor = candidates.pop(0)
        meant_for = descriptor.get("platform", {}).get("architecture", architecture)
        if architecture not in (None, meant_for):
            continue
        if descriptor.get("mediaType") not in _INDEX_TYPES:
            return descriptor
        candidates += read_blob(layout, descriptor)["manifests"]
    raise ValueError(f"it has no image for {architecture}")


def blob_path(layout: str, digest: str) -> str:
    """Return where a layout keeps the blob of that digest."""
    return os.path.join(layout, "blobs", *digest.split(":", 1))


def read_blob(layout: str, descriptor: dict) -> dict:
    """Return a JSON blob of a layout; raises ValueError if it is not what its digest says."""
    with open(blob_path(layout, descriptor["digest"]), "rb") as file:
        data = file.read()
    if descriptor["digest"] != "sha256:" + hashlib.sha256(data).hexdigest():
        raise ValueError(f"the blob {descriptor['digest']} has other bytes than its name says")
    return json.loads(data)


def file_digest(name: str) -> str:
    """Return the digest of a file, as the OCI image specification writes it."""
    digest = hashlib.sha256()
    with open(name, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def link_layout(source: str, architecture: str, out: str) -> None:
    """Write a layout into the folder `out` with links to the blobs of one image of `source`."""
    descriptor = find_manifest(source, architecture)
    manifest = read_blob(source, descriptor)
    config = read_blob(source, manifest["config"])
    if len(config["rootfs"]["diff_ids"]) != len(manifest["layers"]):
        raise ValueError("its configuration and its manifest differ in the number of layers")
    os.makedirs(os.path.join(out, "blobs/sha256"))
    for blob in [descriptor, manifest["config"], *manifest["layers"]]:
        target = os.path.realpath(blob_path(source, blob["digest"]))
        if (os.path.getsize(target), file_digest(target)) != (blob["size"], blob["digest"]):
            raise ValueError(f"the blob {blob['digest']} has other bytes than its name says")
        place = blob_path(out, blob["digest"])
        if not os.path.lexists(place):
            os.symlink(target, place)
    write_json(os.path.join(out, "index.json"), {"schemaVersion": 2, "manifests": [descriptor]})
    write_json(os.path.join(out, "oci-layout"), {"imageLayoutVersion": "1.0.0"})


def unpack_archive(archive: str, skopeo: str, layout: str) -> None:
    """Unpack an image archive into the new folder `layout`; its layers keep their bytes."""
    with open(archive, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        # skopeo 1.9 reads docker archives wrongly that gzip has compressed.
        with gzip.open(archive) as source, open("archive.tar", "wb") as plain:
            shutil.copyfileobj(source, plain)
        archive = "archive.tar"
    with tarfile.open(archive) as members:
        names = {os.path.normpath(name) for name in members.getnames()}
    # docker's newer archives are layouts besides, whose layers keep their bytes.
    kind = "oci-archive" if "oci-layout" in names else "docker-archive"
    # skopeo wants a place for temporary files that a build's sandbox does not have.
    environment = dict(os.environ, TMPDIR=os.getcwd(), HOME=os.getcwd())
    command = [skopeo, "--insecure-policy", "--tmpdir", os.getcwd(), "copy", "--quiet"]
    command += ["--dest-oci-accept-uncompressed-layers", f"{kind}:{archive}", f"oci:{layout}:base"]
    subprocess.run(command, env=environment, check=True)


def main() -> None:
    attributes = read_attributes()
    source, out = attributes["fromImage"], attributes["outputs"]["out"]
    try:
        if not os.path.isdir(source):
            os.mkdir(out)
            unpack_archive(source, attributes["skopeo"], os.path.join(out, "unpacked"))
            source = os.path.join(out, "unpacked")
        link_layout(source, attributes["architecture"], out)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(f"fromImage {source} is no image that can be read: {error!s}")
    except (EOFError, zlib.error, tarfile.TarError, subprocess.CalledProcessError) as error:
        fail(f"fromImage {source} is neither an OCI layout nor an image archive: {error}")


if __name__ == "__main__":
    main()
