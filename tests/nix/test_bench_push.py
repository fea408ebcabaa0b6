"""bench/push.py: that it counts what it says."""

from __future__ import annotations

import http.server
import sys
import threading
import urllib.request
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import push  # noqa: E402
from machines import Relay  # noqa: E402


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes what it is sent and answers with more."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(bytes(1_000_000))

    def log_message(self, *_: object) -> None:
        pass


def test_uploads_are_counted_and_downloads_are_not() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        relay = Relay(f"127.0.0.1:{server.server_port}")
        for _ in range(2):
            address = f"http://{relay.address}/"
            with urllib.request.urlopen(address, data=bytes(3_000_000)) as response:
                assert len(response.read()) == 1_000_000
        server.shutdown()
    # And the requests' heads
    assert 6_000_000 < relay.sent < 6_001_000


def test_another_version_of_libc_is_another_package_for_all(nix, tmp_path: Path) -> None:
    changed = push.change_package(str(nix.package_set), push.LIBRARY, tmp_path, "1")
    for name in "hello", "jq":
        ours, theirs = (
            push.run(["nix-instantiate", folder, "-A", name]).output
            for folder in (nix.package_set, changed)
        )
        assert ours != theirs
