#!/usr/bin/env python3
"""Group the store paths of a container image into layers that other images have too.

A container image is a list of layers, and a host pulls only those that it does not have yet. An
image of Nix store paths may have hundreds of paths, registries and file systems allow about a
hundred layers: so this program decides which paths share one, such that another image, or the
next revision of this one, comes to the same layers wherever the two have paths in common.

Input
-----
The JSON file that Nix writes for ``exportReferencesGraph.graph`` under structured attributes, with
anything else beside::

    {"exportReferencesGraph": {"graph": [ROOT, ...]},
     "graph": [{"path": PATH, "narSize": BYTES, "closureSize": BYTES, "references": [PATH, ...]},
               ...]}

and, if you have one, a popularity table ``{NAME: COUNT, ...}``: how many packages of the package
set refer to the package of that name (``glibc-2.27``) directly.

Output
------
``[{"contents": [PATH, ...]}, ...]``. Each path of the graph is in exactly one layer, and there are
at most ``budget`` layers. The same graph gives the same bytes, in whatever order it is listed.

Algorithm
---------
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

1. Root edges. The image refers to each requested path. A path that is popular, or large, is likely
   to be in other images as well, or to be worth a layer: the image is made to refer to it directly.
2. Dominator tree. A dominates B when all ways from the image to B go through A. Then nothing else
   in the image needs B: wherever A is, B comes along.

       image ─┬─> A
              ├─> B
              ├─> C
              ├─> D ───> F
              ├─> E
              └─> G

3. Subtrees. Each child of the image is the head of a layer, which holds all that it dominates.
4. Merging. While there are more layers than the budget allows, those with the lowest rating become
   one.

Which paths get a root edge, and how layers are rated, is up to the strategy. `nixery` decides as
Nixery did: popular is what 1 000 packages refer to, large a closure of more than 100 MB, the rating
is popularity times the sum of closure sizes over the subtree.

    >>> requested = "ABCD"
    >>> references = {"A": "E", "B": "E", "C": "DE", "D": "FG", "E": "", "F": "", "G": ""}
    >>> closure = {"A": 2, "B": 2, "C": 154, "D": 152, "E": 1, "F": 1, "G": 150}  # megabytes
    >>> graph = load_graph(json.dumps({
    ...     "exportReferencesGraph": {"graph": list(requested)},
    ...     "graph": [{"path": path, "references": list(references[path]),
    ...                "narSize": (150 if path == "G" else 1) * 10**6,
    ...                "closureSize": closure[path] * 10**6} for path in references]}))
    >>> popularity = {"E": 1000, "G": 20, "D": 2}
    >>> for budget in 1, 2, 3, 4, 10:
    ...     layers = group(graph, budget, popularity, strategy="nixery")
    ...     print(budget, *("".join(layer.contents) for layer in layers))
    1 ABCDEFG
    2 ABCDEF G
    3 ABCDF E G
    4 ABC DF E G
    10 A B C DF E G

`reuse`, the default, asks how many bytes a layer will save from being moved again. It runs the
merging backwards: at first all is one layer, then those that save most are split off.

    >>> print(*("".join(layer.contents) + ":" + layer.reason for layer in group(graph, budget=4)))
    G:large CDEF:bundle A:requested B:merged

Complexity
----------
Linear in the paths and references, but for sorting, and for a factor of log(paths) where a path has
many dominators above it (see `dominator_tree`).

References
----------
The frame of root edges, dominator tree and merging is that of Nixery's group-layers (2019).

[1] K. D. Cooper, T. J. Harvey, K. Kennedy, "A Simple, Fast Dominance Algorithm", Rice University
    TR-06-33870, 2001: dominators by meeting in the tree, in reverse postorder.
[2] E. W. Myers, "An applicative random-access stack", Information Processing Letters 17, 1983:
    jump pointers that find an ancestor in logarithmic time, one for each vertex.
[3] L. Georgiadis, R. E. Tarjan, R. F. Werneck, "Finding Dominators in Practice", Journal of Graph
    Algorithms and Applications 10, 2006: semidominators and the nearest common ancestor.
[4] G. Cornuejols, M. L. Fisher, G. L. Nemhauser, "Location of Bank Accounts to Optimize Float",
    Management Science 23, 1977: greedy opening of facilities, and how close it comes to the best.
[5] M. Bruls, K. Huizing, J. J. van Wijk, "Squarified Treemaps", Data Visualization 2000.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
from bisect import bisect_right
from collections import Counter
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heapreplace
from itertools import chain
from math import isqrt
from operator import add
from types import SimpleNamespace

TYPE_CHECKING = False  # as typing has it; importing that, for NamedTuple say, takes 3 of 28 ms
if TYPE_CHECKING:
    from typing import Callable, TypeVar

    _T = TypeVar("_T")

__all__ = [
    "DEFAULT_BUDGET",
    "DEFAULT_STRATEGY",
    "REASONS",
    "STRATEGIES",
    "Graph",
    "GraphError",
    "Layer",
    "dominator_tree",
    "draw",
    "explain",
    "format_explanation",
    "group",
    "load_graph",
    "load_popularity",
    "store_name",
]

# Nixery's. Container runtimes take some 125 layers; this leaves room for what is put on top.
DEFAULT_BUDGET = 94

DEFAULT_STRATEGY = "reuse"

# Why a layer is one.
REASONS = {
    "requested": "a path that was asked for (nixery: with all that only it needs)",
    "large": "a path that is worth a layer (nixery: one with a large closure)",
    "popular": "a path that many packages refer to, says the table",
    "shared": "a path that several others need, with all that only it needs",
    "bundle": "paths that all come with the one that it is named after",
    "stratum": "paths that change equally seldom",
    "merged": "what is left",
    "unreached": "what no root needs",
}


class GraphError(ValueError):
    """What should be a reference graph, a popularity table or a budget is not one."""


class Graph(SimpleNamespace):
    """The reference graph of a closure. Paths are numbered: a list's element n is of path n."""

    paths: list[str]
    nar_sizes: list[int]  # bytes of the path itself
    closure_sizes: list[int]  # bytes of the path and of all that it needs
    references: list[list[int]]  # in no particular order; a path may refer to itself
    roots: list[int]  # the requested paths
    order: list[int]  # the paths that they need, users first: in reverse postorder
    unreached: list[int]  # the other paths


class Layer(SimpleNamespace):
    """Store paths that go into an image together."""

    contents: list[str]  # sorted
    size: int  # bytes, the sum of narSize
    name: str  # the path that it is named after; of a bundle, one that may be in another layer
    reason: str  # why it is a layer, a key of `REASONS`


def store_name(path: str) -> str:
    """Return a store path without folder and hash: its name and version, such as `git-2.39.5`."""
    return _STORE_PREFIX.sub("", path)


# Nixery's pattern, which decides below /nix/store; elsewhere, all up to a whole hash.
_STORE_PREFIX = re.compile("^/nix/store/[a-z0-9]+-|^/(?!nix/store/).*/[a-z0-9]{32}-")


# Reading


def load_graph(text: str) -> Graph:
    """Read the JSON that Nix writes for ``exportReferencesGraph.graph``.

    Raises `GraphError` with a message that names entry (counted from 1) and field where the text is
    not such JSON, or where it refers to a path that it does not describe.
    """
    numbers = _Numbers()
    document = _parse(text, numbers)
    if type(document) is not dict:
        raise GraphError(f"want an object, got {_show(document)}")
    entries = _list_field(document, "graph", "an empty graph")
    within = document.get("exportReferencesGraph")
    requested = _list_field(within, "graph", "no roots", prefix="exportReferencesGraph.")

    paths = list(numbers)
    described: list = [None] * len(paths)
    for position, entry in enumerate(entries, 1):
        if type(entry) is not tuple:
            raise GraphError(f"entry {position}: {_fault(entry)}{_place(entry)}")
        number = entry[0]
        if described[number] and not _same(described[number], entry):
            path = _show(paths[number])
            raise GraphError(f'entry {position}: field "path": {path} again, with other data')
        described[number] = entry

    for position, path in enumerate(requested, 1):
        place = f'field "exportReferencesGraph.graph": root {position}'
        if not _is_path(path):
            raise GraphError(f"{place}: want a store path, got {_show(path)}")
        if path not in numbers or not described[numbers[path]]:
            raise GraphError(f"{place}: {_show(path)} is not in the graph")
    roots = [numbers[path] for path in requested]

    if None in described:
        for position, entry in enumerate(entries, 1):
            for number in entry[3]:
                if not described[number]:
                    place = f'entry {position}: field "references"'
                    raise GraphError(f"{place}: {_show(paths[number])} is not in the graph")
        # The paths left were named elsewhere in the file: by another graph beside this one.
        described = [entry for entry in described if entry]
        paths = [paths[entry[0]] for entry in described]
        new = {entry[0]: number for number, entry in enumerate(described)}
        roots = [new[root] for root in roots]
        described = [(*entry[:3], [new[number] for number in entry[3]]) for entry in described]

    _, nar_sizes, closure_sizes, references = map(list, zip(*described))
    order = _reverse_postorder([*references, roots], len(paths))[1:]
    reached = set(order)
    return Graph(
        paths=paths,
        nar_sizes=nar_sizes,
        closure_sizes=closure_sizes,
        references=references,
        roots=roots,
        order=order,
        unreached=[number for number in range(len(paths)) if number not in reached],
    )


def load_popularity(text: str) -> dict[str, int]:
    """Read a popularity table, a JSON object of counts by store name. Raises `GraphError`."""
    table = _parse(text)
    if type(table) is not dict:
        raise GraphError(f"want an object of counts by store name, got {_show(table)}")
    for name, count in table.items():
        if not _is_size(count):
            raise GraphError(f"field {_show(name)}: want a count, got {_show(count)}")
    return table


class _Numbers(dict):
    """Numbers store paths in the order in which they are first asked for."""

    def __missing__(self, path: object) -> int:
        if not _is_path(path):
            raise TypeError
        number = self[path] = len(self)
        return number


def _parse(text: str, numbers: _Numbers | None = None) -> object:
    """Parse JSON strictly. With `numbers`, each well-formed entry of a graph becomes a tuple:
    number of the path, narSize, closureSize, numbers of the references.

    Doing so while parsing halves the memory, and takes a third less time than going over the
    parsed whole: the strings of the references never live at the same time.
    """

    def read_object(pairs: list[tuple[str, object]]) -> object:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise GraphError(f"field {_show(twice)}: given twice in one object{_place(fields)}")
        if numbers is None:
            return fields
        try:
            nar_size, closure_size = fields["narSize"], fields["closureSize"]
            references = fields["references"]
            if type(references) is list and _is_size(nar_size) and _is_size(closure_size):
                number = numbers.__getitem__
                targets = list(map(number, references))
                return number(fields["path"]), nar_size, closure_size, targets
        except (KeyError, TypeError):
            pass
        return fields  # no entry, or one that `_fault` can say more about

    def refuse(constant: str) -> None:
        raise GraphError(f"not JSON: {constant}")

    try:
        return json.loads(text, object_pairs_hook=read_object, parse_constant=refuse)
    except GraphError:
        raise
    except RecursionError:
        raise GraphError("nested too deeply") from None
    except ValueError as error:
        raise GraphError(f"not JSON: {error}") from None


def _list_field(fields: object, name: str, nothing: str, prefix: str = "") -> list:
    """Return the elements of a field that must have some."""
    place = f'field "{prefix}{name}"'
    if type(fields) is not dict or name not in fields:
        raise GraphError(f"{place}: missing")
    elements = fields[name]
    if type(elements) is not list:
        raise GraphError(f"{place}: want a list, got {_show(elements)}")
    if not elements:
        raise GraphError(f"{place}: {nothing}")
    return elements


def _fault(entry: object) -> str:
    """Say what is wrong with an entry that could not be read."""
    if type(entry) is not dict:
        return f"want an object, got {_show(entry)}"
    for name, wanted, is_right in (
        ("path", "a store path", _is_path),
        ("narSize", "a number of bytes", _is_size),
        ("closureSize", "a number of bytes", _is_size),
        ("references", "a list", lambda value: type(value) is list),
    ):
        if name not in entry:
            return f'field "{name}": missing'
        if not is_right(entry[name]):
            return f'field "{name}": want {wanted}, got {_show(entry[name])}'
    wrong = next(path for path in entry["references"] if not _is_path(path))
    return f'field "references": want store paths, got {_show(wrong)}'


def _place(entry: object) -> str:
    path = entry.get("path") if type(entry) is dict else None
    return f" ({_show(path)})" if _is_path(path) else ""


def _same(entry: tuple, other: tuple) -> bool:
    return entry[:3] == other[:3] and set(entry[3]) == set(other[3])


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**64


def _is_path(value: object) -> bool:
    """Any text will do, but for half of a surrogate pair, which only JSON can spell."""
    return type(value) is str and value != "" and (value.isascii() or not _HALF_PAIR.search(value))


_HALF_PAIR = re.compile("[\ud800-\udfff]")


def _show(value: object) -> str:
    """Return a JSON value as JSON again, short enough for a part of a line."""
    if isinstance(value, (dict, tuple)):
        return "an object"
    return "a list" if isinstance(value, list) else _cut(json.dumps(value), 120)


# Dominators


def dominator_tree(successors: list[list[int]], root: int) -> tuple[list[int], list[int]]:
    """Find the immediate dominator of each vertex that can be reached from `root`.

    `successors[v]` are the vertices that v has edges to, repeated ones and itself allowed. Returns
    the vertices reached, each after its immediate dominator (reverse postorder), and a list with
    the immediate dominator of each vertex: `root` for itself, -1 for one that is not reached.

        >>> dominator_tree([[1, 2], [3], [3], [], [0]], 0)
        ([0, 1, 2, 3], [0, 0, 0, 0, -1])

    This is the algorithm of Cooper, Harvey and Kennedy [1], with two changes. Each vertex pushes
    itself into its successors, so that nobody needs lists of predecessors; and vertices meet by
    jump pointers [2], not by climbing step by step, which takes quadratic time where chains meet.
    One pass in reverse postorder is exact as long as no edge that leads backwards in it would have
    changed a vertex that was done: never in an acyclic graph, nor where each cycle has one way in.
    Any other graph is left to `_semidominators`. Time O(edges log vertices), in practice linear.
    """
    order = _reverse_postorder(successors, root)
    return order, _dominators(successors, order)


def _dominators(successors: list[list[int]], order: list[int]) -> list[int]:
    """Return immediate dominators, given the reverse postorder from the root."""
    root = order[0]
    dominator = [-1] * len(successors)
    dominator[root] = root
    depth = [0] * len(successors)  # of vertices that are done, in the dominator tree
    jump = [root] * len(successors)  # of vertices that are done: some vertex above, see `_jump`
    for vertex in order:
        above = dominator[vertex]
        if above != root:
            depth[vertex] = depth[above] + 1
            jump[vertex] = _jump(above, depth, jump)
        elif vertex != root:
            depth[vertex] = 1
        for successor in successors[vertex]:
            known = dominator[successor]
            if known < 0:
                dominator[successor] = vertex
            elif known != root and known != vertex:
                met = _meet(known, vertex, dominator, depth, jump)
                if met != known:
                    if depth[successor]:
                        return _semidominators(successors, root)
                    dominator[successor] = met
    return dominator


def _reverse_postorder(successors: list[list[int]], root: int) -> list[int]:
    """Return the vertices that `root` reaches, in reverse of the order in which depth-first search
    leaves them: each vertex before those it has edges to, but for the edges that close a cycle."""
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


def _jump(above: int, depth: list[int], jump: list[int]) -> int:
    """Return the jump pointer of a vertex right below `above`: a skew-binary number's worth up."""
    once = jump[above]
    twice = jump[once]
    return twice if depth[above] - depth[once] == depth[once] - depth[twice] else above


def _meet(a: int, b: int, parent: list[int], depth: list[int], jump: list[int]) -> int:
    """Return the nearest common ancestor of two vertices of a tree."""
    if depth[a] > depth[b]:
        a, b = b, a
    while depth[b] > depth[a]:
        b = jump[b] if depth[jump[b]] >= depth[a] else parent[b]
    while a != b:
        # Jumps of vertices of one depth are equally long.
        a, b = (jump[a], jump[b]) if jump[a] != jump[b] else (parent[a], parent[b])
    return a


def _semidominators(successors: list[list[int]], root: int) -> list[int]:
    """Find immediate dominators, as `dominator_tree` does, on any graph.

    The algorithm is SEMI-NCA [3]: the semidominator of a vertex is the first vertex, in preorder,
    from which a way leads to it through later vertices only; its immediate dominator is the nearest
    common ancestor of that one and its parent. Vertices go by their number in preorder here.
    """
    vertices, parent = [], []
    number = [-1] * len(successors)
    stack = [(root, 0)]
    while stack:
        vertex, discoverer = stack.pop()
        if number[vertex] < 0:
            number[vertex] = here = len(vertices)
            vertices.append(vertex)
            parent.append(discoverer)
            stack += [(successor, here) for successor in successors[vertex]]
    predecessors: list[list[int]] = [[] for _ in vertices]
    for here, vertex in enumerate(vertices):
        for successor in successors[vertex]:
            predecessors[number[successor]].append(here)

    # best[v] is the least semidominator on the way up from v to its ancestor[v], that one excepted.
    best = list(range(len(vertices)))
    ancestor = parent[:]
    semidominator = best[:]
    for vertex in reversed(range(1, len(vertices))):
        for predecessor in predecessors[vertex]:
            trail = []
            top = predecessor
            while ancestor[top] > vertex:
                trail.append(top)
                top = ancestor[top]
            least = best[top]
            for passed in reversed(trail):
                best[passed] = least = min(least, best[passed])
                ancestor[passed] = ancestor[top]
            semidominator[vertex] = min(semidominator[vertex], least)
            if least == 0:  # the root, which comes first among predecessors
                break
        best[vertex] = semidominator[vertex]

    dominator = [0] * len(vertices)
    depth = [0] * len(vertices)
    jump = [0] * len(vertices)
    for vertex in range(1, len(vertices)):
        above = parent[vertex]
        while above > semidominator[vertex]:
            above = jump[above] if jump[above] >= semidominator[vertex] else dominator[above]
        dominator[vertex] = above
        depth[vertex] = depth[above] + 1
        jump[vertex] = _jump(above, depth, jump)
    return [vertices[dominator[here]] if here >= 0 else -1 for here in number]


# Grouping


def group(
    graph: Graph,
    budget: int = DEFAULT_BUDGET,
    popularity: dict[str, int] | None = None,
    strategy: str = DEFAULT_STRATEGY,
) -> list[Layer]:
    """Divide the paths of a graph among at most `budget` layers.

    `popularity` has counts of references by store name. Raises `GraphError` for a budget below 1.
    """
    if budget < 1:
        raise GraphError(f"a budget of {budget} layers: want at least 1")
    layers = STRATEGIES[strategy](graph, budget, popularity or {})
    _check(graph, budget, layers)
    return layers


def _check(graph: Graph, budget: int, layers: list[Layer]) -> None:
    """Refuse a plan that would lose a path, or hold one twice, or break the budget."""
    placed = list(chain.from_iterable(layer.contents for layer in layers))
    if len(placed) != len(graph.paths) or set(placed) != set(graph.paths):
        raise AssertionError("the layers do not hold each path exactly once")
    if sum(layer.size for layer in layers) != sum(graph.nar_sizes):
        raise AssertionError("the layers do not have the bytes of the paths")
    if not 1 <= len(layers) <= budget:
        raise AssertionError(f"{len(layers)} layers for a budget of {budget}")


def _image_tree(graph: Graph, root_edges: list[int]) -> tuple[list[int], list[int]]:
    """Return the paths that the image reaches, users first, and their immediate dominators.

    The image is one more vertex, which refers to the paths in `root_edges`.
    """
    image = len(graph.paths)
    successors = [*graph.references, root_edges]
    if graph.unreached:
        order, dominator = dominator_tree(successors, image)
        return order[1:], dominator
    # Everything was found from the roots: more root edges lead to nothing new.
    return graph.order, _dominators(successors, [image, *graph.order])


def _subtrees(graph: Graph, order: list[int], dominator: list[int]) -> dict[int, list[int]]:
    """Return what each child of the image dominates, itself first."""
    image = len(graph.paths)
    subtrees: dict[int, list[int]] = {}
    head = [image] * image
    for path in order:
        above = dominator[path]
        if above == image:
            head[path] = path
            subtrees[path] = [path]
        else:
            head[path] = head[above]
            subtrees[head[path]].append(path)
    return subtrees


def _layer(graph: Graph, head: int, paths: list[int], reason: str) -> Layer:
    contents = sorted(map(graph.paths.__getitem__, paths))
    size = sum(map(graph.nar_sizes.__getitem__, paths))
    return Layer(contents=contents, size=size, name=graph.paths[head], reason=reason)


def _by_name(graph: Graph, path: int) -> tuple[str, str]:
    """The key that settles ties: name before hash, so that an order survives a rebuild."""
    return store_name(graph.paths[path]), graph.paths[path]


def _largest(graph: Graph, paths: list[int]) -> int:
    size = max(map(graph.nar_sizes.__getitem__, paths))
    return min((p for p in paths if graph.nar_sizes[p] == size), key=lambda p: _by_name(graph, p))


# Strategy "nixery"

# A closure of more bytes is large. A path with as many references from other packages is popular:
# the first hundredth of nixpkgs has them.
NIXERY_LARGE = 100_000_000
NIXERY_POPULAR = 1000


def _nixery(graph: Graph, budget: int, popularity: dict[str, int]) -> list[Layer]:
    """Nixery's decisions: the layers with the lowest popularity x sum of closure sizes become one.

    The layers come in the order of their rating, the merged one first.
    """
    counts = [popularity.get(store_name(path), 1) for path in graph.paths] if popularity else None
    requested = set(graph.roots)
    large = {n for n, size in enumerate(graph.closure_sizes) if size > NIXERY_LARGE}
    popular = {n for n, count in enumerate(counts or ()) if count >= NIXERY_POPULAR}
    order, dominator = _image_tree(graph, list(requested | large | popular))
    subtrees = _subtrees(graph, order, dominator)
    # Small ones only: the image refers to large and popular ones, needed or not.
    unreached = [path for path in graph.unreached if dominator[path] < 0]

    ratings = {
        head: sum(map(graph.closure_sizes.__getitem__, paths)) * (counts[head] if counts else 1)
        for head, paths in subtrees.items()
    }

    # Only the order of those that may keep a layer matters, and names are slow to compare.
    least = sorted(ratings.values())[-budget:][0]
    kept = [head for head in subtrees if ratings[head] >= least]
    heads = [head for head in subtrees if ratings[head] < least]
    heads += sorted(kept, key=lambda head: (ratings[head], *_by_name(graph, head)))

    groups = [subtrees[head] for head in heads]
    if unreached:
        groups.insert(0, sorted(unreached, key=lambda path: _by_name(graph, path)))
    excess = len(groups) - budget
    layers = []
    if excess > 0:
        merged = list(chain.from_iterable(groups[: excess + 1]))
        layers.append(_layer(graph, _largest(graph, merged), merged, "merged"))
        del groups[: excess + 1]
    reasons = {"requested": requested, "popular": popular, "large": large, "unreached": unreached}
    for paths in groups:
        head = paths[0]
        reason = next((word for word, heads in reasons.items() if head in heads), "shared")
        layers.append(_layer(graph, head, paths, reason))
    return layers


# Strategy "reuse"
#
# A layer comes back only when exactly the same paths share it again. A path alone does so wherever
# it is needed; a group does so as often as what holds it together. So the budget goes, one layer at
# a time, to whatever saves most bytes from being moved again: a large path by itself; or the bundle
# of paths below one path, its anchor, since whoever has the anchor has all of them; or a stratum of
# paths that change equally seldom. What is left is one layer. In terms of the frame, each path that
# gets a layer, and each open anchor, gets a root edge; a path below one open anchor is dominated by
# it, one below several goes with the one that has most users; and the merge loop runs backwards,
# from one layer up to the budget. It is the greedy cover of facility location [4] under one
# estimate of how well a byte is placed, and nothing else divides the budget.
#
# The figures below are bytes moved / bytes needed, as bench/reuse.py defines them: `fleet` for many
# images on one host, `update` and `rollout` for the next revision of one and of all of them; and
# `share`, the part of what two images have in common that is moved once. They were chosen on two
# package sets (nixos of 2018, debian bookworm) at budgets 24 and 96.

# What a byte is worth in a layer, per mille of what it is worth in a layer of its own path.
ALONE_WORTH = 1000
# The part that other images see, in a bundle. Its paths come with their anchor but may come without
# it, hence times users(anchor) / users(path). From 240 to 480 nixos at 96 goes from fleet 1.262 and
# share .962 to 1.239 and .954.
SHARED_WORTH = 360
# The part that the next revision sees, in a layer whose paths all change as seldom as this one.
# With 100 debian's update at 24 is 1.181, with 200 it is 1.048; 300 costs .09 of nixos' rollout.
STEADY_WORTH = 200
# What needs much changes often. Cut at these closure sizes, the same in every image, paths have
# four levels; 4, 12, 38 and 97 % of them (nixos), 0, 1, 26 and 27 % (debian) changed in an update.
# Beside paths of a higher level a byte loses STEADY_WORTH times the difference of SURVIVAL, which
# is exp(-closureSize / 64 MiB) per mille. One cut at 64 MiB costs .3 of debian's update at 24.
LEVELS = (16 << 20, 64 << 20, 256 << 20)
SURVIVAL = (882, 607, 135, 0)
# Users are counted among so many largest paths, and so many paths may be anchors: a few machine
# words of bits for each path keep both linear. 64 users cost .015 of fleet (nixos at 96), counting
# all gains .005; 96 to 384 anchors are alike.
USERS = 256
ANCHORS = 128
# So many classes of paths are told apart in full. Closures of packages have some 1 000 at any size;
# random references make 26 000 of 100 000 paths, with which the cover took 1.0 s and now takes .25.
CLASSES = 4096
# Users elsewhere, known from a table, count by their root: with plain counts one wrong or missing
# entry decides (half of a table: update 1.040, with the root 1.036). Factors of 2 to 8 are alike.
ELSEWHERE = 4
# A table that knows a smaller part of the names, per cent, is of another package set and left
# aside: half of a table, if used, raises nixos' fleet at 96 from 1.231 to 1.258.
KNOWN = 90
# A layer costs a request and an archive, so one that saves fewer bytes is not opened: the largest
# power of two that costs none of the figures at 96 more than .005. In time alone, measured pulling
# from a registry, a layer is worth 250 kB (100 Mbit/s) to 3 MB (1 Gbit/s).
LAYER_COST = 64 << 10


def _reuse(graph: Graph, budget: int, popularity: dict[str, int]) -> list[Layer]:
    """The layers that are most likely to come back, those that most images have first."""
    order, dominator = _image_tree(graph, graph.roots + graph.unreached)
    if not _is_acyclic(graph, order):
        # Never so in a Nix store. What follows cuts cycles where the order does: let names decide.
        graph = _numbered_by_name(graph)
        order, dominator = _image_tree(graph, graph.roots + graph.unreached)
    users = _count_users(graph, order, popularity)
    levels = [bisect_right(LEVELS, size) for size in graph.closure_sizes]
    anchors = _choose_anchors(graph, order, dominator)
    anchors.sort(key=lambda path: (-users[path], _by_name(graph, path)))
    placed = _cover(graph, budget, users, levels, anchors, _mark_below(graph, order, anchors))

    requested = set(graph.roots)
    image, top = len(graph.paths), len(LEVELS)
    ranked = []
    for (head, high), paths in placed.items():
        # What most images have comes first, because some hosts reuse only a common prefix. So one
        # has 21 to 27 % of the bytes that two images share (sorted by users alone 7 to 17 %, by
        # closure size 1 to 8 %), and 45 to 95 % of those that a revision shares with the next.
        size = sum(map(graph.nar_sizes.__getitem__, paths))
        rank = users[head] ** 2 * size if head != image else 0
        if head == image:
            head = _largest(graph, paths)
            reason = "merged" if high == top else "stratum"
        elif len(paths) > 1:
            reason = "bundle"
        else:
            (head,) = paths
            reason = "requested" if head in requested else "large"
        layer = _layer(graph, head, paths, reason)
        ranked.append((-rank, high, _by_name(graph, head), layer))
    return [layer for *_, layer in sorted(ranked)]


def _is_acyclic(graph: Graph, order: list[int]) -> bool:
    """Say whether each path comes before those that it needs, itself excepted."""
    position = [0] * len(order)
    for place, path in enumerate(order):
        position[path] = place
    for place, path in enumerate(order):
        for needed in graph.references[path]:
            if position[needed] < place:
                return False
    return True


def _numbered_by_name(graph: Graph) -> Graph:
    old = sorted(range(len(graph.paths)), key=lambda path: _by_name(graph, path))
    new = {path: number for number, path in enumerate(old)}
    references = [sorted({new[needed] for needed in graph.references[path]}) for path in old]
    roots = sorted({new[path] for path in graph.roots})
    return Graph(
        paths=[graph.paths[path] for path in old],
        nar_sizes=[graph.nar_sizes[path] for path in old],
        closure_sizes=[graph.closure_sizes[path] for path in old],
        references=references,
        roots=roots,
        order=_reverse_postorder([*references, roots], len(old))[1:],
        unreached=sorted(new[path] for path in graph.unreached),
    )


def _mark_below(graph: Graph, order: list[int], marked: list[int]) -> list[int]:
    """Return for each path, as bits, which of the `marked` ones need it or are it."""
    marks = [0] * len(order)
    for bit, path in enumerate(marked):
        marks[path] = 1 << bit
    for path in order:
        mark = marks[path]
        if mark:
            for needed in graph.references[path]:
                marks[needed] |= mark
    return marks


def _count_users(graph: Graph, order: list[int], popularity: dict[str, int]) -> list[int]:
    """Return how common each path is: 1 + the large paths here that need it + users elsewhere.

    A table counts direct references only, so what it knows beyond this image is handed down: what
    needs a user needs all that the user needs.
    """
    marks = _mark_below(graph, order, _greatest(graph, graph.nar_sizes, USERS))
    users = [1 + bin(mark).count("1") for mark in marks]
    told = [_look_up(popularity, path) for path in graph.paths] if popularity else []
    if sum(count is not None for count in told) * 100 < KNOWN * len(users) or not told:
        return users
    inside = Counter(
        needed
        for path, references in enumerate(graph.references)
        for needed in set(references)
        if needed != path
    )
    elsewhere = [0] * len(users)
    for path in order:
        elsewhere[path] += ELSEWHERE * isqrt(max(0, (told[path] or 0) - inside[path]))
        for needed in graph.references[path]:
            if needed != path:
                elsewhere[needed] = max(elsewhere[needed], elsewhere[path])
    return list(map(add, users, elsewhere))


def _look_up(popularity: dict[str, int], path: str) -> int | None:
    """Return what a table says of a path's name, with its version or without."""
    name = store_name(path)
    return popularity.get(name, popularity.get(_VERSION.sub("", name)))


_VERSION = re.compile("-[0-9].*$")


def _choose_anchors(graph: Graph, order: list[int], dominator: list[int]) -> list[int]:
    """Return the paths with the largest subtrees, in bytes, of the dominator tree."""
    subtree = [*graph.nar_sizes, 0]
    for path in reversed(order):
        subtree[dominator[path]] += subtree[path]
    subtree.pop()
    return _greatest(graph, subtree, ANCHORS)


def _greatest(graph: Graph, values: list[int], count: int) -> list[int]:
    """Return the paths with the `count` greatest values."""
    least = sorted(values)[-count:][0]
    some = [path for path, value in enumerate(values) if value >= least]
    return sorted(some, key=lambda path: (-values[path], _by_name(graph, path)))[:count]


def _classify(
    sizes: list[int], above: list[int], users: list[int], levels: list[int]
) -> dict[tuple[int, int, int], list[int]]:
    """Return the paths by anchors above them, users and level. With too many classes, paths of
    small ones keep only the anchor with the most users, the first one, where they would mostly go.
    """
    classes: dict[tuple[int, int, int], list[int]] = {}
    for path, key in enumerate(zip(above, users, levels)):
        classes.setdefault(key, []).append(path)
    if len(classes) > CLASSES:
        weights = [sum(map(sizes.__getitem__, paths)) for paths in classes.values()]
        least = sorted(weights)[-CLASSES]
        all_classes, classes = classes, {}
        for ((marks, count, level), paths), weight in zip(all_classes.items(), weights):
            key = (marks if weight > least else marks & -marks), count, level
            classes.setdefault(key, []).extend(paths)
    return classes


def _cover(
    graph: Graph,
    budget: int,
    users: list[int],
    levels: list[int],
    anchors: list[int],
    above: list[int],
) -> dict[tuple[int, int], list[int]]:
    """Open layers by greatest gain; return the paths of each, by its head and highest level.

    The level is -1 for a path alone. The head is the image for a stratum or, at the highest level,
    for what is left. Paths below the same anchors, of one level, with as many users differ in
    nothing but size: they form a class (750 at 2 381 paths, 1 214 at 13 084).
    """
    sizes, image, top = graph.nar_sizes, len(graph.paths), len(LEVELS)
    steady = [
        [STEADY_WORTH - STEADY_WORTH * max(0, own - least) // 1000 for least in SURVIVAL]
        for own in SURVIVAL
    ]
    classes = _classify(sizes, above, users, levels)
    class_of = [0] * len(sizes)
    used, left, worth = [], [], []  # of each class; the bytes that are not alone, their worth now
    below = {head: [[] for _ in range(top + 1)] for head in (*anchors, image)}  # classes by level
    for number, ((marks, count, level), paths) in enumerate(classes.items()):
        for path in paths:
            class_of[path] = number
        used.append(count)
        left.append(sum(map(sizes.__getitem__, paths)))
        worth.append(steady[level][top])
        below[image][level].append(number)
        while marks:
            bit = marks.bit_length() - 1
            marks ^= 1 << bit
            below[anchors[bit]][level].append(number)
    home = [(image, top)] * len(classes)
    shared = {head: SHARED_WORTH * users[head] for head in anchors}
    shared[image] = 0

    def gain(head: int, high: int) -> int:
        if high < 0:
            return sizes[head] * (ALONE_WORTH - worth[class_of[head]])
        return sum(
            [
                left[number] * (value - worth[number])
                for level in range(high + 1)
                for number in below[head][level]
                if (value := shared[head] // used[number] + steady[level][high]) > worth[number]
            ]
        )

    least = LAYER_COST * ALONE_WORTH
    candidates = [(path, -1) for path, size in enumerate(sizes) if size >= LAYER_COST]
    candidates += [(head, high) for head in anchors for high in range(levels[head] + 1)]
    candidates += [(image, high) for high in range(top)]
    queue = []
    for head, high in candidates:
        gained = gain(head, high)
        if gained >= least:
            name = _by_name(graph, head) if head != image else ("", "")
            queue.append((-gained, name, head, high))
    heapify(queue)
    alone = set()
    while queue and budget > 1:
        # Gains only fall as layers open, so one that is still the greatest when looked at again
        # is the greatest.
        before, name, head, high = queue[0]
        now = -gain(head, high)
        if now > -least:
            heappop(queue)
        elif now != before:
            heapreplace(queue, (now, name, head, high))
        else:
            heappop(queue)
            budget -= 1
            if high < 0:
                alone.add(head)
                left[class_of[head]] -= sizes[head]
            for level in range(high + 1):
                for number in below[head][level]:
                    value = shared[head] // used[number] + steady[level][high]
                    if value > worth[number]:
                        worth[number], home[number] = value, (head, high)

    placed: dict[tuple[int, int], list[int]] = {(path, -1): [path] for path in alone}
    groups: dict[tuple[int, int], list[int]] = {}
    for layer, paths in zip(home, classes.values()):
        groups.setdefault(layer, []).extend(path for path in paths if path not in alone)
    for layer, paths in groups.items():
        # Paths that got layers of their own may have left too little in another.
        if sum(map(sizes.__getitem__, paths)) < LAYER_COST:
            layer = image, top
        if paths:
            placed.setdefault(layer, []).extend(paths)
    return placed


STRATEGIES = {"nixery": _nixery, "reuse": _reuse}


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
        for number in {number_of[reference] for reference in references} - {number_of[user]}:
            users[number].add(user)
    requested = set(graph.roots)
    size = sum(layer.size for layer in layers)
    return {
        "budget": budget,
        "unused": budget - len(layers),
        "paths": len(graph.paths),
        "size": size,
        "largestShare": round(max(layer.size for layer in layers) / (size or 1), 4),
        "layers": [
            {
                "layer": number + 1,
                "size": layer.size,
                "name": layer.name,
                "reason": layer.reason,
                "contents": [[path, nar_sizes[path]] for path in layer.contents],
                "neededBy": [
                    graph.paths[user]
                    for user in sorted(
                        users[number],
                        key=lambda user: (user not in requested, _by_name(graph, user)),
                    )
                ],
            }
            for number, layer in enumerate(layers)
        ],
    }


def format_explanation(explained: dict) -> str:
    """Return what `explain` returned as a table for people, at most 80 columns wide."""
    lines = ["layer      size  paths why       named after             needed by"]
    for layer in explained["layers"]:
        name = _cut(store_name(layer["name"]), 23)
        users = _some([store_name(user) for user in layer["neededBy"]], 23)
        lines.append(
            f"{layer['layer']:5} {_bytes(layer['size']):>9} {len(layer['contents']):6}"
            f" {layer['reason']:9}"
            f" {name:23} {users}".rstrip()
        )
    share = round(100 * explained["largestShare"])
    lines.append(
        f"{len(explained['layers'])} layers, {explained['unused']} more were allowed;"
        f" {explained['paths']} paths, {_bytes(explained['size'])}, {share} % in the largest layer"
    )
    return "\n".join(lines)


def _some(names: list[str], width: int) -> str:
    """Return as many names as fit into a number of columns, and how many there are beside."""
    for count in range(min(len(names), width), 0, -1):
        rest = f" +{len(names) - count}" if count < len(names) else ""
        shown = ", ".join(names[:count])
        if len(shown + rest) <= width or count == 1:
            return _cut(shown, width - len(rest)) + rest
    return ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _bytes(size: float) -> str:
    unit = "B"
    for larger in "kB", "MB", "GB", "TB":
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


# Of the reasons; light ones, which colour-blind people tell apart as well.
_COLOURS = dict(
    zip(
        REASONS,
        "#77aadd #99ddff #44bb99 #eedd88 #ee8866 #bbcc33 #dddddd #ffaabb".split(),
    )
)


def draw(graph: Graph, layers: list[Layer]) -> str:
    """Return an SVG picture of an image: layers, and paths in them, each as large as its bytes.

    It is a treemap of layers, numbered, coloured by the reason why they are layers, each a treemap
    of its paths. Pointing at one tells its whole name; what is under half a pixel is left out.
    """
    width, height, header = 1200, 800, 60
    size_of = dict(zip(graph.paths, graph.nar_sizes))
    count, total = len(graph.paths), _bytes(sum(graph.nar_sizes))
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + header}"'
        ' font-family="sans-serif" font-size="14">',
        f'<rect width="{width}" height="{height + header}" fill="#fff"/>',
        f'<text x="4" y="22" font-size="18">{count} paths, {total}, in {len(layers)} layers</text>',
    ]
    present = [reason for reason in _COLOURS if any(layer.reason == reason for layer in layers)]
    for place, reason in enumerate(present):
        x = 4 + 110 * place
        svg.append(f'<rect x="{x}" y="36" width="14" height="14" fill="{_COLOURS[reason]}"/>')
        svg.append(f'<text x="{x + 20}" y="48">{reason}</text>')
    numbered = sorted(enumerate(layers, 1), key=lambda item: -item[1].size)
    outer = _treemap([layer.size for _, layer in numbered], 0, header, width, height)
    for (number, layer), (x, y, w, h) in zip(numbered, outer):
        if w * h < 0.5:
            break
        fill = _COLOURS[layer.reason]
        title = f"{number} {store_name(layer.name)}, {_bytes(layer.size)}"
        svg.append("<g>" + _cell(x, y, w, h, fill, 3, f"layer {title}"))
        if len(layer.contents) > 1:
            if w > 80 and h > 40:
                svg.append(_label(x + 3, y, w, 18, title))
                y, h = y + 18, h - 18
            paths = sorted(layer.contents, key=lambda path: (-size_of[path], path))
            inner = _treemap([size_of[path] for path in paths], x + 3, y + 3, w - 6, h - 6)
            for path, (x, y, w, h) in zip(paths, inner):
                if w * h < 0.5:
                    break
                name = store_name(path)
                svg.append(_cell(x, y, w, h, fill, 1, f"{name}, {_bytes(size_of[path])}"))
                svg.append(_label(x, y, w, h, name))
        else:
            svg.append(_label(x, y, w, h, title))
        svg.append("</g>")
    return "\n".join(filter(None, [*svg, "</svg>\n"]))


def _treemap(sizes: list[int], x: float, y: float, width: float, height: float) -> list[tuple]:
    """Divide a rectangle among sizes, largest first: x, y, width and height of each.

    Rows are filled along the shorter side as long as that makes their cells more like squares [5].
    """
    sizes = [max(size, 1) for size in sizes]
    width, height = max(width, 0.01), max(height, 0.01)
    scale = width * height / sum(sizes)
    cells: list[tuple] = []
    while len(cells) < len(sizes):
        start = len(cells)
        side = max(min(width, height), 1e-9)
        row, count, longest = 0, 0, float("inf")
        for size in sizes[start:]:
            thickness = (row + size) * scale / side
            ratio = max(sizes[start] * scale / thickness**2, thickness**2 / (size * scale))
            if ratio > longest:
                break
            row, count, longest = row + size, count + 1, ratio
        thickness = row * scale / side
        offset = 0.0
        for size in sizes[start : start + count]:
            length = size * scale / thickness
            if width >= height:
                cells.append((x, y + offset, thickness, length))
            else:
                cells.append((x + offset, y, length, thickness))
            offset += length
        if width >= height:
            x, width = x + thickness, width - thickness
        else:
            y, height = y + thickness, height - thickness
    return cells


def _cell(x: float, y: float, w: float, h: float, fill: str, gap: float, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"'
        f' stroke="#fff" stroke-width="{gap}"><title>{_escape(title)}</title></rect>'
    )


def _label(x: float, y: float, w: float, h: float, text: str) -> str:
    """Return text in a cell, smaller or cut where it must be, or nothing."""
    size = max(8.0, min(14.0, h * 0.7, 1.6 * (w - 8) / max(len(text), 1)))
    room = int(1.6 * (w - 8) / size)
    if room < min(len(text), 4) or h < 11:
        return ""
    if len(text) > room:
        text = text[: room - 1] + "\u2026"
    return (
        f'<text x="{x + 4:.1f}" y="{y + min(h / 2, 12) + size * 0.35:.1f}" font-size="{size:.1f}"'
        f' pointer-events="none">{_escape(text)}</text>'
    )


def _escape(text: str) -> str:
    text = re.sub("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


# Command line


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status: 0, 2 for bad input or output, 130 if interrupted."""
    gc.disable()  # a short life, and no cycles in it: 15 % of the time at 100 000 paths
    try:
        arguments = _arguments(argv)
        graph = _load(arguments.graph, load_graph)
        popularity = _load(arguments.pop, load_popularity) if arguments.pop else None
        layers = group(graph, arguments.budget, popularity, arguments.strategy)
        if graph.unreached:
            names = sorted(store_name(graph.paths[path]) for path in graph.unreached)
            some = _some(names, 200)
            _say(f"{arguments.graph}: {len(names)} paths that no root reaches are kept: {some}")
        if arguments.explain or arguments.explain_json:
            explained = explain(graph, arguments.budget, layers)
            if arguments.explain:
                _say(format_explanation(explained), prefix="")
            if arguments.explain_json:
                _write(arguments.explain_json, json.dumps(explained, indent=1))
        if arguments.svg:
            _write(arguments.svg, draw(graph, layers))
        plan = [{"contents": layer.contents} for layer in layers]
        _write(arguments.out, json.dumps(plan, separators=(",", ":")))
    except GraphError as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:
            raise GraphError(message)

    def budget(text: str) -> int:
        if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
            raise argparse.ArgumentTypeError(f"want a number from 1, got {_cut(text, 60)!r}")
        return int(text)

    # Nix 2.8 sets the variable in its sandbox to a path that is there only outside of it.
    named = os.environ.get("NIX_ATTRS_JSON_FILE", "")
    parser = Parser(
        prog="group-layers",
        description="Group the store paths of an image into layers that other images have too.",
        epilog="why a layer is one:\n"
        + "\n".join(f"  {reason:10} {meaning}" for reason, meaning in REASONS.items()),
        # Asking for the terminal's width would import shutil, a fifth of the time to start.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--graph",
        metavar="FILE",
        default=named if os.path.exists(named) else ".attrs.json",
        help="the reference graph that Nix exports (default: the file that NIX_ATTRS_JSON_FILE"
        " names, if there is one, else .attrs.json)",
    )
    parser.add_argument("--pop", metavar="FILE", help="a popularity table (default: none)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="layers.json",
        help="where the plan goes, - for standard output (default: %(default)s)",
    )
    parser.add_argument(
        "--budget",
        metavar="N",
        type=budget,
        default=DEFAULT_BUDGET,
        help="how many layers there may be (default: %(default)s)",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default=DEFAULT_STRATEGY,
        help="how to choose them (default: %(default)s)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="say on standard error why each layer is one"
    )
    parser.add_argument("--explain-json", metavar="FILE", help="write the same there as JSON")
    parser.add_argument("--svg", metavar="FILE", help="draw the layers and the paths in them there")
    return parser.parse_args(argv)


def _load(file: str, parse: Callable[[str], _T]) -> _T:
    """Return what `parse` makes of a file, which is read once: it may be a pipe."""
    try:
        with open(file, encoding="utf-8", newline="") as stream:
            text = stream.read()
        return parse(text)
    except UnicodeDecodeError as error:
        raise GraphError(f"{file}: not UTF-8, at byte {error.start}") from None
    except OSError as error:
        raise GraphError(f"{file}: {error.strerror}") from None
    except GraphError as error:
        raise GraphError(f"{file}: {error}") from None


def _write(file: str, text: str) -> None:
    """Write text and a line break; the file is whole then or, if that goes wrong, as it was."""
    try:
        if file == "-":
            with open(1, "w", encoding="utf-8", closefd=False) as stream:
                stream.write(text + "\n")
        elif os.path.exists(file) and not os.path.isfile(file):  # a named pipe, /dev/stdout
            with open(file, "w", encoding="utf-8") as stream:
                stream.write(text + "\n")
        else:
            _replace(os.path.realpath(file), text + "\n")
    except OSError as error:
        name = "standard output" if file == "-" else file
        raise GraphError(f"{name}: {error.strerror}") from None


def _replace(file: str, text: str) -> None:
    beside = f"{file}.{os.getpid()}.tmp"
    try:
        with open(beside, "x", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(beside, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _say(message: str, prefix: str = "group-layers: ") -> None:
    with suppress(OSError):  # nobody listens
        if sys.stderr:
            print(prefix + message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
