"""Nothing is lost: kills, garbage collection, full disks; and more than one machine."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_loop import kill_loop

from nix import ROOT, Nix, attempt, run
from served import TOOLS, OwnStore, Wrapper


@pytest.fixture(scope="module")
def store(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStore]:
    """A store whose garbage can be collected."""
    folder = tmp_path_factory.mktemp("store")
    yield OwnStore(nix, folder)
    # Nix has made its folders read-only.
    subprocess.run(["rm", "-rf", folder], check=True)


# ------------------------------------------------------------------------------------ one machine


def test_kills_at_random_moments_while_garbage_is_collected(store: OwnStore) -> None:
    """tests/kill_loop.py does it more often."""
    report = kill_loop(store, 8, random.Random(8))
    assert report["kills"] == 8 and report["collections"] > 8


def test_a_full_disk_ends_in_a_clear_error_and_recovers(store: OwnStore, tmp_path: Path) -> None:
    (tmp_path / "default.nix").write_text(
        f'import "{ROOT}/tests/support/odd-packages.nix" {store.wrapper.package_set}\n'
    )
    odd = Wrapper(store.wrapper.program, tmp_path)

    def build_with(megabytes: int) -> subprocess.CompletedProcess[str]:
        # Newer Nixes build below the store's folder, older ones in TMPDIR.
        builds = "/nix/var/nix/builds"
        mount = (
            f"mkdir -p {builds}; mount -t tmpfs -o mode=755,size={megabytes}m tmpfs {builds} && "
            f'mount --bind {builds} {store.folder}/tmp && exec "$@"'
        )
        command = store.command("sh", "-c", mount, "sh", *odd.command(["filling"]))
        return attempt(*command, env=store.environment)

    full = build_with(4)
    assert full.returncode != 0 and full.stdout == ""
    last = full.stderr.splitlines()[-1]
    assert "-filling.drv" in last and "No space left on device" in last
    recovered = build_with(64)
    assert recovered.returncode == 0, recovered.stderr


# -------------------------------------------------------------------------- more than one machine


COPY = ("nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs")


class Machine:
    """A machine that has Nix, the project and the package set, and a store in `folder`."""

    def __init__(self, nix: Nix, folder: Path, *store_paths: Path) -> None:
        self.nix, self.folder = nix, folder
        if store_paths:
            run(*COPY, "--to", folder, *store_paths)

    def build(self, packages: list[str], *words: object) -> tuple[Path, list[str]]:
        """Build the answer; return it as a file and what Nix built."""
        build = self.nix.build(*self.nix.call(packages), "--store", self.folder, *words)
        return Path(f"{self.folder}{build.path}"), build.built

    def store_paths(self) -> set[str]:
        """Return the valid store paths."""
        query = ["nix", "--extra-experimental-features", "nix-command", "path-info", "--all"]
        return set(run(*query, "--store", self.folder).stdout.split())


def digests(answer: Path) -> set[str]:
    return set(json.loads(answer.read_bytes())["layerLocations"])


def copy_to_cache(nix: Nix, packages: list[str], cache: Path) -> None:
    """Copy what `-A cache` lists."""
    listed = nix.build(*nix.call(packages), "-A", "cache").path
    run(*COPY, "--to", f"file://{cache}?compression=zstd", listed)


def test_a_second_machine_builds_nothing(nix: Nix, tmp_path: Path) -> None:
    """All that it needs is what `-A cache` lists, in a binary cache."""
    packages = ["jq", "hello"]
    first = nix.build(*nix.call(packages)).path
    copy_to_cache(nix, packages, tmp_path / "cache")
    machine = Machine(nix, tmp_path / "machine")
    options = ["--option", "substituters", f"file://{tmp_path}/cache"]
    options += ["--option", "require-sigs", "false"]
    answer, built = machine.build(packages, *options)
    assert built == []
    assert answer.read_bytes() == first.read_bytes()
    # Evaluation pulls packages; who knows the answer's store path needs the layers only.
    served = tmp_path / "served"
    run("nix-store", "--store", served, *options, "--realise", first)
    held = {path.name for path in (served / "nix" / "store").iterdir() if path.name != ".links"}
    assert held == {Path(path).name for path in nix.closure(first)}
    for location in json.loads(answer.read_bytes())["layerLocations"].values():
        assert Path(f"{machine.folder}{location['path']}").stat().st_size == location["size"]


def test_a_builder_elsewhere_makes_the_same_image(nix: Nix, tmp_path: Path) -> None:
    packages = ["tree", "hello"]
    first = nix.build(*nix.call(packages)).path
    builder = f"local?root={tmp_path}/builder {os.uname().machine}-linux"
    machine = Machine(nix, tmp_path / "machine", *(nix.package(name) for name in TOOLS))
    answer, built = machine.build(packages, "-j0", "--builders", builder)
    assert any(name.startswith("layer-") for name in built)
    assert answer.read_bytes() == first.read_bytes()


def test_an_answer_holds_layers_and_no_packages(nix: Nix) -> None:
    """So that packages can be collected while their images are served."""
    answer = nix.build(*nix.call(["jq", "hello"])).path
    held = nix.closure(answer)
    packages = nix.closure(nix.package("jq"), nix.package("hello"))
    assert not held & packages
    layers = json.loads(answer.read_bytes())["layerLocations"].values()
    assert all(any(each["path"].startswith(path) for path in held) for each in layers)
