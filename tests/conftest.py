"""Fixtures that the tests share: Nix, the package set, and images that take long to build."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from nix import ROOT, Nix

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Nix asks no cache and uses all cores, whatever nix.conf says, and Python writes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        # Programs that run from the store as root would put their bytecode into it.
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        given = os.environ.get("NIX_CONFIG", "")
        patch.setenv("NIX_CONFIG", f"{given}\nsubstituters =\nmax-jobs = auto")
        patch.delenv("NIX_PATH", raising=False)
        yield


@pytest.fixture(scope="session")
def package_set() -> Path:
    """The folder of the small package set; PACKAGE_SET names another one to test with."""
    if "PACKAGE_SET" in os.environ:
        return Path(os.environ["PACKAGE_SET"])
    fetch = ROOT / "tests" / "packages" / "fetch"
    done = subprocess.run([fetch], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def nix(package_set: Path) -> Nix:
    """Real Nix with the small package set."""
    return Nix(package_set)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for programs that take no long names or fill what they are given."""
    # Not in TMPDIR, which may be long: podman takes 50 characters.
    with tempfile.TemporaryDirectory(prefix="test-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)  # builds of other users go through it
        yield Path(folder)
        # What cleans up after a container of podman outlives `podman run`, and mounts the storage.
        while is_named_by_a_process(folder):
            time.sleep(0.05)


def is_named_by_a_process(folder: str) -> bool:
    """Return whether a running process has `folder` in its command line."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if os.fsencode(folder) in file.read_bytes():
                return True
    return False
