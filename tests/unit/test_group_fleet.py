"""What must hold of images that are grouped together, and group_layers.py with several graphs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import group_layers
from group_layers import (
    LAYER_PRICE,
    MOST_PATHS,
    PATHS_PER_CHANGE,
    group_fleet,
    read_graphs,
    read_plans,
)
from nix import ROOT

PROGRAM = ROOT / "group_layers.py"


def closure(references: dict[str, list[str]], roots: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += references[path]
    return found


def document(sizes: dict, references: dict, images: dict[str, list[str]]) -> dict:
    """Return what Nix exports for images, lists of roots by name."""
    entries = {
        path: {
            "path": path,
            "narSize": sizes[path],
            "closureSize": sum(map(sizes.get, closure(references, [path]))),
            "references": references[path],
        }
        for path in sizes
    }
    graphs = {
        name: [entries[path] for path in sorted(closure(references, roots))]
        for name, roots in images.items()
    }
    return {"exportReferencesGraph": images, **graphs}


@st.composite
def fleets(draw) -> dict:
    """Images over one package set, whose paths need such of lower number."""
    count = draw(st.integers(1, 12))
    paths = [f"/nix/store/{number:032}-p" for number in range(count)]
    sizes = {path: draw(st.sampled_from([0, 1]) | st.integers(0, 10**9)) for path in paths}
    references = {
        path: draw(st.lists(st.sampled_from(paths[:n]), max_size=3, unique=True)) if n else []
        for n, path in enumerate(paths)
    }
    roots = st.lists(st.sampled_from(paths), min_size=1, max_size=4, unique=True)
    images = {f"image-{n}": draw(roots) for n in range(draw(st.integers(1, 6)))}
    return document(sizes, references, images)


BUDGETS = st.lists(st.integers(1, 5), min_size=6, max_size=6)


def plan(
    exported: dict, budgets: list[int], known: Sequence[list[list[str]]] = ()
) -> dict[str, list[list[str]]]:
    graphs = read_graphs(exported)
    fleet = group_fleet(graphs, dict(zip(sorted(graphs), budgets)), list(known))
    return {name: [layer.contents for layer in layers] for name, layers in fleet.items()}


@given(fleets(), BUDGETS)
def test_each_path_is_once_in_each_image_and_budgets_are_kept(fleet, budgets):
    plans = plan(fleet, budgets)
    for name, budget in zip(sorted(plans), budgets):
        assert sorted(chain(*plans[name])) == sorted(entry["path"] for entry in fleet[name])
        assert 1 <= len(plans[name]) <= budget


@given(fleets(), BUDGETS, st.sampled_from([1, 2, MOST_PATHS]), st.randoms())
def test_the_order_and_the_names_of_images_make_no_difference(fleet, budgets, parts, chance):
    roots = fleet["exportReferencesGraph"]
    names = list(roots)
    others = [f"other-{n}" for n in range(len(names))]
    chance.shuffle(others)
    renamed = dict(zip(names, others))
    shuffled = {}
    for name in chance.sample(names, len(names)):
        entries = [{**it, "references": it["references"][::-1]} for it in fleet[name]]
        shuffled[renamed[name]] = chance.sample(entries, len(entries))
    exported = {
        "exportReferencesGraph": {name: roots[old][::-1] for old, name in renamed.items()},
        **shuffled,
    }
    budget = dict(zip(sorted(names), budgets))
    budgets_of_others = [
        budget[old] for _, old in sorted((new, old) for old, new in renamed.items())
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_layers, "MOST_PATHS", parts)
        plans, again = plan(fleet, budgets), plan(exported, budgets_of_others)
    assert {renamed[name]: it for name, it in plans.items()} == again


@given(fleets(), BUDGETS, st.integers(1, 5))
def test_a_known_layer_is_used_whole_or_not_at_all(fleet, budgets, more):
    """Images in the lock keep their plans, and layers of others that fit are not divided."""
    *locked, new = sorted(fleet["exportReferencesGraph"])
    if locked:
        known = {"exportReferencesGraph": {n: fleet["exportReferencesGraph"][n] for n in locked}}
        lock = plan({**known, **{name: fleet[name] for name in locked}}, budgets)
        plans = plan(fleet, [*budgets[: len(locked)], more], lock.values())
        assert {name: plans[name] for name in locked} == lock
        locked_layers = {tuple(layer) for it in lock.values() for layer in it}
        graphs = read_graphs(fleet)
        layers = group_fleet(graphs, dict.fromkeys(graphs, more), list(lock.values()))[new]
        for layer in layers:
            assert layer.reason != "known" or tuple(layer.contents) in locked_layers


@pytest.mark.parametrize("shared", [0, 1])
def test_a_new_image_leaves_the_layers_of_a_changed_one_in_their_order(shared):
    """It has gained a path since its plan became known."""
    known = [[[PATHS[0]], [PATHS[1]]]]
    images = {"a": PATHS, "b": [PATHS[shared]]}
    references = {path: [] for path in PATHS}
    alone = plan(document(SIZES, references, {"a": PATHS}), [3], known)
    assert plan(document(SIZES, references, images), [3, 1], known)["a"] == alone["a"]
    assert alone["a"][2] == [PATHS[2]]


@pytest.mark.parametrize("order", [1, -1])
def test_of_known_plans_that_fit_the_one_with_most_layers_is_kept(order):
    exported = document(SIZES, REFERENCES, {"a": [PATHS[0], PATHS[2]]})
    first, *others = paths = sorted(entry["path"] for entry in exported["a"])
    known = [[paths], [[first], others]][::order]
    assert plan(exported, [2], known)["a"] == [[first], others]
    assert plan(exported, [1], known)["a"] == [paths]


def merge_by_definition(fleet: dict, budgets: list[int]) -> dict[str, set[frozenset]]:
    """Merge the cheapest two parts, all pairs looked at anew in every step."""
    images = {
        name: {it["path"] for it in fleet[name]} for name in sorted(fleet["exportReferencesGraph"])
    }
    entries = {it["path"]: it for name in images for it in fleet[name]}
    limit = dict(zip(images, budgets))
    references = {path: it["references"] for path, it in entries.items()}
    total = sum(it["narSize"] for it in entries.values())
    users = {path: frozenset(n for n in images if path in images[n]) for path in entries}
    asked = set(entries).difference(*references.values())
    layers: dict[frozenset, set[str]] = {}
    alike: dict[tuple, set[str]] = {}
    for path, it in entries.items():
        large = it["narSize"] > total // MOST_PATHS or path in asked
        level = it["closureSize"].bit_length()
        alike.setdefault((users[path], level, path if large else None), set()).add(path)
    for (names, _, _), paths in alike.items():
        layers[frozenset(paths)] = set(names)

    def stays(paths: frozenset) -> float:
        return PATHS_PER_CHANGE / (PATHS_PER_CHANGE + len(closure(references, list(paths))))

    while True:
        count = {name: sum(name in it for it in layers.values()) for name in images}
        crowded = {name for name in images if count[name] > limit[name]}
        worth = bool(crowded)
        crowded = crowded or set(images)
        costs = []
        for a, b in combinations(layers, 2):
            both = layers[a] & layers[b]
            if both & crowded:
                lost = [
                    sum(entries[path]["narSize"] for path in one)
                    * (stays(one) - stays(a | b) + (layers[one] != both))
                    for one in (a, b)
                ]
                lost.append(0 if bool(a & asked) == bool(b & asked) else 1e30)
                costs.append((sum(lost) / (len(both & crowded) if worth else 1), a, b))
        costs.sort(key=lambda it: it[0])
        if not worth and (not costs or costs[0][0] >= LAYER_PRICE):
            return {n: {paths for paths, it in layers.items() if n in it} for n in images}
        assert len(costs) == 1 or costs[0][0] < costs[1][0], "two cost the same"
        _, a, b = costs[0]
        both = layers[a] & layers[b]
        layers[a] -= both
        layers[b] -= both
        layers.setdefault(a | b, set()).update(both)


@pytest.mark.parametrize("seed", [1, 3, 4, 7, 9, 11, 12, 14])
def test_the_plan_is_that_of_the_definition(seed):
    """With seeds for which no two merges ever cost the same."""
    chance = random.Random(seed)
    paths = [f"/nix/store/{number:032}-p" for number in range(30)]
    sizes = {path: chance.randrange(1, 10**9) for path in paths}
    references = {path: chance.sample(paths[:n], min(n, 2)) for n, path in enumerate(paths)}
    images = {f"image-{n}": chance.sample(paths, 3) for n in range(8)}
    fleet = document(sizes, references, images)
    budgets = [chance.randrange(2, 8) for _ in images]
    plans = plan(fleet, budgets)
    expected = merge_by_definition(fleet, budgets)
    assert {name: set(map(frozenset, it)) for name, it in plans.items()} == expected


def test_small_paths_are_together_where_the_same_images_have_them(monkeypatch):
    monkeypatch.setattr(group_layers, "MOST_PATHS", 1)
    monkeypatch.setattr(group_layers, "LAYER_PRICE", 0)
    paths = [f"/nix/store/{number:032}-p" for number in range(4)]
    images = {"a": [paths[0], paths[1], paths[3]], "b": [paths[0], paths[2], paths[3]]}
    exported = document(dict(zip(paths, [3, 100, 100, 5])), {path: [] for path in paths}, images)
    plans = plan(exported, [9, 9])
    assert plans["a"] == [[paths[0], paths[3]], [paths[1]]]
    assert plans["b"] == [[paths[0], paths[3]], [paths[2]]]


@pytest.mark.parametrize("budget", [2, 3, 9])
def test_what_was_asked_for_is_apart_unless_another_image_needs_it(budget):
    """However small it is: it is edited more often than the rest."""
    references = {"app": ["lib"], "tool": ["lib", "base"], "lib": ["base"], "base": []}
    sizes = {"app": 1, "tool": 1, "lib": 2, "base": 3}
    images = {"a": ["app"], "b": ["lib"], "c": ["tool"]}
    plans = plan(document(sizes, references, images), [budget] * 3)
    assert plans["a"][-1] == ["app"] and plans["c"][-1] == ["tool"]
    assert plans["b"] == [["base", "lib"]]


def test_of_known_layers_that_overlap_the_larger_is_used():
    paths = [f"/nix/store/{number:032}-p" for number in range(9)]
    exported = document(dict.fromkeys(paths, 10), {path: [] for path in paths}, {"graph": paths})
    pairs = [[list(pair)] for pair in zip(paths, paths[1:])]
    (layers,) = plan(exported, [9], [*pairs, [paths[1:]]]).values()
    assert sorted(layers) == [paths[:1], paths[1:]]


def run_program(folder, exported: dict, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "graph.json").write_text(json.dumps(exported))
    command: list[str | Path] = [
        sys.executable,
        PROGRAM,
        "--graph",
        "graph.json",
        "--out",
        "-",
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


PATHS = [f"/nix/store/{number:032}-{name}" for number, name in enumerate("abc")]
SIZES = dict(zip(PATHS, (10**7, 10**8, 10**9)))
REFERENCES = {PATHS[0]: [PATHS[1]], PATHS[1]: [], PATHS[2]: [PATHS[1]]}


class TestProgram:
    def test_several_graphs_yield_a_plan_for_each(self, tmp_path):
        exported = document(SIZES, REFERENCES, {"a": [PATHS[0]], "c": [PATHS[2]]})
        done = run_program(tmp_path, exported, "--budget", "2")
        plans = json.loads(done.stdout)
        assert plans == {
            "a": [{"contents": [PATHS[1]]}, {"contents": [PATHS[0]]}],
            "c": [{"contents": [PATHS[1]]}, {"contents": [PATHS[2]]}],
        }

    def test_explain_names_each_image(self, tmp_path):
        exported = document(SIZES, REFERENCES, {"a": [PATHS[0]], "c": [PATHS[2]]})
        done = run_program(tmp_path, exported, "--explain", "--explain-json", "explain.json")
        lines = done.stderr.splitlines()
        assert [line for line in lines if len(line) == 1] == ["a", "c"]
        assert list(json.loads((tmp_path / "explain.json").read_text())) == ["a", "c"]

    def test_one_image_has_known_layers_where_they_fit(self, tmp_path):
        known = [{"contents": [PATHS[0], PATHS[1]]}, {"contents": [PATHS[2], "/nix/store/gone"]}]
        (tmp_path / "known.json").write_text(json.dumps(known))
        exported = document(SIZES, REFERENCES, {"graph": [PATHS[0], PATHS[2]]})
        done = run_program(tmp_path, exported, "--known", "known.json")
        assert sorted(it["contents"] for it in json.loads(done.stdout)) == [PATHS[:2], PATHS[2:]]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1", "a plan: expected a list, got 1"),
            ("[[]]", "a layer: expected an object, got an empty list"),
            ('{"a": [{}]}', 'a layer: field "contents": missing'),
            (
                '{"a": [{"contents": [1]}]}',
                'a layer: field "contents": expected a store path, got 1',
            ),
            ('[{"contents": "/a"}]', 'a layer: field "contents": expected a list, got "/a"'),
        ],
    )
    def test_a_file_without_plans_is_refused(self, tmp_path, text, message):
        (tmp_path / "known.json").write_text(text)
        exported = document(SIZES, REFERENCES, {"graph": [PATHS[0]]})
        done = run_program(tmp_path, exported, "--known", "known.json")
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr == f"group-layers: known.json: {message}\n"

    def test_the_original_strategy_knows_no_layers(self, tmp_path):
        (tmp_path / "known.json").write_text("[]")
        exported = document(SIZES, REFERENCES, {"graph": [PATHS[0]]})
        done = run_program(tmp_path, exported, "--known", "known.json", "--strategy", "nixery")
        assert done.returncode == 2 and "--known: strategy nixery" in done.stderr


def test_plans_are_read_from_a_list_or_an_object():
    layers = [{"contents": ["/a"]}]
    assert read_plans(layers) == read_plans({"x": layers}) == [[["/a"]]]
