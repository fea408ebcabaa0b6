#!/usr/bin/env python3
"""Measure the way from a changed package to a registry, and to a running container.

    push.py [--repeats N] [--nixpkgs FOLDER [--nix2container FOLDER]] [--report FILE]

Two images of the small package set (images.nix) have one's own programs on top: "service" with
300 store paths, more than an image has layers, and "application" with 100. A package is changed
and built; then the clock starts, and the image is built and pushed. Machines are folders with a Nix
store of their own, which programs see in place of /nix. Needs root, 5 GB in /tmp, and the programs
of the tests: `dev/test -- bench/push.py`.

The first table is for a machine that has everything but the change, and a docker-registry that has
the previous revision. Bytes are counted between skopeo, whose cache is kept or emptied, and the
registry, requests included. In the second, the clock stops when docker or podman, which has the
previous revision, runs a container that prints the new one. The third is for machines whose store
is empty, or has only the sources of the packages, with a binary cache that has the previous
revision or this one.

With `--nixpkgs`, a checkout of nixpkgs, its dockerTools.streamLayeredImage is measured, too. skopeo
pushes its output from a file, since not every skopeo reads archives from a pipe. With
`--nix2container`, a checkout of nix2container whose folder `bin` has its two programs
(`nix2container`, and a `skopeo` that reads `nix:`), its buildImage is measured as well.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from machines import NIX, Machine, Relay, serve
from plot import Panel, draw
from speed import BENCH, Builder, prepare
from timing import MEGA, Command, Failure, machine, run, say, table

sys.path.insert(0, str(BENCH.parent / "tests/support"))
from containers import PODMAN_RUN, container_home, podman_command, storage_driver
from daemons import run_docker, run_ssh_server  # they lie with the tests
from docker_registry import run_registry

# One's own programs, by their bytes: what changes, one at a time. They compress to less than half.
CHANGING = ("100000", "2500000", "20000000")
EDITED, ONE_MEGABYTE = CHANGING[:2]
LIBRARY = "libc6"
EVERYTHING, NOTHING = "all, from scratch", "nothing"
CACHES = ("empty", "warm")  # skopeo's

# What pushes, by attributes of images.nix
OURS, DOCKER_TOOLS, NIX2CONTAINER = "this project", "dockerTools", "nix2container"
PROGRAMS = {
    OURS: "image.copyTo",
    DOCKER_TOOLS: "others.stream",
    NIX2CONTAINER: "others.nix2container",
}

# Images of images.nix
SERVICE, SMALL, SMALLEST = "service", "application", "smallest"

# What a machine with an empty store does
TOLD = "pushes what another has built, knowing its store path"
EVALUATE = "evaluates and pushes what another has built"
WITHOUT_IMPORT = f"{EVALUATE}, importFromDerivation = false"
BUILD = "builds the change and pushes"

REGISTRY, DAEMON, SSH = "registry, docker pull", "docker on this machine", "docker by ssh"
PODMAN = "podman on this machine"
ARCHIVE = "$(nix-store --realise {skopeo})/bin/skopeo --insecure-policy copy"
ARCHIVE += " docker-archive:$TMPDIR/archive"
TO_REGISTRY = "docker://{registry}/{name} --dest-tls-verify=false"
# Shell scripts that move an image, by where it goes; $path is what the program has built. As users
# do it, if a program has no way of its own.
SCRIPTS = {
    REGISTRY: {
        OURS: f"$path/bin/copy-to {TO_REGISTRY}",
        DOCKER_TOOLS: f"$path >$TMPDIR/archive; {ARCHIVE} {TO_REGISTRY}",
        NIX2CONTAINER: f"$path/bin/copy-to {TO_REGISTRY}",
    },
    DAEMON: {
        OURS: "$path/bin/copy-to docker-daemon:{name}:latest",
        DOCKER_TOOLS: "$path | docker load",
        # Its skopeo, asked for docker-daemon:, needs docker 25 or later.
        NIX2CONTAINER: "rm -f $TMPDIR/image; $path/bin/copy-to docker-archive:$TMPDIR/image:{name}"
        "; docker load --input $TMPDIR/image",
    },
    SSH: {
        OURS: "$path/bin/copy-to ssh://root@{server}/{name}:latest",
        DOCKER_TOOLS: "$path | gzip --fast | ssh ssh://root@{server} docker load",
    },
    PODMAN: {
        OURS: "$path/bin/copy-to 'containers-storage:{store}{name}:latest'",
        DOCKER_TOOLS: "$path | podman load --quiet",
        NIX2CONTAINER: "$path/bin/copy-to 'containers-storage:{store}{name}:latest'",
    },
}


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
    return ["" if math.isnan(figure) else f"{figure:.2f}" for figure in figures]


class Bench:
    """The machine that has everything, the registry, the cache, and the image's expressions."""

    def __init__(
        self, folder: Path, packages: str, addresses: dict[str, str], given: dict[str, str]
    ) -> None:
        """`addresses` are those of registry, docker and sshd, as SCRIPTS name them.

        `given` are the folders of what is measured beside, as arguments of images.nix.
        """
        self.folder, self.packages, self.given = folder, packages, given
        self.programs = list(PROGRAMS)[: 1 + len(given)]
        self.relays = {name: Relay(address) for name, address in addresses.items()}
        self.skopeo = Path(os.path.realpath(shutil.which("skopeo") or "")).parents[1]
        self.registry = self.relays["registry"].address
        self.cache = folder / "cache"
        self.revisions = dict.fromkeys(CHANGING, "first")
        self.builder = Builder(packages)
        say("making the machine that has everything")
        self.home = Machine(folder / "home")
        # Evaluated by the first command; its packages are this machine's.
        known = [self.build("contents"), self.build("tools"), self.build("contents", SERVICE)]
        paths = [path for command in known for path in run(command).output.split()]
        programs = "docker", "ssh", "podman", "runc", "conmon"
        paths += [os.path.realpath(shutil.which(name) or name) for name in programs]
        run([*NIX, "copy", "--no-check-sigs", "--to", self.home.folder, *paths])
        self.prepare()
        self.store = self.add_podman(folder / "podman")

    def add_podman(self, storage: Path) -> str:
        """Put a podman with a storage of its own into PATH; return how skopeo names the storage."""
        programs = storage / "bin"
        programs.mkdir(parents=True)
        podman = " ".join(map(str, podman_command(storage))).partition(" ")
        lines = [
            "#!/bin/sh",
            f"export HOME={container_home(storage)}",
            f'exec {shutil.which("podman")} {podman[2]} "$@"',
        ]
        (programs / "podman").write_text("\n".join(lines) + "\n")
        (programs / "podman").chmod(0o755)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
        return f"[{storage_driver(storage)}@{storage}/root+{storage}/run]"

    def prepare(self) -> None:
        """Have what each program needs for any image: its tools, and what it builds for itself."""
        for attribute in "tools", *(PROGRAMS[program] for program in self.programs):
            self.home.run(*self.build(attribute, SMALLEST))

    def build(self, attribute: str, size: str = SMALL, **more: str | bool) -> Command:
        """Return the command that builds an attribute of images.nix."""
        command = self.builder.command
        return command("nix-build", attribute, size, self.revisions, **self.given, **more)

    def change(self, package: str, size: str = SMALL) -> str:
        """Change a program of one's own, or a library below everything; build what is new.

        Returns the store path of the program, if it is one.
        """
        new = self.builder.new()
        if package == LIBRARY:
            self.builder.packages = change_package(self.packages, LIBRARY, self.folder, new)
            self.prepare()
        elif package in CHANGING:
            self.revisions[package] = new
        paths = self.home.output(*self.build("contents", size))
        # They come in the order of the alphabet, and before the others.
        return paths[sorted(CHANGING).index(package)] if package in CHANGING else ""

    @property
    def sent(self) -> int:
        """How many bytes have been sent to the registry, docker and sshd."""
        return sum(relay.sent for relay in self.relays.values())

    def script(self, get: Command, program: str, way: str, name: str) -> str:
        """Return a shell script that moves an image; `get` prints the path of what does it."""
        addresses = {name: relay.address for name, relay in self.relays.items()}
        get_path = " ".join(f"'{word}'" for word in get)
        places = {**addresses, "skopeo": self.skopeo, "store": self.store}
        script = SCRIPTS[way][program].format(name=name, **places)
        return f"path=$({get_path}); {script}"

    def push(self, on: Machine, name: str, program: str, get: Command) -> tuple[Push, str]:
        """Get what pushes to the registry and run it, both measured; return the log as well."""
        image = f"docker://{self.registry}/{name}"
        before, sizes = layers_of(image), on.sizes()
        sent = self.sent
        done = on.run("sh", "-ec", self.script(get, program, REGISTRY, name))
        sent = self.sent - sent
        layers = layers_of(image).items()
        changed = sum(size for digest, size in layers if digest not in before)
        written = sum(size for path, size in on.sizes().items() if path not in sizes)
        moved = [amount / MEGA for amount in (sent, changed, written)]
        return Push(done.wall, done.cpu, *moved), done.log

    def deploy(self, way: str, program: str, package: str) -> tuple[float, float, float]:
        """Change a program of one's own, and have docker or podman run it in the service.

        Returns seconds, CPU seconds without those of the daemon, and megabytes sent to docker or
        podman, which are not known of what others copy into podman's storage.
        """
        name = slug(SERVICE, program)
        path = self.change(package, SERVICE)
        script = self.script(self.build(PROGRAMS[program], SERVICE), program, way, name)
        image = "application" if program == DOCKER_TOOLS else name
        if way == REGISTRY:
            image = f"{self.registry}/{name}"
            script += f"; docker pull --quiet {image}"
        read = f"print(open('{path}/needs').readline())"
        host = "podman" if way == PODMAN else "docker"
        options = " ".join(PODMAN_RUN) if way == PODMAN else "--rm --network=none"
        script += f'; {host} run {options} {image} /bin/python3 -c "{read}"'
        before = self.sent
        done = self.home.run("sh", "-ec", script)
        if done.output.split()[-1] != self.revisions[package]:
            raise Failure(f"{program}, {way}: the container has an old program: {done.output}")
        moved = float(self.sent - before) if way != PODMAN or program == OURS else math.nan
        # They pull from copy-to itself.
        pulled = re.findall(r"sent \d+ of \d+ layers, ([\d.]+) ([kM])B", done.log)
        for size, unit in pulled if way in (DAEMON, PODMAN) else ():
            moved += float(size) * {"k": 1000, "M": MEGA}[unit]
        return done.wall, done.cpu, moved / MEGA

    def publish(self, program: str, **more: str | bool) -> str:
        """Build the image at home and copy it to the cache; return the program that pushes it."""
        wanted = ["tools", "image.cache"] if program == OURS else ["tools"]
        commands = [self.build(name, SMALL, **more) for name in wanted]
        paths = [path for command in commands for path in self.home.output(*command)]
        (path,) = self.home.output(*self.build(PROGRAMS[program], SMALL, **more))
        to = f"file://{self.cache}?compression=zstd"
        self.home.run(*NIX, "copy", "--to", to, *paths, path)
        return path

    def pulled(self, log: str) -> tuple[float, float]:
        """Return the megabytes that Nix has copied from the cache, says its log: tools, others."""
        paths = self.home.output(*self.build("tools"))
        tools = set(self.home.output("nix-store", "--query", "--requisites", *paths))
        total = [0.0, 0.0]
        for path in re.findall(r"^copying path '([^']+)'", log, re.MULTILINE):
            narinfo = (self.cache / f"{Path(path).name[:32]}.narinfo").read_text()
            size = int(narinfo.partition("\nFileSize: ")[2].partition("\n")[0])
            total[path not in tools] += (size + len(narinfo)) / MEGA
        return total[0], total[1]


def layers_of(image: str) -> dict[str, int]:
    """Return the bytes of each layer of a registry's image, by digest; none if it is not there."""
    try:
        manifest = run(["skopeo", "inspect", "--raw", "--tls-verify=false", image]).output
    except Failure:
        return {}
    return {layer["digest"]: layer["size"] for layer in json.loads(manifest)["layers"]}


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


def describe(changed: str) -> str:
    """Return what has changed, for people."""
    if changed in CHANGING:
        return f"one's own program of {int(changed) / MEGA:g} MB"
    return "libc, below everything" if changed == LIBRARY else changed


def slug(*words: str) -> str:
    """Return words as the name of a repository."""
    return "-".join(words).lower().replace(" ", "-")


def measure_changes(bench: Bench, repeats: int) -> str:
    """Push from the machine that has everything; return the table."""
    changes = [(SMALL, EVERYTHING, 1), (SERVICE, EVERYTHING, 1), (SERVICE, EDITED, repeats)]
    changes += [(SMALL, package, repeats) for package in (NOTHING, *CHANGING)]
    changes += [(SMALL, LIBRARY, 1)]
    ways = [(*change, cache) for change in changes for cache in CACHES[: 1 + (change[2] > 1)]]
    rows = []
    for image, package, times, cache in ways:
        what = describe(package)
        say(f"{image}, changed: {what}; skopeo's cache: {cache}")
        results: dict[str, list[Push]] = {program: [] for program in bench.programs}
        for _ in range(times):
            bench.change(package, image)
            for program, pushes in results.items():
                bench.home.use_cache(slug(program), empty=cache == "empty")
                get = bench.build(PROGRAMS[program], image)
                pushes.append(bench.push(bench.home, slug(image, program), program, get)[0])
        medians = {program: middle(pushes) for program, pushes in results.items()}
        if (image, package) == (SERVICE, EVERYTHING):
            continue  # it shares layers with the application
        for program, push in medians.items():
            rows.append((image, what, cache, program, *cells(push)))
    rows.sort(key=lambda row: row[0] != SERVICE)  # the edit first
    header = "image", "changed", "skopeo's cache", "program", *FIGURES
    return table(header, rows)


def measure_containers(bench: Bench, repeats: int) -> tuple[str, list[Panel]]:
    """Change a program of one's own, and have docker run it.

    Returns the table and, for each way, seconds by the MB of the program.
    """
    ways = [(way, program) for way in SCRIPTS for program in bench.programs]
    ways = [(way, program) for way, program in ways if program in SCRIPTS[way]]
    for way, program in ways:
        say(f"{way} {program}: the first time")
        bench.deploy(way, program, EDITED)
    rows = []
    panels = [Panel(way, {}) for way in SCRIPTS]
    for package in CHANGING:
        results: dict[tuple[str, str], list] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, program in ways:
                say(f"{way} {program}: {describe(package)}")
                results[way, program].append(bench.deploy(way, program, package))
        for (way, program), runs in results.items():
            wall, *others = map(statistics.median, zip(*runs))
            rows.append((describe(package), way, program, *cells([wall, *others])))
            (panel,) = (panel for panel in panels if panel.title == way)
            panel.lines.setdefault(program, []).append((int(package) / MEGA, wall))
    header = "changed", "to", "program", "wall s", "CPU s", "sent MB"
    return table(header, rows), panels


def push_from_empty(
    bench: Bench, program: str, role: str, substituter: str
) -> tuple[Push, tuple[float, float]]:
    """Push a change of one megabyte from a new machine; return that, and what it has pulled."""
    more = {"importFromDerivation": False} if role == WITHOUT_IMPORT else {}
    repository = slug("fresh", program)
    bench.push(bench.home, repository, program, bench.build(PROGRAMS[program], SMALL, **more))
    path = bench.publish(program, **more)
    bench.change(ONE_MEGABYTE)
    if role != BUILD:
        path = bench.publish(program, **more)
    fresh = Machine(bench.folder / "fresh", substituter)
    get: Command = ["nix-store", "--realise", path]
    if role != TOLD:
        get = bench.build(PROGRAMS[program], SMALL, **more)
        # What stands for nixpkgs' expressions: the packages' sources and derivations.
        for attribute in "contents", "tools":
            fresh.run("nix-instantiate", *bench.build(attribute)[1:-1])
    push, log = bench.push(fresh, repository, program, get)
    run(["rm", "-rf", fresh.folder])
    return push, bench.pulled(log)


def measure_empty_stores(bench: Bench, substituter: str, repeats: int) -> str:
    """Push from machines with an empty store, each of them made anew; return the table."""
    rows = []
    ways = [(OURS, role) for role in (TOLD, EVALUATE, WITHOUT_IMPORT, BUILD)]
    ways += [(program, role) for program in bench.programs[1:] for role in (TOLD, BUILD)]
    for program, role in ways:
        say(f"empty store, {program}: {role}")
        # What is measured beside takes longest.
        times = (repeats + 1) // 2 if program == OURS else 1
        results = [push_from_empty(bench, program, role, substituter) for _ in range(times)]
        push = middle(push for push, _ in results)
        pulled = map(statistics.median, zip(*(pulled for _, pulled in results)))
        rows.append((role, program, *cells((*push[:4], *pulled))))
    header = "the machine", "program", *FIGURES[:4], "pulled: tools", "pulled: others"
    return table(header, rows)


def write_report(file: Path, changes: str, containers: str, empty_stores: str) -> None:
    """Write the report."""
    nix, skopeo = (run([name, "--version"]).output.split()[-1] for name in ("nix-build", "skopeo"))
    docker = run(["docker", "version", "--format", "{{.Server.Version}}"]).output.strip()
    paragraphs = (
        "# From a change to the registry and to a container, measured",
        f"Written by `bench/push.py`, whose `--help` says what is measured: {machine()}, Nix {nix} "
        f"with its default settings, skopeo {skopeo}, docker {docker}. Figures are medians. "
        f"In the last 15 minutes {os.getloadavg()[2]:.1f} processes were running on average.",
        "## A machine that has everything but the change",
        changes,
        "## From an edit to a running container",
        f"![Seconds from an edit to a running container]({file.stem}.svg)",
        "The image is the service, which `copy-to` sends to `docker://`, where docker pulls it, to "
        "`docker-daemon:`, to `ssh://` or to `containers-storage:`. `docker load` takes "
        "dockerTools' stream, and nix2container's archive, `podman load` the stream; nix2container "
        "copies into podman's storage itself. CPU time is without that of docker's daemon.",
        containers,
        "## A machine with an empty store and a binary cache",
        "The image is the application. The last two figures are megabytes pulled from the cache. "
        "Tools are skopeo, Python and what packs layers, with their closures.",
        empty_stores,
    )
    file.write_text("\n\n".join(paragraphs) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", metavar="N", type=int, default=3, help="runs of each (default: %(default)s)")
    add("--nixpkgs", metavar="FOLDER", help="a checkout to take dockerTools from")
    add("--nix2container", metavar="FOLDER", help="a checkout, built; needs --nixpkgs")
    add("--report", metavar="FILE", type=Path, default=BENCH / "push.md", help="where it goes")
    arguments = parser.parse_args(argv)
    given = {"nixpkgs": arguments.nixpkgs, "nix2container": arguments.nix2container}
    given = {name: folder for name, folder in given.items() if folder}
    if list(given) == ["nix2container"]:
        parser.error("--nix2container needs --nixpkgs")
    packages = prepare()
    if packages is None:
        parser.error("needs Nix and the small package set")
    # Names of sockets are short.
    folder = Path(tempfile.mkdtemp(prefix="push-", dir="/tmp"))
    for name in "registry", "cache":
        (folder / name).mkdir()
    repeats = arguments.repeats
    try:
        with ExitStack() as stack:
            registry = stack.enter_context(run_registry(folder / "registry"))
            daemon = stack.enter_context(run_docker(folder / "docker"))
            there = {"PATH": os.environ["PATH"], "DOCKER_HOST": daemon.url}
            server = stack.enter_context(run_ssh_server(folder / "ssh", **there))
            addresses = {"registry": registry.address, "server": server.address}
            addresses["docker"] = daemon.tcp.partition("//")[2]
            bench = Bench(folder, packages, addresses, given)
            os.environ["PATH"] = server.environment()["PATH"]
            os.environ["DOCKER_HOST"] = f"tcp://{bench.relays['docker'].address}"
            changes = measure_changes(bench, repeats)
            bench.builder.packages = packages
            containers, panels = measure_containers(bench, repeats)
            web = stack.enter_context(serve(folder / "cache"))
            empty_stores = measure_empty_stores(bench, web, repeats)
            write_report(arguments.report, changes, containers, empty_stores)
    except Failure as failure:
        say(str(failure))
        return 1
    finally:
        run(["rm", "-rf", folder])
    chart = draw(
        panels,
        "From an edit to a running container: lower is better",
        "MB of the program that is edited",
        "seconds",
        bold=[OURS],
        logarithmic=True,
    )
    arguments.report.with_suffix(".svg").write_text(chart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
