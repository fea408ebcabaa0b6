"""bench/pull.py: that its figures are what it says."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import hosts  # noqa: E402
import machines  # noqa: E402
import pull  # noqa: E402
from timing import Failure  # noqa: E402

seconds = st.floats(0.01, 10)


@given(seconds, seconds, seconds, st.sets(st.tuples(st.integers(1, 100), st.integers(1, 500))))
def test_times_that_lie_on_a_plane_give_that_plane(
    start: float, layer: float, megabyte: float, images: set[tuple[int, int]]
) -> None:
    # No plane is determined by points on a line.
    origin, *others = sorted(images) or [(0, 0)]
    x, y = others[0] if others else origin
    assume(
        any(
            (x - origin[0]) * (v - origin[1]) != (u - origin[0]) * (y - origin[1])
            for u, v in others
        )
    )
    fit = pull.fit([(n, size, start + layer * n + megabyte * size) for n, size in images])
    assert fit[:3] == pytest.approx((start, layer, megabyte), rel=1e-3, abs=1e-3)
    assert fit.error < 1e-3
    assert fit.price == pytest.approx(layer / megabyte, rel=1e-2)


def test_a_fit_says_how_far_off_it_is() -> None:
    flat = [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    twisted = [(0, 0, 1.5), (0, 1, 0.5), (1, 0, 0.5), (1, 1, 1.5)]
    assert pull.fit(flat).error == pytest.approx(0)
    assert pull.fit(twisted) == pytest.approx((1, 0, 0, 0.5))


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 1000), min_size=1), st.integers(1, 9))
def test_divided_paths_are_all_there_once(sizes: dict[str, int], count: int) -> None:
    groups = pull.divide(sizes, count)
    assert len(groups) == count
    assert sorted(path for group in groups for path in group) == sorted(sizes)
    totals = [sum(sizes[path] for path in group) for group in groups]
    assert max(totals) - min(totals) <= max(sizes.values())


def test_layers_above_a_changed_one_are_pulled_again_by_prefix() -> None:
    after = {"a": 1, "new": 10, "c": 100, "d": 1000}
    assert pull.moved(["a", "b", "c", "d"], after) == (10, 1110)
    assert pull.moved(["a", "new"], after) == (1100, 1100)
    assert pull.moved(["new", "a", "c", "d"], after) == (0, 1111)
    assert pull.moved(list(after), after) == (0, 0)


class Echo(http.server.BaseHTTPRequestHandler):
    """Sends back what it is sent."""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *_: object) -> None:
        pass


def test_a_slow_network_passes_on_every_byte_in_order() -> None:
    data = bytes(range(256)) * 10_000
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        relay = machines.Relay(f"127.0.0.1:{server.server_port}", 0.01, 50_000_000)
        for _ in range(2):
            with urllib.request.urlopen(f"http://{relay.address}/", data=data) as response:
                assert response.read() == data
        server.shutdown()
    assert 2 * len(data) < relay.sent < 2 * len(data) + 2_000
    assert 2 * len(data) < relay.received < 2 * len(data) + 2_000


def test_connections_share_a_bandwidth() -> None:
    direction = machines.Direction(bandwidth=1_000)
    times = [direction.pass_on(500) for _ in range(4)]
    assert times[-1] - times[0] == pytest.approx(1.5)


@pytest.mark.parametrize(
    "text, version",
    [
        ("Docker version 20.10.24+dfsg1, build 297e128", "20.10.24"),
        ("Docker version 28.5.2+dfsg4, build 89c5e8fd66634b6128fc4c0e6f1236e2540e46e0", "28.5.2"),
        ("podman version 4.3.1", "4.3.1"),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1", "1.6.20"),
    ],
)
def test_versions_are_found_in_what_programs_print(text: str, version: str) -> None:
    assert hosts.find_version(text) == version


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers as dockerd does where an image can't be had: with status 200."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"Pulling"}\n{"errorDetail":{"message":"no manifest"}}\n')

    log_message = Echo.log_message


class SocketServer(http.server.ThreadingHTTPServer):
    address_family = machines.socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hosts.Docker:
    monkeypatch.setattr(hosts, "unpack", lambda release: tmp_path)
    return hosts.Docker("none", tmp_path)


def test_a_pull_that_dockerd_reports_as_failed_is_no_measurement(docker: hosts.Docker) -> None:
    path: Any = str(docker.folder / "socket")
    with SocketServer(path, Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Failure, match="no manifest"):
            docker.pull("127.0.0.1:1/image:tag")
        server.shutdown()


def test_what_children_of_a_daemon_compute_is_counted(docker: hosts.Docker) -> None:
    busy = "import time\nwhile time.process_time() < .3: pass\nprint(flush=True); time.sleep(60)"
    shell = f"{sys.executable} -c '{busy}'; exit"
    command = ["sh", "-c", shell]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    with process as docker.process:
        assert process.stdout
        process.stdout.readline()
        assert docker.cpu() >= 0.25
        os.killpg(process.pid, signal.SIGKILL)
