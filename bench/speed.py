#!/usr/bin/env python3
"""Measure what a user waits for: grouping, and building images; write speed.md.

    speed.py [--repeats N] [--nixpkgs FOLDER] [--write FOLDER]

Without `--write`, the report is printed. Programs that are compared run alternately, `--repeats`
times; a ratio is the median over neighboring runs, followed by the lowest and the highest. Times
are those of whole processes with all their children.

The first part groups graphs of many sizes (graphs.py). The second part builds images of the small
package set with Nix and, with `--nixpkgs`, a checkout of nixpkgs, the same with its dockerTools.
All is deleted afterwards. Without Nix, this part is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from timing import (
    MEGA,
    Command,
    Failure,
    Run,
    alternate,
    machine,
    median,
    ratio,
    run,
    say,
    spread,
    table,
)

BENCH = Path(__file__).resolve().parent
PROGRAM = BENCH.parent / "group_layers.py"

# How many paths graphs have: those of images, and beyond
PATHS = (100, 250, 1_230, 10_000, 100_000)
STRATEGIES = {"images": (), "nixery": ("--strategy", "nixery")}  # what is grouped how

Revisions = Mapping[str, str]  # of images.nix's own packages, by their bytes
OWN = "100000"  # the program that is edited
# images.nix's names, and about how many store paths
IMAGE_SIZES = {"application": "100", "service": "300"}
DOCKER_TOOLS = "buildLayeredImage, whatever changed"

# What compresses a layer, how, and in parts of how many MiB; None is the whole in one.
COMPRESSORS = (
    ("libdeflate-gzip -6 -c", (None, 2)),
    ("pigz -6 -p 1", (None,)),
    ("zstd -6 -T1 --quiet", (None, 2, 4, 8)),
)


def measure_grouping(folder: Path, repeats: int) -> str:
    """Time group_layers.py; return a section of the report."""
    rows = []
    for count in PATHS:
        say(f"grouping: {count} paths")
        graph = folder / "graph.json"
        # In a process of its own: this one must stay small, see `Run.peak`.
        with open(graph, "w", encoding="utf-8") as stream:
            program: Command = [sys.executable, BENCH / "graphs.py", str(count)]
            subprocess.run(program, stdout=stream, check=True)
        words: Command = [sys.executable, PROGRAM, "--graph", graph, "--out", folder / "plan"]
        runs = alternate({name: [*words, *more] for name, more in STRATEGIES.items()}, repeats)
        for name, its_runs in runs.items():
            cpu = spread([1000 * its_run.cpu for its_run in its_runs])
            rows.append((count, name, cpu, f"{median(its_runs, 'peak') / MEGA:.0f}"))
    return "\n\n".join([
        "## Grouping",
        f"{machine()}, Python {platform.python_version()}; whole processes, {repeats} runs.",
        table(("paths", "strategy", "CPU ms", "peak MB"), rows),
    ])  # fmt: skip


class Builder:
    """Runs Nix on images.nix, and knows what it has built."""

    def __init__(self, packages: str) -> None:
        self.packages = packages
        self.built: set[str] = set()
        # Revisions and times that no image in the store has had yet.
        self.unused = int(time.time())

    def new(self) -> str:
        """Return a number that has not been used in this store."""
        self.unused += 1
        return str(self.unused)

    def new_time(self) -> str:
        """Return a time of files that has not been used: all layers are built for it."""
        then = time.gmtime(int(self.new()) - 10**9)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", then)

    def command(
        self, program: str, attribute: str, size: str, revisions: Revisions, **more: str | bool
    ) -> Command:
        """Return a command that evaluates or builds an attribute of images.nix."""
        text = " ".join(f'"{bytes_}" = "{revision}";' for bytes_, revision in revisions.items())
        command: list[str | Path] = [program, BENCH / "images.nix", "--attr", attribute]
        command += ["--argstr", "set", self.packages, "--argstr", "size", size]
        command += ["--arg", "revisions", f"{{ {text} }}"]
        for name, value in more.items():
            kind = ["--arg", name, str(value).lower()] if value in (True, False) else None
            command += kind or ["--argstr", name, str(value)]
        return [*command, "--no-out-link"] if program == "nix-build" else command

    def closure(self, size: str, revisions: Revisions) -> list[str]:
        """Return the store paths that the contents of an image refer to, sorted."""
        packages = run(self.command("nix-build", "contents", size, revisions)).output.split()
        return sorted(run(["nix-store", "--query", "--requisites", *packages]).output.split())

    def outputs(self, built: Run) -> list[str]:
        """Return the store paths that a run of nix-build has built, and remember them."""
        words = [line.split("'")[1] for line in built.log.splitlines() if line[:10] == "building '"]
        paths = run(["nix-store", "--query", "--outputs", *words]).output.split() if words else []
        self.built.update(paths)
        return paths

    def delete(self) -> None:
        """Delete what was built and remembered."""
        # What is in use stays.
        with contextlib.suppress(Failure):
            run(["nix-store", "--delete", *sorted(self.built)])
        self.built = set()


def nar_size(paths: Sequence[str]) -> int:
    """Return how many bytes store paths have."""
    if not paths:
        return 0
    return sum(map(int, run(["nix-store", "--query", "--size", *paths]).output.split()))


def measure_builds(
    builder: Builder, size: str, repeats: int, folder: Path, nixpkgs: Path | None
) -> list[tuple]:
    """Time evaluating and building an image whose packages are there: rows."""

    def build(
        *words: str,
        attribute: str = "image",
        program: str = "nix-build",
        edited: bool = True,
        from_scratch: bool = False,
        **more: str | bool,
    ) -> Callable[[], Command]:
        def command() -> Command:
            revisions = {OWN: builder.new() if edited else "first"}
            builder.outputs(run(builder.command("nix-build", "contents", size, revisions)))
            if from_scratch:
                more["mtime"] = builder.new_time()
            return [*builder.command(program, attribute, size, revisions, **more), *words]

        return command

    first = partial(build, from_scratch=True)
    commands: dict[str, Command | Callable] = {
        "evaluation, nothing changed": build(program="nix-instantiate", edited=False),
        "nothing changed": build(edited=False),
        "one's own program changed": build(),
        "from scratch": first(),
        "from scratch, --max-jobs auto": first("--max-jobs", "auto"),
        "from scratch, importFromDerivation = false": first(importFromDerivation=False),
    }
    if nixpkgs:
        checkout = str(nixpkgs.resolve())
        commands[DOCKER_TOOLS] = build(attribute="others.archive", nixpkgs=checkout)
        stream = build(attribute="others.stream", nixpkgs=checkout)
        commands["streamLayeredImage >file"] = lambda: [
            *("sh", "-ec", f'$("$@") >{folder}/streamed', "sh"),
            *stream(),
        ]
    run(build(edited=False)())
    runs = alternate(commands, repeats)
    rows = []
    for name, its_runs in runs.items():
        written = [nar_size(builder.outputs(each)) for each in its_runs][-1]
        times = [spread([getattr(each, clock) for each in its_runs]) for clock in ("wall", "cpu")]
        beside = [ratio(its_runs, runs[DOCKER_TOOLS], "wall")] if nixpkgs else []
        rows.append((IMAGE_SIZES[size], name, *times, *beside, f"{written / MEGA:.1f}"))
    builder.delete()
    return rows


def measure_compressors(builder: Builder, folder: Path) -> str:
    """Return a table of what compressors make of an image's closure, whole and in parts."""
    archive, out = folder / "archive", folder / "compressed"
    built = run(builder.command("nix-build", "tools", "application", {})).output.split()
    tools = ["env", "PATH=" + ":".join(f"{tool}/bin" for tool in built)]
    paths = builder.closure("application", {})
    run([*tools, "tar", "--create", "--absolute-names", f"--file={archive}", *paths])
    total = archive.stat().st_size
    rows = []
    for program, sizes in COMPRESSORS:
        for size in sizes:
            say(f"{program}, parts: {size}")
            command = f"{program} <{archive} >{out}"
            if size:
                command = f"split --bytes={size}M --filter='{program}' {archive} >{out}"
            cpu = run([*tools, "sh", "-c", command]).cpu
            compressed = out.stat().st_size
            if not size:
                whole = compressed
            cells = f"{total / cpu / MEGA:.0f}", f"{compressed / MEGA:.1f}"
            more = f"{100 * compressed / whole - 100:.2f} %" if size else ""
            rows.append((program, f"{size} MiB" if size else "whole", *cells, more))
    return "\n\n".join([
        f"On one core, a tar archive of {total / MEGA:.0f} MB:",
        table(("program", "parts", "MB/s of CPU time", "MB", "more than whole"), rows),
    ])  # fmt: skip


def measure_images(folder: Path, packages: str, repeats: int, nixpkgs: Path | None) -> str:
    """Time builds of images; return a section of the report."""
    builder = Builder(packages)
    version = run(["nix-build", "--version"]).output.strip().rpartition(" ")[2]
    rows = []
    for size, paths in IMAGE_SIZES.items():
        say(f"building the image of some {paths} paths")
        rows += measure_builds(builder, size, repeats, folder, nixpkgs)
    beside = ["wall / buildLayeredImage"] if nixpkgs else []
    return "\n\n".join([
        "## Building",
        f"{machine()}, Nix {version} with its default settings, {repeats} runs.",
        table(("paths", "", "wall s", "CPU s", *beside, "written MB"), rows),
        "## Compressing",
        measure_compressors(builder, folder),
    ])  # fmt: skip


def prepare() -> str | None:
    """Return the folder of the small package set; None without Nix, or where it can't be had.

    Sets what the programs that are measured inherit: they ask no cache and write no bytecode. What
    they start ends with this program.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["NIX_CONFIG"] = os.environ.get("NIX_CONFIG", "") + "\nsubstituters ="
    if not shutil.which("nix-build"):
        return None
    fetch = BENCH.parent / "tests/packages/fetch"
    fetched = subprocess.run([fetch], stdout=subprocess.PIPE, text=True, check=False)
    return fetched.stdout.splitlines()[-1] if fetched.returncode == 0 else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", metavar="N", type=int, default=5, help="runs of each (default: %(default)s)")
    add("--nixpkgs", metavar="FOLDER", type=Path, help="a checkout to take dockerTools from")
    add("--write", metavar="FOLDER", type=Path, help="write speed.md there")
    arguments = parser.parse_args(argv)
    packages = prepare()
    sections = ["# Speed, measured", "Written by `bench/speed.py`, whose `--help` explains it."]
    try:
        with tempfile.TemporaryDirectory(prefix="speed-") as name:
            folder, repeats = Path(name), arguments.repeats
            sections.append(measure_grouping(folder, repeats))
            if packages:
                sections.append(measure_images(folder, packages, repeats, arguments.nixpkgs))
            else:
                sections.append("_Left out: building, which needs Nix and the small package set._")
    except Failure as failure:
        say(str(failure))
        return 1
    text = "\n\n".join(sections)
    if arguments.write:
        (arguments.write / "speed.md").write_text(text + "\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
