"""group_layers.py by itself: known graphs, the command line, and every kind of bad input."""

from __future__ import annotations

import doctest
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import group_layers
from group_layers import GraphError, dominator_tree, group, read_graph

PROGRAM = Path(group_layers.__file__)
STORE = "/nix/store/"


def document(
    references: Mapping[str, Sequence[str]], roots: Sequence[str], **sizes: tuple[int, int]
) -> dict:
    """Return an exportReferencesGraph file over paths with names of one letter.

    `sizes` has narSize and closureSize of the paths for which they matter.
    """
    entries = [
        {
            "path": path,
            "narSize": sizes.get(path, (10, 20))[0],
            "closureSize": sizes.get(path, (10, 20))[1],
            "references": list(targets),
        }
        for path, targets in references.items()
    ]
    return {"exportReferencesGraph": {"graph": list(roots)}, "graph": entries}


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def build_folder(tmp_path: Path) -> Path:
    """A folder in which Nix has left the good graph for a build."""
    (tmp_path / ".attrs.json").write_text(json.dumps(GOOD))
    return tmp_path


def plan_of(references: Mapping[str, str], roots: str, budget: int = 94, **sizes: tuple[int, int]):
    """Return the contents of the layers that strategy nixery makes, each as a word."""
    graph = read_graph(document(references, roots, **sizes))
    return ["".join(layer.contents) for layer in group(graph, budget, strategy="nixery")]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/nix/store/d1zz2b3c4f5g6h7i8j9k0lmnpqrsvwxy-git-2.39.5", "git-2.39.5"),
        ("/nix/store/abc-git", "git"),  # no hash that Nix makes, but Nixery's pattern takes it
        ("/opt/nix/store/d1zz2b3c4f5g6h7i8j9k0lmnpqrsvwxy-git-2.39.5", "git-2.39.5"),
        ("/opt/abc-git", "/opt/abc-git"),
        ("/nix/store/abc", "/nix/store/abc"),
        ("git-2.39.5", "git-2.39.5"),
    ],
)
def test_store_name_is_what_follows_the_hash(path, name):
    assert group_layers.store_name(path) == name


def test_examples_in_the_docstrings_are_true():
    found = doctest.testmod(group_layers)
    assert (found.attempted, found.failed) == (1, 0)


LENGAUER_TARJAN = {
    **{"R": "ABC", "A": "D", "B": "ADE", "C": "FG", "D": "L", "E": "H", "F": "I"},
    **{"G": "IJ", "H": "EK", "I": "K", "J": "I", "K": "RI", "L": "H"},
}

# Edges, root, immediate dominators: graphs of the papers, with the trees printed there, and others
DOMINATORS = {
    "Cooper, Harvey, Kennedy, figure 2": (
        {"5": "43", "4": "1", "3": "2", "2": "1", "1": "2"},
        dict.fromkeys("1234", "5"),
    ),
    "Cooper, Harvey, Kennedy, figure 4": (
        {"6": "54", "5": "1", "4": "23", "3": "2", "2": "13", "1": "2"},
        dict.fromkeys("12345", "6"),
    ),
    "Lengauer, Tarjan, figure 1": (
        LENGAUER_TARJAN,
        dict.fromkeys("ABCDEHIK", "R") | {"F": "C", "G": "C", "J": "G", "L": "D"},
    ),
    "cycles with one way in": (
        {"a": "b", "b": "cd", "c": "e", "d": "e", "e": "bf", "f": "af"},
        {"b": "a", "c": "b", "d": "b", "e": "b", "f": "e"},
    ),
    # x and y refer to each other; only a second look shows that z is not dominated by x.
    "a fact that travels against the order": (
        {"r": "ax", "a": "y", "x": "y", "y": "xz", "z": "w", "w": "z"},
        {"a": "r", "x": "r", "y": "r", "z": "y", "w": "z"},
    ),
    "single": ({"a": ""}, {}),
    "self": ({"a": "a"}, {}),
    "repeated": ({"a": "bbb", "b": "bb"}, {"b": "a"}),
    "unreached": ({"a": "b", "c": "b"}, {"b": "a"}),
    "diamond": ({"a": "bc", "b": "d", "c": "d"}, {"b": "a", "c": "a", "d": "a"}),
    "cycle through the root": ({"a": "b", "b": "a"}, {"b": "a"}),
}


class TestDominatorTree:
    @pytest.mark.parametrize("case", DOMINATORS)
    def test_small(self, case):
        edges, expected = DOMINATORS[case]
        names = sorted({*edges, *"".join(edges.values())})
        number = {name: n for n, name in enumerate(names)}
        root = number[next(iter(edges))]
        successors = [[number[target] for target in edges.get(name, "")] for name in names]
        order, dominator = dominator_tree(successors, root)
        assert order[0] == root
        for vertex in order[1:]:
            assert order.index(dominator[vertex]) < order.index(vertex)
        unreached = [vertex for vertex in range(len(names)) if dominator[vertex] < 0]
        assert sorted([*order, *unreached]) == list(range(len(names)))
        assert {names[v]: names[dominator[v]] for v in order[1:]} == expected

    def test_comb(self):
        """Paths that a deep one and a shallow one need."""
        half = 500
        spine = [[n + 1, half + n] if n + 1 < half else [half + n] for n in range(half)]
        teeth = [[] for _ in range(half)]
        shallow, root = 2 * half, 2 * half + 1
        successors = [*spine, *teeth, list(range(half, 2 * half)), [0, shallow]]
        _, dominator = dominator_tree(successors, root)
        assert dominator[half : 2 * half] == [root] * half
        assert dominator[1:half] == list(range(half - 1))

    def test_two_chains(self):
        half = 500
        left = [[n + 1, 2 * half + n] for n in range(half - 1)] + [[3 * half - 1]]
        right = [[half + n + 1, 2 * half + n] for n in range(half - 1)] + [[3 * half - 1]]
        successors = [*left, *right, *([] for _ in range(half)), [0, half]]
        _, dominator = dominator_tree(successors, 3 * half)
        assert dominator[2 * half : 3 * half] == [3 * half] * half

    def test_chain_in_both_directions_entered_at_both_ends(self):
        count = 200
        near = [[p for p in (n - 1, n + 1) if 0 <= p < count] for n in range(count)]
        _, dominator = dominator_tree([*near, [0, count - 1]], count)
        assert dominator == [count] * (count + 1)


class TestNixery:
    """The decisions of the original."""

    def test_the_example_of_its_explanation(self):
        """Sizes are megabytes; E is popular, G is large."""
        references = {"A": "E", "B": "E", "C": "DE", "D": "FG", "E": "", "F": "", "G": ""}
        closures = {"A": 2, "B": 2, "C": 154, "D": 152, "E": 1, "F": 1, "G": 150}
        sizes = {path: (10**6, size * 10**6) for path, size in closures.items()}
        graph = read_graph(document(references, "ABCD", **sizes))
        counts = {"E": 1000, "G": 20, "D": 2}
        for expected in ["ABCDEFG"], ["ABCDEF", "G"], ["ABCDF", "E", "G"], ["ABC", "DF", "E", "G"]:
            layers = group(graph, len(expected), popularity=counts, strategy="nixery")
            assert ["".join(layer.contents) for layer in layers] == expected
        layers = group(graph, 10, popularity=counts, strategy="nixery")
        assert ["".join(layer.contents) for layer in layers] == ["A", "B", "C", "DF", "E", "G"]

    @pytest.mark.parametrize(
        ("references", "roots", "expected"),
        [
            ({"a": "bc", "b": "d", "c": "d", "d": ""}, "a", ["abcd"]),
            ({"a": "c", "b": "c", "c": "d", "d": ""}, "ab", ["a", "b", "cd"]),
            ({"a": "acac", "b": "ccb", "c": "dcd", "d": "dd"}, "aabb", ["a", "b", "cd"]),
            ({"a": "b", "b": "c", "c": "b"}, "a", ["abc"]),
            ({"a": "b", "b": "c", "c": "ad", "d": "c"}, "ad", ["c", "d", "ab"]),
        ],
        ids=["one needs it", "two need it", "repeated", "cycle", "cycle with two ways in"],
    )
    def test_who_needs_a_path_decides(self, references, roots, expected):
        assert plan_of(references, roots) == expected

    def test_large_means_more_than_a_hundred_million_bytes_of_closure(self):
        references = {"a": "bc", "b": "", "c": ""}
        sizes = {"a": (1, 10**8), "b": (1, 10**8), "c": (1, 10**8 + 1)}
        assert plan_of(references, "a", **sizes) == ["c", "ab"]

    def test_popular_means_a_thousand_references(self):
        entries = document({"a": "bcd", "b": "", "c": "", "d": ""}, "a")
        text = json.dumps(entries).replace('"b"', f'"{STORE}0abc-libb-1"')
        text = text.replace('"c"', f'"{STORE}0Xbc-libc-1"').replace('"d"', '"libd-1"')
        graph = read_graph(json.loads(text))
        counts = {"libb-1": 1000, "libc-1": 1000, f"{STORE}0Xbc-libc-1": 999, "libd-1": 1000}
        layers = group(graph, popularity=counts, strategy="nixery")
        assert [layer.reason for layer in layers] == ["requested", "popular", "popular"]
        assert [layer.name for layer in layers] == ["a", f"{STORE}0abc-libb-1", "libd-1"]

    def test_rating_is_popularity_times_the_sum_of_closure_sizes(self):
        # Each is summed over the subtree: y's shared bytes count twice.
        references = {"x": "", "y": "z", "z": ""}
        sizes = {"x": (1, 11), "y": (4, 8), "z": (4, 4)}
        assert plan_of(references, "xy", **sizes) == ["x", "yz"]
        graph = read_graph(document(references, "xy", **sizes))
        layers = group(graph, popularity={"x": 2}, strategy="nixery")
        assert [layer.name for layer in layers] == ["y", "x"]

    def test_the_lowest_are_merged_once_and_come_first(self):
        sizes = {name: (1, size) for name, size in zip("abcde", (5, 1, 4, 2, 3))}
        for plan in ["abcde"], ["bcde", "a"], ["bd", "e", "c", "a"], ["b", "d", "e", "c", "a"]:
            assert plan_of(dict.fromkeys("abcde", ""), "abcde", len(plan), **sizes) == [
                "".join(sorted(layer)) for layer in plan
            ]

    def test_equal_ratings_are_ordered_by_name_before_hash(self):
        names = [f"{STORE}{hash_}-{name}" for hash_, name in (("9", "a"), ("1", "b"), ("0", "b"))]
        entries = [{"path": n, "narSize": 1, "closureSize": 1, "references": []} for n in names]
        graph = read_graph({"exportReferencesGraph": {"graph": names}, "graph": entries})
        layers = group(graph, 94, strategy="nixery")
        assert [layer.name for layer in layers] == [names[0], names[2], names[1]]

    def test_what_no_root_reaches_is_kept_and_disturbs_no_other_layer(self):
        references = {"a": "", "b": "", "x": "b", "y": "z", "z": "y"}
        plans = [plan_of(references, "ab", budget, a=(1, 30)) for budget in (1, 2, 3, 94)]
        assert plans == [["abxyz"], ["bxyz", "a"], ["xyz", "b", "a"], ["xyz", "b", "a"]]


def modelled_closure(seed: int, count: int = 400) -> dict:
    """Return a closure in which old paths are needed by many, and sizes differ by orders."""
    chance = random.Random(seed)
    references: list[list[int]] = []
    sizes = [int(10 ** chance.uniform(3, 7.5)) for _ in range(count)]
    for path in range(count):
        wanted = chance.randrange(1, 6)
        targets = {int(path * chance.random() ** 3) for _ in range(wanted)} if path else set()
        references.append(sorted(targets))
    closures: list[set[int]] = []
    for path, needed in enumerate(references):
        closures.append({path}.union(*(closures[target] for target in needed)))
    paths = [f"{STORE}{chance.randrange(16**8):08x}-package{n}-1.0" for n in range(count)]
    used = {target for targets in references for target in targets}
    roots = [paths[path] for path in range(count) if path not in used]
    entries = [
        {
            "path": paths[path],
            "narSize": sizes[path],
            "closureSize": sum(sizes[needed] for needed in closures[path]),
            "references": [paths[target] for target in references[path]],
        }
        for path in range(count)
    ]
    return {"exportReferencesGraph": {"graph": roots}, "graph": entries}


class TestReuse:
    """What the default strategy is for."""

    @staticmethod
    def layers(content: dict, budget: int, popularity: dict | None = None) -> list:
        return group(read_graph(content), budget, popularity=popularity)

    def test_a_path_that_costs_more_than_a_layer_is_alone_where_the_budget_allows(self):
        content = modelled_closure(1, 90)
        layers = self.layers(content, 94)
        alone = {path for layer in layers if len(layer.contents) == 1 for path in layer.contents}
        dear = {e["path"] for e in content["graph"] if e["narSize"] > 3 * group_layers.LAYER_PRICE}
        assert len(dear) > 20
        assert alone >= dear
        assert len(layers) < 70

    def test_what_was_asked_for_is_apart_and_on_top(self):
        """Also where it is smaller than a layer is worth, and where the budget is short."""
        references = {"app": ["lib"], "lib": [*"abcdef"]} | {path: [] for path in "abcdef"}
        sizes = {"app": (100_000, 60_160_000), "lib": (60_000, 60_060_000)}
        sizes |= dict.fromkeys("abcdef", (10**7, 10**7))
        content = document(references, ["app"], **sizes)
        for budget in range(2, 9):
            assert self.layers(content, budget)[-1].contents == ["app"]

    def test_what_most_need_comes_first(self):
        references = dict.fromkeys("abcdef", "z") | {"z": ""}
        sizes = dict.fromkeys(references, (10**6, 3 * 10**6))
        graph = read_graph(document(references, "abcdef", **sizes))
        assert group(graph, 94, strategy="reuse")[0].contents == ["z"]

    @pytest.mark.parametrize("seed", range(5))
    def test_names_decide_and_not_hashes(self, seed):
        """A rebuild that changes all hashes and no more gives the same layers."""
        content = modelled_closure(seed)
        text, hash_ = json.dumps(content), "/([0-9a-f]{8})-"
        chance = random.Random(seed)
        new = {
            old: f"{chance.randrange(16**8):08x}" for old in sorted(set(re.findall(hash_, text)))
        }
        rebuilt = json.loads(re.sub(hash_, lambda found: f"/{new[found[1]]}-", text))
        assert rebuilt != content
        first, second = (
            [sorted(map(group_layers.store_name, layer.contents)) for layer in self.layers(c, 40)]
            for c in (content, rebuilt)
        )
        assert first == second

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("budget", [24, 94])
    def test_a_small_leaf_more_or_less_changes_few_other_layers(self, seed, budget):
        content = modelled_closure(seed)
        with_leaf = json.loads(json.dumps(content))
        needed = [content["graph"][0]["path"], content["graph"][7]["path"]]
        leaf = {"path": f"{STORE}0000ffff-leaf-1.0", "narSize": 30_000, "references": needed}
        leaf["closureSize"] = leaf["narSize"] + content["graph"][7]["closureSize"]
        with_leaf["graph"].append(leaf)
        with_leaf["exportReferencesGraph"]["graph"].append(leaf["path"])
        before = {tuple(layer.contents) for layer in self.layers(content, budget)}
        after = {tuple(layer.contents) for layer in self.layers(with_leaf, budget)}
        assert len(after - before) <= 6

    def test_a_popularity_table_says_what_others_have(self):
        references = {"a": "bcd", "b": "", "c": "", "d": ""}
        sizes = {"a": (10**6, 31 * 10**6), "b": (10**7, 10**7), "c": (10**7, 10**7)}
        content = document(references, "a", **sizes, d=(11 * 10**6, 11 * 10**6))
        alone = [{"".join(layer.contents) for layer in self.layers(content, 3, popularity)}
                 for popularity in (None, {"c": 0}, {"c": 1})]  # fmt: skip
        assert alone == [{"d", "bc", "a"}, {"d", "bc", "a"}, {"c", "bd", "a"}]

    def test_paths_that_refer_to_each_other_are_refused(self):
        graph = read_graph(document({"a": "b", "b": "c", "c": "b"}, "a"))
        with pytest.raises(GraphError, match=r'^"[bc]": paths refer to each other in a cycle$'):
            group(graph, 94, strategy="reuse")


@pytest.mark.parametrize("record", [group_layers.Graph, group_layers.Layer])
def test_a_record_refuses_a_misspelt_field(record):
    fields = dict.fromkeys(record._fields)
    assert record(**fields) == tuple(fields.values())
    name, _ = fields.popitem()
    with pytest.raises(TypeError):
        record(**fields, **{f"{name}s": None})
    with pytest.raises(AttributeError):
        setattr(record(**fields, **{name: None}), f"{name}s", None)


class TestLoading:
    def test_other_fields_and_other_graphs_in_the_file_are_ignored(self):
        content = document({"b": "", "a": "b"}, "a")
        content["graph"][0].update(valid=True, ca=None, narHash="sha256:0", deriver={"x": [1]})
        other = document({"q": "aw", "w": ""}, "q")["graph"]
        for place in ({"also": other, **content}, {**content, "also": other}):
            graph = read_graph({**place, "outputs": {"out": "/nix/store/x"}})
            assert sorted(graph.paths) == ["a", "b"]
            assert [graph.paths[root] for root in graph.roots] == ["a"]
            (target,) = graph.references[graph.paths.index("a")]
            assert graph.paths[target] == "b"

    def test_the_same_data_twice_is_accepted(self):
        content = document({"a": "bc", "b": "", "c": ""}, "a")
        content["graph"].append({**content["graph"][0], "references": ["c", "b", "b"]})
        assert sorted(read_graph(content).paths) == ["a", "b", "c"]

    def test_a_budget_below_one(self):
        graph = read_graph(document({"a": ""}, "a"))
        with pytest.raises(GraphError, match="budget of 0"):
            group(graph, 0)


GOOD = document({"a": "ab", "b": ""}, "a")
GOOD_TEXT = '[{"contents":["b"]},{"contents":["a"]}]\n'


def changed(**fields: object) -> str:
    """Return the good graph as text, its second entry with some fields replaced."""
    first, second = GOOD["graph"]
    entry = {name: value for name, value in {**second, **fields}.items() if value is not ...}
    return json.dumps({**GOOD, "graph": [first, entry]})


def again(**fields: object) -> str:
    """Return the good graph as text, with its first entry once more, some fields replaced."""
    return json.dumps({**GOOD, "graph": [*GOOD["graph"], {**GOOD["graph"][0], **fields}]})


def with_roots(roots: object) -> str:
    return json.dumps({**GOOD, "exportReferencesGraph": {"graph": roots}})


SIZES = {-1: "-1", 1.5: "1.5", "9": '"9"', True: "true", 2**64: "18446744073709551616"}
ROOTS = 'field "exportReferencesGraph": field "graph":'

BAD_GRAPHS = {
    "empty file": ("", "not JSON: Expecting value: line 1 column 1"),
    "not JSON": ("{'graph'}", "not JSON: Expecting property name"),
    "cut short": (json.dumps(GOOD)[:-1], "not JSON"),
    "something after it": (json.dumps(GOOD) + "]", "not JSON: Extra data"),
    "byte order mark": ("\ufeff" + json.dumps(GOOD), "not JSON: Unexpected UTF-8 BOM"),
    "not UTF-8": (b'{"graph": "\xff"}', "not UTF-8, at byte 11"),
    "not an object": ("[1, 2]", "expected an object, got a list"),
    "null": ("null", "expected an object, got null"),
    "nested too deeply": ("[" * 200_000, "nested too deeply"),
    "nested in a field": (changed(references=[]).replace("[]", "[" * 10**5), "nested too deeply"),
    "NaN": (changed(narSize=float("nan")), "not JSON: NaN"),
    "Infinity": (changed(closureSize=float("inf")), "not JSON: Infinity"),
    "no graph": (json.dumps({"exportReferencesGraph": {}}), 'field "graph": missing'),
    "ill-typed graph": (json.dumps({**GOOD, "graph": {}}), 'field "graph": expected a list with'),
    "empty graph": (json.dumps({**GOOD, "graph": []}), "elements, got an empty list"),
    "no roots": (with_roots([]), f"{ROOTS} expected a list with elements, got an empty list"),
    "roots missing": (json.dumps({"graph": GOOD["graph"]}), '"exportReferencesGraph": missing'),
    "ill-typed roots": (with_roots("a"), f'{ROOTS} expected a list with elements, got "a"'),
    "ill-typed root": (with_roots(["a", 7]), f"{ROOTS} expected a store path, got 7"),
    "root not there": (with_roots(["a", "z"]), f'{ROOTS} "z" is not in the graph'),
    "root only referred to elsewhere": (
        json.dumps({**json.loads(with_roots(["q"])), "also": document({"q": ""}, "q")["graph"]}),
        f'{ROOTS} "q" is not in the graph',
    ),
    "entry ill-typed": (json.dumps({**GOOD, "graph": ["a"]}), "entry 1: expected an object, got"),
    "path missing": (changed(path=...), 'entry 2: field "path": missing'),
    "path ill-typed": (changed(path=["b"]), 'field "path": expected a store path, got a list'),
    "path empty": (changed(path=""), 'entry 2: field "path": expected a store path, got ""'),
    "half a surrogate pair": (changed(path="b\ud800"), 'a store path, got "b\\ud800"'),
    "size missing": (changed(narSize=...), 'entry 2 ("b"): field "narSize": missing'),
    "closure size missing": (changed(closureSize=...), 'entry 2 ("b"): field "closureSize": missi'),
    **{
        f"size {shown}": (
            changed(narSize=size),
            f'entry 2 ("b"): field "narSize": expected a whole number below 2^64, got {shown}',
        )
        for size, shown in SIZES.items()
    },
    "closure size ill-typed": (changed(closureSize="9"), 'field "closureSize": expected a whole'),
    "size with a thousand digits": (changed(narSize=10**1000), "below 2^64, got 10000"),
    "size with an exponent": (changed(narSize=0).replace(" 0", " 1e999"), "2^64, got Infinity"),
    "references missing": (changed(references=...), 'entry 2 ("b"): field "references": missing'),
    "references ill-typed": (changed(references="a"), '"references": expected a list, got "a"'),
    "references an object": (changed(references={"a": 1}), "expected a list, got an object"),
    "reference ill-typed": (changed(references=["a", None]), "expected a store path, got null"),
    "reference a list": (changed(references=[["a"]]), "expected a store path, got a list"),
    "reference half a pair": (changed(references=["\udfff"]), 'store path, got "\\udfff"'),
    "reference not there": (
        changed(references=["a", "z"]),
        'entry 2 ("b"): field "references": "z" is not in the graph',
    ),
    "path twice, other size": (again(narSize=11), 'entry 3 ("a"): field "path": given before, wit'),
    "path twice, other references": (again(references=[]), "given before, with other data"),
    "field twice": (
        changed().replace('"path": "b"', '"path": "b", "path": "a"'),
        'field "path": given twice in one object',
    ),
    "graph twice": (json.dumps(GOOD)[:-1] + ', "graph": []}', 'field "graph": given twice'),
    "line breaks in what is shown": (again(path="b\nc", narSize=-1), 'entry 3 ("b\\nc"): field'),
}


class TestBadInput:
    """One line on standard error, exit status 2, and the output file as it was."""

    @staticmethod
    def refused(done: subprocess.CompletedProcess, message: str, folder: Path) -> None:
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("group-layers: ")
        assert re.search(message, line), line
        assert len(line) < 400
        assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]

    @pytest.mark.parametrize("name", BAD_GRAPHS)
    def test_graph(self, tmp_path, name):
        content, message = BAD_GRAPHS[name]
        graph, out = tmp_path / "bad.json", tmp_path / "layers.json"
        graph.write_bytes(content if isinstance(content, bytes) else content.encode())
        out.write_text("as it was")
        done = run("--graph", graph, "--out", out)
        self.refused(done, f"^group-layers: {graph}: .*{re.escape(message)}", tmp_path)
        assert out.read_text() == "as it was"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[]", "expected an object, got an empty list"),
            ('{"git-1": -1}', 'field "git-1": expected a whole number below 2.64, got -1'),
            ('{"git-1": 1.0}', 'field "git-1": expected a whole number below 2.64, got 1.0'),
            ('{"git-1": [[]]}', 'field "git-1": expected a whole number below 2.64, got a list'),
            ('{"git-1": 1, "git-1": 2}', 'field "git-1": given twice'),
            ('{"git-1": NaN}', "not JSON: NaN"),
            ("{", "not JSON"),
        ],
    )
    def test_popularity(self, tmp_path, content, message):
        graph, table, out = tmp_path / "graph", tmp_path / "table", tmp_path / "out"
        graph.write_text(json.dumps(GOOD))
        table.write_text(content)
        done = run("--graph", graph, "--pop", table, "--out", out)
        self.refused(done, f"^group-layers: {table}: {message}", tmp_path)
        assert not out.exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--budget", "0"], "argument --budget: expected a whole number from 1, got '0'"),
            (["--budget", "-3"], "argument --budget"),
            (["--budget", "many"], "got 'many'"),
            (["--budget", "1.5"], "expected a whole number from 1, got '1.5'$"),
            (["--budget", "9" * 5000], "got '999"),
            (["--budget", "\u0663"], "expected a whole number from 1"),
            (["--strategy", "best"], r"--strategy: invalid choice: 'best' \(choose from "),
            (["--explian"], r": there is no argument --explian \(did you mean --explain\?\)$"),
            (["-grap=x"], r"there is no argument --grap \(did you mean --graph\?\)$"),
            (["graph.json"], "there is no argument graph.json$"),
            (["--graph", "nowhere.json"], "nowhere.json: No such file or directory"),
            (["--graph", "."], r"\.: Is a directory"),
            (["--pop", "nowhere.json"], "nowhere.json: No such file"),
            (["--out", "nowhere/out.json"], "nowhere/out.json: No such file or directory"),
            (["--out", "."], r"\.: Is a directory"),
            (["--out", "/dev/full"], "/dev/full: No space left on device"),
            (["--out", "/proc/none"], "/proc/none: "),
        ],
    )
    def test_arguments(self, build_folder, arguments, message):
        self.refused(run(*arguments, cwd=build_folder), message, build_folder)
        assert os.listdir(build_folder) == [".attrs.json"]

    def test_a_plan_that_cannot_be_written_whole(self, tmp_path):
        graph, out = tmp_path / "graph", tmp_path / "out"
        graph.write_text(json.dumps(document(dict.fromkeys(map(str, range(2000)), ""), "1")))
        out.write_text("as it was")

        def small_files() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        done = run("--graph", graph, "--out", out, preexec_fn=small_files)
        errors = [line for line in done.stderr.splitlines() if "no root reaches" not in line]
        assert (done.returncode, errors) == (2, [f"group-layers: {out}: File too large"])
        assert out.read_text() == "as it was"
        assert sorted(os.listdir(tmp_path)) == ["graph", "out"]


class TestCommandLine:
    def test_defaults(self, build_folder):
        done = run(cwd=build_folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (build_folder / "layers.json").read_text() == GOOD_TEXT

    def test_the_file_that_nix_names(self, build_folder):
        (build_folder / "attributes").write_text(json.dumps(document({"n": ""}, "n")))
        named = {**os.environ, "NIX_ATTRS_JSON_FILE": str(build_folder / "attributes")}
        assert run("--out", "-", cwd=build_folder, env=named).stdout == '[{"contents":["n"]}]\n'
        # Nix 2.8 names a file of the host, which is not there in the sandbox.
        named["NIX_ATTRS_JSON_FILE"] = "/build/nowhere"
        assert run("--out", "-", cwd=build_folder, env=named).stdout == GOOD_TEXT

    def test_outside_of_a_nix_build_a_graph_must_be_named(self, tmp_path):
        done = run(cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "group-layers: no reference graph: pass --graph FILE, which Nix wrote (see --help)\n"
        )

    def test_the_program_runs_by_itself(self, build_folder):
        command = [PROGRAM, "--out", "-"]
        done = subprocess.run(command, cwd=build_folder, capture_output=True, text=True, check=True)
        assert done.stdout == GOOD_TEXT

    def test_importing_does_nothing(self, tmp_path):
        code = "import gc, group_layers; assert gc.isenabled()"
        environment = {"PYTHONPATH": str(PROGRAM.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert os.listdir(tmp_path) == []

    def test_the_budget_and_the_popularity_are_used(self, tmp_path):
        graph, table = tmp_path / "graph", tmp_path / "table"
        graph.write_text(json.dumps(document({"a": "bcd", "b": "", "c": "", "d": ""}, "a")))
        table.write_text('{"b": 1000, "c": 2000}')
        command = ("--graph", graph, "--strategy", "nixery", "--out", "-", "--pop", table)
        merged = '[{"contents":["a","b","d"]},{"contents":["c"]}]\n'
        assert run(*command).stdout == merged.replace('"b","d"]', '"d"]},{"contents":["b"]')
        for budget in ("--budget", "2"), ("-budget", "2"), ("-budget=2",):
            assert run(*command, *budget).stdout == merged

    def test_paths_that_no_root_reaches_are_said(self, tmp_path):
        graph = tmp_path / "graph"
        names = {f"{STORE}abc{n}-spare-{n}": "" for n in range(5)}
        graph.write_text(json.dumps(document({"a": "", **names}, "a")))
        done = run("--graph", graph, "--out", "-")
        assert done.returncode == 0
        assert done.stderr == (
            f"group-layers: {graph}: 5 paths that no root reaches, kept:"
            " spare-0, spare-1, spare-2, spare-3, spare-4\n"
        )
        assert {"a", *names} == {p for layer in json.loads(done.stdout) for p in layer["contents"]}

    def test_a_large_path_that_no_root_reaches_is_said_too(self, tmp_path):
        graph = tmp_path / "graph"
        graph.write_text(json.dumps(document({"a": "", "x": "y", "y": ""}, "a", x=(1, 10**9))))
        errors = run("--graph", graph, "--out", "-").stderr
        assert "2 paths that no root reaches, kept: x, y" in errors

    @pytest.mark.parametrize("strategy", group_layers.STRATEGIES)
    def test_no_byte_depends_on_the_hash_seed(self, tmp_path, strategy):
        graph = tmp_path / "graph"
        letters = "abcdefghijklmnopqrstuvwxyz"
        references = {p: letters[n + 1 : n + 9 : 1 + n % 3] for n, p in enumerate(letters)}
        graph.write_text(json.dumps(document(references, "abc")))
        command = ("--graph", graph, "--out", "-", "--budget", "5", "--strategy", strategy)
        seeds = ({**os.environ, "PYTHONHASHSEED": str(seed)} for seed in range(6))
        assert len({run(*command, env=environment).stdout for environment in seeds}) == 1

    def test_named_pipes(self, tmp_path):
        graph, out = tmp_path / "graph", tmp_path / "out"
        os.mkfifo(graph)
        os.mkfifo(out)
        writer = threading.Thread(target=graph.write_text, args=(json.dumps(GOOD),), daemon=True)
        writer.start()
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append(out.read_text()), daemon=True)
        reader.start()
        done = run("--graph", graph, "--out", out)
        reader.join(20)
        assert (done.returncode, read) == (0, [GOOD_TEXT])
        assert out.is_fifo()

    def test_standard_output_by_its_other_name(self, build_folder):
        assert run("--out", "/dev/stdout", cwd=build_folder).stdout == GOOD_TEXT

    def test_a_symbolic_link_stays_one(self, build_folder):
        (build_folder / "real.json").write_text("old")
        (build_folder / "layers.json").symlink_to("real.json")
        assert run(cwd=build_folder).returncode == 0
        assert (build_folder / "layers.json").is_symlink()
        assert (build_folder / "real.json").read_text() == GOOD_TEXT

    def test_nobody_reads(self, build_folder):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, PROGRAM, "--out", "-"]
        options: dict = {"stdout": writing, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run(command, cwd=build_folder, **options)
        os.close(writing)
        assert (done.returncode, done.stderr) == (2, "group-layers: standard output: Broken pipe\n")

    def test_interrupted(self, tmp_path):
        pipe = tmp_path / "graph"
        os.mkfifo(pipe)
        process = subprocess.Popen(
            [sys.executable, PROGRAM, "--graph", pipe],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            # Whoever runs the tests in the background may have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        with open(pipe, "w"):  # opens when the program does, and ends its reading
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors, os.listdir(tmp_path)) == (130, b"", ["graph"])

    def test_a_long_chain(self, tmp_path):
        graph, count = tmp_path / "graph", 20_000
        entries = [
            {"path": str(n), "narSize": 1, "closureSize": count - n, "references": [str(n + 1)]}
            for n in range(count)
        ]
        entries[-1]["references"] = []
        graph.write_text(json.dumps({"exportReferencesGraph": {"graph": ["0"]}, "graph": entries}))
        done = run("--graph", graph, "--out", "-", "--strategy", "nixery")
        assert done.stderr == ""
        assert [len(layer["contents"]) for layer in json.loads(done.stdout)] == [count]


def write_graph(
    graph: Path, references: dict[str, list[str]], roots: list[str], **sizes: int
) -> None:
    """Write a graph of paths with these names."""
    paths = {name: f"{STORE}abc-{name}" for name in references}
    both = {paths[name]: (sizes.get(name, 1000),) * 2 for name in paths}
    needed = {paths[name]: [paths[it] for it in references[name]] for name in paths}
    graph.write_text(json.dumps(document(needed, [paths[name] for name in roots], **both)))


class TestExplaining:
    def test_json(self, tmp_path):
        graph = tmp_path / "graph"
        references = {"app": ["lib", "big"], "tool": ["lib", "own"], "lib": [], "big": []}
        write_graph(graph, {**references, "own": []}, ["app", "tool"], big=200_000_000)
        command = ("--graph", graph, "--strategy", "nixery", "--out", "-")
        done = run(*command, "--explain-json", tmp_path / "why")
        assert done.stdout == run(*command).stdout
        explained = json.loads((tmp_path / "why").read_text())
        layers = explained.pop("layers")
        assert explained == {
            **{"budget": 94, "unused": 90, "paths": 5, "size": 200_004_000, "largestShare": 1.0}
        }
        rows = [
            [layer["layer"], layer["size"], len(layer["contents"]), layer["reason"]]
            + [name[len(f"{STORE}abc-") :] for name in (layer["name"], *layer["neededBy"])]
            for layer in layers
        ]
        assert rows == [
            [1, 1000, 1, "requested", "app"],
            [2, 1000, 1, "shared", "lib", "app", "tool"],
            [3, 2000, 2, "requested", "tool"],
            [4, 200_000_000, 1, "large", "big", "app"],
        ]
        own, tool = f"{STORE}abc-own", f"{STORE}abc-tool"
        assert layers[2]["contents"] == [[own, 1000], [tool, 1000]]

    def test_what_a_layer_spares_is_at_least_its_price(self, tmp_path):
        """Otherwise it would have been merged, unless it is to stay apart."""
        graph = Path(__file__).parent.parent / "data" / "git-and-bash.json"
        done = run("--graph", graph, "--out", "-", "--explain-json", tmp_path / "why")
        assert done.returncode == 0
        layers = json.loads((tmp_path / "why").read_text())["layers"]
        spared = [layer["spares"] for layer in layers if layer["reason"] != "requested"]
        assert len(spared) > 4 and min(spared) >= group_layers.LAYER_PRICE

    @pytest.mark.parametrize("count", [1, 5, 300])
    def test_the_table_fits_a_terminal(self, tmp_path, count):
        graph = tmp_path / "graph"
        names = [f"package-{n}-with-rather-a-long-name-{n}.{n * n}" for n in range(count)]
        references = {name: names[n + 1 :: 7] for n, name in enumerate(names)}
        sizes = {name: 7**n % 10**12 for n, name in enumerate(names)}
        write_graph(graph, references, names[:1], **sizes)
        done = run("--graph", graph, "--out", tmp_path / "out", "--explain")
        head, *rows, total = done.stderr.splitlines()
        assert head.startswith("layer ")
        assert all(len(line) <= 80 for line in (head, *rows, total))
        assert len(rows) == len(json.loads((tmp_path / "out").read_text()))
        assert (f" {count} paths," if count > 1 else " 1 path,") in total

    def test_an_image_of_no_bytes(self, tmp_path):
        graph = tmp_path / "graph"
        write_graph(graph, {"a": ["b"], "b": []}, ["a"], a=0, b=0)
        done = run("--graph", graph, "--out", "-", "--explain")
        assert done.returncode == 0
        assert "2 paths, 0 B, 0 % in the largest layer" in done.stderr
