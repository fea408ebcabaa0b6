"""bench/speed.py: that it compares what it says, and makes a report where little is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import dominator_peers  # noqa: E402
import graphs  # noqa: E402
import group_layers  # noqa: E402
import speed  # noqa: E402


def report(folder: Path, *words: object) -> str:
    """Return the report of speed.py where neither Nix nor the peers can be had."""
    (folder / "bin").mkdir()
    (folder / "bin/python3").symlink_to(sys.executable)
    environment = {
        **os.environ,
        "PATH": str(folder / "bin"),
        "XDG_CACHE_HOME": str(folder),
        "PIP_NO_INDEX": "1",
    }
    command = [sys.executable, BENCH / "speed.py", "--repeats", "1", "--largest", "100"]
    done = subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_report_where_neither_nix_nor_the_peers_can_be_had(tmp_path: Path) -> None:
    text = report(tmp_path, "--plots", tmp_path)
    assert "| 100 | nixery / json.load |" in text
    assert "_Left out: networkx and igraph" in text
    assert "_Left out: the image build" in text
    chart = ElementTree.parse(tmp_path / "speed-paths.svg")
    assert "json.load" in [text.text for text in chart.iter("{http://www.w3.org/2000/svg}text")]


def test_no_chart_is_written_unless_asked_for(tmp_path: Path) -> None:
    def charts() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in BENCH.glob("*.svg")}

    before = charts()
    report(tmp_path)
    assert charts() == before


@pytest.mark.parametrize("shape", graphs.SHAPES)
@pytest.mark.parametrize("budget", [1, 7, 94])
def test_peers_group_as_the_program_does(tmp_path: Path, shape: str, budget: int) -> None:
    file = tmp_path / "graph.json"
    with open(file, "w") as stream:
        graphs.write_graph(stream, shape, 200)
    document = json.loads(file.read_text())
    graph = group_layers.load_graph(file.read_text())
    # The image is one more vertex, as in the peers; dominators are the same whoever finds them.
    numbers = {path: number for number, path in enumerate(graph.paths)}
    successors: list[list[int]] = [[] for _ in range(len(graph.paths) + 1)]
    for source, target in dominator_peers.edges(document):
        successors[numbers.get(source, len(graph.paths))].append(numbers[target])
    order, above = group_layers.dominator_tree(successors, len(graph.paths))
    names = [*graph.paths, dominator_peers.IMAGE]
    dominators = {names[vertex]: names[above[vertex]] for vertex in order[1:]}
    layers = group_layers.group(graph, budget, strategy="nixery")
    assert dominator_peers.group(document, dominators, budget) == [
        layer.contents for layer in layers
    ]


def test_ratios_are_those_of_neighbours() -> None:
    def runs(*seconds: float) -> list[speed.Run]:
        return [speed.Run(each, each, 0, "", "") for each in seconds]

    compared = speed.ratio(runs(2, 40, 3), runs(1, 10, 1))
    assert str(compared) == "3.00 (2.00 to 4.00)"


def test_a_failing_program_is_no_measurement() -> None:
    with pytest.raises(speed.Failure, match="too bad"):
        speed.run([sys.executable, "-c", "raise SystemExit('too bad')"])
