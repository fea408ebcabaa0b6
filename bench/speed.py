#!/usr/bin/env python3
"""Measure how long grouping and building images take; write the report and charts.

    speed.py [--repeats N] [--report FOLDER] [GRAPH ...]

Without `--report`, nothing is written and the report is printed. Programs that are compared run
alternately, `--repeats` times; a ratio is the median over neighboring runs, followed by the lowest
and the highest. Times are those of whole processes with all their children.

The first part times group_layers.py on graphs of many sizes and shapes (graphs.py), and on graphs
that Nix has exported if any are named, beside a program that does nothing but `json.load` the file.

The second part builds images of the small package set with Nix, beside `tar | pigz` of the same
store paths. Everything but the packages is deleted afterwards. Without Nix, this part is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from graphs import SHAPES
from plot import Panel, draw

BENCH = Path(__file__).resolve().parent
PROGRAM = BENCH.parent / "group_layers.py"
sys.path.insert(0, str(BENCH.parent))
from group_layers import DEFAULT_STRATEGY, STRATEGIES  # noqa: E402  it lies in the folder above

MEGA = 1_000_000

# Shapes that Nix can make at any size. The others have cycles, or are hard at one size.
OTHERS = ("closure-cyclic", "both-directions", "worst-order", "equal-ratings")
GROWING = [name for name in SHAPES if name not in OTHERS]
GROWTH = (10_000, 100_000)
COMPARED = (100, 1_000, 10_000, 100_000)

# Bytes of the packages that change in images, as keys of images.nix.
CHANGING = ("100000", "1000000", "10000000", "30000000")
IMAGE_SIZES = {"small": "50", "large": "500"}  # images.nix's names, and about how many store paths

# At most so many runs of what takes longest: images from nothing, and after a change.
COLD_RUNS = {"small": 7, "large": 5}
CHANGE_RUNS = 3
GROWTH_RUNS = 3


class Failure(Exception):
    """A program that is measured fails; the message has the command and what it said."""


class Run(NamedTuple):
    """One run of a program: seconds, bytes, and what it wrote."""

    wall: float
    cpu: float  # user and system, children included
    peak: int  # of the largest process; at least what this one had when it started the program
    output: str
    log: str


def run(command: Sequence[str | Path]) -> Run:
    """Run a command to its end. Raises `Failure` unless it succeeds."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = status
        output.seek(0)
        log.seek(0)
        result = Run(
            wall,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * 1024,
            output.read(),
            log.read(),
        )
    if status != 0:
        raise Failure(f"{' '.join(map(str, command))}: {result.log[-2000:].strip()}")
    return result


def alternate(
    commands: Mapping[str, Callable[[], Sequence[str | Path]]], repeats: int
) -> dict[str, list[Run]]:
    """Run the commands one after the other, and all that again: the list of runs of each.

    What slows the machine down for a while slows neighbors down alike.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            runs[name].append(run(command()))
    return runs


def always(*command: str | Path) -> Callable[[], Sequence[str | Path]]:
    """Return a command that is the same each time, for `alternate`."""
    return lambda: command


def median(runs: Iterable[Run], clock: str = "cpu") -> float:
    """Return the median of a field of the runs."""
    return statistics.median(getattr(run, clock) for run in runs)


class Ratio(NamedTuple):
    """How many times as long the first of two programs takes."""

    median: float
    each: Sequence[float]

    def __str__(self) -> str:
        return spread(self.each)


def ratio(these: Sequence[Run], those: Sequence[Run], clock: str = "cpu") -> Ratio:
    """Compare two programs that ran in turn."""
    each = [getattr(a, clock) / getattr(b, clock) for a, b in zip(these, those)]
    return Ratio(statistics.median(each), each)


def spread(values: Sequence[float]) -> str:
    """Return the median, the lowest and the highest for a table's cell."""
    digits = 0 if max(values) >= 10 else 2
    numbers = statistics.median(values), min(values), max(values)
    return "{} ({} to {})".format(*(f"{number:.{digits}f}" for number in numbers))


def verdict(met: bool, aim: str) -> str:
    """Return a table's cell for an aim."""
    return f"{aim}: {'met' if met else 'missed'}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table, its first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def say(message: str) -> None:
    """Tell what is being done; the report is on standard output."""
    print(f"speed: {message}", file=sys.stderr, flush=True)


def report(*paragraphs: str) -> None:
    """Print paragraphs of the report, which is standard output."""
    print(*paragraphs, sep="\n\n", end="\n\n", flush=True)


def machine() -> str:
    """Describe the machine in general terms."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores ({name}), {platform.system()}"


# The script


class Script:
    """Makes commands of Python programs, all for the interpreter that runs this one."""

    def __init__(self, folder: Path) -> None:
        """Graphs and plans go to `folder`."""
        self.folder = folder

    def graph(self, shape: str, count: int) -> Path:
        """Write a graph, in a process of its own: this one must stay small, see `Run.peak`."""
        file = self.folder / f"{shape}-{count}.json"
        if not file.exists():
            with open(file, "w", encoding="utf-8") as stream:
                command = [sys.executable, BENCH / "graphs.py", shape, str(count)]
                subprocess.run(command, stdout=stream, check=True)
        return file

    def nothing(self) -> list[str | Path]:
        """Return the command of a bare interpreter."""
        return [sys.executable, "-c", "pass"]

    def parse(self, graph: Path) -> list[str | Path]:
        """Return the command that does nothing but parse a graph."""
        return [sys.executable, "-c", "import json, sys; json.load(open(sys.argv[1]))", graph]

    def group(self, strategy: str, graph: Path) -> list[str | Path]:
        """Return the command that groups the paths of a graph."""
        return [
            *(sys.executable, PROGRAM, "--strategy", strategy),
            *("--graph", graph, "--out", self.folder / strategy),
        ]


def compare_script(script: Script, repeats: int) -> dict[int, dict[str, list[Run]]]:
    """Time the script beside json.load; return the runs by paths and program."""
    results = {}
    rows = []
    for count in COMPARED:
        say(f"beside json.load: {count} paths")
        graph = script.graph("closure", count)
        commands = {name: always(*script.group(name, graph)) for name in STRATEGIES}
        commands["json.load"] = always(*script.parse(graph))
        results[count] = runs = alternate(commands, repeats)
        for strategy in STRATEGIES:
            peak = median(runs[strategy], "peak")
            cells = f"{median(runs[strategy]) * 1000:.0f}", ratio(runs[strategy], runs["json.load"])
            rows.append((count, strategy, *cells, f"{peak / MEGA:.0f}"))
    report(
        f"CPU time of whole processes, on graphs like closures ({repeats} runs):",
        table(("paths", "strategy", "CPU ms", "/ json.load", "peak MB"), rows),
    )
    return results


def measure_growth(script: Script, repeats: int) -> None:
    """Time the default strategy on graphs of all shapes, at two sizes."""
    rows = []
    for shape in GROWING:
        say(f"growth: {shape}")
        graphs = [script.graph(shape, count) for count in GROWTH]
        commands = {file.name: always(*script.group(DEFAULT_STRATEGY, file)) for file in graphs}
        small, large = alternate(commands, min(repeats, GROWTH_RUNS)).values()
        cells = [f"{median(runs):.2f}" for runs in (small, large)]
        rows.append((shape, *cells, f"{median(large) / median(small):.1f}"))
        for file in graphs:
            file.unlink()
    header = ["shape", *(f"{count} paths, s" for count in GROWTH), "times"]
    report(f"Growth, strategy {DEFAULT_STRATEGY}, CPU time:", table(header, rows))


def measure_single(script: Script, repeats: int, files: Sequence[Path]) -> None:
    """Time the start, the graphs that are hard at one size, and the user's own graphs."""
    tiny = script.graph("chain", 3)
    commands = {
        "bare": always(*script.nothing()),
        "script": always(*script.group(DEFAULT_STRATEGY, tiny)),
    }
    runs = alternate(commands, 3 * repeats)
    pairs = zip(runs["script"], runs["bare"])
    more = [1000 * (script_run.cpu - bare.cpu) for script_run, bare in pairs]
    rows = [("start, over a bare interpreter", spread(more))]
    hard = [script.graph("worst-order", 1_000), script.graph("equal-ratings", 200)]
    for file in [*hard, *files]:
        times = [1000 * run(script.group("nixery", file)).cpu for _ in range(repeats)]
        rows.append((f"{file.stem}, nixery", spread(times)))
    report(table(("", "CPU ms"), rows))


def measure_script(folder: Path, arguments: argparse.Namespace) -> None:
    """Report the first part and draw its chart."""
    report(f"## The script\n\n{machine()}, Python {platform.python_version()}.")
    script = Script(folder)
    measure_single(script, arguments.repeats, arguments.graphs)
    compared = compare_script(script, arguments.repeats)
    measure_growth(script, arguments.repeats)
    lines: dict[str, list[tuple[int, float]]] = {}
    for count, runs in compared.items():
        for name, its_runs in runs.items():
            lines.setdefault(name, []).append((count, median(its_runs)))
    chart = draw(
        [Panel("closure-like graphs, whole process", lines)],
        "Time to group",
        "paths",
        "CPU seconds",
        bold=list(STRATEGIES),
        logarithmic=True,
    )
    if arguments.report is not None:
        (arguments.report / "speed-paths.svg").write_text(chart)


# The image around it


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
        """Return a time of files that has not been used: all layers are built anew for it."""
        then = time.gmtime(int(self.new()) - 10**9)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", then)

    def command(
        self,
        program: str,
        attribute: str,
        size: str,
        revisions: Mapping[str, str],
        **more: str | bool,
    ) -> list[str | Path]:
        """Return a command that evaluates or builds an attribute of images.nix."""
        text = " ".join(f'"{bytes_}" = "{revision}";' for bytes_, revision in revisions.items())
        command: list[str | Path] = [program, BENCH / "images.nix", "--attr", attribute]
        command += ["--argstr", "set", self.packages, "--argstr", "size", size]
        command += ["--arg", "revisions", f"{{ {text} }}"]
        for name, value in more.items():
            kind = ["--arg", name, str(value).lower()] if value in (True, False) else None
            command += kind or ["--argstr", name, str(value)]
        return [*command, "--no-out-link"] if program == "nix-build" else command

    def outputs(self, built: Run) -> list[str]:
        """Return the store paths that a run of nix-build has built, and remember them."""
        words = [line.split("'")[1] for line in built.log.splitlines() if line[:10] == "building '"]
        paths = run(["nix-store", "--query", "--outputs", *words]).output.split() if words else []
        self.built.update(paths)
        return paths

    def delete(self) -> None:
        """Delete what was built and remembered."""
        if self.built:
            command = ["nix-store", "--delete", *sorted(self.built)]
            subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
        self.built = set()


def layers_of(image: str) -> dict[str, int]:
    """Return the bytes of each layer of an OCI image layout, by digest."""
    layers = {}
    for blob in json.loads(Path(image, "manifest.json").read_text())[0]["Layers"]:
        layers[blob] = Path(image, blob).stat().st_size
    return layers


def nar_size(paths: Sequence[str]) -> int:
    """Return how many bytes store paths have."""
    return sum(map(int, run(["nix-store", "--query", "--size", *paths]).output.split()))


def measure_evaluation(builder: Builder, size: str, revisions: dict, repeats: int) -> list:
    """Time evaluations of an image that is built already, and building it again: rows."""

    def evaluate(attribute: str, **more: str | bool) -> Callable[[], Sequence[str | Path]]:
        return always(*builder.command("nix-instantiate", attribute, size, revisions, **more))

    names, there, warm = "names of the packages only", "all, the plan being there", "nix-build"
    commands = {
        names: evaluate("contents"),
        "until the first derivation is known": evaluate("image.groupedLayers"),
        there: evaluate("image"),
        "all, the plan being made (the one import)": lambda: builder.command(
            "nix-instantiate", "image", size, revisions, mtime=builder.new_time()
        ),
        "all, without import from derivation": evaluate("image", importFromDerivation=False),
        warm: always(*builder.command("nix-build", "image", size, revisions)),
    }
    runs = alternate(commands, repeats)
    rows = []
    for name, its_runs in runs.items():
        for each in its_runs:
            builder.outputs(each)
        over_names = ratio(its_runs, runs[names], "wall")
        over_all = ratio(its_runs, runs[there], "wall")
        milliseconds = spread([1000 * its_run.wall for its_run in its_runs])
        rows.append((IMAGE_SIZES[size], name, milliseconds, over_names, over_all))
    return rows


def measure_cold(builder: Builder, size: str, revisions: dict, repeats: int, folder: Path) -> list:
    """Time building all layers from nothing beside tar and compressors: rows."""
    closure = folder / "closure"
    command = builder.command("nix-build", "contents", size, revisions)
    packages = run(command).output.split()
    paths = sorted(run(["nix-store", "--query", "--requisites", *packages]).output.split())
    closure.write_text("\n".join(paths))
    tar, _, pigz, *_ = run(builder.command("nix-build", "tools", size, {})).output.split()
    archive = f"{tar}/bin/tar --create --absolute-names --files-from={closure}"
    out = folder / "archive"

    def build(importing: bool) -> Callable[[], Sequence[str | Path]]:
        return lambda: builder.command(
            "nix-build",
            "image",
            size,
            revisions,
            mtime=builder.new_time(),
            importFromDerivation=importing,
        )

    commands = {
        "image": build(True),
        "image, max-jobs = auto": lambda: [*build(True)(), "--max-jobs", "auto"],
        "image, importFromDerivation = false": build(False),
        "tar \\| pigz -6": always("sh", "-c", f"{archive} | {pigz}/bin/pigz -6 >{out}"),
    }
    runs = alternate(commands, repeats)
    rows = []
    *images, pigz_runs = runs.values()
    for name, its_runs in runs.items():
        row = [IMAGE_SIZES[size], name, f"{median(its_runs, 'wall'):.1f}"]
        row += [f"{median(its_runs):.1f}", str(ratio(its_runs, pigz_runs, "wall"))]
        if its_runs in images:
            written = [nar_size(builder.outputs(each)) for each in its_runs]
            layers = layers_of(its_runs[-1].output.strip())
            total = sum(layers.values())
            row += [len(layers), f"{total / MEGA:.1f}", f"{written[-1] / MEGA:.1f}"]
            row += [f"{written[-1] / total:.3f}"]
        else:
            row += ["", f"{out.stat().st_size / MEGA:.1f}", "", ""]
        rows.append(row)
    builder.delete()
    return rows


def measure_change(builder: Builder, size: str, revisions: dict, repeats: int) -> list[tuple]:
    """Time building an image of which one package has changed.

    Returns (bytes of the package, bytes of changed layers, bytes written, runs) for each package.
    """
    before = layers_of(run(builder.command("nix-build", "image", size, revisions)).output.strip())
    results = []
    for changed in revisions:
        runs = []
        for _ in range(repeats):
            now = {**revisions, changed: builder.new()}
            builder.outputs(run(builder.command("nix-build", "contents", size, now)))
            runs.append(run(builder.command("nix-build", "image", size, now)))
            written = nar_size(builder.outputs(runs[-1]))
        after = layers_of(runs[-1].output.strip())
        moved = sum(count for layer, count in after.items() if layer not in before)
        results.append((int(changed), moved, written, runs))
    builder.delete()
    return results


def measure_images(folder: Path, arguments: argparse.Namespace, packages: str) -> None:
    """Print the report's second part and draw its chart."""
    builder = Builder(packages)
    version = run(["nix-build", "--version"]).output.strip().rpartition(" ")[2]
    report(f"## The image build\n\n{machine()}, Nix {version} with its default settings.")
    repeats = arguments.repeats
    revisions = dict.fromkeys(CHANGING, "first")
    evaluations, colds = [], []
    changes = {}
    often = 3 * repeats  # what takes milliseconds
    for size, paths in IMAGE_SIZES.items():
        say(f"building the image of some {paths} paths")
        run(builder.command("nix-build", "image", size, revisions))
        run(builder.command("nix-build", "image", size, revisions, importFromDerivation=False))
        say("evaluation")
        evaluations += measure_evaluation(builder, size, revisions, often)
        say("all from nothing")
        few = min(repeats, COLD_RUNS[size])
        colds += measure_cold(builder, size, revisions, few, folder)
        say("one package changed")
        changes[size] = measure_change(builder, size, revisions, min(repeats, CHANGE_RUNS))
    report(
        f"Evaluation, and building when nothing has changed ({often} runs):",
        table(("paths", "", "wall ms", "/ names", "/ all"), evaluations),
        "All from nothing (runs: {})".format(
            ", ".join(
                f"{min(repeats, COLD_RUNS[size])} of {paths} paths"
                for size, paths in IMAGE_SIZES.items()
            )
        ),
        table(
            (
                *("paths", "", "wall s", "CPU s", "wall / tar \\| pigz"),
                *("layers", "image MB", "written MB", "written / image"),
            ),
            colds,
        ),
        f"One package changed ({min(repeats, CHANGE_RUNS)} runs):",
        table(
            ("paths", "package MB", "changed layers MB", "written MB", "wall s"),
            (
                (
                    IMAGE_SIZES[size],
                    f"{changed / MEGA:g}",
                    f"{moved / MEGA:.2f}",
                    f"{written / MEGA:.2f}",
                    spread([its_run.wall for its_run in runs]),
                )
                for size, results in changes.items()
                for changed, moved, written, runs in results
            ),
        ),
    )
    lines = {
        f"{IMAGE_SIZES[size]} paths, one changed": sorted(
            (moved / MEGA, median(runs, "wall")) for _, moved, _, runs in results
        )
        for size, results in changes.items()
    }
    for row in ("image", "tar \\| pigz -6"):
        name = "all from nothing" if row == "image" else "tar | pigz -6 of all"
        lines[name] = []
        for size in IMAGE_SIZES.values():
            (total,) = (float(c[6]) for c in colds if c[:2] == (size, "image"))
            (seconds,) = (float(c[2]) for c in colds if c[:2] == (size, row))
            lines[name].append((total, seconds))
    chart = draw(
        [Panel(f"images of {' and '.join(IMAGE_SIZES.values())} store paths", lines)],
        "Time to build an image",
        "MB in layers that change, compressed",
        "seconds",
        bold=list(lines)[:2],
        logarithmic=True,
    )
    if arguments.report is not None:
        (arguments.report / "speed-changes.svg").write_text(chart)


def find_packages() -> str | None:
    """Return the folder of the small package set; None without Nix, or where it can't be had."""
    if not shutil.which("nix-build"):
        return None
    fetch = BENCH.parent / "dev/packages/fetch"
    fetched = subprocess.run([fetch], stdout=subprocess.PIPE, text=True, check=False)
    return fetched.stdout.splitlines()[-1] if fetched.returncode == 0 else None


def measure(arguments: argparse.Namespace) -> None:
    """Print the report."""
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        measure_script(Path(folder), arguments)
    packages = find_packages()
    if packages is None:
        report("_Left out: the image build, which needs Nix and the small package set._")
        return
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        measure_images(Path(folder), arguments, packages)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", metavar="N", type=int, default=7, help="runs of each (default: %(default)s)")
    add("--report", metavar="FOLDER", type=Path, help="write speed.md and charts there")
    add("graphs", metavar="GRAPH", type=Path, nargs="*", help="a graph that Nix has exported")
    arguments = parser.parse_args(argv)
    # No cache is asked, and nothing is written beside the programs that run.
    os.environ["NIX_CONFIG"] = os.environ.get("NIX_CONFIG", "") + "\nsubstituters ="
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        with contextlib.ExitStack() as stack:
            if arguments.report is not None:
                file = stack.enter_context(open(arguments.report / "speed.md", "w"))
                stack.enter_context(contextlib.redirect_stdout(file))
                report("# Speed, measured", "Written by `bench/speed.py --report bench`.")
            measure(arguments)
    except Failure as failure:
        say(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
