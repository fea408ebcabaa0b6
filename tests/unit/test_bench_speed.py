"""bench/speed.py: that it compares what it says, and makes a report where little is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import timing  # noqa: E402


def test_the_report_is_printed_or_written_and_says_what_is_left_out(tmp_path: Path) -> None:
    def report(*words: str) -> str:
        """Run speed.py where there is no Nix, on a small graph."""
        program = "import speed; speed.PATHS = (100,); speed.main()"
        environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(BENCH)}
        command = [sys.executable, "-c", program, "--repeats", "1", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    before = (BENCH / "speed.md").read_bytes()
    printed = report()
    assert re.search(r"\| 100 \| nixery \| \d", printed)
    assert "_Left out: building" in printed
    assert (BENCH / "speed.md").read_bytes() == before
    assert report("--write", str(tmp_path)) == ""
    without_figures = re.compile(r"[\d.]+")
    written = (tmp_path / "speed.md").read_text()
    assert without_figures.split(written) == without_figures.split(printed)


def test_ratios_are_those_of_neighbors() -> None:
    def runs(*seconds: float) -> list[timing.Run]:
        return [timing.Run(each, each, 0, "", "") for each in seconds]

    compared = timing.ratio(runs(2, 40, 3), runs(1, 10, 1))
    assert compared == "3.00 (2.00 to 4.00)"


def test_a_failing_program_is_no_measurement() -> None:
    with pytest.raises(timing.Failure, match="too bad"):
        timing.run([sys.executable, "-c", "raise SystemExit('too bad')"])
