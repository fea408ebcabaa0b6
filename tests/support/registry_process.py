"""Run the example registry, and ask it as a client does."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nix import ROOT, run
from served import OwnStore, Wrapper


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def digest_at(location: str) -> str:
    """Return the digest of an image's manifest in a registry: HOST:PORT/NAME."""
    inspect = ["skopeo", "inspect", "--no-tags", "--tls-verify=false", "--format", "{{.Digest}}"]
    return run(*inspect, f"docker://{location}").stdout.strip()


class Registry:
    """The example registry as a process, with its state and log in `folder`.

    `options` are passed to nixery-build-image, `tag` is a pattern of tags to allow; `source` is the
    wrapper's package set unless it is given. With `store` it runs on a store of its own.
    """

    def __init__(
        self,
        wrapper: Wrapper,
        folder: Path,
        *options: object,
        tag: str = "latest",
        source: str = "",
        store: OwnStore | None = None,
    ) -> None:
        self.folder, self.wrapper, self.port = folder, wrapper, free_port()
        self.log = folder / "registry.log"
        command = [sys.executable, ROOT / "examples" / "registry.py", "--port", self.port]
        command += ["--source", source or f"path:{wrapper.package_set}", "--tag", tag]
        command += ["--state", folder / "state", "--", *options]
        self.command = store.command(*command) if store else [str(word) for word in command]
        self.environment = dict(store.environment if store else os.environ)
        self.environment["PATH"] = f"{wrapper.program.parent}:{os.environ['PATH']}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env=self.environment)
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.get("/v2/")
                return
            except OSError:
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    @contextmanager
    def running(self) -> Iterator[Registry]:
        """Serve until the block ends."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def get(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Return the response to one request, and its body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def exchange(self, request: bytes) -> bytes:
        """Send bytes that may be no request; return all that comes until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as client:
            client.sendall(request)
            received = b""
            while part := client.recv(65536):
                received += part
            return received

    def error(self, path: str) -> tuple[int, str, str]:
        """Return status, code and message of a refusal."""
        response, body = self.get(path)
        (error,) = json.loads(body)["errors"]
        return response.status, error["code"], error["message"]

    def pull(self, image: str, folder: Path) -> dict[str, Any]:
        """Pull with skopeo, which verifies digests, into a new folder; return the manifest.

        As it was served: for a layout, skopeo would translate Docker's media types.
        """
        run(
            *("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"),
            *(f"docker://localhost:{self.port}/{image}", f"dir:{folder}"),
        )
        return json.loads((folder / "manifest.json").read_bytes())
