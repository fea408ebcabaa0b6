"""Names in the OCI image specification 1.1, and Docker's for the same things."""

from __future__ import annotations

import hashlib
import os

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"  # followed by "+gzip", "+zstd" or nothing

# Docker's image manifest, version 2, schema 2. It has no name for zstd.
DOCKER_TYPES = {
    MANIFEST_TYPE: "application/vnd.docker.distribution.manifest.v2+json",
    CONFIG_TYPE: "application/vnd.docker.container.image.v1+json",
    LAYER_TYPE: "application/vnd.docker.image.rootfs.diff.tar",
    LAYER_TYPE + "+gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}

# Prefix of the name of a file that removes one of a lower layer.
WHITEOUT = ".wh."


def digest_of(data: bytes) -> str:
    """Return the digest of a blob."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob_path(layout: str, digest: str) -> str:
    """Return the path in an OCI image layout of the blob with that digest."""
    return os.path.join(layout, "blobs", *digest.split(":", 1))


def qualify(name: str) -> str:
    """Return an image's name with the registry and the folder that docker adds to short names.

    containerd, and docker where containerd stores its images, takes the name of an OCI archive as
    it is, but looks for the qualified one. The rules are those of distribution/reference,
    normalize.go.

    >>> qualify("notes"), qualify("team/notes"), qualify("docker.io/notes")
    ('docker.io/library/notes', 'docker.io/team/notes', 'docker.io/library/notes')
    >>> qualify("localhost/notes"), qualify("registry:5000/notes"), qualify("example.org/a/b")
    ('localhost/notes', 'registry:5000/notes', 'example.org/a/b')
    """
    registry, slash, rest = name.partition("/")
    if not slash or not (registry == "localhost" or "." in registry or ":" in registry):
        registry, rest = "docker.io", name
    if registry in ("docker.io", "index.docker.io"):
        registry, rest = "docker.io", rest if "/" in rest else f"library/{rest}"
    return f"{registry}/{rest}"
