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
from math import sqrt
from operator import add, and_, attrgetter, mul, or_

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
    "requested": "a path that was asked for (nixery: with all that only it needs)",
    "large": "a path that is worth a layer (nixery: one with a large closure)",
    "popular": "a path that many packages refer to, says the table",
    "shared": "a path that several others need, with all that only it needs",
    "bundle": "small paths that the one it is named after needs, in any image",
    "stratum": "the part of what is left that seldom changes",
    "merged": "what is left",
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


class Layer(namedtuple("Layer", "contents size name reason")):
    """Store paths that go into an image together."""

    __slots__ = ()
    contents: list[str]  # sorted
    size: int  # bytes, the sum of narSize
    name: str  # the path that it is named after; of a bundle, one that may be in another layer
    reason: str  # why it is a layer, a key of `REASONS`


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
) -> list[Layer]:
    """Divide the paths of a graph among at most `budget` layers, and check that nothing is lost.

    `popularity` has counts of references by store name. Raises `GraphError` for a budget below 1,
    or if the strategy can't plan the graph.
    """
    if budget < 1:
        raise GraphError(f"a budget of {budget} layers: expected at least 1")
    return _check(graph, budget, STRATEGIES[strategy](graph, budget, popularity or {}))


def _check(graph: Graph, budget: int, layers: list[Layer]) -> list[Layer]:
    placed = list(chain.from_iterable(layer.contents for layer in layers))
    if len(placed) != len(graph.paths) or set(placed) != set(graph.paths):
        raise AssertionError("the layers do not hold each path exactly once")
    if not 1 <= len(layers) <= budget:
        raise AssertionError(f"{len(layers)} layers for a budget of {budget}")
    return layers


def _layer(graph: Graph, head: int, paths: list[int], reason: str) -> Layer:
    contents = sorted(map(graph.paths.__getitem__, paths))
    size = sum(map(graph.nar_sizes.__getitem__, paths))
    return Layer(contents=contents, size=size, name=graph.paths[head], reason=reason)


# Strategy "nixery"

# A closure of more bytes is large. A path with as many references from other packages is popular:
# the first hundredth of nixpkgs has them.
NIXERY_LARGE = 100_000_000
NIXERY_POPULAR = 1000


def _nixery(graph: Graph, budget: int, popularity: dict[str, int]) -> list[Layer]:
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
        ...     layers = _nixery(graph, budget, popularity={"E": 1000, "G": 20, "D": 2})
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
# The plan of a path divides its closure among at most `budget` layers. It is composed from the
# plans of the paths that it refers to:
#
# 1. The candidates are the layers of those plans, and the path by itself. A reference that another
#    reference needs as well has no say of its own.
# 2. The candidates that are worth most are taken, as long as they have no path in common, up to the
#    budget less one. A layer is worth its bytes times the square root of how many of the plans have
#    it: what several of them have, other images are likely to have. If there is a popularity table,
#    it adds to that number for a path alone.
# 3. What is left becomes one more layer, or two: what needs little seldom changes, so paths with
#    small closures get a layer of their own. If the budget has no room for that, it takes the place
#    of the layer that is worth least, provided that it is worth more.
#
# Planning goes from the paths that need nothing to those that nothing needs. As long as a closure
# has no more paths than the budget, each path has a layer. Further up, small paths are put together
# in layers that are candidates like any other, and large paths keep their own.
#
# An image is one more path, which refers to the requested ones, and its plan is the answer. So it
# makes no difference whether packages are requested one by one or by way of one path that refers to
# them: an environment, a wrapper, or the archive of an image's root.
#
# Layers are sets of paths, kept as integers with a bit for each. bench/results.md has the figures
# with half and twice each constant.

# A closure of fewer bytes is small. The less a path needs, the fewer updates change it.
SMALL_CLOSURE = 64 << 20
# The worth of a byte in a layer of paths with small closures, relative to that of a byte in a layer
# that a plan already has.
STEADY_WORTH = 0.25
# How many plans each doubling of a path's count in a popularity table is worth.
POPULAR_WORTH = 0.5
# In an image with more paths, only this many of the largest can have layers by themselves, and only
# this many with the largest closures have plans. This only bounds time and memory: no image of
# bench/results.md has more than 1230 paths.
DETAILED = 1280


class _Layers:
    """The layers of all plans, numbered. Layer n is path n alone, for paths numbered by size."""

    def __init__(self, sizes: list[int], small: list[int], popularity: list[int]) -> None:
        """Bytes of paths, largest first; the paths with small closures; counts from a table."""
        self.path_sizes = sizes
        self.sizes = sizes[:]
        self.paths = [1 << path for path in range(len(sizes))]  # as bits
        self.heads = list(range(len(sizes)))  # the paths in whose plans they came up first
        self.steady = sum(map(self.paths.__getitem__, small))  # as bits
        self.popularity = [POPULAR_WORTH * count.bit_length() for count in popularity]
        self.has_table = any(popularity)
        self._numbers: dict[int, int] = {}  # of layers of several paths

    def add(self, paths: int, size: int, head: int) -> int:
        """Return the number of the layer that has these paths."""
        if not paths & paths - 1:
            return paths.bit_length() - 1
        number = self._numbers.setdefault(paths, len(self.paths))
        if number == len(self.paths):
            self.paths.append(paths)
            self.sizes.append(size)
            self.heads.append(head)
            self.popularity.append(0)
        return number

    def compose(
        self, support: Counter[int], closure: int, size: int, head: int, budget: int
    ) -> list[int]:
        """Return the plan of the path `head`, whose closure has `size` bytes.

        `support` says of each candidate how many plans have it.
        """
        paths, sizes = self.paths, self.sizes
        counts: Iterable[float] = support.values()
        if self.has_table:
            counts = map(add, counts, map(self.popularity.__getitem__, support))
        worth = dict(zip(support, map(mul, map(sizes.__getitem__, support), map(sqrt, counts))))
        taken: list[int] = []
        held = 0
        for layer in sorted(worth, key=worth.__getitem__, reverse=True):
            if not paths[layer] & held:
                if len(taken) == budget - 1:
                    break
                taken.append(layer)
                held |= paths[layer]
        left = closure & ~held
        size -= sum(map(sizes.__getitem__, taken))
        steady = left & self.steady
        if taken and steady and steady != left:
            least = taken[-1]
            lost = sizes[least] * sqrt(support[least])
            full = len(taken) == budget - 1
            if full and STEADY_WORTH * size > lost < STEADY_WORTH * self.size(steady):
                taken.pop()
                size += sizes[least]
                left |= paths[least]
                steady = left & self.steady
            if len(taken) < budget - 1:
                steady_size = self.size(steady)
                taken.append(self.add(steady, steady_size, head))
                size -= steady_size
                left ^= steady
        if left:
            taken.append(self.add(left, size, head))
        return taken

    def size(self, paths: int) -> int:
        return sum(_selected(self.path_sizes, paths))


def _selected(values: Iterable[_T], bits: int) -> Iterator[_T]:
    """Return those of the values for which a bit is set, the lowest for the first."""
    return compress(values, reversed(f"{bits:b}".encode().translate(_IS_ONE)))


_IS_ONE = bytes.maketrans(b"01", b"\0\1")


def _reuse(graph: Graph, budget: int, popularity: dict[str, int]) -> list[Layer]:
    """The plan of the image, composed from those of the requested paths, and so on downwards.

    Raises `GraphError` if paths refer to each other in a cycle, which those in a Nix store can't.
    """
    # Numbers by size and name: the same however the graph is listed, and bits as well.
    nar_sizes, numbers = graph.nar_sizes, range(len(graph.paths))
    by_size = sorted(numbers, key=lambda path: (-nar_sizes[path], *_by_name(graph, path)))
    detailed = by_size[:DETAILED]  # the others are too small for layers of their own
    small = [n for n, path in enumerate(detailed) if graph.closure_sizes[path] < SMALL_CLOSURE]
    counts = [popularity.get(store_name(graph.paths[path]), 0) for path in detailed]
    layers = _Layers([nar_sizes[path] for path in detailed], small, counts)
    plan, closures = _plan_image(graph, by_size, layers, budget)

    # Some hosts reuse only a common prefix of layers: first comes what most paths here need.
    alone = sum(layers.paths[layer] for layer in plan if layer < len(detailed))
    needs = Counter(map(alone.__and__, closures))
    ranked = []
    for number, layer in enumerate(plan, 1):
        bits, head = layers.paths[layer], layers.heads[layer]
        paths = list(_selected(detailed, bits))
        if number == len(plan):
            paths += by_size[DETAILED:]
        name = paths[0]  # the largest
        reason = "requested" if name in graph.roots else "large"
        if head == len(by_size):  # the image
            reason = "merged" if bits & ~layers.steady else "stratum"
        elif len(paths) > 1:
            name, reason = by_size[head], "bundle"
        users = sum(count for needed, count in needs.items() if needed & bits & alone)
        rank = -(users**2) * layers.sizes[layer], number
        ranked.append((rank, _layer(graph, name, paths, reason)))
    return [layer for _, layer in sorted(ranked)]


def _plan_image(
    graph: Graph, by_size: list[int], layers: _Layers, budget: int
) -> tuple[list[int], list[int]]:
    """Return the image's layers by their numbers in `layers`, and the closures of paths as bits."""
    number = dict(zip(by_size, range(len(by_size))))
    references = [
        sorted({number[needed] for needed in graph.references[path]} - {number[path]})
        for path in by_size
    ]
    image = len(by_size)  # one more vertex
    references.append(sorted(number[path] for path in {*graph.roots, *graph.unreached}))
    sizes = [*(graph.closure_sizes[path] for path in by_size), sum(graph.nar_sizes)]

    by_closure = sorted(range(image), key=sizes.__getitem__, reverse=True)
    planned = {image, *by_closure[:DETAILED]}
    detailed = len(layers.path_sizes)
    closures: list = [None] * (image + 1)  # as bits
    needs = closures[:]  # the same without the path itself
    plans = closures[:]
    for path in reversed(_reverse_postorder(references, image)):
        below = further = 0
        for needed in references[path]:
            if closures[needed] is None:
                name = _show(graph.paths[by_size[path]])
                raise GraphError(f"{name}: paths refer to each other in a cycle")
            below |= closures[needed]
            further |= needs[needed]
        needs[path] = below
        closures[path] = below | (1 << path if path < detailed else 0)
        parts = [plans[needed] for needed in references[path] if not further >> needed & 1]
        if path < detailed:
            parts.append([path])
        support = Counter(chain.from_iterable(parts))
        each_alone = len(support) <= budget and max(support, default=0) < detailed
        if each_alone or path not in planned:
            plans[path] = sorted(support)[: budget + 1]  # one more says that there are too many
        else:
            plans[path] = layers.compose(support, closures[path], sizes[path], path, budget)
    return plans[image], closures


STRATEGIES = {"nixery": _nixery, "reuse": _reuse}


# Fleets
#
# Where images are built together, nobody has to guess what others have: their layers are merged.
#
# 1. Each large path is a part, and so are the small paths together that are in the same images and
#    have closures of about the same size. At first, a part is a layer of each image that has it.
#    A known layer is a part of each image that it fits into, and of one more image of its own.
# 2. While an image has too many layers, the two parts that cost least become one, in all images
#    that have both. Each costs its bytes if it is in other images too, for it is there twice then;
#    and its bytes times the chance that an update changes the two together, but not it alone. The
#    sum is divided by the number of images that have both and too many layers.

# Of so many paths an update changes one, on average. If the changed share is exponentially
# distributed, a layer that needs n paths stays as it is with a chance of 100 / (100 + n).
# bench/results.md has the figures with half and twice as many.
PATHS_PER_CHANGE = 100
# A path is large that has a thousandth of the bytes. There are at most so many parts, and one more
# in each image for what is worth least. This bounds the time, which is quadratic.
MOST_PARTS = 1000


def group_fleet(
    graphs: dict[str, Graph],
    budgets: dict[str, int],
    known: Sequence[list[list[str]]] = (),
    popularity: dict[str, int] | None = None,
) -> dict[str, list[Layer]]:
    """Group images that are built together so that they share layers; return the layers of each.

    `graphs` and `budgets` are by the image's name. `known` has plans of layers that exist, lists of
    lists of paths: an image whose plan is among them keeps it, the others have such layers where
    they fit. A single image that none fits is grouped as by `group`. Raises `GraphError` for a
    budget below 1.
    """
    sizes = dict(chain(*(zip(graph.paths, graph.nar_sizes) for graph in graphs.values())))

    def as_layer(paths: list[str], reason: str) -> Layer:
        size = sum(map(sizes.__getitem__, paths))
        return Layer(sorted(paths), size, max(paths, key=sizes.__getitem__), reason)

    fleet: dict[str, list[Layer]] = {name: [] for name in graphs}
    layers = Counter(tuple(sorted({*layer})) for plan in known for layer in plan)
    for name, graph in graphs.items():
        if budgets[name] < 1:
            raise GraphError(f"{name}: a budget of {budgets[name]} layers: expected at least 1")
        paths = sorted(graph.paths)
        kept = [p for p in known if len(p) <= budgets[name] and sorted(chain(*p)) == paths]
        if kept:
            # Another image may have the same paths and a smaller budget.
            plan = min(kept, key=lambda it: (-len(it), it))
            fleet[name] = [as_layer(contents, "known") for contents in plan]
        elif len(graphs) == 1 and not any(map({*paths}.issuperset, layers)):
            fleet[name] = group(graph, budgets[name], popularity)
    rest = [name for name in sorted(graphs) if not fleet[name]]
    paths, parts = _divide([graphs[name] for name in rest], layers)

    def rank(part: _Part) -> tuple:  # some hosts reuse only a common prefix: first what most have
        times = layers[tuple(sorted(_selected(paths, part.paths)))]
        return -times, times or -_count_bits(part.images), part.paths

    for part in sorted(_merge(parts, [budgets[name] for name in rest]), key=rank):
        reason = "known" if part.images >> len(rest) else "fleet"
        layer = as_layer([*_selected(paths, part.paths)], reason)
        for name in _selected(rest, part.images):
            fleet[name].append(layer)
    return {name: _check(graph, budgets[name], fleet[name]) for name, graph in graphs.items()}


_UNKNOWN, _NEVER = -1.0, float("inf")
_count_bits = getattr(int, "bit_count", lambda bits: f"{bits:b}".count("1"))  # Python 3.10


class _Part:
    """Paths that share a layer in some images. Sets of paths and of images are bits of integers."""

    __slots__ = "chance", "cost", "images", "needs", "partner", "paths", "size"

    def __init__(self, paths: int, size: int, needs: int, images: int) -> None:
        self.paths, self.size, self.needs, self.images = paths, size, needs, images
        self.chance = _chance(needs)
        self.partner, self.cost = self, _UNKNOWN  # what it costs least to merge it with

    def cost_with(self, other: _Part, crowded: int, limit: float = _NEVER) -> float:
        """Return what it costs to merge the two, in bytes for each crowded image that has both. Of
        a cost that is not below `limit`, only a part may be counted."""
        images = self.images & other.images
        count = _count_bits(images & crowded)
        if not count:
            return _NEVER
        cost: float = self.size * (self.images != images) + other.size * (other.images != images)
        if cost < limit * count:
            chance = _chance(self.needs | other.needs)
            cost += self.size * (self.chance - chance) + other.size * (other.chance - chance)
        return cost / count


def _chance(paths: int) -> float:
    """Return the chance that an update leaves all these paths as they are."""
    return PATHS_PER_CHANGE / (PATHS_PER_CHANGE + _count_bits(paths))


def _divide(graphs: list[Graph], known: Iterable[tuple]) -> tuple[list[str], list[_Part]]:
    """Return all paths, whose numbers are bits elsewhere, and the parts of the images."""
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

    alike: Counter[tuple] = Counter()  # paths as bits; a key begins with the images
    worth: Counter[tuple] = Counter()
    fitting = [[numbers[path] for path in layer] for layer in known if numbers.keys() >= {*layer}]
    fitting.sort(key=lambda it: (-sum(map(sizes.__getitem__, it)), -len(it), it))
    for own_image, layer in enumerate(fitting, len(graphs)):
        users = reduce(and_, map(images.__getitem__, layer))
        for path in layer:
            images[path] ^= users
            alike[users | 1 << own_image, "known"] |= 1 << path
    large = sum(sizes) // MOST_PARTS
    for path, size in enumerate(sizes):
        level = path if size > large else ~closure_sizes[path].bit_length()
        alike[images[path], level] |= 1 << path
        worth[images[path], level] += size * (_count_bits(images[path]) - 1)
    for key, _ in worth.most_common()[MOST_PARTS:]:
        least = alike.pop(key)
        for image in _selected(range(len(graphs)), key[0]):
            alike[1 << image, "rest"] |= least

    layers: Counter[int] = Counter()  # images by paths: what is worth least may be the same in two
    for (users, _), held in alike.items():
        layers[held] |= users
    return paths, [
        _Part(held, sum(_selected(sizes, held)), reduce(or_, _selected(needs, held)), users)
        for held, users in sorted(layers.items())
    ]


def _merge(parts: list[_Part], budgets: list[int]) -> list[_Part]:
    """Merge parts until no image has more than its budget; return those that are left."""
    numbers = range(len(budgets))
    counts = Counter(chain(*(_selected(numbers, part.images) for part in parts)))
    while crowded := sum(1 << image for image in numbers if counts[image] > budgets[image]):
        part = min(parts, key=attrgetter("cost"))
        partner = part.partner
        if part.cost != part.cost_with(partner, crowded):
            # Costs of parts that have not changed only rise, as images come to fit. So the least
            # that was found is the least if it is still right; otherwise the part looks again.
            part.cost = _NEVER
            images = part.images & crowded
            for other in [it for it in parts if it.images & images and it is not part]:
                cost = part.cost_with(other, crowded, part.cost)
                if cost < part.cost:
                    part.cost, part.partner = cost, other
            continue
        images = part.images & partner.images
        paths, needs = part.paths | partner.paths, part.needs | partner.needs
        merged = _Part(paths, part.size + partner.size, needs, images)
        part.images ^= images
        partner.images ^= images
        part.cost = partner.cost = _UNKNOWN
        parts = [it for it in (*parts, merged) if it.images]
        counts.subtract(_selected(numbers, images))
    return parts


# Explaining


def explain(graph: Graph, budget: int, layers: list[Layer]) -> dict:
    """Return what there is to know about a plan, as JSON can hold it.

    ``{"budget", "unused", "paths", "size", "largestShare", "layers"}``: the budget and how many
    more layers it allows, the number of paths, their bytes, and the part of those (0 to 1) that is
    in the largest layer. Each layer is ``{"layer", "size", "name", "reason", "contents",
    "neededBy"}``: its number (from 1), bytes, the path that it is named after, a key of `REASONS`,
    ``[path, narSize]`` of each of its paths, and the paths of other layers that refer to one of
    its own, requested ones first.
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
                "neededBy": [graph.paths[user] for user in sorted(some, key=order)],
            }
            for number, (layer, some) in enumerate(zip(layers, users), 1)
        ],
    }


def format_explanation(explained: dict) -> str:
    """Return what `explain` returned as a table for people, at most 80 columns wide."""
    lines = ["layer      size  paths why       named after             needed by"]
    for layer in explained["layers"]:
        name = _cut(store_name(layer["name"]), 23)
        users = _some([store_name(user) for user in layer["neededBy"]], 23)
        line = f"{layer['layer']:5} {format_bytes(layer['size']):>9} {len(layer['contents']):6}"
        lines.append(f"{line} {layer['reason']:9} {name:23} {users}".rstrip())
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
    budget, strategy = arguments.budget, arguments.strategy
    if strategy == DEFAULT_STRATEGY:
        plans = group_fleet(graphs, dict.fromkeys(graphs, budget), known, popularity)
    elif known:
        raise GraphError(f"--known: strategy {strategy} makes no use of layers that exist")
    else:
        plans = {name: group(graphs[name], budget, popularity, strategy) for name in graphs}
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
        epilog="why a layer is one:\n"
        + "\n".join(f"  {reason:10} {meaning}" for reason, meaning in REASONS.items()),
        # Asking for the terminal's width would import shutil, which is slow.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
    )
    flag = partial(parser.add_argument, metavar="FILE")
    why = "the reference graph, or graphs, that Nix exports (default: in a Nix build, the file with"
    flag("--graph", help=f"{why} the attributes)")
    flag("--pop", help="a popularity table (default: none)")
    flag("--known", help="a plan, or an object of plans, with layers that exist (default: none)")
    why = "where the plan goes, - for standard output (default: %(default)s)"
    flag("--out", default="layers.json", help=why)
    why = "the maximum number of layers (default: %(default)s)"
    flag("--budget", metavar="N", type=whole_number, default=DEFAULT_BUDGET, help=why)
    why = "how to choose them: %(choices)s (default: %(default)s)"
    flag("--strategy", metavar="NAME", choices=[*STRATEGIES], default=DEFAULT_STRATEGY, help=why)
    why = "say on standard error why each layer is one"
    parser.add_argument("--explain", action="store_true", help=why)
    flag("--explain-json", help="write the same there as JSON")
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
