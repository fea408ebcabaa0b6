#!/usr/bin/env python3
"""Group the store paths of a container image into layers that other images have too.

A host pulls only the layers of an image that it does not have yet. An image may have hundreds of
store paths, but registries and file systems allow about a hundred layers. So this program decides
which paths share a layer. Where another image, or the next revision of this one, has paths in
common with it, the two should come to the same layers.

Input: the JSON file that Nix writes for ``exportReferencesGraph.graph`` with structured attributes.
Other attributes are ignored::

    {"exportReferencesGraph": {"graph": [ROOT, ...]},
     "graph": [{"path": PATH, "narSize": BYTES, "closureSize": BYTES, "references": [PATH, ...]},
               ...]}

and, optionally, a popularity table ``{NAME: COUNT, ...}``: how many packages of the package set
refer directly to the package of that name (``glibc-2.27``).

Output: ``[{"contents": [PATH, ...]}, ...]``. Each path of the graph is in exactly one layer, and
there are at most ``budget`` layers. The same graph gives the same bytes, whatever the order of its
entries.

Several graphs, each under its own name, are images that are planned together: the output is an
object with a plan for each. Plans of existing layers can be given as well; they are used where they
fit.

How layers are chosen is up to the strategy, and explained with each: `nixery` decides as Nixery did
in 2019, `reuse` is the default.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
from collections import Counter, namedtuple
from contextlib import suppress
from functools import partial, reduce
from itertools import chain, compress
from operator import attrgetter, or_

TYPE_CHECKING = False  # as typing has it, which is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, NoReturn, TypeVar

    _T = TypeVar("_T")

# Nixery's. Container runtimes take some 125 layers; this leaves room for what is put on top.
DEFAULT_BUDGET = 94

DEFAULT_STRATEGY = "reuse"

# Why a layer is one.
REASONS = {
    "requested": "a requested path (nixery: with all that only it needs)",
    "own": "a path that is worth a layer to itself",
    "large": "nixery: a path with a large closure, with all that only it needs",
    "popular": "nixery: a path that many packages refer to, with all that only it needs",
    "shared": "nixery: a path that several others need, with all that only it needs",
    "bundle": "small paths that other images have in one layer, too",
    "merged": "small paths that cost least in one layer",
    "fleet": "paths of the same images, where several images are grouped together",
    "known": "a layer that exists already, given as known",
    "unreached": "what no root needs",
}


# What is read and written


class GraphError(ValueError):
    """What was given can't be used; the message says what, where, and what was expected."""


class Graph(namedtuple("Graph", "paths nar_sizes closure_sizes references roots unreached")):
    """The reference graph of a closure. Paths are numbered: a list's element n is of path n."""

    __slots__ = ()
    paths: list[str]
    nar_sizes: list[int]  # bytes of the path itself
    closure_sizes: list[int]  # bytes of the path and of all that it needs
    references: list[list[int]]  # in no particular order; a path may refer to itself
    roots: list[int]  # the requested paths
    unreached: list[int]  # the paths that those do not need


class Layer(namedtuple("Layer", "contents size name reason spares", defaults=(None,))):
    """Store paths that go into an image together."""

    __slots__ = ()
    contents: list[str]  # sorted
    size: int  # bytes, the sum of narSize
    name: str  # the path that it is named after, the largest
    reason: str  # why it is a layer, a key of `REASONS`
    # Bytes that hosts would pull needlessly if the paths were in another layer, where that costs
    # least; None where nothing was estimated
    spares: int | None


def store_name(path: str) -> str:
    """Return a store path without folder and hash: its name and version, such as `git-2.39.5`."""
    return _STORE_PREFIX.sub("", path)


# Nixery's pattern, which decides below /nix/store; elsewhere, all up to a whole hash.
_STORE_PREFIX = re.compile("^/nix/store/[a-z0-9]+-|^/(?!nix/store/).*/[a-z0-9]{32}-")


def read_graph(document: Any, name: str = "graph") -> Graph:
    """Return the graph of that name in a parsed document, as Nix writes it.

    Raises `GraphError` with a message that names entry (counted from 1) and field where the
    document has another form, or where it refers to a path that it does not describe.
    """
    if not isinstance(document, dict):
        raise GraphError(f"expected an object, got {_show(document)}")
    entries = _list_field(document, name, "an empty graph")
    requested = _list_field(
        document.get("exportReferencesGraph"), name, "no roots", prefix="exportReferencesGraph."
    )

    numbers: dict[str, int] = {}
    for position, entry in enumerate(entries, 1):
        if fault := _fault(entry):
            raise GraphError(f"entry {position}: {fault}{_place(entry)}")
        numbers.setdefault(entry["path"], len(numbers))

    described: list = [None] * len(numbers)
    for position, entry in enumerate(entries, 1):
        place = f"entry {position}: field"
        number = numbers[entry["path"]]
        references = _look_up(entry["references"], numbers, f'{place} "references"')
        data = entry["narSize"], entry["closureSize"], references
        known = described[number]
        if known and (known[:2] != data[:2] or set(known[2]) != set(references)):
            raise GraphError(f'{place} "path": {_show(entry["path"])} again, with other data')
        described[number] = data

    roots = []
    for position, root in enumerate(requested, 1):
        place = f'field "exportReferencesGraph.{name}": root {position}'
        roots += _look_up([root], numbers, place)
    nar_sizes, closure_sizes, references_of = map(list, zip(*described))
    reached = set(_reverse_postorder([*references_of, roots], len(numbers)))
    unreached = [path for path in range(len(numbers)) if path not in reached]
    return Graph([*numbers], nar_sizes, closure_sizes, references_of, roots, unreached)


def read_graphs(document: Any) -> dict[str, Graph]:
    """Return all graphs of a parsed document by name. Raises `GraphError`."""
    names = document.get("exportReferencesGraph") if isinstance(document, dict) else None
    if not isinstance(names, dict) or not names:
        names = ["graph"]
    return {name: read_graph(document, name) for name in names}


def read_popularity(document: Any) -> dict[str, int]:
    """Return a popularity table, an object of counts by store name. Raises `GraphError`."""
    if not isinstance(document, dict):
        raise GraphError(f"expected an object of counts by store name, got {_show(document)}")
    for name, count in document.items():
        if not _is_size(count):
            raise GraphError(f"field {_show(name)}: expected a count, got {_show(count)}")
    return document


def read_plans(document: Any) -> list[list[list[str]]]:
    """Return a plan, or an object of plans, as lists of lists of paths. Raises `GraphError`."""
    plans = list(document.values()) if isinstance(document, dict) else [document]
    try:
        contents = [[layer["contents"] for layer in plan if layer["contents"]] for plan in plans]
        if all(isinstance(paths, list) and all(map(_is_path, paths)) for paths in chain(*contents)):
            return contents
    except (KeyError, TypeError):
        pass
    raise GraphError('expected plans, [{"contents": [PATH, ...]}, ...] or an object of such')


def _list_field(fields: Any, name: str, nothing: str, prefix: str = "") -> list:
    """Return the elements of a field that must have some."""
    place = f'field "{prefix}{name}"'
    if not isinstance(fields, dict) or name not in fields:
        raise GraphError(f"{place}: missing")
    elements = fields[name]
    if not isinstance(elements, list):
        raise GraphError(f"{place}: expected a list, got {_show(elements)}")
    if not elements:
        raise GraphError(f"{place}: {nothing}")
    return elements


def _look_up(paths: list, numbers: dict[str, int], place: str) -> list[int]:
    """Return the numbers of paths; `place` is where they are named."""
    try:
        return [numbers[path] for path in paths]
    except (KeyError, TypeError):
        wrong = next(path for path in paths if not _is_path(path) or path not in numbers)
    if _is_path(wrong):
        raise GraphError(f"{place}: {_show(wrong)} is not in the graph")
    raise GraphError(f"{place}: expected a store path, got {_show(wrong)}")


def _fault(entry: Any) -> str | None:
    """Say what is wrong with an entry by itself."""
    if not isinstance(entry, dict):
        return f"expected an object, got {_show(entry)}"
    for name, expected, is_right in _FIELDS:
        if name not in entry:
            return f'field "{name}": missing'
        if not is_right(entry[name]):
            return f'field "{name}": expected {expected}, got {_show(entry[name])}'
    return None


def _place(entry: Any) -> str:
    path = entry.get("path") if isinstance(entry, dict) else None
    return f" ({_show(path)})" if _is_path(path) else ""


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_path(value: object) -> bool:
    """Any text will do, except half of a surrogate pair, which only JSON can spell."""
    return (
        isinstance(value, str)
        and value != ""
        and (value.isascii() or not re.search("[\ud800-\udfff]", value))
    )


_FIELDS: list[tuple[str, str, Callable[[object], bool]]] = [
    ("path", "a store path", _is_path),
    ("narSize", "a number of bytes", _is_size),
    ("closureSize", "a number of bytes", _is_size),
    ("references", "a list", lambda value: isinstance(value, list)),
]


def _show(value: object) -> str:
    """Return a JSON value as JSON again, short enough for a part of a line."""
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else _cut(json.dumps(value), 120)


def parse_json(text: str) -> Any:
    """Parse JSON; raises `GraphError` also where an object has a field twice, and for NaN."""

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise GraphError(f"field {_show(twice)}: given twice in one object{_place(fields)}")
        return fields

    def refuse(constant: str) -> NoReturn:
        raise GraphError(f"not JSON: {constant}")

    try:
        return json.loads(text, object_pairs_hook=read_object, parse_constant=refuse)
    except GraphError:
        raise
    except RecursionError:
        raise GraphError("nested too deeply") from None
    except ValueError as error:
        raise GraphError(f"not JSON: {error}") from None


def read_file(file: str, read: Callable[[Any], _T]) -> _T:
    """Return what `read` makes of the JSON in a file; a `GraphError` names the file.

    The file is read once: it may be a pipe.
    """
    try:
        with open(file, encoding="utf-8", newline="") as stream:
            return read(parse_json(stream.read()))
    except UnicodeDecodeError as error:
        raise GraphError(f"{file}: not UTF-8, at byte {error.start}") from None
    except OSError as error:
        raise GraphError(f"{file}: {error.strerror}") from None
    except GraphError as error:
        raise GraphError(f"{file}: {error}") from None


def _write(file: str, text: str) -> None:
    """Write text and a line break; the file is whole then or, if that goes wrong, as it was."""
    try:
        if file == "-" or (os.path.exists(file) and not os.path.isfile(file)):  # or a pipe
            with open(1 if file == "-" else file, "w", encoding="utf-8", closefd=file != "-") as to:
                to.write(text + "\n")
            return
        target = os.path.realpath(file)
        beside = f"{target}.{os.getpid()}.tmp"
        try:
            with open(beside, "x", encoding="utf-8") as stream:
                stream.write(text + "\n")
            os.replace(beside, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        name = "standard output" if file == "-" else file
        raise GraphError(f"{name}: {error.strerror}") from None


# The graph


def dominator_tree(successors: list[list[int]], root: int) -> tuple[list[int], list[int]]:
    """Find the immediate dominator of each vertex that can be reached from `root`.

    One vertex dominates another if all ways from the root to the other go through it.
    `successors[v]` are the vertices that v has edges to, repeated ones and itself allowed. Returns
    the vertices reached, each after its immediate dominator (reverse postorder), and a list with
    the immediate dominator of each vertex: `root` for itself, -1 for one that is not reached.

        >>> dominator_tree([[1, 2], [3], [3], [], [0]], 0)
        ([0, 1, 2, 3], [0, 0, 0, 0, -1])

    The algorithm, with its names, is figure 3 of K. D. Cooper, T. J. Harvey, K. Kennedy, "A Simple,
    Fast Dominance Algorithm", Rice University TR-06-33870, 2001; nodes go by their postorder
    number. Where each cycle has one way in, and in a closure there are none, the second pass finds
    nothing to change. A pass climbs, for each edge, at most the depth of the tree: closures are
    shallow, but two long chains with many common vertices take quadratic time. Where cycles have
    several ways in there may be as many passes as vertices; Nix writes no such graph.
    """
    order = _reverse_postorder(successors, root)
    nodes = order[::-1]
    number = dict(zip(nodes, range(len(nodes))))
    predecessors: list[list[int]] = [[] for _ in nodes]
    for vertex in nodes:
        for successor in successors[vertex]:
            predecessors[number[successor]].append(number[vertex])

    start_node, undefined = number[root], -1
    doms = [undefined] * len(nodes)
    doms[start_node] = start_node

    def intersect(finger1: int, finger2: int) -> int:
        while finger1 != finger2:
            while finger1 < finger2:
                finger1 = doms[finger1]
            while finger2 < finger1:
                finger2 = doms[finger2]
        return finger1

    changed = True
    while changed:
        changed = False
        for b in reversed(range(start_node)):
            processed = [p for p in predecessors[b] if doms[p] != undefined]
            new_idom = reduce(intersect, processed)
            if doms[b] != new_idom:
                doms[b] = new_idom
                changed = True

    dominator = [-1] * len(successors)
    for vertex, idom in zip(nodes, doms):
        dominator[vertex] = nodes[idom]
    return order, dominator


def _reverse_postorder(successors: list[list[int]], root: int) -> list[int]:
    """Return the vertices that `root` reaches, in reverse of the order in which depth-first search
    leaves them: each vertex before those it has edges to, except for edges that close a cycle."""
    seen = bytearray(len(successors))
    postorder = []
    stack = [root]
    while stack:
        vertex = stack.pop()
        if vertex < 0:
            postorder.append(~vertex)
        elif not seen[vertex]:
            seen[vertex] = True
            stack.append(~vertex)  # met again when all that was pushed after it is done
            stack += successors[vertex]
    postorder.reverse()
    return postorder


def _by_name(graph: Graph, path: int) -> tuple[str, str]:
    """The key that settles ties: name before hash, so that an order survives a rebuild."""
    return store_name(graph.paths[path]), graph.paths[path]


# Strategies


def group(
    graph: Graph,
    budget: int = DEFAULT_BUDGET,
    popularity: dict[str, int] | None = None,
    strategy: str = DEFAULT_STRATEGY,
    known: Sequence[list[list[str]]] = (),
) -> list[Layer]:
    """Divide the paths of a graph among at most `budget` layers: `group_fleet` of one image."""
    return group_fleet({"": graph}, {"": budget}, known, popularity, strategy)[""]


def group_fleet(
    graphs: dict[str, Graph],
    budgets: dict[str, int],
    known: Sequence[list[list[str]]] = (),
    popularity: dict[str, int] | None = None,
    strategy: str = DEFAULT_STRATEGY,
) -> dict[str, list[Layer]]:
    """Group images that are built together so that they share layers; return the layers of each.

    `graphs` and `budgets` are by the image's name. `known` has plans of layers that exist, lists of
    lists of paths: an image whose plan is among them keeps it, the others have such layers where
    they fit. `popularity` has counts of references by store name. Raises `GraphError` for a budget
    below 1, or if the strategy can't plan the graphs. That no path is lost is checked.
    """
    for name, budget in budgets.items():
        if budget < 1:
            image = f"{name}: " if name else ""
            raise GraphError(f"{image}a budget of {budget} layers: expected at least 1")
    if not graphs:
        return {}
    plans = STRATEGIES[strategy](graphs, budgets, known, popularity or {})
    return {name: _check(graph, budgets[name], plans[name]) for name, graph in graphs.items()}


def _check(graph: Graph, budget: int, layers: list[Layer]) -> list[Layer]:
    placed = list(chain.from_iterable(layer.contents for layer in layers))
    if len(placed) != len(graph.paths) or set(placed) != set(graph.paths):
        raise AssertionError("the layers do not hold each path exactly once")
    if not 1 <= len(layers) <= budget:
        raise AssertionError(f"{len(layers)} layers for a budget of {budget}")
    return layers


def _layer(
    graph: Graph, head: int, paths: list[int], reason: str, spares: int | None = None
) -> Layer:
    contents = sorted(map(graph.paths.__getitem__, paths))
    size = sum(map(graph.nar_sizes.__getitem__, paths))
    return Layer(contents, size, graph.paths[head], reason, spares)


# Strategy "nixery"

# A closure of more bytes is large. A path with as many references from other packages is popular:
# the first hundredth of nixpkgs has them.
NIXERY_LARGE = 100_000_000
NIXERY_POPULAR = 1000


def _nixery(
    graphs: dict[str, Graph],
    budgets: dict[str, int],
    known: Sequence[list[list[str]]],
    popularity: dict[str, int],
) -> dict[str, list[Layer]]:
    """Plan each image by itself, as Nixery did, which knew no layers that exist."""
    return {name: _nixery_alone(graphs[name], budgets[name], popularity) for name in graphs}


def _nixery_alone(graph: Graph, budget: int, popularity: dict[str, int]) -> list[Layer]:
    """Decide as Nixery's group-layers did in 2019.

    Take an image with the requested paths A, B, C and D, where E is popular and G is large:

        image
        ├───> A ─────┐
        │            v
        ├───> B ───> E
        │            ^
        ├───> C ─────┘
        │     │
        │     v
        └───> D ───> F
              │
              └────> G

    1. Root edges. The image refers to each requested path, and to each path that is popular, or has
       a large closure: it is likely to be in other images as well, or to be worth a layer.
    2. Dominator tree. A dominates B when all ways from the image to B go through A. Then nothing
       else in the image needs B: wherever A is, B comes along.

           image ─┬─> A
                  ├─> B
                  ├─> C
                  ├─> D ───> F
                  ├─> E
                  └─> G

    3. Subtrees. Each child of the image is the head of a layer, which holds all that it dominates.
    4. Merging. Layers are sorted by rating: popularity times the sum of closure sizes over the
       subtree. If there are more than the budget allows, those with the lowest rating become one.

        >>> closure = {"A": 2, "B": 2, "C": 154, "D": 152, "E": 1, "F": 1, "G": 150}  # megabytes
        >>> references = {"A": "E", "B": "E", "C": "DE", "D": "FG", "E": "", "F": "", "G": ""}
        >>> graph = read_graph({
        ...     "exportReferencesGraph": {"graph": [*"ABCD"]},
        ...     "graph": [{"path": path, "references": [*references[path]],
        ...                "narSize": (150 if path == "G" else 1) * 10**6,
        ...                "closureSize": closure[path] * 10**6} for path in references]})
        >>> for budget in 1, 2, 3, 4, 10:
        ...     layers = _nixery_alone(graph, budget, popularity={"E": 1000, "G": 20, "D": 2})
        ...     print(budget, *("".join(layer.contents) for layer in layers))
        1 ABCDEFG
        2 ABCDEF G
        3 ABCDF E G
        4 ABC DF E G
        10 A B C DF E G
    """
    counts = [popularity.get(store_name(path), 1) for path in graph.paths]
    requested = set(graph.roots)
    large = {path for path, size in enumerate(graph.closure_sizes) if size > NIXERY_LARGE}
    popular = {path for path, count in enumerate(counts) if count >= NIXERY_POPULAR}
    subtrees = _subtrees(graph, requested | large | popular)
    # Small ones only: the image refers to large and popular ones, needed or not.
    unreached = sorted(set(graph.unreached).difference(*subtrees.values()))

    def rank(head: int) -> tuple:
        size = sum(map(graph.closure_sizes.__getitem__, subtrees[head]))
        return size * counts[head], *_by_name(graph, head)

    groups = [subtrees[head] for head in sorted(subtrees, key=rank)]
    if unreached:
        groups.insert(0, sorted(unreached, key=partial(_by_name, graph)))
    layers = []
    if len(groups) > budget:
        merged = len(groups) - (budget - 1)
        paths = list(chain.from_iterable(groups[:merged]))
        largest = min(paths, key=lambda path: (-graph.nar_sizes[path], *_by_name(graph, path)))
        layers.append(_layer(graph, largest, paths, "merged"))
        groups = groups[merged:]
    reasons = {"requested": requested, "popular": popular, "large": large, "unreached": unreached}
    for paths in groups:
        head = paths[0]
        reason = next((word for word, heads in reasons.items() if head in heads), "shared")
        layers.append(_layer(graph, head, paths, reason))
    return layers


def _subtrees(graph: Graph, root_edges: set[int]) -> dict[int, list[int]]:
    """Return what each child of the image dominates, itself first.

    The image is one more vertex, which refers to the paths in `root_edges`.
    """
    image = len(graph.paths)
    order, dominator = dominator_tree([*graph.references, list(root_edges)], image)
    subtrees: dict[int, list[int]] = {}
    head = [image] * image
    for path in order[1:]:
        above = dominator[path]
        head[path] = path if above == image else head[above]
        subtrees.setdefault(head[path], []).append(path)
    return subtrees


# Strategy "reuse"
#
# A layer is found again only where exactly the same paths share one. So two images should make the
# same choice about what both have, and they do if they make it by looking at nothing else. Hence
# the one idea: *a path has a plan of its own, which depends on its closure alone*. Every image that
# has the path has its closure too, and can use any layer of its plan.
#
# Each plan starts from parts, which are sets of paths. While there are more parts than the budget
# allows, or merging two costs less than a layer does, the two that cost least become one. What a
# merge costs is bytes that hosts pull needlessly:
#
# - Bytes that others would have shared. In a fleet of images that are built together it is known
#   who has the same part; while images have too many layers, a merge costs less the more of them it
#   helps. For an image alone it is estimated: if n plans of what it refers to have
#   a layer, another image has it, too, in n of n + 2 cases. A popularity table adds to n. What was
#   merged is in no other plan.
# - Bytes that an update moves although they did not change: the bytes of each of the two times the
#   chance that it stays as it is and both together do not.
# - A path that was asked for, and that no other path needs, is edited far more often than anything
#   is updated. It never shares a layer with what it needs while others can be merged.
#
# The plan of a path is the path itself, apart, and a plan for what it needs, of these parts:
#
# 1. The candidates are the layers in the plans of the paths that it refers to. A reference that
#    another reference needs as well has no say of its own. Those that others most likely share are
#    taken, as long as they have no path in common, up to the budget.
# 2. What is left comes along with a path that is a part alone and dominates it, or else with what
#    needs as many bytes.
#
# An image is one more path, which refers to the requested ones, and its plan may use the whole
# budget. An image in which one path needs all others is planned like that path.
#
# Some hosts keep only the layers below the first that differs. So layers are in the order of their
# bytes divided by the chance that they differ: in another image, which is the less likely the more
# paths need all of a layer, or after an update. What was asked for is on top.
#
# Sets of paths and of images are integers with a bit for each. bench/results.md has the figures,
# also with half and twice each constant.

# What a layer costs, in bytes of store paths that a host pulls in the same time. By client, it is
# 0.5 to 1.8 MB in CPU time, and more by the clock (bench/pull.md). A smaller value keeps more of
# what images share.
LAYER_PRICE = 350_000
# An update changes one of so many paths. If the changed share is exponentially distributed, a layer
# that needs n paths stays as it is with a chance of 100 / (100 + n).
PATHS_PER_CHANGE = 100
# The plan of a path leaves a sixth of the layers to what an image needs besides.
ROOM = 6
# So many paths are looked at one by one, the largest. This bounds time and memory only: no image of
# bench/results.md has more than 1230.
MOST_PATHS = 1280

_NEVER = float("inf")
_APART = 1e30  # more than any bytes
_count_bits = getattr(int, "bit_count", lambda bits: f"{bits:b}".count("1"))  # Python 3.10


def _selected(values: Iterable[_T], bits: int) -> Iterator[_T]:
    """Return those of the values for which a bit is set, the lowest for the first."""
    return compress(values, reversed(f"{bits:b}".encode().translate(_IS_ONE)))


_IS_ONE = bytes.maketrans(b"01", b"\0\1")


class _Part:
    """Paths that share a layer in some images."""

    __slots__ = (
        "apart",
        "bound",
        "chance",
        "images",
        "needs",
        "partner",
        "paths",
        "shared",
        "size",
    )

    def __init__(
        self,
        paths: int,
        size: int,
        needs: int,
        images: int = 1,
        shared: float = 0.0,
        apart: bool = False,
    ) -> None:
        self.paths, self.size, self.needs, self.images = paths, size, needs, images
        self.shared, self.apart = shared, apart  # bytes that others share; whether it was asked for
        self.chance = _chance(needs)
        self.partner, self.bound = self, shared  # what it costs least to merge it with, or less

    def cost_with(self, other: _Part, images: int, crowded: bool) -> float:
        """Return what it costs to merge the two in all images that have both, in bytes: divided by
        how many of `images` they are if those are crowded."""
        both = self.images & other.images
        count = _count_bits(both & images)
        if not count:
            return _NEVER
        cost = self.loses_with(other) + (_APART if self.apart != other.apart else 0.0)
        return cost / count if crowded else cost

    def loses_with(self, other: _Part) -> float:
        """Return how many bytes hosts pull needlessly if the two are merged."""
        both = self.images & other.images
        chance = _chance(self.needs | other.needs)
        lost = 0.0
        for part in (self, other) if self.paths < other.paths else (other, self):
            lost += part.shared if part.images == both else part.size
            lost += part.size * (part.chance - chance)
        return lost


def _chance(needs: int) -> float:
    """Return the chance that an update leaves all these paths as they are."""
    return PATHS_PER_CHANGE / (PATHS_PER_CHANGE + _count_bits(needs))


def _merge(parts: list[_Part], budgets: list[int]) -> list[_Part]:
    """Merge parts as long as an image has more than its budget, or a layer is dearer than a merge.

    `budgets` is by the number of the image. Returns the parts that are left.
    """
    everyone = (1 << len(budgets)) - 1
    numbers = range(len(budgets))
    counts = Counter(chain(*(_selected(numbers, part.images & everyone) for part in parts)))
    parts = sorted(parts, key=lambda part: (part.shared, part.paths))
    images = sum(1 << image for image in numbers if counts[image] > budgets[image])
    crowded = bool(images)
    images = images or everyone
    while len(parts) > 1:
        part = min(parts, key=attrgetter("bound"))
        partner = part.partner
        if part.bound == _NEVER or (not crowded and part.bound >= LAYER_PRICE):
            break
        if partner is part or part.bound != part.cost_with(partner, images, crowded):
            # The costs of parts that have not changed only rise, as images come to fit. So the
            # least that was found is the least if it is still right.
            part.bound = _NEVER
            for other in parts:
                if part.shared + other.shared >= part.bound:
                    break
                if other is not part:
                    cost = part.cost_with(other, images, crowded)
                    if cost < part.bound:
                        part.bound, part.partner = cost, other
            continue
        both = part.images & partner.images
        merged = _Part(
            part.paths | partner.paths,
            part.size + partner.size,
            part.needs | partner.needs,
            both,
            apart=part.apart or partner.apart,
        )
        for one in part, partner:
            one.images ^= both
            one.bound = one.shared
            one.partner = one
        parts = [it for it in (merged, *parts) if it.images]
        counts.subtract(_selected(numbers, both))
        if crowded:
            images = sum(1 << image for image in numbers if counts[image] > budgets[image])
            if not images:
                crowded, images = False, everyone
                for it in parts:
                    it.bound, it.partner = it.shared, it
    return parts


class _Image:
    """A graph with paths numbered by size and name: the same however it is listed."""

    def __init__(self, graph: Graph, popularity: dict[str, int]) -> None:
        sizes = graph.nar_sizes
        order = sorted(range(len(sizes)), key=lambda n: (-sizes[n], *_by_name(graph, n)))
        number = {path: place for place, path in enumerate(order)}
        self.graph, self.order = graph, order
        self.count = min(len(order), MOST_PATHS)  # of the paths that are bits
        self.sizes = [sizes[path] for path in order]
        self.levels = [graph.closure_sizes[path].bit_length() for path in order]
        self.counts = [popularity.get(store_name(graph.paths[path]), 0) for path in order]
        self.references = [
            sorted({number[needed] for needed in graph.references[path]} - {number[path]})
            for path in order
        ]
        self.requested = sorted(number[path] for path in {*graph.roots, *graph.unreached})
        self.closures: list = [None] * len(order)  # as bits
        self.layers: dict[int, tuple[int, int]] = {}  # bytes and needs by paths

    def measure(self, paths: int) -> tuple[int, int]:
        """Return the bytes of paths, and all that they need."""
        if paths not in self.layers:
            size = sum(_selected(self.sizes, paths))
            self.layers[paths] = size, reduce(or_, _selected(self.closures, paths), paths)
        return self.layers[paths]

    def tops(self, references: list[int]) -> list[int]:
        """Return the references that no other one needs."""
        further = self.below(references)
        return [path for path in references if path >= self.count or not further >> path & 1]

    def below(self, references: Iterable[int]) -> int:
        """Return what references need, without themselves unless another one needs them."""
        needs = [self.closures[path] & ~(1 << path) for path in references]
        return reduce(or_, needs, 0)

    def plan(self, budget: int, kept: list[int]) -> list[_Part]:
        """Return the parts of the image beside the layers `kept`."""
        room = max(1, budget - budget // ROOM)
        by_closure = sorted(range(len(self.order)), key=lambda n: (-self.levels[n], n))
        planned = {*by_closure[:MOST_PATHS]}
        plans: list = [None] * len(self.order)
        order = _reverse_postorder([*self.references, self.requested], len(self.order))
        for path in reversed(order[1:]):
            references = self.references[path]
            if any(self.closures[needed] is None for needed in references):
                name = _show(self.graph.paths[self.order[path]])
                raise GraphError(f"{name}: paths refer to each other in a cycle")
            own = 1 << path if path < self.count else 0
            self.closures[path] = reduce(or_, map(self.closures.__getitem__, references), own)
            tops = self.tops(references)
            if path in planned and own:
                support = Counter(chain.from_iterable(plans[top] for top in tops))
                parts = self.parts([path], support, self.closures[path], room)
                plans[path] = [part.paths for part in _merge(parts, [room])]
            else:
                layers = {*chain.from_iterable(plans[top] for top in tops)} | ({own} - {0})
                plans[path] = sorted(layers)[-room - 1 :]
        tops = asked = self.tops(self.requested)
        if len(tops) == 1 and tops[0] < self.count:
            tops = self.tops(self.references[tops[0]])
        support = Counter(chain.from_iterable(plans[top] for top in tops))
        whole = (1 << self.count) - 1
        parts = self.parts([*asked], support, whole, budget, reduce(or_, kept, 0), tops)
        return _merge(parts, [budget])

    def parts(
        self,
        asked: list[int],
        support: Counter[int],
        closure: int,
        budget: int,
        held: int = 0,
        tops: list[int] | None = None,
    ) -> list[_Part]:
        """Return the parts that a plan starts from.

        `asked` are paths that stay apart; `support` says of each candidate how many plans have it;
        `closure` are all paths, of which others have those that are `held`. With the paths `tops`
        below those asked for, what is left is divided by dominators.
        """
        parts = []

        def add(paths: int, count: float, apart: bool = False) -> None:
            size, needs = self.measure(paths)
            parts.append(_Part(paths, size, needs, 1, size * count / (count + 2), apart))

        for path in asked:
            if path < self.count and not held >> path & 1:
                add(1 << path, 1, apart=True)
                held |= 1 << path
        worth = {}
        for layer, count in support.items():
            if not layer & layer - 1:
                count += self.counts[layer.bit_length() - 1]
            size, _ = self.measure(layer)
            worth[layer] = size * count / (count + 2), count
        for layer in sorted(worth, key=lambda it: (-worth[it][0], it)):
            if not layer & held:
                if len(parts) >= budget:
                    break
                add(layer, worth[layer][1])
                held |= layer
        left = closure & ~held
        groups: dict[int, int] = {}
        if left:
            head = {}
            if tops is not None:
                alone = [it.paths.bit_length() - 1 for it in parts if not it.paths & it.paths - 1]
                edges = {*tops, *alone} - ({*asked} if tops != asked else set())
                head = _heads(self.references, sorted(edges))
            for path in _selected(range(self.count), left):
                above = head.get(path, path)
                group = above if above != path else ~self.levels[path]
                groups[group] = groups.get(group, 0) | 1 << path
        for paths in groups.values():
            add(paths, 0)
        return parts

    def rank(self, paths: int) -> float:
        """Return the bytes of a layer for the chance that it differs, where 1 is 1 %."""
        size, needs = self.measure(paths)
        users = sum(closure & paths == paths for closure in self.closures)
        return size * users / (PATHS_PER_CHANGE + users * _count_bits(needs))


def _heads(references: list[list[int]], root_edges: list[int]) -> dict[int, int]:
    """Return which child of the image dominates each path, itself for such a child."""
    image = len(references)
    order, dominator = dominator_tree([*references, root_edges], image)
    head: dict[int, int] = {}
    for path in order[1:]:
        above = dominator[path]
        head[path] = path if above == image else head[above]
    return head


def _reuse_alone(
    graph: Graph, budget: int, known: list[list[str]], popularity: dict[str, int]
) -> list[Layer]:
    """Return the layers of one image. Raises `GraphError` if paths refer to each other in a cycle,
    which those in a Nix store can't."""
    image = _Image(graph, popularity)
    number = {graph.paths[path]: place for place, path in enumerate(image.order)}
    kept = [[number[path] for path in layer] for layer in known]
    bits = [sum(1 << n for n in layer if n < image.count) for layer in kept]
    parts = image.plan(budget - len(kept), bits)
    asked = {*image.tops(image.requested)}
    taken = {*chain(*kept)}
    rest = [n for n in range(image.count, len(image.order)) if n not in taken]
    if rest and not parts:
        parts = [_Part(0, 0, 0)]
    ranked = []
    least = min(parts, key=lambda part: (part.apart, part.shared, part.paths), default=None)
    for part in parts:
        paths = [*_selected(range(image.count), part.paths)] + (rest if part is least else [])
        reason = "requested" if part.apart else "own" if len(paths) == 1 else "merged"
        if len(paths) > 1 and part.shared:
            reason = "bundle"
        top = any(path in asked for path in paths)
        spares = min((round(part.loses_with(it)) for it in parts if it is not part), default=None)
        ranked.append(((top, -image.rank(part.paths), part.paths), paths, reason, spares))
    ordered: list[tuple] = [(paths, "known", None) for paths in kept]
    ordered += [row[1:] for row in sorted(ranked)]
    return [
        _layer(graph, image.order[min(paths)], [image.order[n] for n in paths], reason, spares)
        for paths, reason, spares in ordered
    ]


def _reuse(
    graphs: dict[str, Graph],
    budgets: dict[str, int],
    known: Sequence[list[list[str]]],
    popularity: dict[str, int],
) -> dict[str, list[Layer]]:
    """Keep known layers, and merge parts in what is left: of one image, or of all together."""
    layers = Counter(tuple(sorted({*layer})) for plan in known for layer in plan)
    order = {layer: place for place, layer in enumerate(layers)}
    sizes = dict(chain(*(zip(graph.paths, graph.nar_sizes) for graph in graphs.values())))

    def by_bytes(layer: tuple) -> tuple:
        return -sum(map(sizes.__getitem__, layer)), -len(layer), layer

    kept: dict[str, list] = {}
    for name, graph in graphs.items():
        left = {*graph.paths}
        same = [p for p in known if len(p) <= budgets[name] and sorted(chain(*p)) == sorted(left)]
        if same:  # another image may have the same paths and a smaller budget
            kept[name] = min(same, key=lambda it: (-len(it), it))
            continue
        kept[name] = []
        for layer in sorted(filter(left.issuperset, layers), key=by_bytes):
            if left.issuperset(layer) and len(kept[name]) < budgets[name] - (
                len(left) > len(layer)
            ):
                kept[name].append(layer)
                left.difference_update(layer)
        kept[name].sort(key=lambda layer: (-layers[layer], order[layer]))
    if len(graphs) == 1:
        ((name, graph),) = graphs.items()
        return {name: _reuse_alone(graph, budgets[name], kept[name], popularity)}

    fleet = {name: [_named(layer, sizes, "known") for layer in kept[name]] for name in graphs}
    names = sorted(name for name in graphs if sum(map(len, kept[name])) < len(graphs[name].paths))
    paths, parts = _divide([graphs[name] for name in names], [kept[name] for name in names])
    merged = _merge(parts, [budgets[name] - len(kept[name]) for name in names])
    for part in sorted(merged, key=lambda part: (-_count_bits(part.images), part.paths)):
        layer = _named([*_selected(paths, part.paths)], sizes, "fleet")
        for name in _selected(names, part.images):
            fleet[name].append(layer)
    return fleet


def _named(paths: Iterable[str], sizes: dict[str, int], reason: str) -> Layer:
    contents = sorted(paths)
    size = sum(map(sizes.__getitem__, contents))
    return Layer(contents, size, max(contents, key=sizes.__getitem__), reason)


def _divide(graphs: list[Graph], kept: list[list[tuple]]) -> tuple[list[str], list[_Part]]:
    """Return all paths of a fleet, whose numbers are bits elsewhere, and the parts of the images.

    A large path is a part, and so are the small paths together that are in the same images and have
    closures of about the same size. What is worth least is one part of each image.
    """
    paths = sorted({p for graph in graphs for p in graph.paths}, key=lambda p: (store_name(p), p))
    numbers = {path: number for number, path in enumerate(paths)}
    sizes, closure_sizes, needs, images = ([0] * len(paths) for _ in range(4))
    for image, graph in enumerate(graphs):
        number = [numbers[path] for path in graph.paths]
        edges = [*graph.references, [*graph.roots, *graph.unreached]]
        for path in reversed(_reverse_postorder(edges, len(number))[1:]):
            sizes[number[path]] = graph.nar_sizes[path]
            closure_sizes[number[path]] = graph.closure_sizes[path]
            images[number[path]] |= 1 << image
            below = (needs[number[needed]] for needed in graph.references[path])
            needs[number[path]] = reduce(or_, below, 1 << number[path])
        for path in chain(*kept[image]):
            images[numbers[path]] ^= 1 << image

    alike: Counter[tuple] = Counter()  # paths as bits; a key begins with the images
    worth: Counter[tuple] = Counter()
    large = sum(sizes) // MOST_PATHS
    for path, size in enumerate(sizes):
        level = path if size > large else ~closure_sizes[path].bit_length()
        alike[images[path], level] |= 1 << path
        worth[images[path], level] += size * (_count_bits(images[path]) - 1)
    for key, _ in worth.most_common()[MOST_PATHS:]:
        least = alike.pop(key)
        for image in _selected(range(len(graphs)), key[0]):
            alike[1 << image, "rest"] |= least

    layers: Counter[int] = Counter()  # images by paths: what is worth least may be the same in two
    for (users, _), held in alike.items():
        layers[held] |= users
    return paths, [
        _Part(held, sum(_selected(sizes, held)), reduce(or_, _selected(needs, held)), users)
        for held, users in sorted(layers.items())
        if users
    ]


STRATEGIES: dict[str, Callable[..., dict[str, list[Layer]]]] = {"nixery": _nixery, "reuse": _reuse}


# Explaining


def explain(graph: Graph, budget: int, layers: list[Layer]) -> dict:
    """Return what there is to know about a plan, as JSON can hold it.

    ``{"budget", "unused", "paths", "size", "largestShare", "layers"}``: the budget and how many
    more layers it allows, the number of paths, their bytes, and the part of those (0 to 1) that is
    in the largest layer. Each layer is ``{"layer", "size", "name", "reason", "contents",
    "spares", "neededBy"}``: its number (from 1), bytes, the path that it is named after, a key of
    `REASONS`, ``[path, narSize]`` of each of its paths, what it spares as in `Layer`, and the paths
    of other layers that refer to one of its own, requested ones first.
    """
    nar_sizes = dict(zip(graph.paths, graph.nar_sizes))
    layer_of = {path: number for number, layer in enumerate(layers) for path in layer.contents}
    number_of = [layer_of[path] for path in graph.paths]
    users: list[set[int]] = [set() for _ in layers]
    for user, references in enumerate(graph.references):
        for number in {number_of[needed] for needed in references} - {number_of[user]}:
            users[number].add(user)
    requested = set(graph.roots)

    def order(user: int) -> tuple:
        return user not in requested, _by_name(graph, user)

    size = sum(layer.size for layer in layers)
    return {
        "budget": budget,
        "unused": budget - len(layers),
        "paths": len(graph.paths),
        "size": size,
        "largestShare": round(max(layer.size for layer in layers) / (size or 1), 4),
        "layers": [
            {
                "layer": number,
                "size": layer.size,
                "name": layer.name,
                "reason": layer.reason,
                "contents": [[path, nar_sizes[path]] for path in layer.contents],
                "spares": layer.spares,
                "neededBy": [graph.paths[user] for user in sorted(some, key=order)],
            }
            for number, (layer, some) in enumerate(zip(layers, users), 1)
        ],
    }


def format_explanation(explained: dict) -> str:
    """Return what `explain` returned as a table for people, at most 80 columns wide."""
    lines = ["layer      size    spares  paths why       named after           needed by"]
    for layer in explained["layers"]:
        name = _cut(store_name(layer["name"]), 21)
        users = _some([store_name(user) for user in layer["neededBy"]], 15)
        spares = "" if layer["spares"] is None else format_bytes(layer["spares"])
        line = f"{layer['layer']:5} {format_bytes(layer['size']):>9} {spares:>9}"
        line += f" {len(layer['contents']):6} {layer['reason']:9} {name:21} {users}"
        lines.append(line.rstrip())
    share = round(100 * explained["largestShare"])
    size = format_bytes(explained["size"])
    lines.append(
        f"{_count(len(explained['layers']), 'layer')}, {explained['unused']} more were allowed;"
        f" {_count(explained['paths'], 'path')}, {size}, {share} % in the largest layer"
    )
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _some(names: list[str], width: int) -> str:
    """Return as many names as fit into a number of columns, and how many more there are."""
    for count in range(min(len(names), width), 0, -1):
        rest = f" +{len(names) - count}" if count < len(names) else ""
        shown = ", ".join(names[:count])
        if len(shown + rest) <= width or count == 1:
            return _cut(shown, width - len(rest)) + rest
    return ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def format_bytes(size: float) -> str:
    """Return a number of bytes for people, with three digits or so: `12.7 MB`."""
    unit = "B"
    for larger in "kB", "MB", "GB", "TB":
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


# Command line


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status: 0, 2 for bad input or output, 130 if interrupted."""
    gc.disable()  # a short life, and no cycles in it
    try:
        _run(_arguments(sys.argv[1:] if argv is None else argv))
    except GraphError as error:
        _say(f"group-layers: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    graphs = read_file(arguments.graph, read_graphs)
    popularity = read_file(arguments.pop, read_popularity) if arguments.pop else None
    known = read_file(arguments.known, read_plans) if arguments.known else []
    if arguments.known and arguments.strategy != DEFAULT_STRATEGY:
        raise GraphError(f"--known: strategy {arguments.strategy} makes no use of known layers")
    budget = arguments.budget
    plans = group_fleet(
        graphs, dict.fromkeys(graphs, budget), known, popularity, arguments.strategy
    )
    explained = {}
    for name, graph in graphs.items():
        if graph.unreached:
            names = sorted(store_name(graph.paths[path]) for path in graph.unreached)
            count = _count(len(names), "path")
            _say(
                f"group-layers: {arguments.graph}: {count} that no root reaches, kept: "
                + _some(names, 200)
            )
        if arguments.explain or arguments.explain_json:
            explained[name] = explain(graph, budget, plans[name])
        if arguments.explain:
            heading = "" if name == "graph" else f"{name}\n"
            _say(heading + format_explanation(explained[name]))
    if arguments.explain_json:
        _write(arguments.explain_json, json.dumps(_unwrap(explained), indent=1))
    result = {name: [{"contents": layer.contents} for layer in plans[name]] for name in plans}
    _write(arguments.out, json.dumps(_unwrap(result), separators=(",", ":")))


def _unwrap(by_name: dict[str, _T]) -> dict[str, _T] | _T:
    return by_name["graph"] if list(by_name) == ["graph"] else by_name


def _arguments(words: list[str]) -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise GraphError(message)

    def whole_number(text: str) -> int:
        if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
            got = _cut(text, 60)
            raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {got!r}")
        return int(text)

    parser = Parser(
        prog="group-layers",
        description="Group the store paths of an image into layers that other images have too.",
        epilog="reasons for layers:\n"
        + "\n".join(f"  {reason:10} {meaning}" for reason, meaning in REASONS.items()),
        # Asking for the terminal's width would import shutil, which is slow.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
    )
    flag = partial(parser.add_argument, metavar="FILE")
    why = "the reference graph, or graphs, that Nix exports (default: in a Nix build, the file with"
    flag("--graph", help=f"{why} the attributes)")
    flag("--pop", help="a popularity table (default: none)")
    why = "a plan, or an object of plans, whose layers are used where they fit (default: none)"
    flag("--known", help=why)
    why = "the file for the plan, - for standard output (default: %(default)s)"
    flag("--out", default="layers.json", help=why)
    why = "the maximum number of layers (default: %(default)s)"
    flag("--budget", metavar="N", type=whole_number, default=DEFAULT_BUDGET, help=why)
    why = "how to choose them: %(choices)s (default: %(default)s)"
    flag("--strategy", metavar="NAME", choices=[*STRATEGIES], default=DEFAULT_STRATEGY, help=why)
    why = "print the reason for each layer on standard error"
    parser.add_argument("--explain", action="store_true", help=why)
    flag("--explain-json", help="a file for the same as JSON")
    # Flags with one dash, as Go has them, are those of the original.
    flags = [re.sub("^-(?=[a-z]{2})", "--", word) for word in words]
    arguments, unknown = parser.parse_known_args(flags)
    if unknown:
        given = unknown[0].partition("=")[0]
        names = [f"--{name.replace('_', '-')}" for name in vars(arguments)]
        raise GraphError(f"there is no argument {_cut(given, 60)}{_did_you_mean(given, names)}")
    arguments.graph = arguments.graph or _attributes_file()
    return arguments


def _attributes_file() -> str:
    """Return the name of the file in which Nix describes the build that this is run by."""
    # Nix 2.8 sets the variable in its sandbox to a path that is there only outside of it.
    for name in os.environ.get("NIX_ATTRS_JSON_FILE", ""), ".attrs.json":
        if os.path.exists(name):
            return name
    raise GraphError("no reference graph: pass --graph FILE, which Nix wrote (see --help)")


def _did_you_mean(word: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches  # slow to import

    return "".join(f" (did you mean {name}?)" for name in get_close_matches(word, names, 1))


def _say(text: str) -> None:
    with suppress(OSError):  # nobody listens
        if sys.stderr:
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
