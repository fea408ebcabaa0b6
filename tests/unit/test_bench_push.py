"""bench/push.py: that its ways to docker are complete, and what its reports say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import push  # noqa: E402

ADDRESSES = {"registry": "127.0.0.1:1", "docker": "127.0.0.1:2", "server": "127.0.0.1:3"}
PLACES = {"skopeo": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-skopeo", "store": "[vfs@/a+/b]"}


@pytest.mark.parametrize(
    "way, program", [(way, program) for way in push.SCRIPTS for program in push.SCRIPTS[way]]
)
def test_each_way_names_an_address_and_what_was_built(way: str, program: str) -> None:
    script = push.SCRIPTS[way][program].format(name="service", **PLACES, **ADDRESSES)
    assert "$path" in script and "{" not in script
    # docker itself is named by DOCKER_HOST, podman by PATH.
    assert "127.0.0.1:" in script or way in (push.DAEMON, push.PODMAN)


def test_every_way_is_one_of_this_project() -> None:
    assert all(push.OURS in programs for programs in push.SCRIPTS.values())
    assert set(push.SCRIPTS[push.REGISTRY]) == set(push.PROGRAMS)


def test_medians_are_of_each_figure() -> None:
    pushes = [push.Push(wall, 10 - wall, wall, 1, 1) for wall in (1, 9, 2)]
    assert push.middle(pushes) == push.Push(2, 8, 2, 1, 1)
