"""Strategy reuse by its definition: every path and every candidate looked at anew in every step.

For acyclic graphs, at whatever cost; the constants are those of the program.
"""

from __future__ import annotations

from math import isqrt

import group_layers as program
from nixery_model import reachable


def reuse_plan(
    document: dict, budget: int, popularity: dict[str, int] | None = None
) -> list[list[str]]:
    """Return the layers, each sorted, in no particular order."""
    entries = {entry["path"]: entry for entry in document["graph"]}
    size = {path: entry["narSize"] for path, entry in entries.items()}
    closure = {path: reachable(document["graph"], [path]) for path in entries}
    above = {path: {user for user in entries if path in closure[user]} for path in entries}
    level = {
        path: sum(entry["closureSize"] >= edge for edge in program.LEVELS)
        for path, entry in entries.items()
    }
    by_name = sorted(entries, key=lambda path: (program.store_name(path), path))

    largest = sorted(by_name, key=lambda path: -size[path])[: program.USERS]
    users = {path: 1 + len(above[path].intersection(largest)) for path in entries}
    if popularity:
        told = {}
        for path in entries:
            name = program.store_name(path)
            told[path] = popularity.get(name, popularity.get(name.split("-")[0]))
        known = sum(count is not None for count in told.values())
        if known * 100 >= program.KNOWN * len(entries):
            elsewhere: dict[str, int] = {}
            for path in sorted(entries, key=lambda path: len(above[path])):
                direct = {u for u in entries if path in entries[u]["references"] and u != path}
                more = isqrt(max(0, (told[path] or 0) - len(direct))) * program.ELSEWHERE
                elsewhere[path] = more + max((elsewhere[user] for user in direct), default=0)
            users = {path: users[path] + elsewhere[path] for path in entries}

    roots = document["exportReferencesGraph"]["graph"]
    starts = {*roots, *(set(entries) - reachable(document["graph"], roots))}
    dominated = {
        path: set(entries) - reachable(document["graph"], starts, without=path) for path in entries
    }
    weight = {path: sum(map(size.get, dominated[path])) for path in entries}
    anchors = sorted(by_name, key=lambda path: -weight[path])[: program.ANCHORS]

    top = len(program.LEVELS)

    def steady(path: str, high: int) -> int:
        lost = program.SURVIVAL[level[path]] - program.SURVIVAL[high]
        return program.STEADY_WORTH - program.STEADY_WORTH * max(0, lost) // 1000

    def value(path: str, layer: tuple[str, int]) -> int:
        """What a byte of the path is worth in a layer; 0 where it does not go there."""
        head, high = layer
        if high < 0:
            return program.ALONE_WORTH if path == head else 0
        if level[path] > high or (head and path not in closure[head]):
            return 0
        shared = program.SHARED_WORTH * users[head] // users[path] if head else 0
        return shared + steady(path, high)

    home = dict.fromkeys(entries, ("", top))
    candidates = [(path, -1) for path in entries]
    candidates += [(head, high) for head in anchors for high in range(level[head] + 1)]
    candidates += [("", high) for high in range(top)]
    place = {"": -1, **{path: number for number, path in enumerate(by_name)}}
    for _ in range(budget - 1):
        gains = {
            layer: sum(
                size[path] * max(0, value(path, layer) - value(path, home[path]))
                for path in entries
            )
            for layer in candidates
            if layer not in home.values() or layer[1] >= 0
        }
        best = max(gains, key=lambda layer: (gains[layer], -place[layer[0]], -layer[1]))
        if gains[best] < program.LAYER_COST * program.ALONE_WORTH:
            break
        for path in entries:
            if value(path, best) > value(path, home[path]):
                home[path] = best
    groups: dict[tuple[str, int], set[str]] = {}
    for path, layer in home.items():
        groups.setdefault(layer, set()).add(path)
    layers: dict[tuple[str, int], set[str]] = {}
    for layer, paths in groups.items():
        if layer[1] >= 0 and sum(map(size.get, paths)) < program.LAYER_COST:
            layer = ("", top)
        layers.setdefault(layer, set()).update(paths)
    return [sorted(paths) for paths in layers.values()]
