#!/usr/bin/env python3
"""Measure the way from a changed package to the registry; write the report and its chart.

    push.py [--repeats N] [--nixpkgs FOLDER] [--report FILE]

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
pushes its output from a file, since not every skopeo reads archives from a pipe.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from plot import Panel, draw
from speed import BENCH, MEGA, Builder, Failure, Run, find_packages, machine, run, table, verdict

# Packages of the application by their bytes: what changes, one at a time. They compress to less
# than half.
CHANGING = ("100000", "2500000", "20000000")
ONE_MEGABYTE = "2500000"

# Settings of every machine's Nix: no users to build as, no signatures.
SETTINGS = "build-users-group =\nrequire-sigs = false\nsubstituters = "

NIX = ("nix", "--extra-experimental-features", "nix-command")
IMAGE = "application"
CACHES = ("empty", "warm")  # skopeo's
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)


def say(message: str) -> None:
    """Print what is being done; the report goes to a file."""
    print(f"push: {message}", file=sys.stderr, flush=True)


class Relay:
    """Passes connections on to a port of this machine and counts the bytes that clients send."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.sent: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            for ends in (client, server, self.sent), (server, client, []):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: list[int]) -> None:
        try:
            while data := source.recv(1 << 18):
                counted.append(len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end has hung up


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(port: int, *command: object) -> subprocess.Popen[bytes]:
    """Start a server, and wait until it listens. Raises `Failure` if it does not."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([str(word) for word in command], **quiet)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise Failure(f"{command[0]} does not listen")


class Registry:
    """A docker-registry and the relay through which it is used."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        storage = json.dumps({"filesystem": {"rootdirectory": f"{folder}/blobs"}})
        configuration = f"version: 0.1\nstorage: {storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        folder.mkdir()
        (folder / "registry.yml").write_text(configuration)
        self.process = start(port, "docker-registry", "serve", folder / "registry.yml")
        self.relay = Relay(port)

    def reference(self, repository: str) -> str:
        """Return a repository of it, as skopeo names it."""
        return f"docker://127.0.0.1:{self.relay.port}/{repository}"

    def layers(self, repository: str) -> dict[str, int]:
        """Return the bytes of each layer of the image that a repository has last got."""
        url = f"http://127.0.0.1:{self.relay.target}/v2/{repository}/manifests/latest"
        request = urllib.request.Request(url, headers={"Accept": MANIFEST_TYPES})
        with urllib.request.urlopen(request) as response:
            return {layer["digest"]: layer["size"] for layer in json.load(response)["layers"]}


class Machine:
    """A machine with a store of its own, which Nix sees in place of /nix."""

    def __init__(self, folder: Path, substituter: str = "") -> None:
        self.folder, self.substituter = folder, substituter
        for name in "nix", "containers", "tmp":
            (folder / name).mkdir(parents=True)

    def run(self, *words: object) -> Run:
        """Run a program of this machine's, which must succeed."""
        binds = f"mount --bind {self.folder}/nix /nix && mount --bind {self.folder}/containers "
        inside = binds + '/var/lib/containers && exec "$@"'
        settings = f"NIX_CONFIG={SETTINGS}{self.substituter}", f"TMPDIR={self.folder}/tmp"
        command = "env", *settings, "unshare", "--mount", "sh", "-c", inside, "sh"
        return run([str(word) for word in (*command, *words)])

    def forget(self) -> None:
        """Empty skopeo's cache."""
        shutil.rmtree(self.folder / "containers")
        (self.folder / "containers").mkdir()

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each valid store path."""
        if not (self.folder / "nix/var").exists():
            return {}
        paths = json.loads(self.run(*NIX, "path-info", "--all", "--json").output)
        return {path["path"]: path["narSize"] for path in paths}

    def remove(self) -> None:
        """Delete all that it has, read-only folders included."""
        run(["rm", "-rf", self.folder])


class Push(NamedTuple):
    """What one way from the expression to the registry took."""

    run: Run
    uploaded: int  # bytes
    changed: int  # bytes of the layers that the registry did not have for this image
    written: int  # bytes of new store paths


class Bench:
    """The machines, the registry, the cache, and the expressions of the image."""

    def __init__(self, folder: Path, packages: str, nixpkgs: Path | None) -> None:
        self.folder, self.packages, self.nixpkgs = folder, packages, nixpkgs
        self.revisions = dict.fromkeys(CHANGING, "first")
        self.builder = Builder(packages)
        self.registry = Registry(folder / "registry")
        self.cache = folder / "cache"
        self.cache.mkdir()
        port = free_port()
        serve = "-m", "http.server", "--bind", "127.0.0.1", "--directory", self.cache, port
        self.web = start(port, sys.executable, *serve)
        self.caches = {"file://": f"file://{self.cache}", "HTTP": f"http://127.0.0.1:{port}"}
        say("making the machine that has everything")
        self.home = Machine(folder / "home")
        # Evaluated by the first command; its packages are this machine's.
        known = [self.build("contents"), self.build("tools")]
        paths = [path for command in known for path in run(command).output.split()]
        run([*NIX, "copy", "--no-check-sigs", "--to", self.home.folder, *paths])

    def stop(self) -> None:
        """End the servers."""
        for process in self.registry.process, self.web:
            process.terminate()
            process.wait()

    def build(self, attribute: str, **more: str | bool) -> list[str | Path]:
        """Return the command that builds an attribute of images.nix."""
        if self.nixpkgs:
            more["nixpkgs"] = str(self.nixpkgs)
        return self.builder.command("nix-build", attribute, IMAGE, self.revisions, **more)

    def change(self, package: str) -> None:
        """Change a package of the application, or a library below everything."""
        if package == "libc6":
            self.builder.packages = change_library(self.packages, self.folder, self.builder.new())
        else:
            self.revisions[package] = self.builder.new()

    def push(self, on: Machine, repository: str, attribute: str, **more: str | bool) -> Push:
        """Build the program that pushes and run it, both as one measured command."""
        command = " ".join(f"'{word}'" for word in self.build(attribute, **more))
        to = f"{self.registry.reference(repository)} --dest-tls-verify=false"
        if attribute == "image.copyTo":
            script = f"$({command})/bin/copy-to {to}"
        else:
            archive = f"{on.folder}/tmp/archive.tar"
            script = (
                f"$({command}) >{archive} && "
                f"skopeo --insecure-policy copy docker-archive:{archive} {to}"
            )
        return self.measure(on, repository, "sh", "-e", "-c", script)

    def measure(self, on: Machine, repository: str, *command: object) -> Push:
        """Run a command that pushes to a repository."""
        try:
            before = self.registry.layers(repository)
        except OSError:
            before = {}
        sizes, sent = on.sizes(), self.registry.relay.sent
        sent.clear()
        done = on.run(*command)
        now = self.registry.layers(repository)
        changed = sum(size for digest, size in now.items() if digest not in before)
        written = sum(size for path, size in on.sizes().items() if path not in sizes)
        return Push(done, sum(sent), changed, written)

    def publish(self, **more: str | bool) -> str:
        """Build the image at home and copy it to the cache; return the program that pushes it."""
        outputs = self.home.run(*self.build("image.cache", **more)).output.split()
        program = self.home.run(*self.build("image.copyTo", **more)).output.strip()
        to = f"file://{self.cache}?compression=zstd"
        self.home.run(*NIX, "copy", "--to", to, *outputs, program)
        return program

    def pulled(self, log: str, **more: str | bool) -> dict[str, int]:
        """Return the bytes of the cache's files that Nix says it has copied, by their kind."""

        def build(attribute: str) -> list[str]:
            return self.home.run(*self.build(attribute, **more)).output.split()

        def closure(paths: list[str]) -> set[str]:
            return set(self.home.run("nix-store", "--query", "--requisites", *paths).output.split())

        kinds = {
            "tools": closure(build("tools")),
            "layers": set(build("image.layers")),
            "packages": closure(build("contents")),
        }
        total = dict.fromkeys([*kinds, "the rest"], 0)
        for line in log.splitlines():
            if line.startswith("copying path '"):
                path = line.split("'")[1]
                kind = next((kind for kind, paths in kinds.items() if path in paths), "the rest")
                narinfo = (self.cache / f"{Path(path).name[:32]}.narinfo").read_text()
                size = int(narinfo.partition("\nFileSize: ")[2].partition("\n")[0])
                total[kind] += size + len(narinfo)
        return total


def change_library(packages: str, folder: Path, version: str) -> str:
    """Return a copy of the small package set with another version of the C library.

    All its packages are other store paths for that, as they are in nixpkgs.
    """
    changed = folder / f"packages-{version}"
    shutil.copytree(packages, changed)
    index = json.loads((changed / "index.json").read_text())
    index["packages"]["libc6"]["version"] += f".{version}"
    (changed / "index.json").write_text(json.dumps(index))
    return str(changed)


# A measure of several pushes: their median
WALL = ("wall s", lambda push: push.run.wall)
CPU = ("CPU s", lambda push: push.run.cpu)
UPLOADED = ("uploaded MB", lambda push: push.uploaded / MEGA)
CHANGED = ("changed layers MB", lambda push: push.changed / MEGA)
WRITTEN = ("written MB", lambda push: push.written / MEGA)


def middle(pushes: Sequence[Push], measure: tuple[str, Callable[[Push], float]]) -> float:
    return statistics.median(map(measure[1], pushes))


def cells(pushes: Sequence[Push], *measures: tuple[str, Callable[[Push], float]]) -> list[str]:
    return [f"{middle(pushes, measure):.2f}" for measure in measures]


def measure_changes(bench: Bench, repeats: int) -> tuple[str, str]:
    """Push from the machine that has everything; return the table and the chart."""
    programs = {"copy-to": "image.copyTo"}
    if bench.nixpkgs:
        programs["streamLayeredImage"] = "stream"
    changes = [("all, from nothing", None, 1), ("nothing", None, repeats)]
    changes += [(f"a package of {int(size) / MEGA:g} MB", size, repeats) for size in CHANGING]
    changes += [("libc, below everything", "libc6", 1)]
    measures = WALL, CPU, UPLOADED, CHANGED, WRITTEN
    rows = []
    lines: dict[str, dict[str, list]] = {cache: {name: [] for name in programs} for cache in CACHES}
    for what, package, times in changes:
        for cache in CACHES[:1] if what.startswith("all") else CACHES:
            say(f"changed: {what}; skopeo's cache: {cache}")
            results: dict[str, list[Push]] = {program: [] for program in programs}
            for _ in range(times):
                if package:
                    bench.change(package)
                    bench.home.run(*bench.build("contents"))
                for program, attribute in programs.items():
                    if cache == "empty":
                        bench.home.forget()
                    results[program].append(bench.push(bench.home, program.lower(), attribute))
            moved = middle(results["copy-to"], CHANGED)
            for program, pushes in results.items():
                aims = []
                if program == "copy-to" and moved > 0:
                    met = middle(pushes, UPLOADED) <= 1.05 * moved
                    aims.append(verdict(met, "1.05 x changed uploaded"))
                if program == "copy-to" and what == "nothing" and cache == "empty":
                    aims.append(verdict(middle(pushes, WALL) <= 1.2, "1.2 s"))
                if program == "copy-to" and package == ONE_MEGABYTE:
                    aims.append(verdict(middle(pushes, WALL) <= 2.5, "2.5 s"))
                    aims.append(verdict(middle(pushes, CPU) <= 2.0, "CPU 2.0 s"))
                rows.append((what, cache, program, *cells(pushes, *measures), "; ".join(aims)))
                if package:
                    lines[cache][program].append((moved, middle(pushes, UPLOADED)))
    header = "changed", "skopeo's cache", "program", *(name for name, _ in measures), "aim"
    chart = draw(
        [Panel(f"skopeo's cache is {cache}", lines[cache]) for cache in CACHES],
        "What a change uploads",
        "MB in changed layers, compressed",
        "MB",
        bold=["copy-to"],
        logarithmic=True,
    )
    return table(header, rows), chart


# What a machine with an empty store does
TOLD = "pushes what another has built, knowing its store path"
EVALUATE = "evaluates and pushes what another has built"
WITHOUT_IMPORT = f"{EVALUATE}, importFromDerivation = false"
BUILD = "builds the change and pushes"


def push_from_empty(bench: Bench, role: str, substituter: str) -> tuple[Push, dict[str, int]]:
    """Push a change of one megabyte from a new machine; return that, and what it has pulled."""
    more = {"importFromDerivation": False} if role == WITHOUT_IMPORT else {}
    bench.push(bench.home, "fresh", "image.copyTo", **more)
    program = bench.publish(**more)
    bench.change(ONE_MEGABYTE)
    if role != BUILD:
        program = bench.publish(**more)
    fresh = Machine(bench.folder / "fresh", substituter)
    if role == TOLD:
        to = f"{bench.registry.reference('fresh')} --dest-tls-verify=false"
        script = f"nix-store --realise {program} && {program}/bin/copy-to {to}"
        push = bench.measure(fresh, "fresh", "sh", "-e", "-c", script)
    else:
        # What stands for nixpkgs' expressions: the packages' sources and derivations.
        for attribute in "contents", "tools":
            fresh.run("nix-instantiate", *bench.build(attribute)[1:-1])
        push = bench.push(fresh, "fresh", "image.copyTo", **more)
    fresh.remove()
    return push, bench.pulled(push.run.log, **more)


def measure_empty_stores(bench: Bench, repeats: int) -> str:
    """Push from machines with an empty store, each of them made anew; return the table."""
    measures = WALL, CPU, UPLOADED, CHANGED
    rows = []
    for role in TOLD, EVALUATE, WITHOUT_IMPORT, BUILD:
        for name, substituter in bench.caches.items():
            say(f"empty store, cache by {name}: {role}")
            results = [push_from_empty(bench, role, substituter) for _ in range(repeats)]
            pushes = [push for push, _ in results]
            pulled = {
                kind: statistics.median(pull[kind] for _, pull in results) / MEGA
                for kind in results[0][1]
            }
            aims = [verdict(middle(pushes, UPLOADED) <= 1.1, "1.1 MB uploaded")]
            if role == TOLD:
                rest = pulled["layers"] + pulled["the rest"] - middle(pushes, CHANGED)
                aims.append(verdict(rest <= 0.3, ".3 MB besides changed layers"))
            if role == BUILD:
                aims.append(verdict(pulled["layers"] == 0, "no layers"))
            sizes = [f"{size:.2f}" for size in pulled.values()]
            rows.append((role, name, *cells(pushes, *measures), *sizes, "; ".join(aims)))
    names = "tools", "layers", "packages", "the rest"
    header = "the machine", "cache", *(name for name, _ in measures), *names, "aim"
    return table(header, rows)


def write_report(file: Path, changes: str, empty_stores: str) -> None:
    """Write the report."""
    nix, skopeo = (run([name, "--version"]).output.split()[-1] for name in ("nix-build", "skopeo"))
    paragraphs = (
        "# From a change to the registry, measured",
        f"Written by `bench/push.py`, whose `--help` says what is measured: {machine()}, Nix {nix} "
        f"with its default settings, skopeo {skopeo}. Figures are medians; aims are for `copy-to`. "
        f"In the last 15 minutes {os.getloadavg()[2]:.1f} processes were running on average.",
        "## A machine that has everything but the change",
        changes,
        "Uploads include requests, the configuration and the manifest, which an image of a hundred "
        "layers has with any change.",
        f"![What a change uploads]({file.stem}.svg)",
        "## A machine with an empty store and a binary cache",
        "The last four figures are megabytes pulled from the cache. Tools are skopeo, Python and "
        "what packs layers, with their closures; packages are the image's other store paths.",
        empty_stores,
    )
    file.write_text("\n\n".join(paragraphs) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", metavar="N", type=int, default=5, help="runs of each (default: %(default)s)")
    add("--nixpkgs", metavar="FOLDER", type=Path, help="a checkout to take dockerTools from")
    add("--report", metavar="FILE", type=Path, default=BENCH / "push.md", help="where it goes")
    arguments = parser.parse_args(argv)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["NIX_CONFIG"] = os.environ.get("NIX_CONFIG", "") + "\nsubstituters ="
    packages = find_packages()
    if packages is None:
        parser.error("needs Nix and the small package set")
    folder = Path(tempfile.mkdtemp(prefix="push-"))
    bench = None
    try:
        bench = Bench(folder, packages, arguments.nixpkgs)
        changes, chart = measure_changes(bench, arguments.repeats)
        bench.builder.packages = packages
        empty_stores = measure_empty_stores(bench, min(arguments.repeats, 3))
        write_report(arguments.report, changes, empty_stores)
        arguments.report.with_suffix(".svg").write_text(chart)
    except Failure as failure:
        say(str(failure))
        return 1
    finally:
        if bench:
            bench.stop()
        run(["rm", "-rf", folder])
    return 0


if __name__ == "__main__":
    sys.exit(main())
