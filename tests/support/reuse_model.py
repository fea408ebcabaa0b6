"""Strategy reuse by its definition: each plan made anew from sets of paths, without shortcuts.

For acyclic graphs, at whatever cost; the constants are those of the program.
"""

from __future__ import annotations

from math import sqrt

import group_layers as program
from nixery_model import reachable

Plan = list[frozenset[str]]


def reuse_plan(document: dict, budget: int, popularity: dict[str, int]) -> list[list[str]]:
    """Return the layers, each sorted, in no particular order."""
    graph = document["graph"]
    size = {entry["path"]: entry["narSize"] for entry in graph}
    references = {entry["path"]: set(entry["references"]) - {entry["path"]} for entry in graph}
    closure = {path: reachable(graph, [path]) for path in size}
    small = {e["path"] for e in graph if e["closureSize"] < program.SMALL_CLOSURE}
    by_size = sorted(size, key=lambda path: (-size[path], program.store_name(path), path))

    def plan(needed: set[str], path: set[str]) -> Plan:
        """The plan of a path that needs others; of the image, which is no path itself."""
        further = set().union(*(closure[other] - {other} for other in needed))
        parts = [plan(references[p], {p}) for p in by_size if p in needed - further]
        parts += [[frozenset(path)]] if path else []
        everything = path.union(*(closure[other] for other in needed))
        if len(everything) <= budget and all(len(layer) == 1 for part in parts for layer in part):
            return [frozenset([p]) for p in by_size if p in everything]

        def worth(layer: frozenset[str], table: dict[str, int] = popularity) -> float:
            count = table.get(program.store_name(min(layer)), 0) if len(layer) == 1 else 0
            support: float = sum(layer in part for part in parts)
            support += program.POPULAR_WORTH * count.bit_length()
            return sum(map(size.__getitem__, layer)) * sqrt(support)

        taken: Plan = []
        candidates = dict.fromkeys(layer for part in parts for layer in part)
        for layer in sorted(candidates, key=worth, reverse=True):
            if len(taken) < budget - 1 and not layer & set().union(*taken):
                taken.append(layer)
        left = everything.difference(*taken)
        steady = left & small
        if taken and steady not in (set(), left):
            gained = sum(map(size.__getitem__, steady)) * program.STEADY_WORTH
            if len(taken) == budget - 1 and gained > worth(taken[-1], {}):
                left |= taken.pop()
                steady = left & small
            if len(taken) < budget - 1:
                taken.append(frozenset(steady))
                left -= steady
        return taken + ([frozenset(left)] if left else [])

    roots = document["exportReferencesGraph"]["graph"]
    requested = {*roots, *(set(size) - reachable(graph, roots))}
    return [sorted(layer) for layer in plan(requested, set())]
