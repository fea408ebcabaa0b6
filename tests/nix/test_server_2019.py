"""Nixery's own server, as it was when this program's arguments and answers were made for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import PODMAN_RUN, podman
from docker_registry import run_registry
from nix import ROOT, Nix, attempt, run
from registry_process import digest_at
from served import Wrapper
from server_2019 import MEDIA_TYPE, server_2019


@pytest.fixture(scope="module")
def server(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server with the odd packages beside the others: its host and port."""
    folder = tmp_path_factory.mktemp("odd")
    text = f'import "{ROOT}/tests/support/odd-packages.nix" {nix.package_set}\n'
    (folder / "default.nix").write_text(text)
    with server_2019(Wrapper(Wrapper.of(nix).program, folder)) as port:
        yield f"localhost:{port}"


def copy(*words: object) -> list[object]:
    return ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", *words]


@pytest.mark.parametrize("name", ["git", "shell/hello", "hello/noisy"])
def test_skopeo_takes_what_it_serves(server: str, name: str, tmp_path: Path) -> None:
    run(*copy(f"docker://{server}/{name}", f"dir:{tmp_path}"))
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert manifest["mediaType"] == MEDIA_TYPE
    # skopeo has verified the digests of all blobs.
    assert all(
        (tmp_path / blob["digest"].partition(":")[2]).stat().st_size == blob["size"]
        for blob in [manifest["config"], *manifest["layers"]]
    )


def test_podman_pulls_and_runs_what_it_serves(server: str, short_folder: Path) -> None:
    location = f"{server}/shell/hello"
    podman(short_folder, "pull", "--quiet", "--tls-verify=false", location)
    command = ["run", *PODMAN_RUN, location, "bash", "-c", "hello && ls -d /etc/ssl/certs"]
    assert podman(short_folder, *command).stdout == "Hello, world!\n/etc/ssl/certs\n"


def test_docker_registry_takes_what_it_serves(server: str, tmp_path: Path) -> None:
    """Unchanged, so that its parser is the one that reads the manifest."""
    with run_registry(tmp_path) as there:
        options = ["--dest-tls-verify=false", "--preserve-digests"]
        run(*copy(*options, f"docker://{server}/git", there.reference("git")))
        assert digest_at(f"{there.address}/git") == digest_at(f"{server}/git")


@pytest.mark.parametrize("name", ["unfree", "broken", "gti", "git/removed"])
def test_package_that_cannot_be_had_is_named(server: str, name: str, tmp_path: Path) -> None:
    done = attempt(*copy(f"docker://{server}/{name}", f"dir:{tmp_path}"))
    missing = name.rpartition("/")[2]
    assert f"Could not find Nix packages: [{missing}]" in done.stderr
