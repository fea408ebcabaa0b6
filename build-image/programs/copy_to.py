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

import ast
import hashlib
import json
import os
import re
import signal
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

# Options with which the destination gets another manifest than the image has
CONVERSION = re.compile("-f|--format|--dest-(force-)?(de)?compress|--encrypt")

# A line of skopeo's, as the Go library logrus writes it where nobody watches
LOGGED = re.compile(r"time=\S+ level=(\w+) msg=(.*)")

# A line in which Nix says why it fails; the first is the cause. Of a binary cache that it does not
# reach after several attempts, it only warns, as it does of each attempt.
NIX_ERROR = re.compile(r"\s*(?:error: |warning: (?=unable to download)(?!.*; retrying in ))(.+)")

# What to do about failures that skopeo only describes
ADVICE = {
    "server gave HTTP response": "a registry without TLS needs --dest-tls-verify=false",
    "unauthorized|resource is denied|Forbidden": "log in with `skopeo login`, or pass --dest-creds "
    "USER:PASSWORD",
    "x509": "--dest-cert-dir FOLDER names the folder with a registry's certificate, NAME.crt",
    "manifest invalid": "a registry that takes no OCI images needs --format v2s2",
    "closed pipe": "docker does not answer",
}


class Failure(Exception):
    """The image is not pushed; the message says why."""


class Image:
    """An image or an image index, from its documents; its layers need not exist yet.

    `documents` is a folder that describe_image.py or describe_index.py wrote; `derivations` are
    those that build the layers, by the store paths that they build.
    """

    def __init__(self, documents: str, derivations: dict[str, str]) -> None:
        self.derivations = derivations
        self.lock = threading.Lock()
        self.invalid: set[str] | None = None  # store paths of layers; None until a layer is wanted
        self.files: dict[str, str] = {}  # by digest
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


class Registry(ThreadingTCPServer):
    """Serves one image on a free port of the loopback interface until this process ends."""

    daemon_threads = True
    request_queue_size = 64  # skopeo connects several times at once

    def __init__(self, image: Image) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.image = image
        self.sent: dict[str, int] = {}  # bytes of layers by digest
        self.failures: list[Failure] = []
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
        except Failure as error:
            self.server.failures.append(error)
            self.begin(500, "application/json", 0)
            return
        size = os.path.getsize(file)
        if reference in image.layers:
            self.server.sent[reference] = size
            name = os.path.basename(store_path_of(file))[33:]
            say(f"sending {name}, {format_bytes(size)}")
        with open(file, "rb") as blob:
            is_manifest = kind == "manifests"
            media_type = json.load(blob)["mediaType"] if is_manifest else "application/octet-stream"
            blob.seek(0)
            self.begin(200, media_type, size)
            self.connection.sendfile(blob)

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


def nix_store(*words: str) -> str:
    """Run nix-store and pass its messages on; return what it writes. Raises `Failure`."""
    try:
        process = start("nix-store", *words)
    except OSError as error:
        raise Failure(f"nix-store: {error.strerror}") from None
    reason = ""
    with process:
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            error = NIX_ERROR.match(line)
            reason = reason or (error[1] if error else "")
        output = process.stdout.read()
    if process.returncode != 0:
        raise Failure(reason or f"nix-store failed with status {process.returncode}")
    return output


def start(*command: str) -> subprocess.Popen[str]:
    """Start a program; both of its outputs are pipes. Raises OSError."""
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def format_bytes(size: int) -> str:
    """Return a number of bytes for people.

    >>> [format_bytes(size) for size in (0, 514, 999_949, 999_950, 1_054_321)]
    ['0.0 kB', '0.5 kB', '999.9 kB', '1.0 MB', '1.1 MB']
    """
    return f"{size / 1e6:.1f} MB" if size >= 999_950 else f"{size / 1e3:.1f} kB"


def say(message: str) -> None:
    print(f"copy-to: {message}", file=sys.stderr, flush=True)


def run_skopeo(*command: str) -> str:
    """Run skopeo and pass its messages on; return the one that says why it failed, or ""."""
    reason = ""
    with start(*command) as process:
        try:
            for line in process.stderr:
                logged = LOGGED.match(line)
                level, message = logged.groups() if logged else ("", line.strip())
                if message.startswith('"'):
                    message = ast.literal_eval(message)
                if level == "fatal":
                    reason = message.strip()
                else:
                    say(message)
        except BaseException:
            process.kill()
            raise
        if process.stdout.read():  # how it is called, with the status of success
            reason = "a word is neither a destination nor an option of `skopeo copy`"
    return reason or (f"skopeo's status is {process.returncode}" if process.returncode else "")


def explain(reason: str) -> str:
    """Return why skopeo failed, without the digests that it was about, and what to do.

    >>> explain("trying to reuse blob sha256:0e3424 at destination: unauthorized")
    'unauthorized (log in with `skopeo login`, or pass --dest-creds USER:PASSWORD)'
    """
    *steps, last = reason.split(": ")
    short = ": ".join([step for step in steps if "sha256:" not in step] + [last])
    advice = [ADVICE[pattern] for pattern in ADVICE if re.search(pattern, short)]
    return f"{short} ({advice[0]})" if advice else short


def push(
    registry: Registry, skopeo: str, preserve: str, destination: str, options: list[str]
) -> str:
    """Copy the registry's image to one destination; return the digest that it has there.

    `preserve` is skopeo's option that keeps digests, or "" if it has none. Raises `Failure`.
    """
    image = registry.image
    registry.sent.clear()
    registry.failures.clear()
    given = re.findall("^--digestfile[=\n](.+)", "\n".join(options), re.MULTILINE)
    with tempfile.NamedTemporaryFile() as temporary:
        digest_file = given[-1] if given else temporary.name
        command = [skopeo, "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        if image.is_index and INDEX_DESTINATION.match(destination):
            command.append("--all")
        converts = any(map(CONVERSION.match, options))
        if preserve and destination.startswith("docker:") and not converts:
            # Otherwise skopeo takes, instead of a layer, one with the same files that the registry
            # has in another compression, if it knows of one from an earlier push.
            command.append(preserve)
        source = f"docker://127.0.0.1:{registry.server_address[1]}/image"
        command += [*options, "--digestfile", digest_file, source, destination]
        reason = run_skopeo(*command)
        if reason:
            raise registry.failures[0] if registry.failures else Failure(explain(reason))
        with open(digest_file, encoding="utf-8") as file:
            digest = file.read().strip()
    layers, size = len(registry.sent), sum(registry.sent.values())
    say(f"{destination}: sent {layers} of {len(image.layers)} layers, {format_bytes(size)}")
    return digest


def main(skopeo: str, preserve: str, documents: str, derivations: str, *words: str) -> int:
    """Push the image to the destinations among `words`; for the others see layout.nix."""
    if {"--help", "-h"}.intersection(words):
        print(__doc__.strip())
        return 0
    destinations = [word for word in words if DESTINATION.match(word)]
    options = [word for word in words if word not in destinations]
    if not destinations:
        # Without repeating the words: there may be a password among them.
        say("no destination: name one, as in copy-to docker://registry.example.org/name:tag")
        return 2
    registry = Registry(Image(documents, json.loads(derivations)))
    for destination in destinations:
        try:
            print(push(registry, skopeo, preserve, destination, options), flush=True)
        except Failure as failure:
            say(f"{destination}: not pushed: {failure}")
            return 1
    return 0


if __name__ == "__main__":
    # As when it is interrupted: skopeo ends, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
