"""Debian's docker-registry, to push to."""

from __future__ import annotations

import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DockerRegistry:
    """A registry that runs: HOST:PORT, and its log of requests."""

    address: str
    log: Path

    def reference(self, name: str) -> str:
        """Return an image of it as skopeo names it."""
        return f"docker://{self.address}/{name}"

    @property
    def uploads(self) -> int:
        """How many blobs it has been sent."""
        return len(re.findall(r'"PUT /v2/\S+/blobs/uploads/', self.log.read_text()))


@contextmanager
def run_registry(folder: Path, authentication: str = "") -> Iterator[DockerRegistry]:
    """Run a registry that keeps its data in `folder`; `authentication` is more configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n{authentication}"
    )
    log = folder / "log"
    with log.open("wb") as output:
        command: list[str | Path] = ["docker-registry", "serve", folder / "config.yml"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://{address}/v2/").close()
                break
            except urllib.error.HTTPError:
                break  # it wants to know who asks
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield DockerRegistry(address, log)
    finally:
        process.terminate()
        process.wait(timeout=60)
