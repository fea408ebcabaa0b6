"""A test double of Nixery's server as it was in September 2019, which cannot be built any more.

What it does with `nixery-build-image` and with clients is what `server/main.go` and
`server/builder/builder.go` of that time do, with a dictionary in place of its storage bucket:

- it sorts the packages, and spells out `shell` where that comes first;
- it reads the wrapper's standard output to the end, and standard error afterwards;
- it reads `error`, `pkgs`, `manifest` and of each of `layerLocations` `path` and `md5`, as Go does;
- 404 is for `not_found` alone; any other answer is served with what it has as its manifest, `null`
  where it has none, with a fixed Content-Type;
- a blob is a redirect to the bucket.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from served import Wrapper, settings

MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
SHELL = ["bashInteractive", "cacert", "coreutils", "iana-etc", "moreutils", "nano"]

_MANIFEST = re.compile(r"/v2/([\w|\-|\.|\_|\/]+)/manifests/([\w|\-|\.|\_]+)")
_LAYER = re.compile(r"/v2/([\w|\-|\.|\_|\/]+)/blobs/sha256:(\w+)")


class BuildFailure(Exception):
    """The wrapper gave no answer."""


def build(wrapper: Wrapper, name: str) -> dict[str, Any]:
    """Call the wrapper as the server does; return the answer. Raises BuildFailure."""
    packages = name.split("/")
    expanded = [*packages[1:], *SHELL] if packages[0] == "shell" else packages
    command = wrapper.command(sorted(expanded), "--timeout", 60, name="/".join(sorted(packages)))
    with subprocess.Popen(
        command, env=settings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        output, errors = process.communicate()
    if process.returncode != 0:
        raise BuildFailure(errors)
    return json.loads(Path(output.strip()).read_bytes())


class Handler(BaseHTTPRequestHandler):
    """One request."""

    wrapper: Wrapper
    bucket: dict[str, Path]

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self.send(200, b"")
        elif match := _MANIFEST.fullmatch(self.path):
            self.send_manifest(match[1])
        elif match := _LAYER.fullmatch(self.path):
            self.send(303, b"", Location=f"/bucket/layers/{match[2]}")
        elif self.path.startswith("/bucket/layers/"):
            self.send(200, self.bucket[self.path.rpartition("/")[2]].read_bytes())
        else:
            self.send(404, b"")

    do_HEAD = do_GET

    def send_manifest(self, name: str) -> None:
        try:
            answer = build(self.wrapper, name)
        except BuildFailure:
            self.send_error_of("UNKNOWN", "image build failure", 500)
            return
        for digest, location in answer.get("layerLocations", {}).items():
            data = Path(location["path"]).read_bytes()
            # What the bucket compares.
            assert base64.b64decode(location["md5"], validate=True) == hashlib.md5(data).digest()
            self.bucket[digest] = Path(location["path"])
        if answer.get("error") == "not_found":
            message = f"Could not find Nix packages: [{' '.join(answer['pkgs'])}]"
            self.send_error_of("MANIFEST_UNKNOWN", message, 404)
            return
        manifest = json.dumps(answer.get("manifest"), separators=(",", ":"))
        self.send(200, manifest.encode(), **{"Content-Type": MEDIA_TYPE})

    def send_error_of(self, code: str, message: str, status: int) -> None:
        errors = {"errors": [{"code": code, "message": message}]}
        self.send(status, json.dumps(errors).encode())

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server_2019(wrapper: Wrapper) -> Iterator[int]:
    """Serve until the block ends; the port."""

    class Bound(Handler):
        pass

    Bound.wrapper, Bound.bucket = wrapper, {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Bound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
