"""The figures of bench/reuse.py, on package sets small enough to work them out by hand."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import corpora  # noqa: E402
import peers  # noqa: E402
import reuse  # noqa: E402


def store_path(letter: str, name: str) -> str:
    return f"/nix/store/{letter * 32}-{name}"


NAMED = {strategy.name: strategy for strategy in peers.STRATEGIES}
LIB, TOOL = store_path("a", "lib-1"), store_path("b", "tool-1")
FIRST, SECOND = store_path("f", "first-1"), store_path("g", "second-1")
NEW_LIB = store_path("c", "lib-2")
NEW_FIRST, NEW_SECOND = store_path("h", "first-1"), store_path("i", "second-1")


def two_programs(lib: str, first: str, second: str) -> dict:
    """Two programs, of 10 and 20 bytes, that need a library of 100 and a tool of 1000 bytes."""
    return {
        "nodes": {
            lib: [100, []],
            TOOL: [1000, []],
            first: [10, [lib, TOOL]],
            second: [20, [lib, TOOL]],
        },
        "roots": {"first": [first], "second": [second]},
        "popularity": {"lib-1": 2, "tool-1": 2},
    }


OLD = two_programs(LIB, FIRST, SECOND)
NEW = two_programs(NEW_LIB, NEW_FIRST, NEW_SECOND)


def write_corpus(path: Path, content: dict) -> str:
    with gzip.open(path, "wt") as file:
        json.dump(content, file)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """The corpus as it was, and after an update of the library."""
    return write_corpus(tmp_path / "old.json.gz", OLD), write_corpus(tmp_path / "new.json.gz", NEW)


@pytest.fixture
def figures(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, reuse.Figures]:
    """The figures, with a budget of two layers, for a fleet that has each program in an image."""
    monkeypatch.setattr(reuse, "draw_fleet", lambda corpus, seed, images: [["first"], ["second"]])
    old, new = map(corpora.read_corpus, files)
    cases = [reuse.Case(strategy, 2) for strategy in peers.STRATEGIES]
    rows = reuse.measure(old, new, cases, seeds=["1"], images=2)
    return {case.strategy.name: row for case, row in zip(cases, rows)}


def test_a_layer_for_each_path_is_enough_to_move_no_byte_twice(files: tuple[str, str]) -> None:
    old, new = map(corpora.read_corpus, files)
    cases = [reuse.Case(NAMED[name], 4) for name in ("reuse", "together")]
    alone, together = reuse.measure(old, new, cases, images=9)
    assert alone == (1, 1, 1, 1, 1, 1, 0)
    assert together == (1, 1, None, None, 1, 1, 0)


def test_one_layer_moves_everything_again(figures: dict[str, reuse.Figures]) -> None:
    row = figures["one layer"]
    assert row.fleet == pytest.approx((1110 + 1120) / 1130)
    assert row.share == 0
    assert row.update == pytest.approx((1110 + 1120) / (110 + 120))
    assert row.rollout == pytest.approx((1110 + 1120) / (100 + 10 + 20))
    assert (row.fleet_update, row.fleet_rollout) == (row.update, row.rollout)


def test_popularity_contest(figures: dict[str, reuse.Figures]) -> None:
    """The library and the tool are equally popular. The first by path has a layer: the library,
    and after the update the tool.
    """
    row = figures["popularity contest"]
    assert row.fleet == pytest.approx((100 + 1010 + 1020) / 1130)
    assert row.share == pytest.approx(100 / 1100)
    assert row.update == pytest.approx((1000 + 110 + 1000 + 120) / (110 + 120))
    assert row.rollout == pytest.approx((1000 + 110 + 120) / (100 + 10 + 20))


@pytest.mark.parametrize("strategy", ["largest paths", "auto-layer", "reuse"])
def test_the_large_tool_apart(figures: dict[str, reuse.Figures], strategy: str) -> None:
    row = figures[strategy]
    assert row.fleet == pytest.approx((1000 + 110 + 120) / 1130)
    assert row.share == pytest.approx(1000 / 1100)
    assert row.update == 1
    assert row.rollout == pytest.approx((110 + 120) / (100 + 10 + 20))


def test_together_both_images_share_what_both_have(figures: dict[str, reuse.Figures]) -> None:
    """Library and tool share a layer, which an update of the library changes. One image alone has
    the tool apart, so both of its layers change when the other one joins it.
    """
    row = figures["together"]
    assert (row.fleet, row.share, row.update) == (1, 1, None)
    assert row.fleet_update == pytest.approx((1110 + 1120) / (110 + 120))
    assert row.fleet_rollout == pytest.approx((1100 + 10 + 20) / (100 + 10 + 20))
    assert row.join == 1
    assert figures["together, groups of ten"] == row
    halves = figures["reuse"]._replace(update=None, rollout=None)
    assert figures["together, two halves"] == halves


def test_auto_layer_joins_what_the_same_large_paths_need() -> None:
    """Two large paths, x and y: what only one needs joins it, what both need is a group, and so is
    what none needs.
    """
    references = {"top": "xy", "x": ["both", "only-x"], "y": ["both"], "both": [], "only-x": []}
    sizes = {"top": 1, "x": 1000, "y": 900, "both": 10, "only-x": 10}
    corpus = corpora.Corpus("", sizes, references, {"top": ["top"]}, {})
    layers = peers.auto_layer(peers.Image(corpus, ["top"]), 4, {})
    assert sorted(map(sorted, layers)) == [["both"], ["only-x", "x"], ["top"], ["y"]]


def test_popularity_counts_the_ways_to_a_path() -> None:
    """There are four ways to d: from itself, from b, and from a both directly and through b. Two
    lead to b, one to a and one to c.
    """
    references = {"a": ["b", "d"], "b": ["d"], "c": [], "d": []}
    corpus = corpora.Corpus("", dict.fromkeys(references, 1), references, {"": ["a", "c"]}, {})
    image = peers.Image(corpus, ["a", "c"])
    assert peers.popularity_contest(image, 3, {}) == [["d"], ["b"], ["a", "c"]]


PACKAGES = """\
Package: program
Version: 1:2.0~rc1-1
Installed-Size: 3
Depends: absent | library (>= 1), virtual, data:any

Package: library
Version: {version}
Installed-Size: 2
Pre-Depends: data

Package: data
Version: 7
Installed-Size: 1
Depends: library

Package: provider
Version: 1
Provides: virtual (= 1)

Package: other
Version: 1
"""


def debian_corpus(version: str, monkeypatch: pytest.MonkeyPatch) -> corpora.Corpus:
    monkeypatch.setattr(corpora, "PROGRAMS", ["program", "other", "missing"])
    packages = corpora._packages(PACKAGES.format(version=version))
    return corpora._corpus_of("test", {package.name: package for package in packages})


def test_debian_packages_become_store_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dependency is the first alternative that there is, or who provides it; of a cycle, the last
    reference is left out; store names have no characters that Nix forbids.
    """
    corpus = debian_corpus("1.5", monkeypatch)
    names = {path: path[44:] for path in corpus.sizes}
    assert {names[path]: size for path, size in corpus.sizes.items()} == {
        "program-1_2.0_rc1-1": 3072,
        "library-1.5": 2048,
        "data-7": 1024,
        "provider-1": 0,
        "other-1": 0,
    }
    references = {names[p]: sorted(map(names.get, r)) for p, r in corpus.references.items()}
    assert references["program-1_2.0_rc1-1"] == ["data-7", "library-1.5", "provider-1"]
    assert sorted([references["library-1.5"], references["data-7"]]) == [[], ["library-1.5"]]
    assert corpus.popularity == {"data-7": 2, "library-1.5": 2, "provider-1": 1}


def test_versions_are_ordered_as_debian_orders_them() -> None:
    ordered = ["1.9~~", "1.9~rc1-1", "1.9", "1.9-1~deb12u1", "1.9-1", "1.9-1+b1", "1.9a", "1.10"]
    ordered.append("1:0.1")
    assert sorted(set(ordered), key=corpora._version_key) == ordered


def test_an_update_renames_what_refers_to_it_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = debian_corpus("1.5", monkeypatch).sizes
    after = debian_corpus("1.6", monkeypatch).sizes
    assert {path[44:] for path in before.keys() & after.keys()} == {"provider-1", "other-1"}


def test_both_forms_of_nix_path_info() -> None:
    entry = {"narSize": 5, "references": [LIB, FIRST], "deriver": None}
    listed = [
        {"path": FIRST, **entry},
        {"path": LIB, "narSize": 7, "references": []},
        {"path": TOOL, "narSize": 9, "references": []},
        {"path": SECOND, "narSize": 4, "references": [LIB]},
        {"path": store_path("d", "x.drv"), "narSize": 1, "references": [LIB]},
    ]
    corpus = corpora.corpus_of_path_info(listed)
    assert corpus == corpora.corpus_of_path_info({e["path"]: e for e in listed})
    assert corpus.sizes == {LIB: 7, TOOL: 9, FIRST: 5, SECOND: 4}
    assert corpus.references[FIRST] == [LIB]  # not itself
    assert sorted(corpus.roots.values()) == [[FIRST], [SECOND]]
    assert corpus.popularity == {"lib-1": 2}


def test_the_command_writes_tables_and_draws_a_plot(files: tuple[str, str], tmp_path: Path) -> None:
    def run(hash_seed: str) -> tuple[str, str, bytes]:
        plot, tables = tmp_path / "plot.svg", tmp_path / "tables.md"
        command = [BENCH / "reuse.py", "--corpus", *files, "--budgets", "2,3", "--constants"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, *command, "--write", tables, "--plot", plot],
            **{"check": True, "env": environment, "capture_output": True, "text": True},
        )
        return done.stdout, tables.read_text(), plot.read_bytes()

    printed, written, drawn = run("1")
    assert (printed, written, drawn) == run("2")
    assert printed.strip() in written
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    budgeted = [s for s in peers.STRATEGIES if s.budgeted]
    alone = {s.name for s in budgeted if not s.joint}
    compared = 1 + len(peers.STRATEGIES) + len(budgeted)
    assert len(rows) == compared + 1 + 2 * (3 + 2 * len(reuse.CONSTANTS))
    texts = {element.text for element in ElementTree.fromstring(drawn).iter()}
    assert alone <= texts


def test_a_constant_is_varied_for_one_plan_and_put_back(files: tuple[str, str]) -> None:
    image = peers.Image(corpora.read_corpus(files[0]), [FIRST])
    ours = NAMED["reuse"]
    changed = peers.with_constant(ours, "DETAILED", 1 / peers.group_layers.DETAILED)
    before = ours.group(image, 3, {})
    assert len(changed.group(image, 3, {})) == 1 < len(before)
    assert ours.group(image, 3, {}) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not gzip", "Not a gzipped file"),
        (gzip.compress(b"{}"), "not a corpus"),
        (gzip.compress(b'{"nodes": {}, "roots": {"a": ["/x"]}}'), "roots: a: /x is not in"),
    ],
)
def test_a_bad_corpus_is_named(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "bad.json.gz"
    file.write_bytes(content)
    assert reuse.main(["--corpus", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert reason in line
