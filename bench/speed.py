#!/usr/bin/env python3
"""Measure how long grouping and building images take; write the report and charts.

    speed.py [--repeats N] [--nixpkgs FOLDER] [--report FOLDER]

Without `--report`, nothing is written and the report is printed. Programs that are compared run
alternately, `--repeats` times; a ratio is the median over neighboring runs, followed by the lowest
and the highest. Times are those of whole processes with all their children.

The first part times group_layers.py on graphs of many sizes and shapes (graphs.py), beside a
program that does nothing but `json.load` the file.

The second part builds images of the small package set with Nix, beside `tar | pigz` of the same
store paths and, with `--nixpkgs`, a checkout of nixpkgs, beside its dockerTools with the same
contents. Everything but the packages is deleted afterwards. Without Nix, this part is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from graphs import SHAPES
from plot import Panel, draw
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
    spread,
    table,
)

BENCH = Path(__file__).resolve().parent
PROGRAM = BENCH.parent / "group_layers.py"
sys.path.insert(0, str(BENCH.parent))
from group_layers import DEFAULT_STRATEGY, STRATEGIES  # noqa: E402  it lies in the folder above

# Shapes that Nix can make at any size. The others have cycles, or are hard at one size.
OTHERS = ("closure-cyclic", "both-directions", "worst-order", "equal-ratings")
GROWING = [name for name in SHAPES if name not in OTHERS]
GROWTH = (10_000, 100_000)
COMPARED = (100, 1_000, 10_000, 100_000)

# Bytes of the packages that change in images, and revisions that they have otherwise
Revisions = Mapping[str, str]
CHANGING = ("100000", "1000000", "10000000", "30000000")
FIRST = dict.fromkeys(CHANGING, "first")
# images.nix's names, and about how many store paths
IMAGE_SIZES = {"small": "50", "application": "100", "large": "500"}

# At most so many runs of what takes longest: images from nothing; after a change, and growth.
COLD_RUNS = 5
CHANGE_RUNS = 3

CLOCKS = ("wall", "cpu")
# Rows of the table of images from nothing
IMAGE = "image"
WITHOUT_IMPORT = "image, importFromDerivation = false"
PIGZ = "tar \\| pigz -6"
DOCKER_TOOLS = "buildLayeredImage"
STREAM = "streamLayeredImage >file"

# Attributes of images.nix, so many derivations each: what they do in their sandbox
STAGES = {
    "sandbox": "start bash",
    "python": "start env and Python",
    "hashlib": "the same, and import hashlib",
    "json": "the same, and import hashlib, json and re",
    "layer": "pack a layer of one small file",
}
STAGE_DERIVATIONS = 50

# What compresses a layer, how, and in parts of how many MiB; None is the whole in one.
COMPRESSORS = (
    ("libdeflate-gzip -6 -c", (None, 2)),
    ("pigz -6 -p 1", (None,)),
    ("zstd -6 -T1 --quiet", (None, 2, 4, 8)),
)


def say(message: str) -> None:
    """Tell what is being done; the report is on standard output."""
    print(f"speed: {message}", file=sys.stderr, flush=True)


def report(*paragraphs: str) -> None:
    """Print paragraphs of the report, which is standard output."""
    print(*paragraphs, sep="\n\n", end="\n\n", flush=True)


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

    def parse(self, graph: Path) -> Command:
        """Return the command that does nothing but parse a graph."""
        return [sys.executable, "-c", "import json, sys; json.load(open(sys.argv[1]))", graph]

    def group(self, strategy: str, graph: Path) -> Command:
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
        commands = {name: script.group(name, graph) for name in STRATEGIES}
        commands["json.load"] = script.parse(graph)
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
        commands = {file.name: script.group(DEFAULT_STRATEGY, file) for file in graphs}
        small, large = alternate(commands, min(repeats, CHANGE_RUNS)).values()
        cells = [f"{median(runs):.2f}" for runs in (small, large)]
        rows.append((shape, *cells, f"{median(large) / median(small):.1f}"))
        for file in graphs:
            file.unlink()
    header = ["shape", *(f"{count} paths, s" for count in GROWTH), "times"]
    report(f"Growth, strategy {DEFAULT_STRATEGY}, CPU time:", table(header, rows))


def measure_single(script: Script, repeats: int) -> None:
    """Time the start, and the graphs that are hard at one size."""
    tiny = script.graph("chain", 3)
    commands = {
        "bare": [sys.executable, "-c", "pass"],
        "script": script.group(DEFAULT_STRATEGY, tiny),
    }
    runs = alternate(commands, 3 * repeats)
    pairs = zip(runs["script"], runs["bare"])
    more = [1000 * (script_run.cpu - bare.cpu) for script_run, bare in pairs]
    rows = [("start, over a bare interpreter", spread(more))]
    hard = [script.graph("worst-order", 1_000), script.graph("equal-ratings", 200)]
    for file in hard:
        times = [1000 * run(script.group("nixery", file)).cpu for _ in range(repeats)]
        rows.append((f"{file.stem}, nixery", spread(times)))
    report(table(("", "CPU ms"), rows))


def measure_script(folder: Path, arguments: argparse.Namespace) -> None:
    """Report the first part and draw its chart."""
    report(f"## The script\n\n{machine()}, Python {platform.python_version()}.")
    script = Script(folder)
    measure_single(script, arguments.repeats)
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
        self.path = ""
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

    def tools(self, *command: str | Path) -> Command:
        """Return a command that runs another one with the programs that builders run."""
        if not self.path:
            built = run(self.command("nix-build", "tools", "small", {})).output.split()
            self.path = ":".join(f"{tool}/bin" for tool in built)
        return ["env", f"PATH={self.path}", *command]

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


def layers_of(image: Path) -> dict[str, int]:
    """Return the bytes of each layer of an OCI image layout, by digest."""
    layers = json.loads((image / "manifest.json").read_text())[0]["Layers"]
    return {blob: (image / blob).stat().st_size for blob in layers}


def nar_size(paths: Sequence[str]) -> int:
    """Return how many bytes store paths have."""
    if not paths:
        return 0
    return sum(map(int, run(["nix-store", "--query", "--size", *paths]).output.split()))


def measure_evaluation(builder: Builder, size: str, repeats: int) -> list[tuple]:
    """Time evaluations of an image that is built already, and building it again: rows."""

    def command(program: str, attribute: str, **more: str) -> Command:
        return builder.command(program, attribute, size, FIRST, **more)

    names = "names of the packages only"
    commands = {
        names: command("nix-instantiate", "contents"),
        "all, the plan being there": command("nix-instantiate", "image"),
        "all, the plan being made (the one import)": lambda: command(
            "nix-instantiate", "image", mtime=builder.new_time()
        ),
        "nix-build": command("nix-build", "image"),
    }
    runs = alternate(commands, repeats)
    rows = []
    for name, its_runs in runs.items():
        for each in its_runs:
            builder.outputs(each)
        milliseconds = spread([1000 * its_run.wall for its_run in its_runs])
        rows.append((IMAGE_SIZES[size], name, milliseconds, ratio(its_runs, runs[names], "wall")))
    return rows


def measure_cold(
    builder: Builder, size: str, repeats: int, folder: Path, nixpkgs: Path | None
) -> list[tuple]:
    """Time building all of an image but its packages, beside other programs: rows."""
    files = {PIGZ: folder / "compressed", STREAM: folder / "stream"}  # what others write

    def build(attribute: str, *words: str, **more: str | bool) -> Callable[[], Command]:
        def command() -> Command:
            revisions = {**FIRST, CHANGING[0]: builder.new()}
            builder.outputs(run(builder.command("nix-build", "contents", size, revisions)))
            more["mtime"] = builder.new_time()
            return [*builder.command("nix-build", attribute, size, revisions, **more), *words]

        return command

    def stream() -> list[str]:
        command = " ".join(f"'{word}'" for word in build("others.stream", **checkout)())
        return ["sh", "-ec", f"$({command}) >{files[STREAM]}"]

    checkout = {"nixpkgs": str(nixpkgs and nixpkgs.resolve())}
    (folder / "closure").write_text("\n".join(builder.closure(size, FIRST)))
    archive = f"tar --create --absolute-names --files-from={folder / 'closure'}"
    others = {PIGZ: builder.tools("sh", "-c", f"{archive} | pigz -6 >{files[PIGZ]}")}
    if nixpkgs:
        others[DOCKER_TOOLS] = build("others.archive", **checkout)
        others[STREAM] = stream
    commands = {
        IMAGE: build("image"),
        "image, max-jobs = auto": build("image", "--max-jobs", "auto"),
        WITHOUT_IMPORT: build("image", importFromDerivation=False),
        "image.archive": build("image.archive"),
        **others,
    }
    runs = alternate(commands, repeats)
    rows = []
    for name, its_runs in runs.items():
        written = [nar_size(builder.outputs(each)) for each in its_runs][-1]
        result = files.get(name) or Path(its_runs[-1].output.strip())
        layers = layers_of(result) if result.is_dir() else {}
        total = sum(layers.values()) or result.stat().st_size
        row = [f"{median(its_runs, clock):.1f}" for clock in CLOCKS]
        row += [ratio(its_runs, runs[PIGZ], "wall")]
        row += [ratio(its_runs, runs[DOCKER_TOOLS], clock) for clock in CLOCKS if nixpkgs]
        sizes = len(layers) or "", f"{total / MEGA:.1f}", f"{written / MEGA:.1f}"
        rows.append((IMAGE_SIZES[size], name, *row, *sizes))
    builder.delete()
    return rows


def measure_change(builder: Builder, size: str, repeats: int, **more: bool) -> list[tuple]:
    """Time building an image of which one package has changed.

    Returns (bytes of the package, bytes of changed layers, bytes written, runs) for each package.
    """

    def build(attribute: str, revisions: Revisions, **more: bool) -> Run:
        return run(builder.command("nix-build", attribute, size, revisions, **more))

    before = layers_of(Path(build("image", FIRST, **more).output.strip()))
    results = []
    for changed in CHANGING:
        runs = []
        for _ in range(repeats):
            now = {**FIRST, changed: builder.new()}
            builder.outputs(build("contents", now))
            runs.append(build("image", now, **more))
            written = nar_size(builder.outputs(runs[-1]))
        after = layers_of(Path(runs[-1].output.strip()))
        moved = sum(count for layer, count in after.items() if layer not in before)
        results.append((int(changed), moved, written, runs))
    builder.delete()
    return results


def measure_compressors(builder: Builder, folder: Path) -> None:
    """Report what compressors make of the application's closure, whole and in parts."""
    archive, out = folder / "archive", folder / "compressed"
    paths = builder.closure("application", {})
    run(builder.tools("tar", "--create", "--absolute-names", f"--file={archive}", *paths))
    total = archive.stat().st_size
    rows = []
    for program, sizes in COMPRESSORS:
        for size in sizes:
            say(f"{program}, parts: {size}")
            command = f"{program} <{archive} >{out}"
            if size:
                command = f"split --bytes={size}M --filter='{program}' {archive} >{out}"
            cpu = run(builder.tools("sh", "-c", command)).cpu
            compressed = out.stat().st_size
            if not size:
                whole = compressed
            cells = f"{total / cpu / MEGA:.0f}", f"{compressed / MEGA:.1f}"
            more = f"{100 * compressed / whole - 100:.2f} %" if size else ""
            rows.append((program, f"{size} MiB" if size else "whole", *cells, more))
    report(
        f"Compressors on one core, on a tar archive of {total / MEGA:.0f} MB:",
        table(("program", "parts", "MB/s of CPU time", "MB", "more than whole"), rows),
    )


def measure_stages(builder: Builder, repeats: int) -> None:
    """Report what the time of a small layer is spent on."""

    def build(stage: str) -> Callable[[], Command]:
        attribute = f"stages.{stage}"
        return lambda: builder.command(
            "nix-build", attribute, "small", {CHANGING[0]: builder.new()}
        )

    say("small layers")
    runs = alternate({name: build(stage) for stage, name in STAGES.items()}, repeats)
    rows = []
    for name, its_runs in runs.items():
        for each in its_runs:
            builder.outputs(each)
        times = [[getattr(each, clock) for each in its_runs] for clock in CLOCKS]
        cells = [spread([1000 * each / STAGE_DERIVATIONS for each in some]) for some in times]
        rows.append((name, *cells))
    builder.delete()
    report(
        f"Small derivations, {STAGE_DERIVATIONS} after one another ({repeats} runs):",
        table(("in a sandbox", "wall ms", "CPU ms"), rows),
    )


def measure_images(folder: Path, arguments: argparse.Namespace, packages: str) -> None:
    """Print the report's second part and draw its chart."""
    builder = Builder(packages)
    version = run(["nix-build", "--version"]).output.strip().rpartition(" ")[2]
    report(f"## The image build\n\n{machine()}, Nix {version} with its default settings.")
    measure_compressors(builder, folder)
    repeats = arguments.repeats
    measure_stages(builder, repeats)
    evaluations, colds, changed = [], [], []
    changes = {}
    # What takes milliseconds, and seconds
    often, cold, few = 3 * repeats, min(repeats, COLD_RUNS), min(repeats, CHANGE_RUNS)
    for size, paths in IMAGE_SIZES.items():
        say(f"building the image of some {paths} paths")
        run(builder.command("nix-build", "image", size, FIRST))
        say("evaluation")
        evaluations += measure_evaluation(builder, size, often)
        say("all from nothing")
        colds += measure_cold(builder, size, cold, folder, arguments.nixpkgs)
        say("one package changed")
        changes[size] = measure_change(builder, size, few)
        say("one package changed, without import from derivation")
        without = measure_change(builder, size, few, importFromDerivation=False)
        for name, results in (IMAGE, changes[size]), (WITHOUT_IMPORT, without):
            for package, moved, written, runs in results:
                sizes = [f"{package / MEGA:g}", f"{moved / MEGA:.2f}", f"{written / MEGA:.2f}"]
                times = [spread([getattr(each, clock) for each in runs]) for clock in CLOCKS]
                changed.append((paths, name, *sizes, *times))
    header = ["paths", "", "wall s", "CPU s", f"wall / {PIGZ}"]
    if arguments.nixpkgs:
        header += [f"{clock} / {DOCKER_TOOLS}" for clock in ("wall", "CPU")]
    report(
        f"Evaluation, and building when nothing has changed ({often} runs):",
        table(("paths", "", "wall ms", "/ names"), evaluations),
        f"All from nothing but the packages ({cold} runs):",
        table((*header, "layers", "MB", "written MB"), colds),
        f"One package changed ({few} runs):",
        table(
            ("paths", "", "package MB", "changed layers MB", "written MB", "wall s", "CPU s"),
            changed,
        ),
        f"In the last 15 minutes {os.getloadavg()[2]:.1f} processes were running on average.",
    )
    lines = {
        f"{IMAGE_SIZES[size]} paths, one changed": sorted(
            (moved / MEGA, median(runs, "wall")) for _, moved, _, runs in results
        )
        for size, results in changes.items()
    }
    for what, name in {IMAGE: "all from nothing", PIGZ: "tar | pigz -6 of all"}.items():
        lines[name] = [(float(row[-2]), float(row[2])) for row in colds if row[1] == what]
    chart = draw(
        [Panel(f"images of {', '.join(IMAGE_SIZES.values())} store paths", lines)],
        "Time to build an image",
        "MB in layers that change, compressed",
        "seconds",
        bold=list(lines)[: len(changes)],
        logarithmic=True,
    )
    if arguments.report is not None:
        (arguments.report / "speed-changes.svg").write_text(chart)


def find_packages() -> str | None:
    """Return the folder of the small package set; None without Nix, or where it can't be had."""
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
    add("--repeats", metavar="N", type=int, default=7, help="runs of each (default: %(default)s)")
    add("--nixpkgs", metavar="FOLDER", type=Path, help="a checkout to take dockerTools from")
    add("--report", metavar="FOLDER", type=Path, help="write speed.md and charts there")
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
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speed-")))
            measure_script(folder, arguments)
            packages = find_packages()
            if packages:
                measure_images(folder, arguments, packages)
            else:
                report("_Left out: the image build, which needs Nix and the small package set._")
    except Failure as failure:
        say(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
