"""The figures of bench/reuse.py, on package sets small enough to work them out by hand."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

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
def figures(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures, with a budget of two layers, for a fleet that has each program in an image."""
    monkeypatch.setattr(reuse, "draw_fleet", lambda corpus, seed, images: [["first"], ["second"]])
    old, new = map(corpora.read_corpus, files)
    cases = [reuse.Case(strategy, 2) for strategy in peers.STRATEGIES]
    rows = reuse.measure(old, new, cases, images=2)
    return {case.strategy.name: row for case, row in zip(cases, rows)}


def test_a_layer_for_each_path_is_enough_to_move_no_byte_twice(files: tuple[str, str]) -> None:
    old, new = map(corpora.read_corpus, files)
    each = peers.Strategy("each alone", lambda image, *_: [[path] for path in image.sizes])
    row: dict[str, Any]
    (row,) = reuse.measure(old, new, [reuse.Case(each, 6)], images=9)
    assert (row["fleet"], row["share"]) == (1, 1)
    assert {row[f"{it}update"] for it in ("", "fleet_")} == {1}
    assert {row[f"{it}rollout"] for it in ("", "fleet_")} == {1}
    assert (row["touch"], row["edit"], row["edit, maximum"]) == (0, 0.1, 0.1)
    assert (row["library"], row["library, maximum"]) == (0.16, 0.16)


def test_one_layer_moves_everything_again(figures: dict[str, Any]) -> None:
    row = figures["one layer"]
    assert row["fleet"] == row["fleet, chains"] == pytest.approx((1110 + 1120) / 1130)
    assert row["share"] == 0
    assert row["update"] == row["update, chains"] == pytest.approx((1110 + 1120) / (110 + 120))
    assert row["rollout"] == pytest.approx((1110 + 1120) / (100 + 10 + 20))
    assert (row["fleet_update"], row["fleet_rollout"]) == (row["update"], row["rollout"])
    assert row["layers"] == 1
    assert row["edit"] == row["library"] == row["edit, chains"] == row["library, chains"]
    # An application and its library stand on one program or on both.
    assert 0.16111 < row["edit"] < row["edit, maximum"] == pytest.approx(0.16113)


def test_a_year_is_a_pull_and_twelve_updates_and_250_edits(
    figures: dict[str, Any],
) -> None:
    """Each moves one layer, which counts as a megabyte more."""
    row = figures["one layer"]
    assert row["year"] == pytest.approx(1.001115 + 12 * 1.001115 + 250 * (1 + row["edit"]))


def test_popularity_contest(figures: dict[str, Any]) -> None:
    """The library and the tool are equally popular. The first by path has a layer: the library,
    and after the update the tool.
    """
    row = figures["popularity contest"]
    assert row["fleet"] == pytest.approx((100 + 1010 + 1020) / 1130)
    assert row["share"] == pytest.approx(100 / 1100)
    assert row["update"] == pytest.approx((1000 + 110 + 1000 + 120) / (110 + 120))
    assert row["rollout"] == pytest.approx((1000 + 110 + 120) / (100 + 10 + 20))


def test_the_large_tool_apart(figures: dict[str, Any]) -> None:
    row = figures["auto-layer"]
    assert row["fleet"] == pytest.approx((1000 + 110 + 120) / 1130)
    assert row["share"] == pytest.approx(1000 / 1100)
    assert row["update"] == 1
    assert row["rollout"] == pytest.approx((110 + 120) / (100 + 10 + 20))


def test_joint_strategies_have_no_figures_of_single_images(
    figures: dict[str, Any],
) -> None:
    row = figures["planned together"]
    assert not {"update", "rollout", "edit", "year"} & row.keys()
    assert row["fleet_update"] >= 1
    assert 0 <= row["join"] <= 1


APPLICATION, ITS_LIBRARY = store_path("y", "own-1"), store_path("z", "lib-1")


def test_an_edit_moves_the_layers_that_hold_what_changes() -> None:
    """Below an application of 100 bytes: its library of 60, in a layer with a tool of 1000."""
    references = {APPLICATION: [ITS_LIBRARY, TOOL], ITS_LIBRARY: [TOOL], TOOL: []}
    sizes = {APPLICATION: 100, ITS_LIBRARY: 60, TOOL: 1000}
    touched = reuse._Needs(corpora.Corpus("", sizes, references, {}, {}), sizes)
    plan = {frozenset([TOOL, ITS_LIBRARY]): 1060, frozenset([APPLICATION]): 100}
    found = reuse.of_applications([plan], [(APPLICATION, ITS_LIBRARY)], touched)
    assert found["layers"] == 2
    assert found["edit"] == found["edit, chains"] == 100 / 1e6
    assert found["library"] == found["library, chains"] == 1160 / 1e6
    # The tool changes with itself, the library with two paths, the application with all three.
    each_alone = 1000 + 2 * 60 + 3 * 100
    assert found["touch"] == pytest.approx((2 * 1060 + 3 * 100) / each_alone - 1)


def test_a_chain_is_lost_above_the_first_layer_that_differs() -> None:
    a, b, c, d = (frozenset([letter]) for letter in "abcd")
    old, new = {a: 1, b: 20, c: 300}, {a: 1, d: 4000, c: 300}
    assert reuse.moved_above(old, new) == 4300
    assert reuse.moved_above(old, old) == 0
    assert reuse.moved_above({}, old) == 321
    assert reuse.moved_in_chains([old, new, old]) == 4621
    assert reuse.moved_in_chains([old, {c: 300, b: 20, a: 1}]) == 642


def test_auto_layer_joins_what_the_same_large_paths_need() -> None:
    """Two large paths, x and y: what only one needs joins it, what both need is a group, and so is
    what none needs.
    """
    references = {
        "top": ["x", "y"],
        "x": ["both", "only-x"],
        "y": ["both"],
        "both": [],
        "only-x": [],
    }
    sizes = {"top": 1, "x": 1000, "y": 900, "both": 10, "only-x": 10}
    corpus = corpora.Corpus("", sizes, references, {"top": ["top"]}, {})
    layers = peers.auto_layer(peers.Image(corpus, ["top"]), 4, {})
    # In the order of their closures
    assert [*map(sorted, layers)] == [["both"], ["y"], ["only-x", "x"], ["top"]]


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
    references = {names[p]: sorted(names[it] for it in r) for p, r in corpus.references.items()}
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
    program = BENCH.parent / "group_layers.py"

    def run(hash_seed: str) -> tuple[str, str, bytes]:
        command: list[str | Path] = [sys.executable, BENCH / "reuse.py", ",".join(files)]
        command += ["--budgets", "2", "--images", "2", "--constants", "NIXERY_LARGE"]
        command += ["--program", program, "--write", tmp_path]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
        results, chart = tmp_path / "results.md", tmp_path / "reuse.svg"
        return done.stdout, results.read_text(), chart.read_bytes()

    printed, written, drawn = run("1")
    assert (printed, written, drawn) == run("2")
    assert printed.strip() in written
    rows = [line[2:].split(" | ") for line in printed.splitlines() if " | 2 | " in line]
    figures = {name: others for name, *others in rows}
    assert figures["**this project**"] == figures["group_layers"]
    assert figures["**planned together**"] == figures["group_layers together"]
    assert {"half `NIXERY_LARGE`", "twice `NIXERY_LARGE`"} <= figures.keys()
    texts = {element.text for element in ElementTree.fromstring(drawn).iter()}
    assert set(reuse.KNOWN_AS.values()) <= texts


def test_a_strategy_that_there_is_not_is_named(capsys: pytest.CaptureFixture) -> None:
    assert reuse.main(["--only", "auto-layer,reuse"]) == 2
    assert "--only: reuse: write one of: one layer, " in capsys.readouterr().err


def test_a_constant_is_varied_for_one_plan_and_put_back(files: tuple[str, str]) -> None:
    image = peers.Image(corpora.read_corpus(files[0]), [FIRST])
    nixery = NAMED["Nixery"]
    before = nixery.group(image, 3, {})
    # With a hundredth of a kilobyte, each closure is a large one.
    changed = nixery.group(image, 3, {}, constants={"NIXERY_LARGE": 1e-7})
    assert len(changed) == 3 > len(before)
    assert nixery.group(image, 3, {}) == before


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
    assert reuse.main([str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert reason in line
