"""Have base images read as a build does, and write some in the form of `docker save`."""

from __future__ import annotations

import io
import json
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from layouts import digest_of, make_tar
from nix import ROOT

OUTPUTS = ("out", "description", "image", "tree")


def read(
    layout: Path, memory: int = resource.RLIM_INFINITY, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run the program on an image as Nix does, in a new folder beside it, with so many bytes."""
    folder = layout.parent / "build"
    folder.mkdir()
    attributes = {
        "outputs": {name: str(folder / name) for name in OUTPUTS},
        "fromImage": str(layout),
        "closure": [{"path": str(layout)}],
        "architecture": "amd64",
        "variant": "",
        "storeDir": "/nix/store",
        "decompressors": {name: shutil.which(name) for name in ("bzip2", "gzip", "xz", "zstd")},
        **more,
    }
    (folder / ".attrs.json").write_text(json.dumps(attributes))
    command = [sys.executable, "-BEsS", f"{ROOT}/build-image/builders/read_base_image.py"]
    return subprocess.run(
        command,
        cwd=folder,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
    )


def described(layout: Path, name: str, **more: Any) -> Any:
    """Return one of the outputs for an image that must be accepted."""
    done = read(layout, **more)
    assert done.returncode == 0, done.stderr
    return json.loads((layout.parent / "build" / name).read_bytes())


def write_docker_archive(folder: Path, *images: tuple[str, ...], legacy: bool = False) -> Path:
    """Write an archive in the form of `docker save`, with images of one layer with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        listed = []
        for number, files in enumerate(images):
            layer = make_tar(*files)
            described = {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
                "config": {"Cmd": [f"image {number}"]},
            }
            add(f"{number}/layer.tar", layer)
            add(f"{number}.json", json.dumps(described).encode())
            # docker before 1.13 wrote links for layers that it had written before.
            link = tarfile.TarInfo(f"again{number}/layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, f"../{number}/layer.tar"
            archive.addfile(link)
            layers = [f"again{number}/layer.tar"]
            listed.append({"Config": f"{number}.json", "RepoTags": None, "Layers": layers})
        add("repositories", b"{}")
        if not legacy:
            add("manifest.json", json.dumps(listed).encode())
    (folder / "archive").write_bytes(data.getvalue())
    return folder / "archive"
