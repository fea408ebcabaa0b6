#!/usr/bin/env python3
"""Group a graph with Nixery's decisions, the way a pipeline around a graph library does it.

    dominator_peers.py networkx|igraph GRAPH OUT [BUDGET]

JSON into a graph object, dominators from the library, layers from those: the straightforward
program, for speed.py to compare group_layers.py with. Same input, same decisions (no popularity
table), same order, same JSON.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence

IMAGE = ""  # the vertex that refers to the root edges; no store path has this name
LARGE = 100_000_000  # bytes of closure; what has more gets a root edge


def edges(document: dict) -> Iterator[tuple[str, str]]:
    """Yield the references of the graph and the root edges of its image."""
    for entry in document["graph"]:
        for reference in entry["references"]:
            yield entry["path"], reference
        if entry["closureSize"] > LARGE:
            yield IMAGE, entry["path"]
    for root in document["exportReferencesGraph"]["graph"]:
        yield IMAGE, root


def networkx_dominators(document: dict) -> dict[str, str]:
    """Return the immediate dominator of each path that the image reaches."""
    import networkx

    graph = networkx.DiGraph(edges(document))
    dominators = networkx.immediate_dominators(graph, IMAGE)
    return {path: above for path, above in dominators.items() if path != IMAGE}


def igraph_dominators(document: dict) -> dict[str, str]:
    """Return the immediate dominator of each path that the image reaches."""
    import igraph

    graph = igraph.Graph.TupleList(edges(document), directed=True)
    names = graph.vs["name"]
    dominators = graph.dominator(names.index(IMAGE), mode="out")
    return {names[v]: names[above] for v, above in enumerate(dominators) if above >= 0}


def group(document: dict, dominators: dict[str, str], budget: int) -> list[list[str]]:
    """Return the layers: what each child of the image dominates, the lowest rated merged."""
    heads = {}
    for start in dominators:
        trail, path = [], start
        while path not in heads and dominators[path] != IMAGE:
            trail.append(path)
            path = dominators[path]
        heads.update(dict.fromkeys([*trail, path], heads.get(path, path)))
    layers: dict[str, list[str]] = {}
    ratings: dict[str, int] = {}
    unreached = []
    for entry in document["graph"]:
        path = entry["path"]
        if path not in heads:
            unreached.append(path)
            continue
        head = heads[path]
        layers.setdefault(head, []).append(path)
        ratings[head] = ratings.get(head, 0) + entry["closureSize"]

    def rank(head: str) -> tuple[int, str, str]:
        return ratings[head], re.sub("^/nix/store/[a-z0-9]+-", "", head), head

    ranked = [layers[head] for head in sorted(layers, key=rank)]
    if unreached:
        ranked.insert(0, unreached)
    excess = max(len(ranked) - budget, 0)
    merged = [path for layer in ranked[: excess + 1] for path in layer]
    return [sorted(layer) for layer in [merged, *ranked[excess + 1 :]]]


def main(arguments: Sequence[str]) -> None:
    library, graph, out, *budget = arguments
    find = {"networkx": networkx_dominators, "igraph": igraph_dominators}[library]
    with open(graph, encoding="utf-8") as file:
        document = json.load(file)
    layers = group(document, find(document), int(*budget or [94]))
    with open(out, "w", encoding="utf-8") as file:
        json.dump([{"contents": contents} for contents in layers], file)


if __name__ == "__main__":
    main(sys.argv[1:])
