#!/usr/bin/env python3
"""A read-only container registry that builds what is pulled from it.

    examples/registry.py &
    skopeo copy --src-tls-verify=false docker://localhost:8080/git/jq oci:image

The image's name is its packages (`shell` stands for what one wants at hand); the tag is the
revision of nixpkgs that they come from, and `latest` the project's own. It is for trying this out,
and shows how a server uses `nixery-build-image`: it names what strangers typed with --argstr, reads
one JSON file, and sends files of the Nix store. Encryption, users and limits are a reverse proxy's.

Each image that was built is held by a garbage collector root in the state folder; remove the file
there and the image can be collected. Follows the "pull" part of the OCI distribution
specification 1.1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

# From the specification: an image's name, and what comes after it.
NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
ROUTE = re.compile(rf"/v2/({NAME})/(manifests|blobs)/({TAG}|sha256:[0-9a-f]{{64}})")
NAME_LENGTH = 255  # what clients are known to cope with, host and all
LINES_TOLD = 50  # of what Nix said when it failed: a trace is about 40


class Refusal(Exception):
    """What the client gets instead: status, code of the specification, message, detail."""


@dataclass(frozen=True)
class Image:
    """An image that was built, held by the garbage collector root `root`."""

    root: Path
    manifest: bytes
    media_type: str
    locations: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, root: Path) -> Image:
        """Read an answer of nixery-build-image."""
        answer = json.loads(root.read_bytes())
        # The form that the manifest's digest is of.
        text = json.dumps(
            answer["manifest"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        media_type = answer["manifest"]["mediaType"]
        return cls(root, text.encode(), media_type, answer["layerLocations"])

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()


class Images:
    """The images that were built, and those that are being built."""

    def __init__(self, command: list[str], source: str, state: Path) -> None:
        self.command, self.source, self.state = command, source, state
        self.lock = threading.Lock()
        self.running: dict[tuple[str, str], Future[Image]] = {}
        # Each evaluation takes a core.
        self.workers = ThreadPoolExecutor(os.cpu_count())
        self.held: dict[str, Image] = {}
        for root in state.glob("*-answer"):
            if root.exists():
                self.hold(Image.read(root))
        logging.info("%d images are held in %s", len(self.held), state)

    def hold(self, image: Image) -> Image:
        """Keep an image; one with the same manifest that is held already makes it superfluous."""
        with self.lock:
            other = self.held.get(image.digest)
            if other and other.root.exists():
                if other.root != image.root:
                    image.root.unlink()
                return other
            self.held[image.digest] = image
            return image

    def find(self, digest: str) -> Image | None:
        """Return the image with this manifest, unless somebody has removed its root."""
        image = self.held.get(digest)
        return image if image and image.root.exists() else None

    def find_blob(self, digest: str) -> dict[str, Any] | None:
        """Return where a blob of any held image is."""
        for image in list(self.held.values()):
            location = image.locations.get(digest.partition(":")[2])
            if location and os.path.exists(location["path"]):
                return location
        return None

    def build(self, name: str, tag: str) -> Image:
        """Return the image of a name and tag; who asks while it is being built waits with others.

        Nix finds out whether anything has to be done. Raises Refusal.
        """
        with self.lock:
            future = self.running.get((name, tag))
            if future is None:
                future = self.workers.submit(self.run, name, tag)
                self.running[name, tag] = future
                future.add_done_callback(lambda _: self.running.pop((name, tag)))
        return future.result()

    def run(self, name: str, tag: str) -> Image:
        """Call nixery-build-image."""
        root = self.state / uuid.uuid4().hex
        command = [*self.command, "--out-link", str(root)]
        arguments = {"name": name, "tag": tag, "packages": json.dumps(name.split("/"))}
        arguments.update(source_arguments(self.source, tag))
        for key, value in arguments.items():
            command += ["--argstr", key, value]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        process = subprocess.Popen(
            command, **pipes, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        lines = []
        for line in process.stderr:
            lines = [*lines[1 - LINES_TOLD :], line.rstrip()]
            logging.info("%s:%s: %s", name, tag, line.rstrip())
        if process.wait() != 0:
            raise Refusal(500, "UNKNOWN", lines[-1] if lines else "no reason given", lines)
        if not root.is_symlink():
            return self.hold(Image.read(root.with_name(root.name + "-answer")))
        answer = json.loads(root.read_bytes())
        root.unlink()
        reasons = {each["name"]: each["reason"] for each in answer.get("unavailable", [])}
        wrong = [f"{name} {reasons.get(name, 'was not found')}" for name in answer["pkgs"]]
        raise Refusal(404, "MANIFEST_UNKNOWN", "; ".join(wrong), answer)


def source_arguments(source: str, tag: str) -> dict[str, str]:
    """Return srcType and srcArgs of a tag."""
    kind, _, place = source.partition(":")
    if kind == "path":
        return {"srcType": kind, "srcArgs": place}
    return {"srcType": kind} if tag == "latest" else {"srcType": kind, "srcArgs": tag}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "nixery"
    timeout = 60  # seconds for a client that neither asks nor takes anything
    images: Images

    def do_GET(self) -> None:
        try:
            self.answer_request()
        except Refusal as refusal:
            self.refuse(*refusal.args)

    do_HEAD = do_GET

    def answer_request(self) -> None:
        if self.path in ("/v2", "/v2/"):
            self.send(200, b"{}", "application/json")
            return
        route = ROUTE.fullmatch(self.path.partition("?")[0])
        if route is None or len(route[1]) > NAME_LENGTH:
            message = "not a valid name of an image with a valid tag or digest"
            raise Refusal(400, "NAME_INVALID", message, None)
        name, kind, reference = route.groups()
        if kind == "blobs":
            self.send_blob(reference)
            return
        if ":" in reference:
            image = self.images.find(reference)
            if image is None:
                message = "no image with this manifest is held; ask by tag to have it built"
                raise Refusal(404, "MANIFEST_UNKNOWN", message, None)
        else:
            image = self.images.build(name, reference)
        self.send(200, image.manifest, image.media_type, {"Docker-Content-Digest": image.digest})

    def send_blob(self, digest: str) -> None:
        location = self.images.find_blob(digest)
        if location is None:
            raise Refusal(404, "BLOB_UNKNOWN", "no image that is held has this blob", None)
        size = location["size"]
        start, end, status = 0, size, 200
        wanted = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", self.headers.get("Range", ""))
        if wanted and wanted[0] != "bytes=-":
            first, last = wanted.groups()
            start = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
            status = 206 if start < end else 416
        headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
        if status != 200:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if status == 416:
            headers["Content-Range"] = f"bytes */{size}"
            end = start
        with open(location["path"], "rb") as blob:
            self.send(status, end - start, "application/octet-stream", headers)
            if self.command != "HEAD" and start < end:
                self.connection.sendfile(blob, start, end - start)

    def send(
        self, status: int, body: bytes | int, media_type: str, headers: dict[str, str] | None = None
    ) -> None:
        """Send a response; for a body that follows, `body` is its size in bytes."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(body if isinstance(body, int) else len(body)))
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if isinstance(body, bytes) and self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str, detail: Any) -> None:
        error = {"code": code, "message": message, "detail": detail}
        self.send(status, json.dumps({"errors": [error]}).encode(), "application/json")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Requests that http.server refuses itself."""
        self.close_connection = True
        self.refuse(code, "UNSUPPORTED", message or "not understood", explain)

    def log_message(self, text: str, *arguments: object) -> None:
        logging.info("%s " + text, self.client_address[0], *(repr(one)[1:-1] for one in arguments))


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: tuple[str, int]) -> None:
        logging.warning("%s: %r", client_address[0], sys.exc_info()[1])


def find_program(source: str, state: Path) -> str:
    """Return nixery-build-image from PATH, or the project's, built with the source's tools."""
    program = shutil.which("nixery-build-image")
    if program is None:
        given = [f'{key} = "{value}";' for key, value in source_arguments(source, "latest").items()]
        packages = f"import {PROJECT}/build-image/load-pkgs.nix {{ {' '.join(given)} }}"
        command = ["nix-build", str(PROJECT), "-A", "nixery-build-image", "--arg", "pkgs", packages]
        subprocess.run([*command, "--out-link", str(state / "program")], check=True, stdout=2)
        program = str(state / "program" / "bin" / "nixery-build-image")
    return program


def main() -> None:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--source", default="nixpkgs", help="nixpkgs, or path:/a/package/set")
    parser.add_argument("--state", type=Path, default=state / "nixery-registry", metavar="FOLDER")
    parser.add_argument("options", nargs="*", help="for nixery-build-image: -- --timeout 600")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    arguments.state.mkdir(parents=True, exist_ok=True)
    command = [find_program(arguments.source, arguments.state), *arguments.options]
    Handler.images = Images(command, arguments.source, arguments.state.resolve())
    with Server((arguments.host, arguments.port), Handler) as server:
        logging.info("http://%s:%d", *server.server_address[:2])
        server.serve_forever()


if __name__ == "__main__":
    main()
