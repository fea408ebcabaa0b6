"""Nixery's group-layers (2019) in as few words as can be: a model to compare decisions with.

It follows the original step by step, by the definitions, at whatever cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def reachable(entries: list[dict], starts: Iterable[str], without: str | None = None) -> set[str]:
    """Return the paths that can be reached from `starts` when one path is taken away."""
    references = {entry["path"]: entry["references"] for entry in entries}
    seen: set[str] = set()
    todo = list(starts)
    while todo:
        path = todo.pop()
        if path != without and path not in seen:
            seen.add(path)
            todo += references[path]
    return seen


def nixery_plan(document: dict, budget: int, popularity: dict[str, int]) -> list[list[str]]:
    """Return the layers that the original makes, equal ratings ordered by name, then hash."""
    entries = document["graph"]
    closure_size = {entry["path"]: entry["closureSize"] for entry in entries}
    name = {path: re.sub(r"^/nix/store/[a-z0-9]+-", "", path) for path in closure_size}
    count = {path: popularity.get(name[path], 1) for path in closure_size}
    apart = {p for p in closure_size if closure_size[p] > 100_000_000 or count[p] >= 1000}
    starts = apart.union(document["exportReferencesGraph"]["graph"])

    everything = reachable(entries, starts)
    dominated = {p: everything - reachable(entries, starts, without=p) for p in everything}
    heads = [p for p in everything if not any(p in dominated[q] for q in everything if q != p)]
    layers = [
        (count[p] * sum(closure_size[q] for q in dominated[p]), name[p], p, sorted(dominated[p]))
        for p in heads
    ]
    contents = [layer[-1] for layer in sorted(layers)]
    while len(contents) > budget:
        contents[:2] = [sorted(contents[0] + contents[1])]
    return contents
