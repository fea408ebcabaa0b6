"""bench/speed.py: that it compares what it says, and makes a report where little is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import timing  # noqa: E402


def report(folder: Path, *words: object) -> str:
    """Return what speed.py prints where there is no Nix, about small graphs."""
    (folder / "bin").mkdir()
    (folder / "bin/python3").symlink_to(sys.executable)
    sizes = "import speed; speed.COMPARED = 100,; speed.GROWTH = 10, 100; speed.main()"
    environment = {**os.environ, "PATH": str(folder / "bin"), "PYTHONPATH": str(BENCH)}
    command = [sys.executable, "-c", sizes, "--repeats", "1", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_report_and_charts_go_to_the_folder_that_is_named(tmp_path: Path) -> None:
    assert report(tmp_path, "--report", tmp_path) == ""
    text = (tmp_path / "speed.md").read_text()
    assert "| 100 | nixery |" in text
    assert "_Left out: the image build" in text
    chart = ElementTree.parse(tmp_path / "speed-paths.svg")
    assert "json.load" in [text.text for text in chart.iter("{http://www.w3.org/2000/svg}text")]


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    def written() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in BENCH.glob("speed*.*")}

    before = written()
    assert "| 100 | nixery |" in report(tmp_path)
    assert written() == before


def test_ratios_are_those_of_neighbors() -> None:
    def runs(*seconds: float) -> list[timing.Run]:
        return [timing.Run(each, each, 0, "", "") for each in seconds]

    compared = timing.ratio(runs(2, 40, 3), runs(1, 10, 1))
    assert compared == "3.00 (2.00 to 4.00)"


def test_a_failing_program_is_no_measurement() -> None:
    with pytest.raises(timing.Failure, match="too bad"):
        timing.run([sys.executable, "-c", "raise SystemExit('too bad')"])
