#!/usr/bin/env python3
"""Measure what pulling images costs docker, podman and containerd; write the report.

    pull.py [--repeats N] [--hosts HOST ...] [--program FILE] [--report FILE]

Hosts (hosts.py) pull from a docker-registry through a relay (machines.py) with a round trip of
20 ms and 200 Mbit/s. A first pull is by a host whose store is empty. Figures are those of the
fastest of the runs, since whatever else the machine does only makes a run slower.

The first table has fits of time = a + b x layers + c x megabytes of store paths, over images of
8 to 100 layers. From b and c follows the price of a layer: the megabytes that take as long to
pull as one more layer does.

The second part compares ways to group the store paths of one image: git, python3, nginx and forty
small packages, with one's own program of 100 kB on top. After the first pull the host pulls the
same image with another revision of the program, and then with another version of OpenSSL's
library, for which all that needs it has another store path. `--program` is another version of
group_layers.py, whose plan is compared, too. The last table has the time to build the image when
there are only its packages.

Needs root, Nix, docker-registry, skopeo and 3 GB in the folder for temporary files; hosts.py says
what it downloads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import NamedTuple

from hosts import HOSTS
from machines import NIX, Relay
from push import change_package, layers_of
from speed import BENCH, Builder, prepare
from timing import MEGA, Failure, Run, machine, run, say, table

sys.path.insert(0, str(BENCH.parent / "tests/support"))
from docker_registry import DockerRegistry, run_registry  # it lies with the tests

ROUND_TRIP, BANDWIDTH = 0.020, 25 * MEGA  # seconds; bytes a second

# Images for the fits: sizes of images.nix, and how many layers they have besides the root's
FITTED = {"application": (8, 24, 48, 96), "files": (8, 24, 48, 96)}

PROGRAM = "100000"  # bytes of what is on top
LIBRARY = "libssl3"
EACH, OURS = "one path per layer", "this version"
LIMIT = 100  # layers that an image may have by default, the root's included


class Fit(NamedTuple):
    """The plane nearest to measured times: seconds of each part."""

    start: float
    layer: float
    megabyte: float
    error: float  # of the fitted times, the root of the mean square

    @property
    def price(self) -> float:
        """How many megabytes take as long as one layer."""
        return self.layer / self.megabyte


def fit(points: Sequence[tuple[float, float, float]]) -> Fit:
    """Return the least-squares fit of points (layers, megabytes, seconds)."""
    rows = [(1.0, layers, megabytes) for layers, megabytes, _ in points]
    times = [seconds for *_, seconds in points]
    # The normal equations, solved by elimination
    matrix = [[sum(row[i] * row[j] for row in rows) for j in range(3)] for i in range(3)]
    for i, line in enumerate(matrix):
        line.append(sum(row[i] * time for row, time in zip(rows, times)))
    for i in range(3):
        for j in range(3):
            if j != i:
                factor = matrix[j][i] / matrix[i][i]
                matrix[j] = [b - factor * a for a, b in zip(matrix[i], matrix[j])]
    parts = [matrix[i][3] / matrix[i][i] for i in range(3)]
    errors = [
        sum(map(float.__mul__, parts, map(float, row))) - time for row, time in zip(rows, times)
    ]
    constant, layer, megabyte = parts
    return Fit(
        constant, layer, megabyte, (sum(error * error for error in errors) / len(rows)) ** 0.5
    )


def divide(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Divide store paths, given with their bytes, into groups of about the same size."""
    groups: list[list[str]] = [[] for _ in range(count)]
    bytes_ = [0] * count
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        lightest = bytes_.index(min(bytes_))
        groups[lightest].append(path)
        bytes_[lightest] += sizes[path]
    return groups


def moved(before: Sequence[str], after: Mapping[str, int]) -> tuple[int, int]:
    """Return the bytes of an image's layers that a host lacks which has another image's layers.

    First for hosts that keep layers by their digest, then for those that keep chains of layers:
    they need every layer above the first that differs. `after` has the bytes of each digest.
    """
    lacking = sum(size for layer, size in after.items() if layer not in before)
    layers = iter(before)
    chained = sum(after.values()) - sum(
        after[layer] for layer in takewhile(lambda layer: layer == next(layers, None), after)
    )
    return lacking, chained


class Image(NamedTuple):
    """An image in the registry."""

    reference: str  # NAME:TAG
    layers: dict[str, int]  # bytes of each digest, compressed
    size: float  # megabytes of store paths


class Images:
    """Builds images and pushes them to the registry."""

    def __init__(self, packages: str, registry: DockerRegistry, program: Path | None) -> None:
        self.builder, self.registry, self.program = Builder(packages), registry, program
        self.plans = [EACH, *([program.stem] if program else []), OURS]

    def paths(self, size: str, revisions: Mapping[str, str]) -> dict[str, dict]:
        """Return what Nix knows of each store path of an image's contents; they are built."""
        words = "path-info", "--json", "--closure-size", *self.builder.closure(size, revisions)
        return {path["path"]: path for path in json.loads(run([*NIX, *words]).output)}

    def groups(self, plan: str, revisions: Mapping[str, str]) -> list[list[str]]:
        """Return the layers of the application's store paths by one of the plans compared."""
        if plan == OURS:
            return []
        paths = self.paths("application", revisions)
        if plan == EACH or not self.program:
            # In dockerTools' order
            return [[path] for path in sorted(paths, key=lambda path: paths[path]["closureSize"])]
        contents = self.builder.command("nix-build", "contents", "application", revisions)
        graph = {
            "exportReferencesGraph": {"graph": run(contents).output.split()},
            "graph": list(paths.values()),
        }
        with tempfile.NamedTemporaryFile("w+") as file:
            json.dump(graph, file)
            file.flush()
            options = "--graph", file.name, "--out", "-", "--budget", str(LIMIT - 1)
            assert self.program
            layers = json.loads(run([sys.executable, self.program, *options]).output)
        return [layer["contents"] for layer in layers]

    def build(
        self, attribute: str, size: str, revisions: Mapping[str, str], groups: object, **more: str
    ) -> Run:
        """Build an attribute of the image whose layers are given; without any, as it plans them."""
        more["groups"] = json.dumps(groups)
        built = run(self.builder.command("nix-build", attribute, size, revisions, **more))
        self.builder.outputs(built)
        return built

    def push(
        self, reference: str, size: str, revisions: Mapping[str, str], groups: Sequence[list[str]]
    ) -> Image:
        """Build an image and push it."""
        program = self.build("image.copyTo", size, revisions, groups).output.strip()
        to = self.registry.reference(reference)
        run([f"{program}/bin/copy-to", to, "--dest-tls-verify=false"])
        paths = self.paths(size, revisions).values()
        total = sum(path["narSize"] for path in paths) / MEGA
        return Image(reference, layers_of(to), total)


def fastest(runs: Iterable[tuple[float, ...]]) -> list[float]:
    """Return the least of each figure."""
    return [min(figures) for figures in zip(*runs)]


class Pulls:
    """Pulls by hosts, through the relay."""

    def __init__(self, folder: Path, relay: Relay, hosts: list[str], repeats: int) -> None:
        self.folder, self.relay, self.hosts, self.repeats = folder, relay, hosts, repeats
        self.versions: dict[str, str] = {}

    def pull(self, name: str, images: Sequence[Image]) -> list[tuple[float, float, float]]:
        """Pull images one after another to a host with an empty store.

        Returns of each how many seconds it took, how many of CPU time, and the megabytes received.
        """
        release, kind = HOSTS[name]
        say(f"{name}: {images[0].reference}")
        results = []
        with kind(release, self.folder / "host") as host:
            self.versions.setdefault(name, host.version())
            for image in images:
                received = self.relay.received
                spent = host.pull(f"{self.relay.address}/{image.reference}")
                results.append((*spent, (self.relay.received - received) / MEGA))
        return results

    def measure(self, name: str, chains: Sequence[Sequence[Image]]) -> list[list[list[float]]]:
        """Pull each chain of images several times, in turn: the least figures of its images."""
        runs = [[self.pull(name, images) for images in chains] for _ in range(self.repeats)]
        return [[fastest(pulls) for pulls in zip(*its_runs)] for its_runs in zip(*runs)]


def measure_fits(images: Images, pulls: Pulls) -> str:
    """Pull images of many sizes and numbers of layers; return the table of fits."""
    pushed = []
    for size, counts in FITTED.items():
        sizes = {path: info["narSize"] for path, info in images.paths(size, {}).items()}
        for count in counts:
            say(f"building {size} in {count} layers")
            pushed.append(images.push(f"{size}:{count}", size, {}, divide(sizes, count)))
    rows = []
    for name in pulls.hosts:
        results = pulls.measure(name, [[image] for image in pushed])
        cells = []
        for clock in range(2):
            points = [
                (len(image.layers), image.size, pull[clock])
                for image, (pull,) in zip(pushed, results)
            ]
            found = fit(points)
            cells += [f"{found.start:.1f}", f"{1000 * found.layer:.0f}"]
            cells += [f"{1000 * found.megabyte:.0f}", f"{found.price:.1f}", f"{found.error:.1f}"]
        rows.append((name, *cells))
    parts = "a, s", "b, ms a layer", "c, ms a MB", "price of a layer, MB", "error, s"
    return table(("host", *parts, *(f"CPU: {part}" for part in parts)), rows)


def measure_plans(images: Images, pulls: Pulls) -> tuple[str, str]:
    """Pull an image and what becomes of it, grouped in each way.

    Returns the table of what changes in layers, and the table of what hosts pulled.
    """
    packages = images.builder.packages
    updated = change_package(packages, LIBRARY, pulls.folder, "updated")
    steps = {
        "first": (packages, "first"),
        "edit": (packages, "second"),
        "update": (updated, "second"),
    }
    chains, sizes = [], []
    for number, plan in enumerate(images.plans):
        say(f"building the application, {plan}")
        pushed = []
        for step, (images.builder.packages, revision) in steps.items():
            revisions = {PROGRAM: revision}
            groups = images.groups(plan, revisions)
            pushed.append(images.push(f"plan-{number}:{step}", "application", revisions, groups))
        images.builder.packages = packages
        changes = [moved(list(old.layers), new.layers) for old, new in zip(pushed, pushed[1:])]
        bytes_ = sum(pushed[0].layers.values()), *chain.from_iterable(changes)
        sizes.append((plan, len(pushed[0].layers), *(f"{size / MEGA:.2f}" for size in bytes_)))
        chains.append(pushed)
    rows = []
    for name in pulls.hosts:
        results = pulls.measure(name, chains)
        for plan, result in zip(images.plans, results):
            cells = [f"{figure:.1f}" for figure in chain.from_iterable(result)]
            rows.append((name, plan, f"{result[0][0] / results[0][0][0]:.2f}", *cells))
    figures = [f"{step}: {part}" for step in steps for part in ("s", "CPU s", "MB")]
    header = "plan", "layers", "MB", "edit", "edit by prefix", "update", "update by prefix"
    return table(header, sizes), table(("host", "plan", f"first / {EACH}", *figures), rows)


def measure_builds(images: Images, repeats: int) -> str:
    """Build the application from its packages, grouped in each way; return the table."""
    revisions = {PROGRAM: "first"}
    groups = [images.groups(plan, revisions) for plan in images.plans]
    runs: list[list[tuple[float, ...]]] = [[] for _ in groups]
    for _ in range(repeats):
        for plan, its_groups, its_runs in zip(images.plans, groups, runs):
            say(f"building the image from its packages, {plan}")
            # With another time in all files, no layer has been built before.
            time = images.builder.new_time()
            built = images.build("image", "application", revisions, its_groups, mtime=time)
            its_runs.append((built.wall, built.cpu))
            images.builder.delete()
    times = [fastest(its_runs) for its_runs in runs]
    rows = [
        (plan, f"{wall / times[0][0]:.2f}", f"{wall:.1f}", f"{cpu:.1f}")
        for plan, (wall, cpu) in zip(images.plans, times)
    ]
    return table(("plan", f"wall / {EACH}", "wall s", "CPU s"), rows)


def write_report(file: Path, pulls: Pulls, fits: str, sizes: str, plans: str, builds: str) -> None:
    """Write the report of these tables."""
    runs = f"{pulls.repeats} run{'s' if pulls.repeats > 1 else ''}"
    versions = "; ".join(f"{name}: {version}" for name, version in pulls.versions.items())
    paragraphs = (
        "# What a pull costs, measured",
        f"Written by `bench/pull.py`, whose `--help` says what is measured: {machine()}, "
        f"{1000 * ROUND_TRIP:.0f} ms, {8 * BANDWIDTH / MEGA:.0f} Mbit/s, {runs} of each. "
        f"In the last 15 minutes {os.getloadavg()[2]:.1f} processes were running on average: the "
        "more of them, the less do seconds mean, and the more CPU time.",
        f"Versions: {versions}.",
        "## The price of a layer",
        "Time = a + b x layers + c x megabytes of store paths, by the clock and in CPU time; the "
        "price of a layer is b / c.",
        fits,
        "## One image, grouped in several ways",
        "Megabytes of compressed layers that change, for hosts that know layers by their digest, "
        "and by prefix, for those that need again all layers above one that has changed:",
        sizes,
        "What hosts pulled:",
        plans,
        "## Building the image when only the packages are there",
        builds,
    )
    file.write_text("\n\n".join(paragraphs) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", metavar="N", type=int, default=3, help="runs of each (default: %(default)s)")
    add("--hosts", metavar="HOST", nargs="+", choices=HOSTS, default=[*HOSTS],
        help=f"which ones (default: all): {', '.join(map(repr, HOSTS))}")  # fmt: skip
    add("--program", metavar="FILE", type=Path, help="another version of group_layers.py")
    add("--report", metavar="FILE", type=Path, default=BENCH / "pull.md", help="where it goes")
    arguments = parser.parse_args(argv)
    packages = prepare()
    if packages is None:
        parser.error("needs Nix and the small package set")
    folder = Path(tempfile.mkdtemp(prefix="pull-"))
    (folder / "registry").mkdir()
    try:
        with run_registry(folder / "registry") as registry:
            images = Images(packages, registry, arguments.program)
            relay = Relay(registry.address, ROUND_TRIP, BANDWIDTH)
            pulls = Pulls(folder, relay, arguments.hosts, arguments.repeats)
            tables = measure_fits(images, pulls), *measure_plans(images, pulls)
            builds = measure_builds(images, arguments.repeats)
    except Failure as failure:
        say(str(failure))
        return 1
    finally:
        run(["rm", "-rf", folder])
    write_report(arguments.report, pulls, *tables, builds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
