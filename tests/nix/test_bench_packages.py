"""bench/images.nix and bench/push.py: that packages change as they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import push  # noqa: E402
from speed import Builder  # noqa: E402
from timing import run  # noqa: E402


def test_another_version_of_libc_is_another_package_for_all(nix, tmp_path: Path) -> None:
    changed = push.change_package(str(nix.package_set), push.LIBRARY, tmp_path, "1")
    for name in "hello", "jq":
        ours, theirs = (
            run(["nix-instantiate", folder, "-A", name]).output
            for folder in (nix.package_set, changed)
        )
        assert ours != theirs


@pytest.mark.parametrize("size, least, most", [("application", 95, 99), ("service", 300, 320)])
def test_ones_own_program_lies_on_top_of_what_an_image_has(
    nix, size: str, least: int, most: int
) -> None:
    builder = Builder(str(nix.package_set))
    first, second = (
        set(builder.closure(size, {push.EDITED: revision})) for revision in ("first", "second")
    )
    assert least <= len(first) <= most
    ((program,), _) = first - second, second - first
    references = run(["nix-store", "--query", "--requisites", program]).output.split()
    assert set(references) == first
