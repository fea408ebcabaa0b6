"""The compared strategies for grouping store paths into layers: ours and those of others.

Each strategy takes an image, a layer budget and a popularity table, and returns the layers as lists
of store paths. A joint one takes all images of a fleet and returns the layers of each. The peers
are implemented from their published descriptions; ties are broken by store path, so that the
figures are reproducible.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from corpora import Corpus

__all__ = ["OURS", "STRATEGIES", "TOGETHER", "Image", "Strategy", "with_constant"]

_program = importlib.util.spec_from_file_location(
    "group_layers",
    os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "group_layers.py"),
)
group_layers = importlib.util.module_from_spec(_program)
_program.loader.exec_module(group_layers)


# Each corpus that was met, by its identity, and the closure sizes that were needed so far.
_closure_sizes: dict[int, tuple[Corpus, dict[str, int]]] = {}


class Image:
    """The closure of some roots of a corpus, as Nix describes it to a layering tool.

    `references` has the paths in the order of the alphabet, and leaves out self references.
    """

    def __init__(self, corpus: Corpus, roots: list[str]) -> None:
        self.roots = roots
        _, self.closure_sizes = _closure_sizes.setdefault(id(corpus), (corpus, {}))
        paths = sorted(corpus.closure(roots))
        self.sizes = {path: corpus.sizes[path] for path in paths}
        self.references = {
            path: [needed for needed in corpus.references[path] if needed != path] for path in paths
        }

    def closure(self, path: str) -> set[str]:
        """Return a path and all that it needs."""
        found, waiting = {path}, [path]
        while waiting:
            for needed in self.references[waiting.pop()]:
                if needed not in found:
                    found.add(needed)
                    waiting.append(needed)
        return found

    def dependents_first(self) -> list[str]:
        """Return the paths such that each comes before those that it refers to."""
        order: list[str] = []
        done: set[str] = set()
        for start in self.references:
            stack = [(start, iter(self.references[start]))] if start not in done else []
            done.add(start)
            while stack:
                following = next((needed for needed in stack[-1][1] if needed not in done), None)
                if following is None:
                    order.append(stack.pop()[0])
                else:
                    done.add(following)
                    stack.append((following, iter(self.references[following])))
        return order[::-1]


def one_layer(image: Image, budget: int, popularity: Mapping[str, int]) -> list[list[str]]:
    """All paths in one layer: an image without layering."""
    return [list(image.sizes)]


def popularity_contest(image: Image, budget: int, popularity: Mapping[str, int]) -> list[list[str]]:
    """The most popular paths get a layer each, the rest share the last one.

    dockerTools until 2025, and nix2container. A path is as popular as there are ways to it along
    references, from any path of the image.

    G. Christensen, "Optimising Docker Layers for Better Caching with Nix", 2018.
    """
    ways = dict.fromkeys(image.sizes, 1)
    for path in image.dependents_first():
        for needed in image.references[path]:
            ways[needed] += ways[path]
    return _first_alone(sorted(ways, key=lambda path: (-ways[path], path)), budget)


def largest_paths(image: Image, budget: int, popularity: Mapping[str, int]) -> list[list[str]]:
    """The largest paths get a layer each, the rest share the last one."""
    return _first_alone(sorted(image.sizes, key=lambda path: (-image.sizes[path], path)), budget)


def _first_alone(ranked: list[str], budget: int) -> list[list[str]]:
    if len(ranked) <= budget:
        return [[path] for path in ranked]
    return [[path] for path in ranked[: budget - 1]] + [ranked[budget - 1 :]]


def auto_layer(image: Image, budget: int, popularity: Mapping[str, int]) -> list[list[str]]:
    """Paths that the same large paths need share a layer; so many are large as the budget allows.

    dockerTools since 2025 (NixOS/nixpkgs#355189), and proposed for nix2container (#204).

    Starting with one group, the paths are declared large one after the other, by size, and each
    group is split into what the new one needs, itself included, and what it does not need.
    """
    group_of = dict.fromkeys(image.sizes, 0)
    members = [len(group_of)]
    groups = 1
    for large in sorted(image.sizes, key=lambda path: (image.sizes[path], path), reverse=True):
        needed = image.closure(large)
        taken: dict[int, int] = {}
        for path in needed:
            taken[group_of[path]] = taken.get(group_of[path], 0) + 1
        # A group that is needed as a whole is not split.
        split = sorted(group for group, count in taken.items() if count < members[group])
        groups += len(split)
        if groups > budget:
            break
        new = {group: len(members) + number for number, group in enumerate(split)}
        for group in split:
            members[group] -= taken[group]
            members.append(taken[group])
        for path in needed:
            group_of[path] = new.get(group_of[path], group_of[path])
    layers: dict[int, list[str]] = {}
    for path, group in group_of.items():
        layers.setdefault(group, []).append(path)
    return list(layers.values())


def nixery(image: Image, budget: int, popularity: Mapping[str, int]) -> list[list[str]]:
    """The decisions of Nixery's group-layers (2019), by `group_layers.py --strategy nixery`."""
    return _ours(image, budget, popularity, "nixery")


def reuse(image: Image, budget: int, popularity: Mapping[str, int]) -> list[list[str]]:
    """The default of `group_layers.py`."""
    return _ours(image, budget, popularity, "reuse")


def _ours(
    image: Image, budget: int, popularity: Mapping[str, int], strategy: str
) -> list[list[str]]:
    layers = group_layers.group(graph_of(image), budget, dict(popularity), strategy=strategy)
    return [layer.contents for layer in layers]


def plan_together(
    images: Sequence[Image], budget: int, known: Sequence[list[list[str]]] = ()
) -> list[list[list[str]]]:
    """Plan images by `group_layers.group_fleet`; return the layers of each."""
    graphs = {str(number): graph_of(image) for number, image in enumerate(images)}
    fleet = group_layers.group_fleet(graphs, dict.fromkeys(graphs, budget), known)
    return [[layer.contents for layer in fleet[name]] for name in graphs]


def in_groups(size: Callable[[int], int]) -> Callable[..., list[list[list[str]]]]:
    """Return a joint strategy that plans images in groups, whose size depends on their number."""

    def plan(images: Sequence[Image], budget: int, _: object) -> list[list[list[str]]]:
        step = size(len(images))
        starts = range(0, len(images), step)
        return [plan for n in starts for plan in plan_together(images[n : n + step], budget)]

    return plan


def one_by_one(images: Sequence[Image], budget: int, _: object) -> list[list[list[str]]]:
    """Plan four fifths together, and the others each with the lock of those before it."""
    plans = plan_together(images[: len(images) * 4 // 5], budget)
    for image in images[len(plans) :]:
        plans += plan_together([image], budget, plans)
    return plans


@lru_cache(maxsize=128)
def graph_of(image: Image) -> group_layers.Graph:
    """Return an image as Nix would export it; those of a fleet are kept for the next budget."""
    for path in image.sizes.keys() - image.closure_sizes.keys():
        image.closure_sizes[path] = sum(image.sizes[needed] for needed in image.closure(path))
    entries = [
        {
            "path": path,
            "narSize": image.sizes[path],
            "closureSize": image.closure_sizes[path],
            "references": image.references[path],
        }
        for path in image.sizes
    ]
    document = {"exportReferencesGraph": {"graph": image.roots}, "graph": entries}
    return group_layers.load_graph(json.dumps(document))


class Strategy(NamedTuple):
    """A strategy, under its name in the report."""

    name: str
    group: Callable
    table: bool = False  # whether it is given the popularity table of the corpus
    budgeted: bool = True  # whether the budget makes a difference
    joint: bool = False  # whether it is given all images of a fleet at once


def with_constant(strategy: Strategy, name: str, factor: float) -> Strategy:
    """Return our strategy with one of its constants multiplied."""
    value = getattr(group_layers, name)

    def group(*arguments: object) -> list:
        setattr(group_layers, name, type(value)(value * factor))
        try:
            return strategy.group(*arguments)
        finally:
            setattr(group_layers, name, value)

    return strategy._replace(name=f"{strategy.name}, {name} x {factor}", group=group)


OURS = "reuse"
TOGETHER = "together"

STRATEGIES = (
    Strategy("one layer", one_layer, budgeted=False),
    Strategy("popularity contest", popularity_contest),
    Strategy("largest paths", largest_paths),
    Strategy("Nixery", nixery),
    Strategy("Nixery, with a table", nixery, table=True),
    Strategy("auto-layer", auto_layer),
    Strategy(f"{OURS}, with a table", reuse, table=True),
    Strategy(OURS, reuse),
    Strategy(f"{TOGETHER}, groups of ten", in_groups(lambda count: 10), joint=True),
    Strategy(f"{TOGETHER}, two halves", in_groups(lambda count: -(-count // 2)), joint=True),
    Strategy(f"{TOGETHER} 80 %, then one by one", one_by_one, joint=True),
    Strategy(TOGETHER, in_groups(lambda count: count), joint=True),
)
