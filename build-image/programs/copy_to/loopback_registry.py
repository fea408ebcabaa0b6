"""A registry on the loopback interface that has the images to push, and no other.

Whoever copies an image, skopeo or a daemon, asks here for each blob that the destination lacks.
Only then is a layer's store path copied from a binary cache or built: a machine does not need the
layers that the destination has.

Web pages that are open on this machine can send requests here as well. So that they neither read
the image nor make Nix build it, it has a random name for the time of its push, and requests with
the `Host` of a site are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

from children import Failure, printable, running, say
from group_layers import format_bytes

# A line in which Nix says why it fails; the first is the cause. Of a binary cache that it does not
# reach after several attempts, it only warns, as it does of each attempt.
NIX_ERROR = re.compile(r"\s*(?:error: |warning: (?=unable to download)(?!.*; retrying in ))(.+)")

# The first byte of a TLS handshake
HANDSHAKE = b"\x16"


# The status of a layer that is not given away, since nothing is to be sent
GONE = 410


class Image:
    """An image or an image index, from its documents; its layers need not exist yet.

    `documents` is a folder that describe_image.py or describe_index.py wrote; `derivations` are
    those that build the layers, by the store paths that they build. `layers` has the file of each
    layer by its digest, `digest` is that of the manifest or of the index.
    """

    def __init__(self, documents: str, derivations: dict[str, str]) -> None:
        self.derivations = derivations
        self.lock = threading.Lock()
        self.invalid: set[str] | None = None  # store paths of layers; None until a layer is wanted
        self.files: dict[str, str] = {}  # of manifests and configurations, by digest
        self.layers: dict[str, str] = {}
        for name in os.listdir(documents):
            file = os.path.join(documents, name)
            with open(file, "rb") as opened:
                content = opened.read()
            if name == "layers.json":
                self.layers = {layer["digest"]: layer["path"] for layer in json.loads(content)}
                store_paths = map(store_path_of, self.layers.values())
                self.locks = {store_path: threading.Lock() for store_path in store_paths}
            else:
                digest = "sha256:" + hashlib.sha256(content).hexdigest()
                self.files[digest] = file
                if name == "manifest.json":
                    self.digest = digest
                    self.is_index = "manifests" in json.loads(content)

    def file(self, digest: str) -> str:
        """Return the file of a blob, realised if need be. Raises KeyError and `Failure`."""
        if digest in self.files:
            return self.files[digest]
        file = self.layers[digest]
        store_path = store_path_of(file)
        with self.lock:
            if self.invalid is None:
                self.invalid = self.find_invalid()
        with self.locks[store_path]:
            if store_path in self.invalid:
                self.realise(store_path)
                self.invalid.remove(store_path)
        return file

    def find_invalid(self) -> set[str]:
        """Return the store paths of layers that are not there, or not yet as a whole."""
        try:
            return set(nix_store("--check-validity", "--print-invalid", *self.locks).split())
        except Failure:  # there is no nix-store
            return {store_path for store_path in self.locks if not os.path.exists(store_path)}

    def realise(self, store_path: str) -> None:
        """Have Nix copy a store path from a binary cache, or build it. Raises `Failure`."""
        derivation = self.derivations.get(store_path, "")
        wanted = f"{derivation}!out" if os.path.exists(derivation) else store_path
        try:
            nix_store("--realise", "--no-gc-warning", wanted)
        except Failure as error:
            advice = "push again if a binary cache has it, or else build the image again"
            raise Failure(f"{store_path} is missing: {error} ({advice})") from None


class Push:
    """One push of an image: the name that it is served by, and what was asked of it so far.

    A dry one serves manifests alone, and remembers which blobs were `wanted`.
    """

    def __init__(self, image: Image, port: int, is_dry: bool = False) -> None:
        self.image = image
        self.is_dry = is_dry
        self.wanted: set[str] = set()
        self.port = port
        self.name = secrets.token_hex(16)
        self.reached = False  # whether anybody has asked for it
        self.sent: dict[str, int] = {}  # bytes of layers by digest
        self.failures: list[Failure] = []

    @property
    def reference(self) -> str:
        """The image as it is named where the registry is reached."""
        return f"127.0.0.1:{self.port}/{self.name}"


class Registry(ThreadingTCPServer):
    """Serves on a free port of the loopback interface until this process ends."""

    daemon_threads = True
    request_queue_size = 64  # skopeo connects several times at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port: int = self.server_address[1]
        self.ports = {self.port}  # those by which it is reached: another, through ssh
        self.pushes: dict[str, Push] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @contextmanager
    def serving(self, image: Image, is_dry: bool = False) -> Iterator[Push]:
        """Serve an image under a name of its own until the block ends."""
        push = Push(image, self.port, is_dry)
        self.pushes[push.name] = push
        try:
            yield push
        finally:
            del self.pushes[push.name]

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that a client has closed."""


class Handler(BaseHTTPRequestHandler):
    """Answers what a client asks that pulls: the OCI distribution specification, end-1 to end-3."""

    protocol_version = "HTTP/1.1"
    server: Registry

    def handle(self) -> None:
        """Answer the requests of a connection; one that would be TLS is refused at once.

        docker tries TLS first, and waits for an answer.
        """
        if self.connection.recv(1, socket.MSG_PEEK) == HANDSHAKE:
            self.connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        else:
            super().handle()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hosts = {f"127.0.0.1:{port}" for port in self.server.ports}
        if self.headers.get("Host") not in hosts:
            self.answer(403)
            return
        if self.path == "/v2/":
            self.answer(200)
            return
        try:
            _, _, name, kind, reference = self.path.split("/")
            push = self.server.pushes[name]
            push.reached = True
            if kind == "manifests" and ":" not in reference:
                reference = push.image.digest
            if push.is_dry and kind == "blobs":
                push.wanted.add(reference)
                self.answer(GONE)
                return
            file = push.image.file(reference)
        except (ValueError, KeyError):
            self.answer(404)
        except Failure as error:
            push.failures.append(error)
            # docker repeats what fails otherwise.
            self.answer(403, b'{"errors": [{"code": "DENIED", "message": "see copy-to"}]}')
        else:
            self.send_blob(push, reference, file, kind == "manifests")

    def send_blob(self, push: Push, digest: str, file: str, is_manifest: bool) -> None:
        """Send a file as a response."""
        size = os.path.getsize(file)
        if digest in push.image.layers and self.command == "GET":
            push.sent[digest] = size
            name = os.path.basename(store_path_of(file))[33:]
            say(f"sending {name}, {format_bytes(size)}")
        with open(file, "rb") as blob:
            media_type = json.load(blob)["mediaType"] if is_manifest else "application/octet-stream"
            blob.seek(0)
            self.begin(200, media_type, size, digest)
            if self.command == "GET":
                self.connection.sendfile(blob)

    def answer(self, status: int, body: bytes = b"") -> None:
        """Send a response that is no blob."""
        self.begin(status, "application/json", len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def begin(self, status: int, media_type: str, size: int, digest: str = "") -> None:
        """Send the head of a response."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def store_path_of(file: str) -> str:
    """Return the store path that a file is, or is in.

    >>> store_path_of("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-layers/001")
    '/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-layers'
    """
    match = re.match("/.*?/[0-9a-z]{32}-[^/]*", file)
    assert match, file
    return match[0]


def nix_store(*words: str) -> str:
    """Run nix-store and pass its messages on; return what it writes. Raises `Failure`."""
    reason = ""
    # A pipe could fill while the messages are read.
    with tempfile.TemporaryFile("w+") as output:
        with running("nix-store", *words, stdout=output) as process:
            for line in process.stderr or ():
                print(printable(line.rstrip()), file=sys.stderr, flush=True)
                error = NIX_ERROR.match(line)
                reason = reason or (error[1] if error else "")
        if process.returncode != 0:
            raise Failure(reason or f"nix-store failed with status {process.returncode}")
        output.seek(0)
        return output.read()
