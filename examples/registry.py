#!/usr/bin/env python3
"""A read-only container registry that builds what is pulled from it.

    examples/registry.py &
    skopeo copy --src-tls-verify=false docker://localhost:8080/git/jq oci:image

The image's name is its packages (`shell` stands for what one wants at hand). The tag is the
revision of nixpkgs that they come from, and `latest` the project's own. Other tags must be allowed
with --tag, since a tag can name any commit of any fork of nixpkgs.

With `-- --argstr systems '["x86_64-linux", "aarch64-linux"]'` each client gets the image for its
machine.

It is for trying this out, and shows how a server uses `nixery-build-image`: it passes what
strangers typed with --argstr, reads one JSON file, and sends files of the Nix store. Encryption,
users and limits are left to a reverse proxy, see docs/registry.md.

Each image that was built is held by a garbage collector root in the state folder; remove the file
there and the image can be collected. Follows the "pull" part of the OCI distribution
specification 1.1.
"""

from __future__ import annotations

import argparse
import fnmatch
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
ROUTE = re.compile(rf"/v2/({NAME})/(manifests|blobs|tags)/({TAG}|sha256:[0-9a-f]{{64}})")
COMMIT = re.compile("[0-9a-f]{40}")
NAME_LENGTH = 255  # what clients are known to cope with, host and all
LINES_TOLD = 50  # of what Nix said when it failed: a trace is about 40

# "bytes=0-9,20-,-5": from which byte to which, from which on, how many at the end
RANGE = "(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})"
RANGES = re.compile(rf"bytes={RANGE}(?: *, *{RANGE})*")


class Refusal(Exception):
    """What the client gets instead: status, code of the specification, message, detail."""


@dataclass(frozen=True)
class Image:
    """An image that was built, held by the garbage collector root `root`."""

    root: Path
    manifest: bytes
    media_type: str
    locations: dict[str, dict[str, Any]]
    images: dict[str, str]  # of an image index: media types of its manifests by digest

    @classmethod
    def read(cls, root: Path) -> Image:
        """Read an answer of nixery-build-image. Raises OSError, ValueError, KeyError, TypeError."""
        answer = json.loads(root.read_bytes())
        # The form that the manifest's digest is of.
        text = json.dumps(
            answer["manifest"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        media_type = answer["manifest"]["mediaType"]
        children = answer["manifest"].get("manifests", [])
        images = {child["digest"]: child["mediaType"] for child in children}
        return cls(root, text.encode(), media_type, answer["layerLocations"], images)

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()


class Source:
    """Where packages come from, and at which of its revisions.

    `text` is "nixpkgs", "path:" and the absolute path of a package set, or "git:" and the address
    of a repository with one; `tags` are patterns of the tags that may be asked for. Raises
    ValueError.
    """

    def __init__(self, text: str, tags: list[str]) -> None:
        self.kind, _, self.place = text.partition(":")
        self.tags = tags
        is_path = self.kind == "path" and os.path.isabs(self.place)
        is_address = self.kind == "git" and ":/" in self.place
        if text != "nixpkgs" and not is_path and not is_address:
            raise ValueError(f"not nixpkgs, path:/a/package/set or git:https://...: {text}")

    def allows(self, tag: str) -> bool:
        return any(fnmatch.fnmatchcase(tag, pattern) for pattern in self.tags)

    def arguments(self, tag: str) -> dict[str, str]:
        """Return srcType and srcArgs of a tag."""
        if self.kind == "path":
            return {"srcType": "path", "srcArgs": self.place}
        if self.kind == "git":
            # Without a ref, Nix 2.8 wants a branch called master.
            branch = {"ref": "HEAD" if tag == "latest" else tag}
            commit = {"rev": tag, "allRefs": True}
            revision = commit if COMMIT.fullmatch(tag) else branch
            return {"srcType": "git", "srcArgs": json.dumps({"url": self.place} | revision)}
        return {"srcType": "nixpkgs"} | ({} if tag == "latest" else {"srcArgs": tag})

    def is_pinned(self, tag: str) -> bool:
        """Return whether a tag stands for the same packages for ever."""
        if self.kind == "path":
            return os.path.normpath(self.place).startswith("/nix/store/")
        is_latest = self.kind == "nixpkgs" and tag == "latest"
        return is_latest or COMMIT.fullmatch(tag) is not None


class Images:
    """The images that were built, and those that are being built."""

    def __init__(self, command: list[str], source: Source, state: Path) -> None:
        self.command, self.source, self.state = command, source, state
        self.lock = threading.Lock()
        self.running: dict[tuple[str, str], Future[Image]] = {}
        # Each evaluation takes a core.
        self.workers = ThreadPoolExecutor(os.cpu_count())
        self.held: dict[str, Image] = {}
        # Images that no evaluation can change, by name and tag
        self.pinned: dict[tuple[str, str], Image] = {}
        for root in state.glob("*-answer"):
            if root.exists():
                try:
                    self.hold(Image.read(root))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    logging.warning("%s is no answer, and is ignored: %r", root, error)
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

    def find_manifest(self, digest: str) -> tuple[str, bytes] | None:
        """Return media type and text of a manifest: of a held image, or of one in a held index."""
        if image := self.find(digest):
            return image.media_type, image.manifest
        for index in list(self.held.values()):
            if digest in index.images and (location := self.find_blob(digest)):
                return index.images[digest], Path(location["path"]).read_bytes()
        return None

    def build(self, name: str, tag: str) -> Image:
        """Return the image of a name and tag; who asks while it is being built waits with others.

        Unless the tag is a pinned revision, Nix finds out whether anything has to be done. Raises
        Refusal.
        """
        if not self.source.allows(tag):
            message = f"tags that may be asked for: {', '.join(self.source.tags)}"
            raise Refusal(404, "MANIFEST_UNKNOWN", message, None)
        image = self.pinned.get((name, tag))
        if image and image.root.exists():
            return image
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
        arguments.update(self.source.arguments(tag))
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
            image = self.hold(Image.read(root.with_name(root.name + "-answer")))
            if self.source.is_pinned(tag):
                self.pinned[name, tag] = image
            return image
        answer = json.loads(root.read_bytes())
        root.unlink()
        raise Refusal(404, "MANIFEST_UNKNOWN", describe(answer), answer)


def describe(answer: dict[str, Any]) -> str:
    """Say what is wrong with each package of an answer with an error."""
    reasons = {each["name"]: each["reason"] for each in answer.get("unavailable", [])}
    sentences = []
    for name in answer["pkgs"]:
        similar = answer.get("similar", {}).get(name)
        question = f" (did you mean {' or '.join(similar)}?)" if similar else ""
        sentences.append(f"{name} {reasons.get(name, 'was not found')}{question}")
    return "; ".join(sentences)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # Of requests that say none: their refusals have a status line as well.
    default_request_version = protocol_version
    server_version = "nixery"
    timeout = 60  # seconds for a client that neither asks nor takes anything
    images: Images

    def do_GET(self) -> None:
        try:
            self.refuse_body()
            self.answer_request()
        except Refusal as refusal:
            self.refuse(*refusal.args)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.close_connection = True  # the body would be taken for the next request
        message = "this registry is read-only: it serves the images that it builds"
        self.refuse(405, "UNSUPPORTED", message, None)

    do_PUT = do_PATCH = do_DELETE = do_POST

    def refuse_body(self) -> None:
        """Raise Refusal if the request has a body, which would be taken for the next request."""
        lengths = self.headers.get_all("Content-Length", [])
        is_chunked = "Transfer-Encoding" in self.headers
        if is_chunked or self.headers.defects or any(length != "0" for length in lengths):
            self.close_connection = True
            raise Refusal(400, "UNSUPPORTED", "a request has no body here", None)

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
        elif kind == "manifests":
            self.send_manifest(name, reference)
        elif reference == "list":
            tags = [tag for tag in self.images.source.tags if re.fullmatch(TAG, tag)]
            self.send(200, json.dumps({"name": name, "tags": tags}).encode(), "application/json")
        else:
            raise Refusal(404, "UNSUPPORTED", "of tags there is a list and nothing else", None)

    def send_manifest(self, name: str, reference: str) -> None:
        if ":" not in reference:
            image = self.images.build(name, reference)
            reference, found = image.digest, (image.media_type, image.manifest)
        else:
            found = self.images.find_manifest(reference)
        if found is None:
            message = "no image with this manifest is held; ask by tag to have it built"
            raise Refusal(404, "MANIFEST_UNKNOWN", message, None)
        media_type, manifest = found
        self.send(200, manifest, media_type, {"Docker-Content-Digest": reference})

    def send_blob(self, digest: str) -> None:
        location = self.images.find_blob(digest)
        if location is None:
            raise Refusal(404, "BLOB_UNKNOWN", "no image that is held has this blob", None)
        size = location["size"]
        headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
        media_type = "application/octet-stream"
        # What the body consists of: bytes, and spans of the blob
        parts: list[bytes | tuple[int, int]]
        spans = find_spans(self.headers.get("Range", ""), size)
        if spans is None:
            status, parts = 200, [(0, size)]
        elif spans == []:
            status, parts = 416, []
            headers["Content-Range"] = f"bytes */{size}"
        elif len(spans) == 1:
            status, parts = 206, [spans[0]]
            headers["Content-Range"] = content_range(spans[0], size)
        else:
            status, parts = 206, []
            boundary = uuid.uuid4().hex
            for span in spans:
                head = f"Content-Type: {media_type}\r\nContent-Range: {content_range(span, size)}"
                parts += [f"\r\n--{boundary}\r\n{head}\r\n\r\n".encode(), span]
            parts.append(f"\r\n--{boundary}--\r\n".encode())
            media_type = f"multipart/byteranges; boundary={boundary}"
        lengths = [len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts]
        with open(location["path"], "rb") as blob:
            self.send(status, sum(lengths), media_type, headers)
            for part, length in zip(parts, lengths):
                if self.command == "HEAD" or length == 0:
                    continue
                if isinstance(part, bytes):
                    self.wfile.write(part)
                else:
                    self.connection.sendfile(blob, part[0], length)

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
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if isinstance(body, bytes) and self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str, detail: Any) -> None:
        error = {"code": code, "message": message, "detail": detail}
        headers = {"Allow": "GET, HEAD"} if status == 405 else {}
        self.send(status, json.dumps({"errors": [error]}).encode(), "application/json", headers)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Requests that http.server refuses itself."""
        self.close_connection = True
        self.refuse(code, "UNSUPPORTED", message or "not understood", explain)

    def log_message(self, text: str, *arguments: object) -> None:
        logging.info("%s " + text, self.client_address[0], *(repr(one)[1:-1] for one in arguments))


def find_spans(wanted: str, size: int) -> list[tuple[int, int]] | None:
    """Return begin and end of the spans that a Range header asks of `size` bytes.

    None is for all of it: there is no such header, or none that makes sense, or its ranges are more
    than the whole.
    """
    if not RANGES.fullmatch(wanted):
        return None
    spans = []
    for each in re.findall(RANGE, wanted):
        first, _, last = each.partition("-")
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if begin < end:
            spans.append((begin, end))
    return spans if sum(end - begin for begin, end in spans) <= size else None


def content_range(span: tuple[int, int], size: int) -> str:
    return f"bytes {span[0]}-{span[1] - 1}/{size}"


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: tuple[str, int]) -> None:
        logging.warning("%s: %r", client_address[0], sys.exc_info()[1])


def find_program(source: Source, state: Path) -> str:
    """Return nixery-build-image from PATH, or the project's, built with the source's tools.

    Raises subprocess.CalledProcessError.
    """
    program = shutil.which("nixery-build-image")
    if program is None:
        packages = "import ./build-image/names/load-pkgs.nix source"
        expression = f"{{ ... }}@source: import ./. {{ pkgs = {packages}; }}"
        command = ["nix-build", "-E", expression, "-A", "nixery-build-image"]
        command += ["--out-link", str(state / "program")]
        for key, value in source.arguments("latest").items():
            command += ["--argstr", key, value]
        subprocess.run(command, cwd=PROJECT, check=True, stdout=2)
        program = str(state / "program" / "bin" / "nixery-build-image")
    return program


def main() -> None:
    state = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--source", default="nixpkgs", help="nixpkgs, path:/a/package/set, or git:ADDRESS"
    )
    parser.add_argument(
        "--tag",
        action="append",
        default=["latest"],
        dest="tags",
        metavar="PATTERN",
        help="allow tags such as nixos-25.05 or 'nixos-*' beside latest; can be repeated",
    )
    parser.add_argument("--state", type=Path, default=state / "nixery-registry", metavar="FOLDER")
    parser.add_argument("options", nargs="*", help="for nixery-build-image: -- --timeout 600")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    try:
        # Before anything is built; who connects early waits.
        server = Server((arguments.host, arguments.port), Handler)
    except (OSError, OverflowError) as error:  # a port that is taken, or no port
        parser.exit(2, f"{parser.prog}: {arguments.host}:{arguments.port}: {error}\n")
    try:
        source = Source(arguments.source, arguments.tags)
        arguments.state.mkdir(parents=True, exist_ok=True)
        state = arguments.state.resolve()
        program = find_program(source, state)
        Handler.images = Images([program, *arguments.options], source, state)
    except ValueError as error:
        parser.error(f"--source: {error}")
    except subprocess.CalledProcessError:
        parser.exit(1, f"{parser.prog}: nixery-build-image can't be built, for the reason above\n")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    with server:
        logging.info("http://%s:%d", *server.server_address[:2])
        server.serve_forever()


if __name__ == "__main__":
    main()
