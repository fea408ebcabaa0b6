"""Push the image: copy-to DESTINATION ... [OPTION ...]

Destinations are skopeo's: docker://REGISTRY/NAME:TAG, docker-daemon:NAME:TAG,
containers-storage:NAME:TAG, oci:FOLDER:TAG, oci-archive:FILE, docker-archive:FILE, dir:FOLDER.
Only the blobs that are missing there are sent. Options go to `skopeo copy`, for example

  --dest-creds USER:PASSWORD  (or log in beforehand, with `skopeo login` or `docker login`)
  --dest-tls-verify=false     for a registry without TLS
  --retry-times N             for a network that fails now and then

Standard error gets the progress, standard output the digest of what was pushed, one line for each
destination, so that a deployment can name it: REGISTRY/NAME@$(copy-to docker://REGISTRY/NAME:TAG)
"""

# While skopeo runs, this program is a registry on the loopback interface that has this one image.
# skopeo asks the destination for each blob by its digest, and fetches from here what is missing.
# Only then is a layer's store path copied from a binary cache or built: a machine does not need the
# layers that the destination has.
#
# skopeo copies up to six blobs at a time from a registry, and one at a time from an OCI image
# layout: most of a push to a distant registry is waiting for its answers.

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

DESTINATION = re.compile(
    r"docker://.|(docker-daemon|containers-storage|oci|oci-archive|docker-archive|dir):."
)
# Those that can hold an image index. For others, skopeo selects the image for this machine.
INDEX_DESTINATION = re.compile("docker:|oci:|oci-archive:|dir:")

CHUNK = 1 << 18


class Unavailable(Exception):
    """A layer that the destination lacks is not available; the message says which."""


class Image:
    """An image or an image index, from its documents; its layers need not exist yet.

    `documents` is a folder that describe_image.py or describe_index.py wrote; `derivations` are
    those that build the layers, by the store paths that they build.
    """

    def __init__(self, documents: str, derivations: dict[str, str]) -> None:
        self.derivations = derivations
        self.files: dict[str, str] = {}  # by digest
        for name in os.listdir(documents):
            file = os.path.join(documents, name)
            with open(file, "rb") as opened:
                content = opened.read()
            if name == "layers.json":
                self.layers = {layer["digest"]: layer["path"] for layer in json.loads(content)}
            else:
                digest = "sha256:" + hashlib.sha256(content).hexdigest()
                self.files[digest] = file
                if name == "manifest.json":
                    self.digest = digest
                    self.is_index = "manifests" in json.loads(content)

    def file(self, digest: str) -> str:
        """Return the file of a blob, realised if need be. Raises KeyError and `Unavailable`."""
        if digest in self.files:
            return self.files[digest]
        file = self.layers[digest]
        if not os.path.exists(file):
            self.realise(store_path_of(file))
        return file

    def realise(self, store_path: str) -> None:
        """Have Nix copy a store path from a binary cache, or build it. Raises `Unavailable`."""
        derivation = self.derivations.get(store_path, "")
        wanted = f"{derivation}!out" if os.path.exists(derivation) else store_path
        command = [shutil.which("nix-store") or "nix-store", "--realise", wanted]
        try:
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"{store_path} is missing, build the image again: {error}") from None


class Registry(ThreadingTCPServer):
    """Serves one image on a free port of the loopback interface until this process ends."""

    daemon_threads = True
    request_queue_size = 64  # skopeo connects several times at once

    def __init__(self, image: Image) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.image = image
        self.sent: dict[str, int] = {}  # bytes of layers by digest
        self.failures: list[Unavailable] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that skopeo has closed."""


class Handler(BaseHTTPRequestHandler):
    """Answers what a client asks that pulls: the OCI distribution specification, end-1 to end-3."""

    protocol_version = "HTTP/1.1"
    server: Registry

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self.begin(200, "application/json", 0)
            return
        image = self.server.image
        kind, reference = self.path.split("/")[-2:]
        if kind == "manifests" and ":" not in reference:
            reference = image.digest
        try:
            file = image.file(reference)
        except KeyError:
            self.begin(404, "application/json", 0)
            return
        except Unavailable as error:
            self.server.failures.append(error)
            self.begin(500, "application/json", 0)
            return
        size = os.path.getsize(file)
        if reference in image.layers:
            self.server.sent[reference] = size
            name = os.path.basename(store_path_of(file))[33:]
            say(f"sending {name}, {size / 1e6:.2f} MB")
        with open(file, "rb") as blob:
            is_manifest = kind == "manifests"
            media_type = json.load(blob)["mediaType"] if is_manifest else "application/octet-stream"
            blob.seek(0)
            self.begin(200, media_type, size)
            shutil.copyfileobj(blob, self.wfile, CHUNK)

    def begin(self, status: int, media_type: str, size: int) -> None:
        """Send the head of a response."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def store_path_of(file: str) -> str:
    """Return the store path that a file is, or is in.

    >>> store_path_of("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-layers/001")
    '/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-layers'
    """
    return re.match("/.*?/[0-9a-z]{32}-[^/]*", file)[0]


def say(message: str) -> None:
    print(f"copy-to: {message}", file=sys.stderr, flush=True)


def push(registry: Registry, skopeo: str, destination: str, options: list[str]) -> str:
    """Copy the registry's image to one destination; return the digest that it has there.

    Raises `Unavailable`, and CalledProcessError where skopeo fails, which has said why.
    """
    image = registry.image
    registry.sent.clear()
    with tempfile.NamedTemporaryFile() as digest:
        command = [skopeo, "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        command += ["--digestfile", digest.name]
        if image.is_index and INDEX_DESTINATION.match(destination):
            command.append("--all")
        source = f"docker://127.0.0.1:{registry.server_address[1]}/image"
        done = subprocess.run([*command, *options, source, destination], stdout=2, check=False)
        if registry.failures:
            raise registry.failures[0]
        done.check_returncode()
        layers, size = len(registry.sent), sum(registry.sent.values())
        say(f"{destination}: sent {layers} of {len(image.layers)} layers, {size / 1e6:.2f} MB")
        return digest.read().decode().strip()


def main(skopeo: str, documents: str, derivations: str, *words: str) -> int:
    """Push the image to the destinations among `words`; for the others see layout.nix."""
    if {"--help", "-h"}.intersection(words):
        print(__doc__.strip())
        return 0
    destinations = [word for word in words if DESTINATION.match(word)]
    options = [word for word in words if word not in destinations]
    if not destinations:
        given = f"no destination among {' '.join(words)}" if words else "no destination"
        say(f"{given}: name one, as in copy-to docker://registry.example.org/name:tag")
        return 2
    registry = Registry(Image(documents, json.loads(derivations)))
    for destination in destinations:
        try:
            print(push(registry, skopeo, destination, options), flush=True)
        except Unavailable as error:
            say(str(error))
            return 1
        except subprocess.CalledProcessError:
            say(f"{destination}: not pushed")
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
