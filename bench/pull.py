#!/usr/bin/env python3
"""Measure what pulling images costs docker, podman and containerd; write the report.

    pull.py [--repeats N] [--program FILE] [--report FILE]

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
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from hosts import HOSTS, Spent
from machines import NIX, Relay
from push import change_package, layers_of
from speed import BENCH, Builder, find_packages
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
    return Fit(*parts, statistics.fmean(error * error for error in errors) ** 0.5)


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
        if plan == EACH:
            return [[path] for path in paths]
        contents = self.builder.command("nix-build", "contents", "application", revisions)
        graph = {
            "exportReferencesGraph": {"graph": run(contents).output.split()},
            "graph": list(paths.values()),
        }
        with tempfile.NamedTemporaryFile("w+") as file:
            json.dump(graph, file)
            file.flush()
            options = "--graph", file.name, "--out", "-", "--budget", str(LIMIT - 1)
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
        raw = run(["skopeo", "inspect", "--raw", "--tls-verify=false", to]).output
        paths = self.paths(size, revisions).values()
        total = sum(path["narSize"] for path in paths) / MEGA
        return Image(reference, layers_of(raw.encode()), total)


def fastest(spent: Iterable[Spent]) -> Spent:
    """Return the least of each figure."""
    return Spent(*map(min, zip(*spent)))


class Pulls:
    """Pulls by hosts, through the relay."""

    def __init__(self, folder: Path, relay: Relay) -> None:
        self.folder, self.relay = folder, relay
        self.versions: dict[str, str] = {}

    def pull(self, name: str, images: Iterable[Image]) -> list[tuple[Spent, float]]:
        """Pull images one after another to a host with an empty store.

        Returns what each took, and the megabytes that were sent to the host for it.
        """
        release, kind = HOSTS[name]
        results = []
        with kind(release, self.folder / "host") as host:
            self.versions.setdefault(name, host.version())
            for image in images:
                received = self.relay.received
                spent = host.pull(f"{self.relay.address}/{image.reference}")
                results.append((spent, (self.relay.received - received) / MEGA))
        return results


def measure_fits(images: Images, pulls: Pulls, repeats: int) -> str:
    """Pull images of many sizes and numbers of layers; return the table of fits."""
    pushed = []
    for size, counts in FITTED.items():
        sizes = {path: info["narSize"] for path, info in images.paths(size, {}).items()}
        for count in counts:
            say(f"building {size} in {count} layers")
            groups = divide(sizes, count)
            pushed.append(images.push(f"{size}:{count}", size, {}, groups))
    rows = []
    for name in HOSTS:
        pairs = []
        for image in pushed:
            spent = []
            for _ in range(repeats):
                say(f"{name}: {image.reference}")
                spent += [spent for spent, _ in pulls.pull(name, [image])]
            pairs.append((len(image.layers), image.size, fastest(spent)))
        cells = []
        for clock in Spent._fields:
            found = fit([(count, size, getattr(spent, clock)) for count, size, spent in pairs])
            cells += [f"{found.start:.1f}", f"{1000 * found.layer:.0f}"]
            cells += [f"{1000 * found.megabyte:.0f}", f"{found.price:.1f}", f"{found.error:.1f}"]
        rows.append((name, *cells))
    parts = "a, s", "b, ms a layer", "c, ms a MB", "price of a layer, MB", "error, s"
    return table(("host", *parts, *(f"CPU: {part}" for part in parts)), rows)


def measure_plans(images: Images, pulls: Pulls, repeats: int) -> tuple[str, str]:
    """Pull an image and what becomes of it, grouped in each way; return the tables of it."""
    # The edit, and the update after it
    first, edited = {PROGRAM: "first"}, {PROGRAM: "second"}
    packages = images.builder.packages
    chains: dict[str, list[Image]] = {}
    sizes = []
    for plan in images.plans:
        say(f"building the application, {plan}")
        name = plan.replace(" ", "-")
        chains[plan] = [
            images.push(f"{name}:{tag}", "application", revisions, images.groups(plan, revisions))
            for tag, revisions in (("first", first), ("edit", edited))
        ]
        images.builder.packages = change_package(packages, LIBRARY, pulls.folder, f"update-{name}")
        groups = images.groups(plan, edited)
        chains[plan].append(images.push(f"{name}:update", "application", edited, groups))
        images.builder.packages = packages
        changes = zip(chains[plan], chains[plan][1:])
        cells = [moved(list(old.layers), new.layers) for old, new in changes]
        total = sum(chains[plan][0].layers.values())
        bytes_ = total, *(size for cell in cells for size in cell)
        numbers = [f"{size / MEGA:.2f}" for size in bytes_]
        sizes.append((plan, len(chains[plan][0].layers), *numbers))
    rows = []
    for name in HOSTS:
        results: dict[str, list] = {plan: [] for plan in images.plans}
        for _ in range(repeats):
            for plan, chain in chains.items():
                say(f"{name}: {plan}")
                results[plan].append(pulls.pull(name, chain))
        medians = {
            plan: [
                (*fastest(spent for spent, _ in pull), statistics.median(size for _, size in pull))
                for pull in zip(*runs)
            ]
            for plan, runs in results.items()
        }
        for plan, chain_medians in medians.items():
            ratio = chain_medians[0][0] / medians[EACH][0][0]
            cells = [f"{figure:.1f}" for figures in chain_medians for figure in figures]
            rows.append((name, plan, f"{ratio:.2f}", *cells))
    steps = [
        f"{step}: {part}" for step in ("first", "edit", "update") for part in ("s", "CPU s", "MB")
    ]
    header = "plan", "layers", "MB", "edit", "edit by prefix", "update", "update by prefix"
    return table(header, sizes), table(("host", "plan", f"first / {EACH}", *steps), rows)


def measure_builds(images: Images, repeats: int) -> str:
    """Build the application from its packages, grouped in each way; return the table."""
    first = {PROGRAM: "first"}
    groups = {plan: images.groups(plan, first) for plan in images.plans}
    runs: dict[str, list[Run]] = {plan: [] for plan in images.plans}
    for _ in range(repeats):
        for plan in images.plans:
            say(f"building the image from its packages, {plan}")
            # With another time in all files, no layer has been built before.
            time = images.builder.new_time()
            built = images.build("image", "application", first, groups[plan], mtime=time)
            runs[plan].append(built)
            images.builder.delete()
    medians = {
        plan: fastest(Spent(each.wall, each.cpu) for each in its_runs)
        for plan, its_runs in runs.items()
    }
    rows = []
    for plan, spent in medians.items():
        ratio = spent.wall / medians[EACH].wall
        rows.append((plan, f"{ratio:.2f}", *(f"{figure:.1f}" for figure in spent)))
    return table(("plan", f"wall / {EACH}", "wall s", "CPU s"), rows)


def write_report(file: Path, repeats: int, pulls: Pulls, tables: Sequence[str]) -> None:
    """Write the report."""
    fits, sizes, plans, builds = tables
    versions = "; ".join(f"{name}: {version}" for name, version in pulls.versions.items())
    paragraphs = (
        "# What a pull costs, measured",
        f"Written by `bench/pull.py`, whose `--help` says what is measured: {machine()}, "
        f"{1000 * ROUND_TRIP:.0f} ms, {8 * BANDWIDTH / MEGA:.0f} Mbit/s, {repeats} runs of each. "
        f"In the last 15 minutes {os.getloadavg()[2]:.1f} processes were running on average.",
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
    add("--program", metavar="FILE", type=Path, help="another version of group_layers.py")
    add("--report", metavar="FILE", type=Path, default=BENCH / "pull.md", help="where it goes")
    arguments = parser.parse_args(argv)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["NIX_CONFIG"] = os.environ.get("NIX_CONFIG", "") + "\nsubstituters ="
    packages = find_packages()
    if packages is None:
        parser.error("needs Nix and the small package set")
    repeats = arguments.repeats
    folder = Path(tempfile.mkdtemp(prefix="pull-"))
    (folder / "registry").mkdir()
    try:
        with run_registry(folder / "registry") as registry:
            images = Images(packages, registry, arguments.program)
            pulls = Pulls(folder, Relay(registry.address, ROUND_TRIP, BANDWIDTH))
            fits = measure_fits(images, pulls, repeats)
            tables = fits, *measure_plans(images, pulls, repeats), measure_builds(images, repeats)
    except Failure as failure:
        say(str(failure))
        return 1
    finally:
        run(["rm", "-rf", folder])
    write_report(arguments.report, repeats, pulls, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
