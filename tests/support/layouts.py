"""Write OCI image layouts by hand, whatever is in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any


def make_tar(*names: str) -> bytes:
    """Return a tar archive: of folders, whose names end in "/", empty files, and links.

    A link is written "name -> target".
    """
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in names:
            name, _, target = name.partition(" -> ")
            entry = tarfile.TarInfo(name)
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            elif target:
                entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return data.getvalue()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An OCI image layout in a new folder: write blobs, then the image or an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def write_blob(self, value: object, **fields: Any) -> dict[str, Any]:
        """Write bytes, or a value as JSON; return its descriptor, with `fields` besides."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        (self.folder / "blobs" / digest_of(data).replace(":", "/")).write_bytes(data)
        return {"digest": digest_of(data), "size": len(data), **fields}

    def write_index(self, *descriptors: object) -> None:
        """Write the layout's index."""
        (self.folder / "index.json").write_text(json.dumps({"manifests": descriptors}))

    def write_image(
        self, *layers: bytes, config: dict | None = None, manifest: dict | None = None
    ) -> None:
        """Write an image with these layers, tar archives, and changes of its documents."""
        described = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            **(config or {}),
        }
        blobs = [gzip.compress(layer, mtime=0) for layer in layers]
        media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
        document = {
            "schemaVersion": 2,
            "config": self.write_blob(described),
            "layers": [self.write_blob(blob, mediaType=media_type) for blob in blobs],
            **(manifest or {}),
        }
        self.write_index(self.write_blob(document))
