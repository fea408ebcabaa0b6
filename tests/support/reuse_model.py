"""Strategy reuse by its definition: each plan made anew from sets of paths, without shortcuts.

For acyclic graphs, at whatever cost; the constants are those of the program.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, combinations
from typing import NamedTuple

import group_layers as program
from nixery_model import reachable


class Part(NamedTuple):
    paths: frozenset[str]
    shared: float
    apart: bool


def reuse_plan(document: dict, budget: int, popularity: dict[str, int]) -> list[list[str]] | None:
    """Return the layers, each sorted, in no particular order; None if merges cost the same."""
    graph = document["graph"]
    size = {entry["path"]: entry["narSize"] for entry in graph}
    level = {entry["path"]: entry["closureSize"].bit_length() for entry in graph}
    references = {entry["path"]: set(entry["references"]) - {entry["path"]} for entry in graph}
    closure = {path: reachable(graph, [path]) for path in size}
    chains = dict.fromkeys(size, 0)  # how many references there are below a path, one after another
    for _ in size:
        chains = {p: max((chains[q] + 1 for q in references[p]), default=0) for p in size}
    order = sorted(size, key=lambda p: (chains[p], -size[p], program.store_name(p), p))
    number = {path: place for place, path in enumerate(order)}
    decided = True

    def bits(paths: frozenset[str]) -> int:
        return sum(1 << number[path] for path in paths)

    def total(paths: frozenset[str]) -> int:
        return sum(map(size.__getitem__, paths))

    def stays(paths: frozenset[str]) -> float:
        needs = set().union(*(closure[path] for path in paths))
        return program.PATHS_PER_CHANGE / (program.PATHS_PER_CHANGE + len(needs))

    def share(paths: frozenset[str], count: int) -> float:
        return total(paths) * count / (count + 2)

    def tops(needed: set[str]) -> set[str]:
        return {p for p in needed if not any(p in closure[q] for q in needed - {p})}

    reduced = [{"path": p, "references": sorted(tops(references[p]))} for p in size]

    def cost(a: Part, b: Part) -> float:
        both = stays(a.paths | b.paths)
        lost = [one.shared + total(one.paths) * (stays(one.paths) - both) for one in (a, b)]
        return lost[0] + lost[1] + (0.0 if a.apart == b.apart else 1e30)

    def merge(parts: list[Part], budget: int) -> list[Part]:
        nonlocal decided
        while len(parts) > 1:
            costs = sorted((cost(a, b), n) for n, (a, b) in enumerate(combinations(parts, 2)))
            if len(parts) <= budget and costs[0][0] >= program.LAYER_PRICE:
                break
            decided &= len(costs) == 1 or costs[0][0] < costs[1][0]
            a, b = [*combinations(parts, 2)][costs[0][1]]
            parts = [part for part in parts if part not in (a, b)]
            parts.append(Part(a.paths | b.paths, 0, a.apart or b.apart))
        return parts

    def start(asked: set[str], below: set[str], budget: int, is_image: bool = False) -> list[Part]:
        """The parts of a plan for the paths `asked` and what they need, from the plans `below`."""
        everything = set().union(*(closure[path] for path in asked))
        parts = [Part(frozenset([p]), share(frozenset([p]), 1), True) for p in asked]
        support = Counter(chain.from_iterable(plan(path) for path in below))
        for layer in support:
            if len(layer) == 1:
                support[layer] += popularity.get(program.store_name(min(layer)), 0)
        held = set(asked)
        worth = {layer: (-share(layer, n), bits(layer)) for layer, n in support.items()}
        for layer in sorted(worth, key=worth.__getitem__):
            if not layer & held and len(parts) < budget:
                parts.append(Part(layer, share(layer, support[layer]), False))
                held |= layer
        edges = sorted(held.union(below))

        def dominators(path: str) -> set[str]:
            return {p for p in size if path not in reachable(reduced, edges, without=p)}

        groups: dict[object, set[str]] = {}
        for path in everything - held:
            heads = {p for p in dominators(path) if dominators(p) == {p}} if is_image else set()
            groups.setdefault((*(heads - {path}), level[path]), set()).add(path)
        return parts + [Part(frozenset(paths), 0, False) for paths in groups.values()]

    def plan(path: str) -> list[frozenset[str]]:
        room = max(1, budget - budget // program.ROOM)
        parts = merge(start({path}, tops(references[path]), room), room)
        return [part.paths for part in parts]

    roots = document["exportReferencesGraph"]["graph"]
    asked = tops({*roots, *(set(size) - reachable(graph, roots))})
    below = tops(references[min(asked)]) if len(asked) == 1 else asked
    parts = merge(start(asked, below, budget, is_image=True), budget)
    return [sorted(part.paths) for part in parts] if decided else None
