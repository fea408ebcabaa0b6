#!/usr/bin/env python3
"""Measure the way from a changed package to the registry; write the report and its chart.

    push.py [--repeats N] [--nixpkgs FOLDER [--nix2container FOLDER]] [--report FILE]

An application on top of git, python3 and nginx of the small package set (images.nix, "application")
is changed, built and pushed with `copy-to` to a docker-registry on the loopback interface that has
the previous revision. Machines are folders with a Nix store of their own, which programs see in
place of /nix, and with a skopeo cache that is kept or emptied. Needs root, Nix, docker-registry and
skopeo, and 3 GB in the folder for temporary files.

The first table is for a machine that has everything but the change; the changed packages are built
before the clock starts. The second is for machines whose store is empty, or has only the sources of
the packages, with a binary cache that has the previous revision or this one. Bytes pulled are those
of the cache's files; bytes uploaded are counted between skopeo and the registry, requests included.
Times include evaluation.

With `--nixpkgs`, a checkout of nixpkgs, its dockerTools.streamLayeredImage is measured, too. skopeo
pushes its output from a file, since not every skopeo reads archives from a pipe. With
`--nix2container`, a checkout of nix2container whose folder `bin` has its two programs
(`nix2container`, and a `skopeo` that reads `nix:`), its buildImage is measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from machines import NIX, Machine, Relay, serve
from plot import Panel, draw
from speed import BENCH, Builder, find_packages
from timing import MEGA, Command, Failure, machine, run, say, table, verdict

sys.path.insert(0, str(BENCH.parent / "tests/support"))
from docker_registry import run_registry  # it lies with the tests

# Packages of the application by their bytes: what changes, one at a time. They compress to less
# than half.
CHANGING = ("100000", "2500000", "20000000")
ONE_MEGABYTE = "2500000"
LIBRARY = "libc6"
CACHES = ("empty", "warm")  # skopeo's

# What pushes, by attributes of images.nix
OURS = "copy-to"
PROGRAMS = {
    OURS: "image.copyTo",
    "streamLayeredImage": "others.stream",
    "nix2container": "others.nix2container",
}

# What a machine with an empty store does
TOLD = "pushes what another has built, knowing its store path"
EVALUATE = "evaluates and pushes what another has built"
WITHOUT_IMPORT = f"{EVALUATE}, importFromDerivation = false"
BUILD = "builds the change and pushes"

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)


class Push(NamedTuple):
    """What one way from the expression to the registry took: seconds and megabytes."""

    wall: float
    cpu: float
    uploaded: float
    changed: float  # layers that the registry did not have for this image
    written: float  # new store paths


FIGURES = ("wall s", "CPU s", "uploaded MB", "changed layers MB", "written MB")


def middle(pushes: Iterable[Push]) -> Push:
    """Return the median of each figure."""
    return Push(*map(statistics.median, zip(*pushes)))


def cells(figures: Iterable[float]) -> list[str]:
    return [f"{figure:.2f}" for figure in figures]


class Bench:
    """The machine that has everything, the registry, the cache, and the image's expressions."""

    def __init__(self, folder: Path, packages: str, registry: str, given: dict[str, str]) -> None:
        """`given` are the folders of what is measured beside, as arguments of images.nix."""
        self.folder, self.packages, self.registry, self.given = folder, packages, registry, given
        self.programs = list(PROGRAMS)[: 1 + len(given)]
        self.relay = Relay(registry)
        self.cache = folder / "cache"
        self.revisions = dict.fromkeys(CHANGING, "first")
        self.builder = Builder(packages)
        say("making the machine that has everything")
        self.home = Machine(folder / "home")
        # Evaluated by the first command; its packages are this machine's.
        known = [self.build("contents"), self.build("tools")]
        paths = [path for command in known for path in run(command).output.split()]
        run([*NIX, "copy", "--no-check-sigs", "--to", self.home.folder, *paths])

    def build(self, attribute: str, **more: str | bool) -> Command:
        """Return the command that builds an attribute of images.nix."""
        given = {**self.given, **more}
        return self.builder.command("nix-build", attribute, "application", self.revisions, **given)

    def change(self, package: str) -> None:
        """Change a package of the application, or a library below everything."""
        if package == LIBRARY:
            self.builder.packages = change_package(
                self.packages, LIBRARY, self.folder, self.builder.new()
            )
        else:
            self.revisions[package] = self.builder.new()

    def manifest(self, repository: str) -> bytes:
        """Return the manifest that a repository has last got, or one without layers."""
        url = f"http://{self.registry}/v2/{repository}/manifests/latest"
        request = urllib.request.Request(url, headers={"Accept": MANIFEST_TYPES})
        try:
            with urllib.request.urlopen(request) as response:
                return response.read()
        except OSError:
            return b'{"layers": []}'

    def push(
        self, on: Machine, repository: str, program: str, get: Sequence[object]
    ) -> tuple[Push, str]:
        """Get the program that pushes and run it, both measured; return the log as well.

        `get` is a command that prints the program's store path.
        """
        get_path = " ".join(f"'{word}'" for word in get)
        to = f"docker://{self.relay.address}/{repository} --dest-tls-verify=false"
        if program == "streamLayeredImage":
            copy = f"skopeo --insecure-policy copy docker-archive:$TMPDIR/archive {to}"
            script = f"path=$({get_path}); $path >$TMPDIR/archive; {copy}"
        else:
            script = f"path=$({get_path}); $path/bin/copy-to {to}"
        before, sizes = layers_of(self.manifest(repository)), on.sizes()
        sent = self.relay.sent
        done = on.run("sh", "-e", "-c", script)
        layers = layers_of(self.manifest(repository)).items()
        changed = sum(size for digest, size in layers if digest not in before)
        written = sum(size for path, size in on.sizes().items() if path not in sizes)
        moved = [amount / MEGA for amount in (self.relay.sent - sent, changed, written)]
        return Push(done.wall, done.cpu, *moved), done.log

    def publish(self, program: str, **more: str | bool) -> str:
        """Build the image at home and copy it to the cache; return the program that pushes it."""
        wanted = ["tools", "image.cache"] if program == OURS else ["tools"]
        paths = [path for name in wanted for path in self.home.output(*self.build(name, **more))]
        (path,) = self.home.output(*self.build(PROGRAMS[program], **more))
        to = f"file://{self.cache}?compression=zstd"
        self.home.run(*NIX, "copy", "--to", to, *paths, path)
        return path

    def pulled(self, log: str, **more: str | bool) -> dict[str, float]:
        """Return the megabytes that Nix says it has copied from the cache, by their kind."""

        def closure(attribute: str) -> set[str]:
            paths = self.home.output(*self.build(attribute))
            return set(self.home.output("nix-store", "--query", "--requisites", *paths))

        kinds = {
            "tools": closure("tools"),
            "layers": set(self.home.output(*self.build("image.layers", **more))),
            "packages": closure("contents"),
        }
        total = dict.fromkeys([*kinds, "the rest"], 0.0)
        for line in log.splitlines():
            if line.startswith("copying path '"):
                path = line.split("'")[1]
                kind = next((kind for kind, paths in kinds.items() if path in paths), "the rest")
                narinfo = (self.cache / f"{Path(path).name[:32]}.narinfo").read_text()
                size = int(narinfo.partition("\nFileSize: ")[2].partition("\n")[0])
                total[kind] += (size + len(narinfo)) / MEGA
        return total


def layers_of(manifest: bytes) -> dict[str, int]:
    """Return the bytes of each layer by its digest."""
    return {layer["digest"]: layer["size"] for layer in json.loads(manifest)["layers"]}


def describe_upload(manifest: bytes, push: Push) -> str:
    """Return what a push has uploaded besides layers; its image has that manifest."""
    config = json.loads(manifest)["config"]["size"]
    requests = (push.uploaded - push.changed) * MEGA - len(manifest) - config
    return (
        f"Uploads include more than layers: to change {push.changed:.3f} MB in an image of "
        f"{len(layers_of(manifest))} layers, `{OURS}` sends {requests / 1000:.1f} kB of requests, "
        f"most of them to ask for each layer, {len(manifest) / 1000:.1f} kB of manifest and "
        f"{config / 1000:.1f} kB of configuration."
    )


def change_package(packages: str, name: str, folder: Path, version: str) -> str:
    """Return a copy of the small package set, in `folder`, with another version of a package.

    All that needs it is another store path for that, as it is in nixpkgs.
    """
    changed = folder / f"packages-{version}"
    shutil.copytree(packages, changed)
    index = json.loads((changed / "index.json").read_text())
    index["packages"][name]["version"] += f".{version}"
    (changed / "index.json").write_text(json.dumps(index))
    return str(changed)


def judge(program: str, *aims: tuple[bool, bool, str]) -> str:
    """Return the table's cell for aims: whether each applies, whether it is met, what it is."""
    return "; ".join(verdict(met, aim) for applies, met, aim in aims if applies and program == OURS)


def measure_changes(bench: Bench, repeats: int) -> tuple[str, str, str]:
    """Push from the machine that has everything; return the table, the chart and a remark."""
    # What, package, runs, skopeo's caches
    changes: list[tuple[str, str | None, int, tuple[str, ...]]]
    changes = [("all, from nothing", None, 1, CACHES[:1]), ("nothing", None, repeats, CACHES)]
    for size in CHANGING:
        changes.append((f"a package of {int(size) / MEGA:g} MB", size, repeats, CACHES))
    changes.append(("libc, below everything", LIBRARY, 1, CACHES[:1]))
    rows = []
    lines: dict[str, dict[str, list[tuple[float, float]]]]
    lines = {cache: {program: [] for program in bench.programs} for cache in CACHES}
    ways = [(*change[:3], cache) for change in changes for cache in change[3]]
    for what, package, times, cache in ways:
        say(f"changed: {what}; skopeo's cache: {cache}")
        results: dict[str, list[Push]] = {program: [] for program in bench.programs}
        for _ in range(times):
            if package:
                bench.change(package)
                bench.home.run(*bench.build("contents"))
            for program, pushes in results.items():
                bench.home.use_cache(program, empty=cache == "empty")
                get = bench.build(PROGRAMS[program])
                pushes.append(bench.push(bench.home, program.lower(), program, get)[0])
        medians = {program: middle(pushes) for program, pushes in results.items()}
        for program, push in medians.items():
            aims = judge(
                program,
                (push.changed > 0, push.uploaded <= 1.05 * push.changed, "1.05 x changed uploaded"),
                (push.changed == 0 and cache == "empty", push.wall <= 1.2, "1.2 s"),
                (package == ONE_MEGABYTE, push.wall <= 2.5, "2.5 s"),
                (package == ONE_MEGABYTE, push.cpu <= 2.0, "CPU 2.0 s"),
            )
            rows.append((what, cache, program, *cells(push), aims))
            if package:
                lines[cache][program].append((medians[OURS].changed, push.uploaded))
        if package == ONE_MEGABYTE:
            remark = describe_upload(bench.manifest(OURS), medians[OURS])
    chart = draw(
        [Panel(f"skopeo's cache is {cache}", lines[cache]) for cache in CACHES],
        "What a change uploads",
        "MB in changed layers, compressed",
        "MB",
        bold=[OURS],
        logarithmic=True,
    )
    return table(("changed", "skopeo's cache", "program", *FIGURES, "aim"), rows), chart, remark


def push_from_empty(
    bench: Bench, program: str, role: str, substituter: str
) -> tuple[Push, dict[str, float]]:
    """Push a change of one megabyte from a new machine; return that, and what it has pulled."""
    more = {"importFromDerivation": False} if role == WITHOUT_IMPORT else {}
    repository = f"fresh-{program.lower()}"
    bench.push(bench.home, repository, program, bench.build(PROGRAMS[program], **more))
    path = bench.publish(program, **more)
    bench.change(ONE_MEGABYTE)
    if role != BUILD:
        path = bench.publish(program, **more)
    fresh = Machine(bench.folder / "fresh", substituter)
    get: Command = ["nix-store", "--realise", path]
    if role != TOLD:
        get = bench.build(PROGRAMS[program], **more)
        # What stands for nixpkgs' expressions: the packages' sources and derivations.
        for attribute in "contents", "tools":
            fresh.run("nix-instantiate", *bench.build(attribute)[1:-1])
    push, log = bench.push(fresh, repository, program, get)
    run(["rm", "-rf", fresh.folder])
    return push, bench.pulled(log, **more)


def measure_empty_stores(bench: Bench, caches: dict[str, str], repeats: int) -> str:
    """Push from machines with an empty store, each of them made anew; return the table."""
    rows = []
    ways = [(OURS, role) for role in (TOLD, EVALUATE, WITHOUT_IMPORT, BUILD)]
    ways += [(program, role) for program in bench.programs[1:] for role in (TOLD, BUILD)]
    for program, role in ways:
        for cache, substituter in caches.items():
            say(f"empty store, cache by {cache}, {program}: {role}")
            # What is measured beside takes longest.
            times = (repeats + 1) // 2 if program == OURS else 1
            results = [push_from_empty(bench, program, role, substituter) for _ in range(times)]
            push = middle(push for push, _ in results)
            pulled = {
                kind: statistics.median(pull[kind] for _, pull in results) for kind in results[0][1]
            }
            rest = pulled["layers"] + pulled["the rest"] - push.changed
            aims = judge(
                program,
                (True, push.uploaded <= 1.1, "1.1 MB uploaded"),
                (role == TOLD, rest <= 0.3, ".3 MB besides changed layers"),
                (role == BUILD, pulled["layers"] == 0, "no layers"),
            )
            rows.append((role, cache, program, *cells((*push[:4], *pulled.values())), aims))
    header = "the machine", "cache", "program", *FIGURES[:4], *pulled, "aim"
    return table(header, rows)


def write_report(file: Path, changes: str, remark: str, empty_stores: str) -> None:
    """Write the report."""
    nix, skopeo = (run([name, "--version"]).output.split()[-1] for name in ("nix-build", "skopeo"))
    paragraphs = (
        "# From a change to the registry, measured",
        f"Written by `bench/push.py`, whose `--help` says what is measured: {machine()}, Nix {nix} "
        f"with its default settings, skopeo {skopeo}. Figures are medians; aims are for `copy-to`. "
        f"In the last 15 minutes {os.getloadavg()[2]:.1f} processes were running on average.",
        "## A machine that has everything but the change",
        changes,
        remark,
        f"![What a change uploads]({file.stem}.svg)",
        "## A machine with an empty store and a binary cache",
        "The last four figures are megabytes pulled from the cache. Tools are skopeo, Python and "
        "what packs layers, with their closures; packages are the image's other store paths. "
        "nix2container's own programs are among the rest.",
        empty_stores,
    )
    file.write_text("\n\n".join(paragraphs) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", metavar="N", type=int, default=5, help="runs of each (default: %(default)s)")
    add("--nixpkgs", metavar="FOLDER", help="a checkout to take dockerTools from")
    add("--nix2container", metavar="FOLDER", help="a checkout, built; needs --nixpkgs")
    add("--report", metavar="FILE", type=Path, default=BENCH / "push.md", help="where it goes")
    arguments = parser.parse_args(argv)
    given = {"nixpkgs": arguments.nixpkgs, "nix2container": arguments.nix2container}
    given = {name: folder for name, folder in given.items() if folder}
    if list(given) == ["nix2container"]:
        parser.error("--nix2container needs --nixpkgs")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["NIX_CONFIG"] = os.environ.get("NIX_CONFIG", "") + "\nsubstituters ="
    packages = find_packages()
    if packages is None:
        parser.error("needs Nix and the small package set")
    folder = Path(tempfile.mkdtemp(prefix="push-"))
    for name in "registry", "cache":
        (folder / name).mkdir()
    try:
        with run_registry(folder / "registry") as registry, serve(folder / "cache") as web:
            bench = Bench(folder, packages, registry.address, given)
            caches = {"file://": f"file://{bench.cache}", "HTTP": web}
            changes, chart, remark = measure_changes(bench, arguments.repeats)
            bench.builder.packages = packages
            empty_stores = measure_empty_stores(bench, caches, arguments.repeats)
    except Failure as failure:
        say(str(failure))
        return 1
    finally:
        run(["rm", "-rf", folder])
    write_report(arguments.report, changes, remark, empty_stores)
    arguments.report.with_suffix(".svg").write_text(chart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
