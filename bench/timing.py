"""Time whole processes, compare them in pairs, and write the tables of the reports."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Union

MEGA = 1_000_000

Command = Sequence[Union[str, Path]]


class Failure(Exception):
    """A program that is measured fails; the message has the command and what it said."""


def say(message: str) -> None:
    """Print what is being done, on standard error; reports go elsewhere."""
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr, flush=True)


class Run(NamedTuple):
    """One run of a program: seconds, bytes, and what it wrote."""

    wall: float
    cpu: float  # user and system, children included
    peak: int  # of the largest process; at least what this one had when it started the program
    output: str
    log: str


def run(command: Command) -> Run:
    """Run a command to its end. Raises `Failure` unless it succeeds."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = status
        output.seek(0)
        log.seek(0)
        cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        result = Run(wall, cpu, peak, output.read(), log.read())
    if status != 0:
        raise Failure(f"{' '.join(map(str, command))}: {result.log[-2000:].strip()}")
    return result


def alternate(commands: Mapping[str, Command | Callable], repeats: int) -> dict[str, list[Run]]:
    """Run commands, or what functions return, in turn: the list of runs of each.

    What slows the machine down for a while slows neighbors down alike.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            runs[name].append(run(command() if callable(command) else command))
    return runs


def median(runs: Iterable[Run], clock: str = "cpu") -> float:
    """Return the median of a field of the runs."""
    return statistics.median(getattr(run, clock) for run in runs)


def ratio(these: Sequence[Run], those: Sequence[Run], clock: str = "cpu") -> str:
    """Return how many times as long the first of two programs takes, which ran in turn."""
    return spread([getattr(a, clock) / getattr(b, clock) for a, b in zip(these, those)])


def spread(values: Sequence[float]) -> str:
    """Return the median, the lowest and the highest for a table's cell."""
    digits = 0 if max(values) >= 10 else 2
    numbers = statistics.median(values), min(values), max(values)
    return "{} ({} to {})".format(*(f"{number:.{digits}f}" for number in numbers))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table, its first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine in general terms."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores ({name}), {platform.system()}"
