"""What the pages say can be done is done: their links are followed, their commands run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from containers import PODMAN_RUN, container_home, podman_command
from daemons import run_docker, run_ssh_server
from docker_registry import run_registry
from nix import ROOT, TIMEOUT, Nix, run
from pages import Page, pages
from registry_process import free_port

PAGES = pages()
NAMES = [str(page.path.relative_to(ROOT)) for page in PAGES]

# Addresses that the pages use, and what stands in for them where there is no network.
NIXPKGS = re.compile(r"github:NixOS/nixpkgs/[\w.-]+")
CLONE = "/path/to/nixery-build-image"
REGISTRY = "registry.example.org"
SERVER = "me@server.example.org"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings_that_exist(page: Page) -> None:
    for link in page.links:
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = page.path.parent / target if target else page.path
        assert file.exists(), link
        assert not anchor or anchor in Page(file).anchors, link


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry for what the pages push."""
    with run_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.address


@pytest.fixture
def clone(nix: Nix, tmp_path: Path) -> Path:
    """A clone of the project whose default package set is the small one."""
    folder = tmp_path / "clone"
    for name in run("git", "-C", ROOT, "ls-files").stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    example = folder / "examples" / "fleet" / "flake.nix"
    text = example.read_text().replace(f"git+file://{CLONE}", f"path:{folder}")
    example.write_text(NIXPKGS.sub(f"path:{nix.package_set}", text))
    loader = folder / "build-image" / "names" / "load-pkgs.nix"
    loader.rename(loader.with_name("load-given-pkgs.nix"))
    loader.write_text(
        f"""{{ srcType ? "nixpkgs", importArgs ? {{ }}, ... }}@arguments:
        if srcType == "nixpkgs" then
          import {nix.package_set} importArgs
        else
          import ./load-given-pkgs.nix arguments
        """
    )
    return folder


@pytest.fixture
def environment(nix: Nix, registry: str, short_folder: Path, tmp_path: Path) -> dict[str, str]:
    """What a reader has: nixpkgs, flakes, docker (podman under its name), and a registry."""
    programs = tmp_path / "bin"
    programs.mkdir()
    docker = " ".join(map(str, podman_command(short_folder)))
    options = " ".join(PODMAN_RUN)
    (programs / "docker").write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = run ]; then shift; exec {docker} run {options} "$@"; fi\n'
        f'exec {docker} "$@"\n'
    )
    (programs / "docker").chmod(0o755)
    home = container_home(tmp_path)
    registries = home / ".config" / "containers" / "registries.conf"
    registries.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "NIX_PATH": f"nixpkgs={nix.package_set}",
        "NIX_CONFIG": os.environ["NIX_CONFIG"] + "\nexperimental-features = nix-command flakes",
        "HOME": str(home),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
    }


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_work_as_they_stand(
    page: Page,
    nix: Nix,
    clone: Path,
    registry: str,
    environment: dict[str, str],
    short_folder: Path,
) -> None:
    port, server = free_port(), SERVER

    def replace(text: str) -> str:
        text = NIXPKGS.sub(f"path:{nix.package_set}", text)
        text = text.replace(f"git+file://{CLONE}", f"path:{clone}").replace(CLONE, str(clone))
        return text.replace(REGISTRY, registry).replace("8080", str(port)).replace(SERVER, server)

    with ExitStack() as servers:
        if "docker-daemon:" in page.text:
            environment.update(servers.enter_context(with_docker(short_folder, environment)))
        if SERVER in page.text:
            there = {name: environment[name] for name in ("PATH", "DOCKER_HOST")}
            ssh = servers.enter_context(run_ssh_server(short_folder / "ssh", **there))
            environment["PATH"] = ssh.environment(path=environment["PATH"])["PATH"]
            server = f"root@{ssh.address}"
        for block in page.blocks:
            if block.file:
                (clone / block.file).parent.mkdir(parents=True, exist_ok=True)
                (clone / block.file).write_text(replace(block.text))
            elif block.reason:
                continue
            elif block.language == "sh":
                script = running(replace(block.text), clone, environment)
                status, log = servers.enter_context(script)
                assert status == 0, f"{page.path.name}:{block.line}\n{block.text}\n{log}"
            elif block.text.startswith(("let\n", "{\n  pkgs ? import <nixpkgs>")):
                run("nix-instantiate", "-E", replace(block.text), cwd=clone, env=environment)


@contextmanager
def with_docker(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Run a docker that makes no network; yield the variables with which `docker` is that."""
    with run_docker(folder / "docker") as docker:
        program = folder / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = run ]; then shift; set -- run --network=none "$@"; fi\n'
            f'exec {shutil.which("docker")} "$@"\n'
        )
        program.chmod(0o755)
        yield {"DOCKER_HOST": docker.url, "PATH": f"{program.parent}:{environment['PATH']}"}


@contextmanager
def running(script: str, folder: Path, environment: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Run a script; servers that it leaves in the background end with the context."""
    with tempfile.TemporaryFile("w+") as log:
        command = ["bash", "-euo", "pipefail", "-c", script]
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            process.wait(TIMEOUT)
            log.seek(0)
            yield process.returncode, log.read()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
