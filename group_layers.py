#!/usr/bin/env python3
"""Group the store paths of a container image into layers that other images have too.

A host pulls only the layers of an image that it does not have yet. An image may have hundreds of
store paths, but registries and file systems allow about a hundred layers. So this program decides
which paths share a layer. Where another image, or the next revision of this one, has paths in
common with it, the two should come to the same layers.

Input: the JSON file that Nix writes for ``exportReferencesGraph.graph`` with structured attributes,
the others of which are ignored::

    {"exportReferencesGraph": {"graph": [ROOT, ...]},
     "graph": [{"path": PATH, "narSize": BYTES, "closureSize": BYTES, "references": [PATH, ...]},
               ...]}

Output: ``[{"contents": [PATH, ...]}, ...]``. Each path of the graph is in exactly one layer, and
there are at most ``budget`` layers. The same graph gives the same bytes, whatever the order of its
entries. Several graphs, each under its own name, are images that are planned together: the output
is an object of plans. Plans of existing layers can be given, which are used where they fit, and a
popularity table ``{NAME: COUNT, ...}``: how many packages refer directly to ``bash-5.2``, say.
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
from graphlib import CycleError, TopologicalSorter
from itertools import chain, compress
from operator import attrgetter, or_

TYPE_CHECKING = False  # as typing has it, which is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, NoReturn, TypeVar

    _T = TypeVar("_T")

# Nixery's. Container runtimes take some 125 layers; this leaves room for what is put on top.
DEFAULT_BUDGET = 94

STRATEGIES = ("nixery", "reuse")
DEFAULT_STRATEGY = "reuse"

# Why a layer is one.
REASONS = {
    "requested": "a requested path (nixery: with all that only it needs)",
    "own": "a path that is worth a layer to itself",
    "large": "nixery: a path with a large closure, with all that only it needs",
    "popular": "nixery: a path that many packages refer to, with all that only it needs",
    "shared": "nixery: a path that several others need, with all that only it needs",
    "bundle": "paths that other images have in one layer, too",
    "merged": "small paths that cost least in one layer",
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
    references: list[list[int]]  # to other paths, in no particular order
    roots: list[int]  # the requested paths
    unreached: list[int]  # the paths that those do not need


class Layer(namedtuple("Layer", "contents size name reason spares", defaults=(None,))):
    """Store paths that go into an image together."""

    __slots__ = ()
    contents: list[str]  # sorted
    size: int  # bytes, the sum of narSize
    name: str  # the path that it is named after: the largest, or nixery's that needs the others
    reason: str  # why it is a layer, a key of `REASONS`
    spares: int | None  # bytes that hosts would pull needlessly without it; None: not estimated


def store_name(path: str) -> str:
    """Return a store path without folder and hash: its name and version, such as `git-2.39.5`."""
    return _STORE_PREFIX.sub("", path)


# Nixery's pattern, which decides below /nix/store; elsewhere, all up to a whole hash.
_STORE_PREFIX = re.compile("^/nix/store/[a-z0-9]+-|^/(?!nix/store/).*/[a-z0-9]{32}-")


def read_graph(document: Any, name: str = "graph") -> Graph:
    """Return the graph of that name in a parsed document, as Nix writes it.

    Raises `GraphError`, which names entry (counted from 1) and field, where the document has
    another form, or refers to a path that it does not describe.
    """
    entries = _field(document, name, "a list with elements")
    requested = _field(document, "exportReferencesGraph", "an object")
    requested = _field(requested, name, "a list with elements", 'field "exportReferencesGraph": ')

    numbers: dict[str, int] = {}
    for position, entry in enumerate(entries, 1):
        path = _field(entry, "path", "a store path", f"entry {position}: ")
        numbers.setdefault(path, len(numbers))
    described: dict[str, tuple[int, int, list[int]]] = {}
    for position, entry in enumerate(entries, 1):
        path = entry["path"]
        place = f"entry {position} ({_show(path)}): "
        size = _field(entry, "narSize", "a whole number below 2^64", place)
        closure_size = _field(entry, "closureSize", "a whole number below 2^64", place)
        needed = _field(entry, "references", "a list", place)
        needed = _look_up(needed, numbers, f'{place}field "references": ')
        data = size, closure_size, sorted({*needed} - {numbers[path]})
        if described.setdefault(path, data) != data:
            raise GraphError(f'{place}field "path": given before, with other data')
    roots = _look_up(requested, numbers, f'field "exportReferencesGraph": field {_show(name)}: ')

    nar_sizes, closure_sizes, references = map(list, zip(*described.values()))
    reached = {*_reverse_postorder([*references, roots], len(numbers))}
    unreached = [path for path in range(len(numbers)) if path not in reached]
    return Graph([*described], nar_sizes, closure_sizes, references, roots, unreached)


def read_graphs(document: Any) -> dict[str, Graph]:
    """Return all graphs of a parsed document by name. Raises `GraphError`."""
    names = document.get("exportReferencesGraph") if isinstance(document, dict) else None
    names = names if names and isinstance(names, dict) else ["graph"]
    return {name: read_graph(document, name) for name in names}


def read_popularity(document: Any) -> dict[str, int]:
    """Return a popularity table, an object of counts by store name. Raises `GraphError`."""
    for name in _expect(document, "an object"):
        _field(document, name, "a whole number below 2^64")
    return document


def read_plans(document: Any) -> list[list[list[str]]]:
    """Return a plan, or an object of plans, as lists of lists of paths. Raises `GraphError`."""
    plans = []
    for plan in document.values() if isinstance(document, dict) else [document]:
        layers = _expect(plan, "a list", "a plan: ")
        plans.append([_field(layer, "contents", "a list", "a layer: ") for layer in layers])
        for path in chain(*plans[-1]):
            _expect(path, "a store path", 'a layer: field "contents": ')
    return [[*filter(None, plan)] for plan in plans]


def _is_path(value: object) -> bool:
    """Any text will do, except half of a surrogate pair, which only JSON can spell."""
    return isinstance(value, str) and value != "" and not re.search("[\ud800-\udfff]", value)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "a store path": _is_path,
    "a whole number below 2^64": lambda value: type(value) is int and 0 <= value < 2**64,
    "a list": lambda value: isinstance(value, list),
    "a list with elements": lambda value: isinstance(value, list) and value != [],
    "an object": lambda value: isinstance(value, dict),
}


def _field(fields: Any, name: str, kind: str, place: str = "") -> Any:
    """Return the value of a field, which must be of that kind."""
    if name not in _expect(fields, "an object", place):
        raise GraphError(f"{place}field {_show(name)}: missing")
    value = fields[name]
    return value if _KINDS[kind](value) else _expect(value, kind, f"{place}field {_show(name)}: ")


def _expect(value: Any, kind: str, place: str = "") -> Any:
    if not _KINDS[kind](value):
        raise GraphError(f"{place}expected {kind}, got {_show(value)}")
    return value


def _look_up(paths: list, numbers: dict[str, int], place: str) -> list[int]:
    for path in paths:
        if not isinstance(path, str) or path not in numbers:
            _expect(path, "a store path", place)
            raise GraphError(f"{place}{_show(path)} is not in the graph")
    return [numbers[path] for path in paths]


def _show(value: object) -> str:
    """Return a JSON value as JSON again, short enough for a part of a line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return _cut(json.dumps(value), 120)


def parse_json(text: str) -> Any:
    """Parse JSON; raises `GraphError` also where an object has a field twice, and for NaN."""

    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise GraphError(f"field {_show(twice)}: given twice in one object")
        return fields

    def refuse(constant: str) -> NoReturn:
        raise GraphError(f"not JSON: {constant}")

    try:
        return json.loads(text, object_pairs_hook=read_object, parse_constant=refuse)
    except RecursionError:
        raise GraphError("nested too deeply") from None
    except GraphError:
        raise
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
    except (OSError, GraphError) as error:
        raise GraphError(f"{file}: {getattr(error, 'strerror', error)}") from None


def _write(file: str, text: str) -> None:
    """Write text and a line break; the file is whole then or, if that goes wrong, as it was."""
    in_place = file == "-" or (os.path.exists(file) and not os.path.isfile(file))  # or a pipe
    target = os.path.realpath(file)
    beside = f"{target}.{os.getpid()}.tmp"
    to = 1 if file == "-" else file if in_place else beside
    try:
        with open(to, "w" if in_place else "x", encoding="utf-8", closefd=to != 1) as stream:
            stream.write(text + "\n")
        if not in_place:
            os.replace(beside, target)
    except OSError as error:
        name = "standard output" if file == "-" else file
        raise GraphError(f"{name}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            os.unlink(beside)


# The graph


def dominator_tree(successors: list[list[int]], root: int) -> tuple[list[int], list[int]]:
    """Find the immediate dominator of each vertex that can be reached from `root`.

    One vertex dominates another if all ways from the root to the other go through it.
    `successors[v]` are the vertices that v has edges to. Returns the vertices reached, each after
    its immediate dominator (reverse postorder), and a list with the immediate dominator of each
    vertex: `root` for itself, -1 for one that is not reached.

        >>> dominator_tree([[1, 2], [3], [3], [], [0]], 0)
        ([0, 1, 2, 3], [0, 0, 0, 0, -1])

    The algorithm, with its names, is figure 3 of K. D. Cooper, T. J. Harvey, K. Kennedy, "A Simple,
    Fast Dominance Algorithm", Rice University TR-06-33870, 2001; nodes go by their postorder
    number. Without cycles, as in a closure, the second pass finds nothing to change. A pass climbs,
    for each edge, at most the depth of the tree: closures are shallow, but two long chains with
    many common vertices take quadratic time.
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


def _by_name(path: str) -> tuple[str, str]:
    """The key that settles ties: name before hash, so that an order survives a rebuild."""
    return store_name(path), path


def _by_size(paths: Iterable[str], sizes: dict[str, int]) -> list[str]:
    """Return the paths, the largest first."""
    return sorted(paths, key=lambda path: (-sizes[path], *_by_name(path)))


# Strategies


def group(graph: Graph, budget: int = DEFAULT_BUDGET, **options: Any) -> list[Layer]:
    """Divide the paths of a graph among at most `budget` layers: `group_fleet` of one image."""
    return group_fleet({"image": graph}, {"image": budget}, **options)["image"]


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
            raise GraphError(f"{name}: a budget of {budget} layers: expected at least 1")
    if strategy == "nixery":  # planned each image by itself, and knew no layers that exist
        plans = {name: _nixery(graphs[name], budgets[name], popularity or {}) for name in graphs}
    else:
        plans = _reuse(graphs, budgets, known, popularity or {})
    for name, graph in graphs.items():
        placed = chain.from_iterable(layer.contents for layer in plans[name])
        if sorted(placed) != sorted(graph.paths) or len(plans[name]) > budgets[name]:
            raise AssertionError("the layers do not hold each path once, within the budget")
    return plans


def _layer(paths: list[str], sizes: dict, reason: str, spares: int | None = None) -> Layer:
    """Return the layer of some paths, named after the first of them."""
    return Layer(sorted(paths), sum(map(sizes.__getitem__, paths)), paths[0], reason, spares)


def _find_heads(references: list[list[int]], root_edges: set[int]) -> dict[int, int]:
    """Return, for each path, the child of an image with these root edges that dominates it."""
    image = len(references)
    order, dominator = dominator_tree([*references, sorted(root_edges)], image)
    heads: dict[int, int] = {}
    for path in order[1:]:
        heads[path] = path if dominator[path] == image else heads[dominator[path]]
    return heads


# Strategy "nixery"

# A closure of more bytes is large. A path with as many references from other packages is popular:
# the first hundredth of nixpkgs has them.
NIXERY_LARGE = 100_000_000
NIXERY_POPULAR = 1000


def _nixery(graph: Graph, budget: int, popularity: dict[str, int]) -> list[Layer]:
    """Decide as Nixery's group-layers did in 2019.

    Take an image with the requested paths A, B, C and D, where E is popular and G is large:

        image ─┬─> A ─────┐                            image ─┬─> A
               ├─> B ───> E                                   ├─> B
               ├─> C ─────┘         has this                  ├─> C
               │   └──────┐         dominator tree            ├─> D ───> F
               └─> D <────┘                                   ├─> E
                   ├────> F                                   └─> G
                   └────> G

    1. Root edges. The image refers to each requested path, and to each path that is popular, or has
       a large closure: it is likely to be in other images as well, or to be worth a layer.
    2. Dominator tree. A dominates B when all ways from the image to B go through A. Then nothing
       else in the image needs B: wherever A is, B comes along.
    3. Subtrees. Each child of the image is the head of a layer, which holds all that it dominates.
    4. Merging. Layers are sorted by rating: popularity times the sum of closure sizes over the
       subtree. If there are more than the budget allows, those with the lowest rating become one.
    """
    sizes = dict(zip(graph.paths, graph.nar_sizes))
    counts = [popularity.get(store_name(path), 1) for path in graph.paths]
    large = {path for path, size in enumerate(graph.closure_sizes) if size > NIXERY_LARGE}
    popular = {path for path, count in enumerate(counts) if count >= NIXERY_POPULAR}
    reasons = {"requested": {*graph.roots}, "popular": popular, "large": large}
    subtrees: dict[int, list[int]] = {}
    for path, head in _find_heads(graph.references, set().union(*reasons.values())).items():
        subtrees.setdefault(head, []).append(path)  # the head is the first

    def rank(head: int) -> tuple:
        size = sum(map(graph.closure_sizes.__getitem__, subtrees[head]))
        return size * counts[head], *_by_name(graph.paths[head])

    # Small ones only: the image refers to large and popular ones, needed or not.
    unreached = {*graph.unreached}.difference(*subtrees.values())
    paths = sorted((graph.paths[path] for path in unreached), key=_by_name)
    groups = [(paths, "unreached")] if paths else []
    for head in sorted(subtrees, key=rank):
        reason = next((word for word, heads in reasons.items() if head in heads), "shared")
        groups.append(([graph.paths[n] for n in subtrees[head]], reason))
    merged = len(groups) - (budget - 1)
    if merged > 1:
        paths = _by_size(chain(*(paths for paths, _ in groups[:merged])), sizes)
        groups[:merged] = [(paths, "merged")]
    return [_layer(paths, sizes, reason) for paths, reason in groups]


# Strategy "reuse"
#
# A layer is found again only where exactly the same paths share one. So two images should make the
# same choice about what both have, and they do if they make it by looking at nothing else. Hence
# the one idea: *a path has a plan of its own, which depends on its closure alone*. Every image that
# has the path has its closure too, and can use any layer of its plan.
#
# A plan starts from parts, which are sets of paths. While there are more parts than the budget
# allows, or merging two costs less than a layer does, the two that cost least become one. What a
# merge costs is bytes that hosts pull needlessly:
#
# - Bytes that others would have shared. In a fleet of images that are built together it is known
#   who has the same part; while images have too many layers, a merge costs less the more of them it
#   helps. For an image alone it is estimated: if n plans of what it refers to have a layer, another
#   image has it, too, in n of n + 2 cases. A popularity table adds to n.
# - Bytes that an update moves although they did not change: the bytes of each of the two times the
#   chance that it stays as it is and both together do not.
# - A path that was asked for, and that no other path needs, is edited far more often than anything
#   is updated. It never shares a layer with what it needs while others can be merged.
#
# The parts of a path's plan are the path, layers in the plans of its references, and what is left.
# A reference that another one needs as well has no say. The layers that others most likely share
# are taken first, as long as they have no path in common, up to the budget. What is left is divided
# by the bytes that it needs, as a power of 2. An image is one more path, which may use the whole
# budget; there, each subtree of the dominator tree, below what has a part, is divided by itself.
# The parts of a fleet are what was asked for, its large paths, and the others together that are in
# the same images and need as many bytes.
#
# Some hosts keep only the layers below the first that differs. So layers are in the order of their
# bytes divided by the chance that they differ: in another image, which is the less likely the more
# paths need all of a layer, or after an update. What was asked for is on top, in a fleet above what
# as many images have. bench/results.md has the figures, also with half and twice each constant.

# What a layer costs, in bytes of store paths that a host pulls in the same time. By client, it is
# 0.5 to 2.7 MB in CPU time and 0.4 to 2.5 MB by the clock (bench/pull.md). A smaller value keeps
# more of what images share.
LAYER_PRICE = 350_000
# An update changes one of so many paths. If the changed share is exponentially distributed, a layer
# that needs n paths stays as it is with a chance of 100 / (100 + n).
PATHS_PER_CHANGE = 100
# The plan of a path leaves a sixth of the layers to what an image needs besides.
ROOM = 6
# So many paths are looked at one by one, the largest. This bounds time and memory only: no image
# and no fleet of bench/results.md has as many.
MOST_PATHS = 2048

_APART, _NEVER = 1e30, float("inf")  # more than any bytes
_IS_ONE = bytes.maketrans(b"01", b"\0\1")
_count_bits = getattr(int, "bit_count", lambda bits: f"{bits:b}".count("1"))  # Python 3.10


def _selected(values: Iterable[_T], bits: int) -> Iterator[_T]:
    """Return those of the values for which a bit is set, the lowest for the first."""
    return compress(values, reversed(f"{bits:b}".encode().translate(_IS_ONE)))


class _Part:
    """Paths that share a layer in some images."""

    __slots__ = "apart", "bound", "chance", "images", "needs", "partner", "paths", "shared", "size"

    def __init__(
        self, paths: int, size: int, needs: int, images: int, shared: float, apart: bool
    ) -> None:
        self.paths, self.size, self.needs, self.images = paths, size, needs, images
        self.shared, self.apart = shared, apart  # bytes that others share; whether it was asked for
        self.chance = _chance(needs)
        self.forget()

    def forget(self) -> None:
        """Forget with which part it costs least to merge this one: it costs as much or more."""
        self.partner, self.bound = self, self.shared

    def cost_with(self, other: _Part, crowded: int) -> float:
        """Return the bytes that it costs to merge the two, per image helped if some are crowded."""
        both = self.images & other.images
        helped = _count_bits(both & crowded) if crowded else min(both, 1)
        apart = _APART if self.apart != other.apart else 0
        return (self.loses_with(other) + apart) / helped if helped else _NEVER

    def loses_with(self, other: _Part) -> float:
        """Return how many bytes hosts pull needlessly if the two are merged."""
        both = self.images & other.images
        chance = _chance(self.needs | other.needs)
        one = self.shared if self.images == both else self.size
        two = other.shared if other.images == both else other.size
        one += self.size * (self.chance - chance)
        two += other.size * (other.chance - chance)
        return one + two


def _chance(needs: int) -> float:
    """Return the chance that an update leaves all these paths as they are."""
    return PATHS_PER_CHANGE / (PATHS_PER_CHANGE + _count_bits(needs))


def _merge(parts: list[_Part], budgets: list[int]) -> list[_Part]:
    """Merge parts as long as an image has more than its budget, or a layer is dearer than a merge.

    `budgets` is by the number of the image. Returns the parts that are left.
    """
    numbers = range(len(budgets))
    layers = Counter(chain.from_iterable(_selected(numbers, part.images) for part in parts))
    crowded = sum(1 << image for image in numbers if layers[image] > budgets[image])
    parts = sorted(parts, key=lambda part: (part.shared, part.paths))
    while len(parts) > 1:
        part = min(parts, key=attrgetter("bound"))
        partner = part.partner
        if part.bound == _NEVER or (not crowded and part.bound >= LAYER_PRICE):
            break
        if partner is part or part.bound != part.cost_with(partner, crowded):
            # The costs of parts that have not changed only rise, as images come to fit. So the
            # least that was found is the least if it is still right.
            part.bound = _NEVER
            for other in parts:
                if part.shared + other.shared >= part.bound:
                    break
                cost = part.cost_with(other, crowded)
                if cost < part.bound and other is not part:
                    part.bound, part.partner = cost, other
            continue
        both, needs = part.images & partner.images, part.needs | partner.needs
        paths, size = part.paths | partner.paths, part.size + partner.size
        merged = _Part(paths, size, needs, both, 0.0, part.apart or partner.apart)
        part.images ^= both
        partner.images ^= both
        changed = [part, partner]
        parts = [it for it in (merged, *parts) if it.images]
        if crowded:
            layers.subtract(_selected(numbers, both))
            crowded = sum(1 << image for image in numbers if layers[image] > budgets[image])
            changed += [] if crowded else parts
        for part in changed:
            part.forget()
    return parts


class _Closure:
    """What some images need. A set of paths, or of images, is a number with a bit for each.

    A path has a higher bit than all that it needs. The smallest ones, beyond `MOST_PATHS`, have one
    bit together where the same images have them.
    """

    def __init__(self, graphs: list[Graph], held: list[set], popularity: dict[str, int]) -> None:
        self.nar_sizes: dict[str, int] = {}
        levels: dict[str, int] = {}
        images: dict[str, int] = {}
        needs: dict[str, dict[str, None]] = {}
        for image, graph in enumerate(graphs):
            for path, size, closure_size, references in zip(*graph[:4]):
                self.nar_sizes[path], levels[path] = size, closure_size.bit_length()
                images[path] = images.get(path, 0) | (path not in held[image]) << image
                needs.setdefault(path, {}).update((graph.paths[it], None) for it in references)
        waiting = TopologicalSorter(needs)
        try:
            waiting.prepare()
        except CycleError as error:
            path = _show(min(error.args[1]))
            raise GraphError(f"{path}: paths refer to each other in a cycle") from None

        small = dict.fromkeys(_by_size(self.nar_sizes, self.nar_sizes)[MOST_PATHS:])
        closures: dict[str, int] = {}
        # By number
        self.paths: list[list[str]] = []
        self.closures: list[int] = []
        self.references: list[list[int]] = []  # without those that another one needs
        while waiting.is_active():
            ready = waiting.get_ready()
            waiting.done(*ready)
            for path in _by_size(ready, self.nar_sizes):
                closures[path] = reduce(or_, map(closures.__getitem__, needs[path]), 0)
                if path not in small:
                    self.references.append(self.tops(closures[path]))
                    closures[path] |= 1 << len(self.paths)
                    self.closures.append(closures[path])
                    self.paths.append([path])
        rest: dict[int, list[str]] = {}
        for path in small:
            rest.setdefault(images[path], []).append(path)
        self.paths += rest.values()
        self.closures += [reduce(or_, map(closures.__getitem__, it)) for it in rest.values()]
        self.sizes = [sum(map(self.nar_sizes.__getitem__, paths)) for paths in self.paths]
        self.levels, self.images = ([of[it[0]] for it in self.paths] for of in (levels, images))
        self.popularity = [popularity.get(store_name(it[0]), 0) for it in self.paths]
        self.measured: dict[int, tuple[int, int]] = {}  # bytes and needs by paths
        self.plans: list[list[int]] = []

    def tops(self, paths: int) -> list[int]:
        """Return those of the paths that no other one needs."""
        found = []
        while paths:
            found.append(paths.bit_length() - 1)
            paths &= ~self.closures[found[-1]]
        return found

    def measure(self, paths: int) -> tuple[int, int]:
        """Return the bytes of paths, and all that they need."""
        if paths not in self.measured:
            size = sum(_selected(self.sizes, paths))
            self.measured[paths] = size, reduce(or_, _selected(self.closures, paths), paths)
        return self.measured[paths]

    def part(self, paths: int, images: int = 1, shared: float = 0.0, apart: bool = False) -> _Part:
        return _Part(paths, *self.measure(paths), images, shared, apart)

    def divide(self) -> list[_Part]:
        """Return the parts of a fleet."""
        large = sum(self.sizes) // MOST_PATHS
        asked = {*self.tops((1 << len(self.references)) - 1)}
        alike: dict[tuple, int] = {}
        for path, (images, size, level) in enumerate(zip(self.images, self.sizes, self.levels)):
            key = images, path in asked, ~path if size > large or path in asked else level
            alike[key] = alike.get(key, 0) | 1 << path
        return [self.part(it, users, 0, top) for (users, top, _), it in alike.items() if users]

    def compose(self, budget: int) -> list[_Part]:
        """Return the parts of an image, from the plans of all its paths."""
        room = budget - budget // ROOM
        for closure in self.closures[: len(self.references)]:
            merged = _merge(self.parts(closure, closure, room), [room])
            self.plans.append([part.paths for part in merged])
        left = sum(1 << path for path, images in enumerate(self.images) if images)
        return self.parts((1 << len(self.plans)) - 1, left, budget)

    def parts(self, paths: int, left: int, budget: int) -> list[_Part]:
        """Return the parts of the paths that are `left`. One plan has each that was asked for."""
        asked = self.tops(paths)
        below = self.references[asked[0]] if len(asked) == 1 else asked
        parts = [self.part(1 << it, 1, self.sizes[it] / 3, True) for it in asked if left >> it & 1]
        left &= ~sum(1 << path for path in asked)
        shared: dict[int, float] = {}
        for layer, count in Counter(chain(*map(self.plans.__getitem__, below))).items():
            if not layer & layer - 1:
                count += self.popularity[layer.bit_length() - 1]
            shared[layer] = self.measure(layer)[0] * count / (count + 2)
        for layer in sorted(shared, key=lambda it: (-shared[it], it)):
            if layer & left == layer and len(parts) < budget:
                parts.append(self.part(layer, 1, shared[layer]))
                left ^= layer
        is_image = len(self.plans) == len(self.references)
        placed = _selected(range(len(self.plans)), paths & ~left)
        heads = _find_heads(self.references, {*below, *placed}) if is_image else {}
        alike: dict[tuple, int] = {}
        for path in _selected(range(len(self.paths)), left):
            head = heads.get(path, path)
            key = None if head == path else head, self.levels[path]
            alike[key] = alike.get(key, 0) | 1 << path
        return [*parts, *map(self.part, alike.values())]

    def rank(self, part: _Part) -> tuple:
        """Return the key of the order of layers."""
        users = sum(closure & part.paths == part.paths for closure in self.closures)
        worth = part.size * users / (PATHS_PER_CHANGE + users * _count_bits(part.needs))
        return -_count_bits(part.images), part.apart, -worth, part.paths

    def layer(self, part: _Part, parts: list[_Part]) -> Layer:
        """Return the layer of a part of an image with these parts."""
        paths = _by_size(chain(*_selected(self.paths, part.paths)), self.nar_sizes)
        reason = "bundle" if part.shared or part.images & part.images - 1 else "merged"
        reason = "requested" if part.apart else "own" if len(paths) == 1 else reason
        spares = min((round(part.loses_with(it)) for it in parts if it is not part), default=None)
        return _layer(paths, self.nar_sizes, reason, spares)


def _reuse(
    graphs: dict[str, Graph],
    budgets: dict[str, int],
    known: Sequence[list[list[str]]],
    popularity: dict[str, int],
) -> dict[str, list[Layer]]:
    """Keep known layers, and merge parts in what is left: of one image, or of all together."""
    plans = {name: _keep(graph, budgets[name], known) for name, graph in graphs.items()}
    held = {name: {*chain(*(layer.contents for layer in plans[name]))} for name in graphs}
    names = sorted(name for name in graphs if len(held[name]) < len(graphs[name].paths))
    left = [budgets[name] - len(plans[name]) for name in names]
    closure = _Closure([graphs[name] for name in names], [held[name] for name in names], popularity)
    start = closure.compose(*left) if len(names) == 1 else closure.divide()
    parts = sorted(_merge(start, left), key=closure.rank)
    for number, name in enumerate(names):
        its_parts = [part for part in parts if part.images >> number & 1]
        plans[name] += [closure.layer(part, its_parts) for part in its_parts]
    return plans


def _keep(graph: Graph, budget: int, known: Sequence[list[list[str]]]) -> list[Layer]:
    """Return the known layers that an image has, those that most plans have for the first."""
    sizes = dict(zip(graph.paths, graph.nar_sizes))
    left = {*sizes}
    counts = Counter(tuple(sorted({*paths})) for plan in known for paths in plan)

    def as_layers(plan: Any) -> list[Layer]:
        return [_layer(_by_size(paths, sizes), sizes, "known") for paths in plan]

    same = [it for it in known if len(it) <= budget and sorted(chain(*it)) == sorted(left)]
    if same:  # another image may have the same paths and a smaller budget
        return as_layers(min(same, key=lambda it: (-len(it), it)))
    layers = as_layers(paths for paths, _ in counts.most_common() if left.issuperset(paths))
    kept: list[Layer] = []
    for layer in sorted(layers, key=lambda it: (-it.size, -len(it.contents), it)):
        free = budget - len(kept) - (len(left) > len(layer.contents))
        if free > 0 and left.issuperset(layer.contents):
            kept.append(layer)
            left.difference_update(layer.contents)
    return [layer for layer in layers if layer in kept]


# Explaining


def explain(graph: Graph, budget: int, layers: list[Layer]) -> dict:
    """Return what there is to know about a plan, as JSON can hold it.

    ``{"budget", "unused", "paths", "size", "largestShare", "layers"}``: the budget and how many
    more layers it allows, the number of paths, their bytes, and the part of those (0 to 1) in the
    largest layer. Each layer has what `Layer` says, its number (from 1), `[path, narSize]` of its
    paths, and in ``"neededBy"`` the paths of others that refer to one of its own, requested first.
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
        return user not in requested, _by_name(graph.paths[user])

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
                **layer._asdict(),
                "contents": [[path, nar_sizes[path]] for path in layer.contents],
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
    budget, strategy = arguments.budget, arguments.strategy
    if arguments.known and strategy != DEFAULT_STRATEGY:
        raise GraphError(f"--known: strategy {strategy} makes no use of known layers")
    plans = group_fleet(graphs, dict.fromkeys(graphs, budget), known, popularity, strategy)
    explained = {}
    for name, graph in graphs.items():
        if graph.unreached:
            names = sorted(store_name(graph.paths[path]) for path in graph.unreached)
            unreached = f"{_count(len(names), 'path')} that no root reaches, kept"
            _say(f"group-layers: {arguments.graph}: {unreached}: {_some(names, 200)}")
        if arguments.explain or arguments.explain_json:
            explained[name] = explain(graph, budget, plans[name])
        if arguments.explain:
            _say(("" if name == "graph" else f"{name}\n") + format_explanation(explained[name]))
    alone = [*graphs] == ["graph"]
    if arguments.explain_json:
        why = json.dumps(explained["graph"] if alone else explained, indent=1)
        _write(arguments.explain_json, why)
    result = {name: [{"contents": layer.contents} for layer in plans[name]] for name in plans}
    _write(arguments.out, json.dumps(result["graph"] if alone else result, separators=(",", ":")))


def _arguments(words: list[str]) -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise GraphError(message)

    def whole_number(text: str) -> int:
        if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
            got = repr(_cut(text, 60))
            raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {got}")
        return int(text)

    parser = Parser(
        prog="group-layers",
        description="Group the store paths of an image into layers that other images have too.",
        epilog="reasons for layers:\n" + "\n".join(f"  {it:10} {REASONS[it]}" for it in REASONS),
        # Asking for the terminal's width would import shutil, which is slow.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        allow_abbrev=False,
    )
    flag = partial(parser.add_argument, metavar="FILE")
    # Nix 2.8 sets the variable in its sandbox to a path that is there only outside of it.
    exported = filter(os.path.exists, (os.environ.get("NIX_ATTRS_JSON_FILE", ""), ".attrs.json"))
    flag("--graph", default=next(exported, None),
         help="the reference graph, or graphs, that Nix exports (default: in a Nix build, the file"
         " with the attributes)")  # fmt: skip
    flag("--pop", help="a popularity table (default: none)")
    flag("--known", help="plans, the layers of which are used where they fit (default: none)")
    flag("--out", default="layers.json",
         help="the file for the plan, - for standard output (default: %(default)s)")  # fmt: skip
    flag("--budget", metavar="N", type=whole_number, default=DEFAULT_BUDGET,
         help="the maximum number of layers (default: %(default)s)")  # fmt: skip
    flag("--strategy", metavar="NAME", choices=STRATEGIES, default=DEFAULT_STRATEGY,
         help="how to choose them: %(choices)s (default: %(default)s)")  # fmt: skip
    why = "print the reason for each layer on standard error"
    parser.add_argument("--explain", action="store_true", help=why)
    flag("--explain-json", help="a file for the same as JSON")
    # Flags with one dash, as Go has them, are those of the original.
    flags = [re.sub("^-(?=[a-z]{2})", "--", word) for word in words]
    arguments, unknown = parser.parse_known_args(flags)
    if unknown:
        from difflib import get_close_matches  # slow to import

        given = unknown[0].partition("=")[0]
        names = [f"--{name.replace('_', '-')}" for name in vars(arguments)]
        meant = "".join(f" (did you mean {name}?)" for name in get_close_matches(given, names, 1))
        raise GraphError(f"there is no argument {_cut(given, 60)}{meant}")
    if not arguments.graph:
        raise GraphError("no reference graph: pass --graph FILE, which Nix wrote (see --help)")
    return arguments


def _say(text: str) -> None:
    with suppress(OSError):  # nobody listens
        if sys.stderr:
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
