"""What a push runs on: machines with a Nix store of their own, and servers beside them."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timing import Run, run

__all__ = ["NIX", "Machine", "Relay", "serve"]

# Settings of every machine's Nix: no users to build as, no signatures.
SETTINGS = "build-users-group =\nrequire-sigs = false\nsubstituters = "
NIX = ("nix", "--extra-experimental-features", "nix-command")


class Relay:
    """Passes connections on to an address and counts the bytes that clients send."""

    def __init__(self, target: str) -> None:
        host, port = target.split(":")
        self.target = host, int(port)
        self.sent: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.target)
            for ends in (client, server, self.sent), (server, client, []):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: list[int]) -> None:
        try:
            while data := source.recv(1 << 18):
                counted.append(len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end has hung up


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64  # Nix connects 25 times at once


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Yield an address under which the files of a folder are served."""
    handler = functools.partial(_Files, directory=folder)
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Machine:
    """A machine with a store of its own, which Nix sees in place of /nix."""

    def __init__(self, folder: Path, substituter: str = "") -> None:
        self.folder, self.substituter = folder, substituter
        for name in "nix", "tmp":
            (folder / name).mkdir(parents=True)
        self.use_cache("new")

    def use_cache(self, name: str, empty: bool = False) -> None:
        """Have skopeo use the cache of that name, which is emptied first if wanted."""
        self.containers = self.folder / "containers" / name
        if empty:
            shutil.rmtree(self.containers, ignore_errors=True)
        self.containers.mkdir(parents=True, exist_ok=True)

    def run(self, *words: object) -> Run:
        """Run a program of this machine's. Raises `Failure` unless it succeeds."""
        binds = f"mount --bind {self.folder}/nix /nix && mount --bind {self.containers}"
        inside = binds + ' /var/lib/containers && exec "$@"'
        # Nix keeps there what it knows of binary caches.
        folders = f"TMPDIR={self.folder}/tmp", f"XDG_CACHE_HOME={self.folder}/tmp"
        settings = f"NIX_CONFIG={SETTINGS}{self.substituter}", *folders
        command = "env", *settings, "unshare", "--mount", "sh", "-c", inside, "sh", *words
        return run([str(word) for word in command])

    def output(self, *words: object) -> list[str]:
        """Run a program of this machine's; return the words of its output."""
        return self.run(*words).output.split()

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each valid store path."""
        if not (self.folder / "nix/var").exists():
            return {}
        paths = json.loads(self.run(*NIX, "path-info", "--all", "--json").output)
        return {path["path"]: path["narSize"] for path in paths}
