"""What a push runs on: machines with a Nix store of their own, and servers beside them."""

from __future__ import annotations

import functools
import http.server
import json
import queue
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

from timing import Run, run

__all__ = ["NIX", "Machine", "Relay", "serve"]

# Settings of every machine's Nix: no users to build as, no signatures.
SETTINGS = "build-users-group =\nrequire-sigs = false\nsubstituters = "
# A relay's network takes bytes in pieces, and so many of them on the way: 4 MB.
PIECE, PIECES = 1 << 16, 64

NIX = ("nix", "--extra-experimental-features", "nix-command")


class Relay:
    """Passes connections on to an address as a network does, and counts the bytes.

    A connection is open after a round trip, given in seconds. In each direction, all connections
    share the bandwidth, in bytes a second. There is no slow start, and nothing is lost.
    """

    def __init__(self, target: str, round_trip: float = 0, bandwidth: float = inf) -> None:
        host, port = target.split(":")
        self.target = host, int(port)
        self.round_trip = round_trip
        self.up, self.down = Direction(bandwidth), Direction(bandwidth)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def sent(self) -> int:
        """How many bytes clients have sent."""
        return self.up.bytes

    @property
    def received(self) -> int:
        """How many bytes clients have got."""
        return self.down.bytes

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            opened = time.monotonic() + self.round_trip
            try:
                server = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            for end in client, server:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            for source, target, way in (client, server, self.up), (server, client, self.down):
                pieces: queue.Queue[tuple[float, bytes]] = queue.Queue(PIECES)
                takes = self._take, (source, way, opened, pieces)
                gives = self._give, (target, pieces)
                for function, arguments in takes, gives:
                    threading.Thread(target=function, args=arguments, daemon=True).start()

    def _take(
        self, source: socket.socket, direction: Direction, opened: float, on_the_way: queue.Queue
    ) -> None:
        with suppress(OSError):  # the end has hung up
            while data := source.recv(PIECE):
                passed = max(opened, direction.pass_on(len(data)))
                on_the_way.put((passed + self.round_trip / 2, data))
        on_the_way.put((0, b""))

    def _give(self, target: socket.socket, on_the_way: queue.Queue) -> None:
        with suppress(OSError):
            while True:
                arrives, data = on_the_way.get()
                time.sleep(max(0, arrives - time.monotonic()))
                if not data:
                    break
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        while data:  # what the other end still sends, until it ends
            _, data = on_the_way.get()


class Direction:
    """What a network passes on in one direction, one piece after the other."""

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth, self.bytes, self.free = bandwidth, 0, 0.0
        self.lock = threading.Lock()

    def pass_on(self, count: int) -> float:
        """Take so many bytes; return the time at which the last of them has been passed on."""
        with self.lock:
            self.bytes += count
            self.free = max(self.free, time.monotonic()) + count / self.bandwidth
            return self.free


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
        cache = "/var/lib/containers"  # root's skopeo takes no other
        binds = f"mkdir -p {cache} && mount --bind {self.containers} {cache}"
        inside = binds + f' && mount --bind {self.folder}/nix /nix && exec "$@"'
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
