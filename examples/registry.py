#!/usr/bin/env python3
"""A read-only container registry that builds what is pulled from it.

    examples/registry.py &
    skopeo copy --src-tls-verify=false docker://localhost:8080/git/jq oci:image

The image's name is its packages (`shell` stands for bash and common tools). The tag is the
revision of nixpkgs that they come from, and `latest` the project's own. Other tags must be allowed
with --tag, since a tag can name any commit of any fork of nixpkgs.

With `-- --argstr systems '["x86_64-linux", "aarch64-linux"]'` each client gets the image for its
machine.

It is for trying this out, and shows how a server uses `nixery-build-image`: it passes what
strangers typed with --argstr, reads one JSON file, and sends files of the Nix store
(built_images.py). Encryption and users are left to a reverse proxy, which can serve the blobs, too:
see docs/registry.md. Follows the "pull" part of the OCI distribution specification 1.1.

When it ends, even if it is killed, its builds end.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import re
import select
import shutil
import signal
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from built_images import GoneError, Images, Refusal, Source, conceal, start

PROJECT = Path(__file__).resolve().parent.parent
PROGRAM = PROJECT / "build-image" / "programs" / "nixery_build_image.py"

# From the specification: an image's name, and what comes after it.
NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
ROUTE = re.compile(rf"/v2/({NAME})/(manifests|blobs|tags|referrers)/({TAG}|sha256:[0-9a-f]{{64}})")
NAME_LENGTH = 255  # what clients are known to cope with, host and all

# "bytes=0-9,20-,-5": from which byte to which, from which on, how many at the end
RANGE = "([0-9]{1,18})-([0-9]{0,18})|()-([0-9]{1,18})"
RANGES = re.compile(rf"bytes=(?:{RANGE})(?: *, *(?:{RANGE}))*")
MOST_RANGES = 1024  # as many as podman asks for
RETRY_AFTER = 30  # seconds, for a client that is one too many


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
        except GoneError:
            self.close_connection = True

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.close_connection = True  # the body would be taken for the next request
        message = "this registry is read-only, it serves what it builds: push to another one"
        self.refuse(405, "UNSUPPORTED", message)

    do_PUT = do_PATCH = do_DELETE = do_POST

    def refuse_body(self) -> None:
        """Raise Refusal if the request has a body, which would be taken for the next request."""
        lengths = self.headers.get_all("Content-Length", [])
        is_chunked = "Transfer-Encoding" in self.headers
        if is_chunked or self.headers.defects or any(length != "0" for length in lengths):
            self.close_connection = True
            raise Refusal(400, "UNSUPPORTED", "requests must not have a body")

    def answer_request(self) -> None:
        if self.path in ("/v2", "/v2/"):
            self.send(200, b"{}", "application/json")
            return
        route = ROUTE.fullmatch(self.path.partition("?")[0])
        if route is None or len(route[1]) > NAME_LENGTH:
            message = "not a valid name of an image with a valid tag or digest"
            raise Refusal(400, "NAME_INVALID", message)
        name, kind, reference = route.groups()
        if kind == "blobs":
            self.send_blob(reference)
        elif kind == "manifests":
            self.send_manifest(name, reference)
        elif kind == "tags" and reference == "list":
            tags = [tag for tag in self.images.source.tags if re.fullmatch(TAG, tag)]
            self.send(200, json.dumps({"name": name, "tags": tags}).encode(), "application/json")
        else:
            # Of referrers, the specification has this status say that there is no such API.
            raise Refusal(404, "UNSUPPORTED", f"there is no such request about {kind}")

    def is_gone(self) -> bool:
        """Return whether the client has hung up."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def send_manifest(self, name: str, reference: str) -> None:
        if ":" not in reference:
            image = self.images.build(name, reference, self.is_gone)
            reference = image.digest
            found: tuple[str, bytes] | None = image.media_type, image.manifest
        else:
            found = self.images.find_manifest(reference)
        if found is None:
            message = "no image with this manifest is held; ask by tag to have it built"
            raise Refusal(404, "MANIFEST_UNKNOWN", message)
        media_type, manifest = found
        self.send(200, manifest, media_type, {"Docker-Content-Digest": reference})

    def send_blob(self, digest: str) -> None:
        try:
            blob = self.images.find_blob(digest).open("rb")
        except OSError:
            raise Refusal(404, "BLOB_UNKNOWN", "no image here has this blob") from None
        with blob:
            size = os.fstat(blob.fileno()).st_size
            headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
            media_type = "application/octet-stream"
            # The specification has ranges only for GET.
            wanted = self.headers.get("Range", "") if self.command == "GET" else ""
            spans = find_spans(wanted, size)
            # What the body consists of: bytes, and spans of the blob
            parts: list[bytes | tuple[int, int]]
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
                opening = f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: "
                for span in spans:
                    parts += [f"{opening}{content_range(span, size)}\r\n\r\n".encode(), span]
                parts.append(f"\r\n--{boundary}--\r\n".encode())
                media_type = f"multipart/byteranges; boundary={boundary}"
            lengths = [len(it) if isinstance(it, bytes) else it[1] - it[0] for it in parts]
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

    def refuse(self, status: int, code: str, message: str, detail: Any = None) -> None:
        error = {"code": code, "message": message, "detail": detail}
        headers = {405: {"Allow": "GET, HEAD"}, 503: {"Retry-After": str(RETRY_AFTER)}}
        body = json.dumps({"errors": [error]}).encode()
        self.send(status, body, "application/json", headers.get(status))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Requests that http.server refuses itself."""
        self.close_connection = True
        self.refuse(code, "UNSUPPORTED", message or "not understood", explain)

    def log_message(self, text: str, *arguments: object) -> None:
        logging.info("%s " + text, self.client_address[0], *(repr(one)[1:-1] for one in arguments))


def find_spans(wanted: str, size: int) -> list[tuple[int, int]] | None:
    """Return begin and end of the spans that a Range header asks of `size` bytes.

    None is for all of it: there is no such header, or none that makes sense, or it asks for more
    than the whole or in too many parts.
    """
    ranges = re.findall(RANGE, wanted) if RANGES.fullmatch(wanted) else []
    if not 0 < len(ranges) <= MOST_RANGES:
        return None
    spans = []
    for first, last, _, suffix in ranges:
        if first and last and int(last) < int(first):
            return None
        begin = int(first) if first else max(0, size - int(suffix))
        end = min(size, int(last) + 1) if last else size
        if begin < end:
            spans.append((begin, end))
    return spans if sum(end - begin for begin, end in spans) <= size else None


def content_range(span: tuple[int, int], size: int) -> str:
    return f"bytes {span[0]}-{span[1] - 1}/{size}"


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: tuple[str, int]) -> None:
        logging.warning("%s: %r", client_address[0], sys.exc_info()[1])


def find_command(options: list[str]) -> list[str]:
    """Return the words that run nixery-build-image: the one of PATH, or the project's own.

    Ends the program with one line if Nix does not run, or not with these options.
    """
    program, nix_build = shutil.which("nixery-build-image"), shutil.which("nix-build")
    if program:
        command = [program, *options]
    elif nix_build:
        command = ["env", f"PYTHONPATH={PROJECT}", sys.executable, "-BsS", str(PROGRAM), nix_build]
        command.append(str(PROJECT / "build-image"))
        command += options
    else:
        sys.exit("registry.py: Nix is missing: neither nix-build nor nixery-build-image is in PATH")
    # With no package to look up, it checks all else and evaluates nothing.
    trial = [*command, "--argstr", "packages", "[]"]
    *_, line = ["no reason given", *start(trial).communicate()[1].splitlines()]
    if "packages is empty" not in line:
        sys.exit(f"registry.py: {conceal(line)}")
    return command


def main() -> None:
    state = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--host", default="localhost", help="where to listen (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8080, help="(default: %(default)s)")
    parser.add_argument(
        "--source", default="nixpkgs", help="nixpkgs, path:/a/package/set, or git:ADDRESS"
    )
    parser.add_argument(
        "--tag",
        action="append",
        default=["latest"],
        dest="tags",
        metavar="PATTERN",
        help="allow tags such as nixos-25.05 or 'nixos-*' in addition to latest; can be repeated",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=state / "nixery-registry",
        metavar="FOLDER",
        help="has a link for each image, which keeps it (default: %(default)s)",
    )
    parser.add_argument("options", nargs="*", help="for nixery-build-image: -- --timeout 600")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    # At once, as any other signal: what runs below this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        # Before Nix is tried; who connects early waits.
        server = Server((arguments.host, arguments.port), Handler)
    except (OSError, OverflowError) as error:  # a port that is taken, or no port
        parser.exit(2, f"{parser.prog}: {arguments.host}:{arguments.port}: {error}\n")
    try:
        source = Source(arguments.source, arguments.tags)
        if source.kind == "path" and not os.path.exists(source.place):
            raise ValueError(f"there is no {source.place}")
        arguments.state.mkdir(parents=True, exist_ok=True)
        state = arguments.state.resolve()
        # Two servers would remove each other's roots.
        fcntl.flock(os.open(state, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        Handler.images = Images(find_command(arguments.options), source, state)
    except ValueError as error:
        parser.error(f"--source: {error}")
    except BlockingIOError:
        parser.exit(1, f"{parser.prog}: another server uses {state}: give each its own --state\n")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    with server:
        logging.info("http://%s:%d", *server.server_address[:2])
        server.serve_forever()


if __name__ == "__main__":
    main()
