"""What must hold of group_layers.py on any graph: dominators, decisions, partition, determinism."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
from fuzz_group_layers import fuzz
from hypothesis import example, given, settings
from hypothesis import strategies as st

import group_layers
from group_layers import (
    REASONS,
    STRATEGIES,
    GraphError,
    dominator_tree,
    group,
    read_graph,
    store_name,
)
from nixery_model import nixery_plan, reachable
from reuse_model import reuse_plan


@st.composite
def digraphs(draw, largest: int = 14):
    """Successor lists of any shape: cycles, self references, repeated and unreachable vertices."""
    count = draw(st.integers(1, largest))
    vertices = st.integers(0, count - 1)
    return [draw(st.lists(vertices, max_size=4)) for _ in range(count)]


def dominators_by_deletion(successors: list[list[int]], root: int) -> list[set[int]]:
    """Return each vertex's dominators, by the definition: it is out of reach without them."""

    def reached(without: int) -> set[int]:
        seen, todo = set(), [root]
        while todo:
            vertex = todo.pop()
            if vertex != without and vertex not in seen:
                seen.add(vertex)
                todo += successors[vertex]
        return seen

    everything = reached(-1)
    dominators: list[set[int]] = [set() for _ in successors]
    for vertex in everything:
        for lost in everything - reached(vertex):
            dominators[lost].add(vertex)
    return dominators


def check_dominators(successors: list[list[int]], root: int) -> None:
    order, immediate = dominator_tree(successors, root)
    expected = dominators_by_deletion(successors, root)
    assert order[0] == root
    assert len(set(order)) == len(order)
    assert set(order) == {v for v, dominators in enumerate(expected) if dominators}
    position = {vertex: place for place, vertex in enumerate(order)}
    for vertex, dominators in enumerate(expected):
        if not dominators:
            assert immediate[vertex] == -1
        elif vertex == root:
            assert immediate[vertex] == root
        else:
            assert expected[immediate[vertex]] == dominators - {vertex}
            assert position[immediate[vertex]] < position[vertex]


@settings(max_examples=400)
@given(digraphs(), st.data())
def test_dominators_are_those_of_the_definition(successors, data):
    check_dominators(successors, data.draw(st.integers(0, len(successors) - 1)))


@pytest.mark.parametrize("seed", range(24))
def test_dominators_of_larger_graphs(seed):
    """Sparse and dense, acyclic and cyclic, deep and shallow."""
    chance = random.Random(seed)
    count, degree = chance.choice([(30, 2), (60, 1.3), (60, 2), (120, 1.1), (40, 5)])
    successors: list[list[int]] = [[] for _ in range(count)]
    for _ in range(int(count * degree)):
        tail, head = chance.randrange(count), chance.randrange(count)
        if seed % 3 == 0 and tail > head:
            tail, head = head, tail
        successors[tail].append(head)
    if seed % 2:
        for vertex in range(count - 1):
            successors[vertex].append(vertex + 1)
    check_dominators(successors, 0)


SIZES = st.sampled_from([0, 1, 2, 50_000_000, 100_000_000, 100_000_001])


@st.composite
def closures(draw, all_reached: bool = False):
    """An exportReferencesGraph file, some paths of which share a name, and a popularity table."""
    successors = draw(digraphs(9))
    names = [draw(st.sampled_from(["a-1", "b-1", "B-1", "c"])) for _ in successors]
    prefix = st.sampled_from(["/nix/store/", "/gnu/store/"])
    paths = [f"{draw(prefix)}{n * 7 % 10}x-{name}" for n, name in enumerate(names)]
    roots = draw(st.lists(st.sampled_from(paths), min_size=1, max_size=4))
    entries = [
        {
            "path": path,
            "narSize": draw(SIZES),
            "closureSize": draw(SIZES),
            "references": [paths[target] for target in targets],
        }
        for path, targets in zip(paths, successors)
    ]
    while all_reached and (rest := set(paths) - reachable(entries, roots)):
        roots.append(min(rest))
    known = st.sampled_from([*names, *paths])
    counts = st.sampled_from([0, 1, 2, 999, 1000, 5000])
    table = draw(st.none() | st.dictionaries(known, counts, max_size=5))
    return {"exportReferencesGraph": {"graph": roots}, "graph": entries}, table


def tables():
    names = st.sampled_from(["a-1", "b-1.2", "B-1", "c"])
    return st.none() | st.dictionaries(names, st.integers(0, 500), max_size=4)


@st.composite
def acyclic_closures(draw):
    """An exportReferencesGraph file as Nix could write it: without cycles, its sizes consistent."""
    count = draw(st.integers(1, 10))
    names = [draw(st.sampled_from(["a-1", "b-1.2", "B-1", "c"])) for _ in range(count)]
    paths = [f"/nix/store/{n * 7 % 10}x-{name}" for n, name in enumerate(names)]
    sizes = [draw(st.sampled_from([0, 1, 5, 6, 20, 100, 101, 300])) for _ in paths]
    references = [
        draw(st.lists(st.sampled_from(paths[number:]), max_size=4, unique=True))
        for number in range(count)
    ]
    entries = [
        {"path": path, "narSize": size, "references": needed}
        for path, size, needed in zip(paths, sizes, references)
    ]
    for entry in entries:
        needed = reachable(entries, [entry["path"]])
        entry["closureSize"] = sum(e["narSize"] for e in entries if e["path"] in needed)
    roots = draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3))
    return {"exportReferencesGraph": {"graph": roots}, "graph": entries}


@st.composite
def plannable(draw):
    """A graph, a popularity table, and a strategy that takes the graph."""
    document, popularity = draw(closures())
    strategy = draw(st.sampled_from(sorted(STRATEGIES)))
    return (draw(acyclic_closures()) if strategy == "reuse" else document), popularity, strategy


def plan(document: dict, budget: int, popularity: dict | None, strategy: str) -> list[list[str]]:
    layers = group(read_graph(document), budget, popularity=popularity, strategy=strategy)
    return [layer.contents for layer in layers]


@settings(max_examples=300)
@given(closures(all_reached=True), st.integers(1, 10))
def test_nixery_decides_as_the_original(closure, budget):
    document, popularity = closure
    expected = nixery_plan(document, budget, popularity or {})
    assert plan(document, budget, popularity, "nixery") == expected


@pytest.mark.parametrize("budget", [1, 2, 10, 30, 94])
@pytest.mark.parametrize("count", [1, 1000])
def test_nixery_decides_as_the_original_on_a_genuine_closure(budget, count):
    file = Path(__file__).parent.parent / "data" / "git-and-bash.json"
    document = json.loads(file.read_text())
    popularity = {store_name(entry["path"]): count for entry in document["graph"][::2]}
    expected = nixery_plan(document, budget, popularity)
    assert plan(document, budget, popularity, "nixery") == expected


@settings(max_examples=200)
@given(plannable(), st.integers(1, 12))
def test_each_path_is_in_one_layer_and_the_budget_is_kept(case, budget):
    document, popularity, strategy = case
    graph = read_graph(document)
    layers = group(graph, budget, popularity=popularity, strategy=strategy)
    sizes = {entry["path"]: entry["narSize"] for entry in document["graph"]}
    assert 1 <= len(layers) <= budget
    assert sorted(path for layer in layers for path in layer.contents) == sorted(sizes)
    for layer in layers:
        assert layer.contents == sorted(layer.contents) != []
        assert layer.size == sum(sizes[path] for path in layer.contents)
        assert layer.name in layer.contents
        assert layer.reason in REASONS


@settings(max_examples=200)
@given(plannable(), st.integers(1, 12), st.randoms())
def test_the_order_of_what_is_listed_means_nothing(case, budget, chance):
    document, popularity, strategy = case
    shuffled = copy.deepcopy(document)
    lists = [entry["references"] for entry in shuffled["graph"]]
    for one in (*lists, shuffled["graph"], shuffled["exportReferencesGraph"]["graph"]):
        chance.shuffle(one)
    first, second = (
        group(read_graph(d), budget, popularity=popularity, strategy=strategy)
        for d in (document, shuffled)
    )
    assert first == second


@settings(max_examples=300)
@given(closures(), st.integers(1, 12))
def test_reuse_refuses_cycles_and_nothing_else(closure, budget):
    document, _ = closure
    needed = {
        entry["path"]: {*entry["references"]} - {entry["path"]} for entry in document["graph"]
    }
    cyclic = any(path in reachable(document["graph"], sorted(needed[path])) for path in needed)
    if cyclic:
        with pytest.raises(GraphError, match="refer to each other in a cycle"):
            plan(document, budget, None, "reuse")
    else:
        plan(document, budget, None, "reuse")


@settings(max_examples=400)
@given(acyclic_closures(), st.integers(1, 10), st.sampled_from([0, 5, 40]), tables())
def test_reuse_decides_as_it_is_defined(document, budget, price, table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_layers, "LAYER_PRICE", price)
        patch.setattr(group_layers, "PATHS_PER_CHANGE", 3)
        expected = reuse_plan(document, budget, table or {})
        decided = sorted(plan(document, budget, table, "reuse"))
    assert expected is None or decided == sorted(expected)


# "b", which has no plan, stands between "a", which has one, and more paths than one layer.
PASSED_OVER = {
    "exportReferencesGraph": {"graph": ["a"]},
    "graph": [
        {"path": "a", "narSize": 0, "closureSize": 2, "references": ["b"]},
        {"path": "b", "narSize": 0, "closureSize": 2, "references": ["c"]},
        {"path": "c", "narSize": 1, "closureSize": 2, "references": ["d"]},
        {"path": "d", "narSize": 1, "closureSize": 1, "references": []},
    ],
}


@settings(max_examples=200)
@given(acyclic_closures(), st.integers(1, 10), st.integers(1, 9))
@example(PASSED_OVER, 1, 2)
def test_more_paths_than_are_looked_at_in_detail_are_planned_all_the_same(
    document, budget, detailed
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_layers, "MOST_PATHS", detailed)
        layers = plan(document, budget, None, "reuse")
    assert len(layers) <= budget
    assert sorted(p for layer in layers for p in layer) == sorted(
        entry["path"] for entry in document["graph"]
    )


@given(st.sampled_from(["/nix/store/", "/nix/store", "nix/store/"]), st.text(max_size=12))
def test_store_name_cuts_off_the_folder_and_the_hash_alone(folder, rest):
    path = folder + rest
    hash_, dash, name = rest.partition("-")
    plain = hash_ != "" and set(hash_) <= set("abcdefghijklmnopqrstuvwxyz0123456789")
    assert store_name(path) == (name if folder == "/nix/store/" and dash and plain else path)


def test_damaged_graphs_are_refused_or_planned_rightly():
    statuses = fuzz(seed=0, inputs=800)
    assert min(statuses.values()) > 80
