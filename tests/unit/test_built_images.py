"""The example server's limits, with a stand-in for nixery-build-image that does as it is told."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import built_images
from built_images import GoneError, Image, Images, Refusal, Source

# For an image NAME it waits for the file NAME where NAME-slow or NAME-hanging is, and says first
# that it builds where NAME-slow is. Then it answers, with nonsense where NAME-broken is, or fails
# where NAME-failing is.
STAND_IN = """\
import json, os, sys, time
folder = os.path.dirname(os.path.abspath(__file__))
given = dict(zip(sys.argv, sys.argv[1:]))
words = dict(zip(sys.argv[2:], sys.argv[3:]))
name, link = words["name"], given["--out-link"]
has = lambda ending: os.path.exists(f"{folder}/{name}{ending}")
with open(f"{folder}/started", "a") as log:
    log.write(name + "\\n")
if has("-slow"):
    print("building '/nix/store/x.drv'...", file=sys.stderr, flush=True)
while (has("-slow") or has("-hanging")) and not has(""):
    time.sleep(0.01)
if has("-failing"):
    print("one\\nnixery-build-image: cannot get https://me:very@secret@git/x", file=sys.stderr)
    sys.exit(1)
answer = {"manifest": {"mediaType": "m", "name": name}, "layerLocations": {}}
with open(f"{folder}/answer-of-{name}", "w") as file:
    json.dump(None if has("-broken") else answer, file)
os.symlink(file.name, link + "-answer")
"""


class Server:
    """Images that the stand-in makes, and clients that ask for them at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "stand-in"
        self.program.write_text(f"#!{sys.executable}\n{STAND_IN}")
        self.program.chmod(0o755)
        (folder / "state").mkdir()
        source = Source(f"path:{folder}", ["latest"])
        self.images = Images([str(self.program)], source, folder / "state")
        self.clients = ThreadPoolExecutor(200)
        self.waiting: list[Future[Image]] = []

    def will_be(self, kind: str, *names: str) -> None:
        """Have images be `slow`, `hanging`, `failing` or `broken`."""
        for name in names:
            (self.folder / f"{name}-{kind}").touch()

    def ask(self, name: str, is_gone: Callable[[], bool] = lambda: False) -> Future[Image]:
        """Ask for an image, and don't wait."""
        self.waiting.append(self.clients.submit(self.images.build, name, "latest", is_gone))
        return self.waiting[-1]

    def finish(self, *names: str) -> None:
        """Let slow and hanging images be ready."""
        for name in names:
            (self.folder / name).touch()

    @property
    def started(self) -> list[str]:
        log = self.folder / "started"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.finish(*(file.name.rpartition("-")[0] for file in tmp_path.glob("*-*")))
    server.clients.shutdown()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it has not happened in half a minute")


def test_builds_hold_up_nothing_that_was_built_before(server: Server) -> None:
    slow = [f"slow{number}" for number in range(built_images.BUILDS + 5)]
    server.will_be("slow", *slow)
    builds = [server.ask(name) for name in slow]
    until(lambda: len(set(server.started)) == len(slow))
    # More than there is room for: they have begun, were ended, and wait.
    assert server.ask("built-before").result(30).manifest
    assert not any(build.done() for build in builds)
    server.finish(*slow)
    assert [json.loads(build.result(30).manifest)["name"] for build in builds] == slow


def test_evaluations_take_no_more_than_all_cores(server: Server) -> None:
    hanging = [f"hanging{number}" for number in range(built_images.EVALUATIONS + 3)]
    server.will_be("hanging", *hanging)
    asked = [server.ask(name) for name in hanging]
    until(lambda: len(server.started) == built_images.EVALUATIONS)
    server.finish(*hanging)
    assert all(each.result(30) for each in asked)


def test_one_image_is_made_once_for_all_who_ask(server: Server) -> None:
    server.will_be("slow", "slow")
    asked = [server.ask("slow") for _ in range(10)]
    until(lambda: server.images.jobs["slow", "latest"].clients == 10)
    server.finish("slow")
    assert len({each.result(30).root for each in asked}) == 1
    assert server.started == ["slow"]


def test_what_nobody_waits_for_does_not_begin(server: Server) -> None:
    hanging = [f"hanging{number}" for number in range(built_images.EVALUATIONS)]
    server.will_be("hanging", *hanging)
    for name in hanging:
        server.ask(name)
    until(lambda: len(server.started) == len(hanging))
    gone = threading.Event()
    left = server.ask("given-up", gone.is_set)
    until(lambda: ("given-up", "latest") in server.images.jobs)
    gone.set()
    with pytest.raises(GoneError):
        left.result(30)
    until(lambda: ("given-up", "latest") not in server.images.jobs)
    server.finish(*hanging)
    assert server.ask("other").result(30)
    assert "given-up" not in server.started


def test_a_build_that_has_begun_is_there_for_who_asks_again(server: Server) -> None:
    server.will_be("slow", "slow")
    with pytest.raises(GoneError):
        server.ask("slow", lambda: "slow" in server.started).result(30)
    again = server.ask("slow")
    server.finish("slow")
    assert again.result(30) and server.started == ["slow"]


def test_who_is_one_too_many_is_told_to_come_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built_images, "MOST_JOBS", 4)
    names = [f"hanging{number}" for number in range(built_images.MOST_JOBS)]
    server.will_be("hanging", *names)
    asked = [server.ask(name) for name in names]
    until(lambda: len(server.images.jobs) == len(names))
    with pytest.raises(Refusal) as refusal:
        server.ask("other").result(30)
    assert refusal.value.args[:2] == (503, "UNAVAILABLE")
    joined = server.ask(names[0])  # waits for what is being made already
    server.finish(*names)
    assert joined.result(30) and all(each.result(60) for each in asked)


def test_a_client_gets_the_last_sentence_without_secrets(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.will_be("failing", "bad")
    with caplog.at_level("INFO"), pytest.raises(Refusal) as refusal:
        server.ask("bad").result(30)
    assert refusal.value.args == (
        500,
        "UNKNOWN",
        "nixery-build-image: cannot get https://git/x",
    )
    assert "bad:latest: one" in caplog.text
    assert "very" not in caplog.text and "secret" not in caplog.text


def test_an_answer_that_is_none_is_the_server_s_fault(server: Server) -> None:
    server.will_be("broken", "bad")
    with pytest.raises(Refusal) as refusal:
        server.ask("bad").result(30)
    status, code, message = refusal.value.args
    assert (status, code) == (500, "UNKNOWN") and message.startswith("the server failed: ")
    until(lambda: not server.images.jobs)


def test_blobs_are_links_that_a_web_server_can_follow(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("a blob")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "sha256:1").symlink_to(tmp_path / "collected")
    (tmp_path / "blobs" / "sha256:2").symlink_to(tmp_path / "collected")
    answer = {
        "manifest": {"mediaType": "m"},
        "layerLocations": {"1": {"path": str(tmp_path / "blob")}},
    }
    (tmp_path / "x-answer").write_text(json.dumps(answer))
    images = Images([], Source("nixpkgs", ["latest"]), tmp_path)
    assert images.find_blob("sha256:1").read_text() == "a blob"
    assert [link.name for link in (tmp_path / "blobs").iterdir()] == ["sha256:1"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"manifest": 1}', "\0", '{"manifest": []}', "[" * 200_000]
)
def test_a_damaged_state_file_is_ignored(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "damaged-answer").write_text(text)
    assert not Images([], Source("nixpkgs", ["latest"]), tmp_path).held
    assert "damaged-answer is not an answer, and is ignored" in caplog.text
