"""Decide what is in each layer of an image, by group_layers.py on the closure that Nix exported.

The graph that Nix exports is the input of group_layers.py, with three changes. It contains the
archives of the image's root and of its Nix database, since what they refer to must be in the image,
but these have layers of their own, and the file with the references of the configuration goes into
no layer. Store paths of the base image are not packed again. And paths that the caller has grouped
are removed from the planned layers. The budget for the others is `maxLayers` without the layers of
the base image, those that the caller has grouped, and the archives.

The attributes are those of plan_layers.nix. Writes

    out          [{"contents": [store path, ...]}, ..., {"contents": [], "archive": file}, ...]:
                 all layers of the image in order, except those of the base
    explain      the reason for each layer, for people
    explanation  the same as JSON, as group_layers.explain has it; the base's layers are in it, too
"""

from __future__ import annotations

import json
import os

from attributes import fail, read_attributes, read_json, write_json
from group_layers import (
    GraphError,
    Layer,
    explain,
    format_explanation,
    group_fleet,
    read_file,
    read_graph,
    read_plans,
    read_popularity,
    store_name,
)
from nar import in_base_16

TYPE_CHECKING = False  # as typing has it, which is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from layer import LayerDescription

    T = TypeVar("T")


def find_present(graph: list[dict], base_layers: list[LayerDescription]) -> set[str]:
    """Return the store paths of the graph that a base image has with the same contents.

    Their names alone would be believed of any file that is called like that.
    """
    known = {
        (path, nar_hash)
        for layer in base_layers
        for path, nar_hash in zip(layer["storePaths"], layer["narHashes"])
    }
    return {
        entry["path"] for entry in graph if (entry["path"], in_base_16(entry["narHash"])) in known
    }


def select_graph(attributes: dict, present: set[str]) -> dict:
    """Return the graph of the store paths to pack: no archives, nothing that is `present`.

    The attributes and what is returned are exportReferencesGraph files, as group_layers.py reads
    them. What an archive refers to becomes a root in its place, and so does what only paths refer
    to that are not packed.
    """
    left_out = attributes["archives"] + attributes["references"]
    roots = set(attributes["exportReferencesGraph"]["graph"])
    entries = []
    for entry in attributes["graph"] if attributes["includeStorePaths"] else []:
        if entry["path"] in left_out:
            roots.update(entry["references"])
        elif entry["path"] not in present:
            kept = [path for path in entry["references"] if path not in present]
            entries.append({**entry, "references": kept})
    roots = roots.difference(left_out, present)
    needed = {path for entry in entries for path in entry["references"] if path != entry["path"]}
    roots.update(entry["path"] for entry in entries if entry["path"] not in needed)
    return {"exportReferencesGraph": {"graph": sorted(roots)}, "graph": entries}


def assign_groups(groups: list[list[str]], entries: list[dict]) -> list[list[str]]:
    """Return the contents of a layer for each of `groups`, without empty ones.

    If a path is in two groups, the first one keeps it. Paths that are not among `entries` are not
    packed.
    """
    remaining = {entry["path"] for entry in entries}
    layers = []
    for group in groups:
        layers.append(sorted(remaining.intersection(group)))
        remaining.difference_update(group)
    return list(filter(None, layers))


def replace_contents(layers: list[Layer], groups: list[list[str]], entries: list[dict]) -> list:
    """Return the layers without the paths in `groups`, followed by a layer for each group."""
    sizes = {entry["path"]: entry["narSize"] for entry in entries}
    grouped = {path for group in groups for path in group}
    changed = [
        (layer, [path for path in layer.contents if path not in grouped]) for layer in layers
    ]
    # Named after its largest path.
    changed += [
        (Layer(group, 0, max(group, key=sizes.__getitem__), "given"), group) for group in groups
    ]
    return [
        layer._replace(contents=contents, size=sum(map(sizes.__getitem__, contents)))
        for layer, contents in changed
        if contents
    ]


def split_budget(
    attributes: dict, base_layers: list[LayerDescription]
) -> tuple[dict, list[list[str]], int]:
    """Return the graph to group, the caller's groups, and the budget for the rest.

    Ends the build with one line if there are too few layers.
    """
    graph = select_graph(attributes, find_present(attributes["graph"], base_layers))
    entries = graph["graph"]
    groups = assign_groups(attributes["groups"], entries)
    needed = {
        "its base image": len(base_layers),
        "the layers given": len(groups),
        "its root, with the Nix database if there is one": len(attributes["archives"]),
    }
    budget = attributes["maxLayers"] - sum(needed.values())
    least = 1 if entries else 0
    if budget < least:
        needs = ", ".join(f"{count} for {what}" for what, count in needed.items() if count)
        rest = ", and at least 1 for its store paths" if entries else ""
        fail(
            f"maxLayers = {attributes['maxLayers']} is too few: the image needs {needs}{rest}: "
            f"write at least {sum(needed.values()) + least}"
        )
    return graph, groups, budget


def read_input(attributes: dict, argument: str, read: Callable[[Any], T], default: T) -> T:
    """Return what is in the file that an attribute names, or the default if that is null."""
    name = attributes[argument]
    try:
        return default if name is None else read_file(name, read)
    except GraphError as error:
        # The user's name of the file, without that of the store
        fail(f"{argument}, {str(error).replace(name, store_name(name), 1)}")


def group_paths(attributes: dict, base_layers: list[LayerDescription]) -> dict:
    """Return the explanation, as group_layers.explain has it, of the layers with store paths."""
    graph, groups, budget = split_budget(attributes, base_layers)
    if not graph["graph"]:
        return {"paths": 0, "layers": []}
    popularity = read_input(attributes, "popularity", read_popularity, None)
    known: list[list[list[str]]] = read_input(attributes, "known", read_plans, [])
    read = read_graph(graph)
    layers = group_fleet({"image": read}, {"image": budget}, known, popularity)["image"]
    return explain(read, budget, replace_contents(layers, groups, graph["graph"]))


def explain_image(attributes: dict, base_layers: list[LayerDescription], grouped: dict) -> dict:
    """Return the explanation `grouped` of the store paths, with the image's other layers added."""

    def explain_file(size: int, name: str, reason: str) -> dict:
        nothing: dict = {"contents": [], "spares": None, "neededBy": []}
        return {"size": size, "name": name, "reason": reason, **nothing}

    layers = [explain_file(layer["size"], layer["digest"], "base") for layer in base_layers]
    layers += grouped["layers"]
    layers += [
        explain_file(os.path.getsize(archive), archive, "archive")
        for archive in attributes["archives"]
    ]
    sizes = [layer["size"] for layer in layers]
    return {
        "budget": attributes["maxLayers"],
        "unused": attributes["maxLayers"] - len(layers),
        "paths": grouped["paths"],
        "size": sum(sizes),
        "largestShare": round(max(sizes) / (sum(sizes) or 1), 4),
        "layers": [{**layer, "layer": number} for number, layer in enumerate(layers, 1)],
    }


def main() -> None:
    attributes = read_attributes()
    base_layers = read_json(attributes["baseLayers"]) if attributes["baseLayers"] else []
    grouped = group_paths(attributes, base_layers)
    explanation = explain_image(attributes, base_layers, grouped)
    plan = [{"contents": [path for path, _ in row["contents"]]} for row in grouped["layers"]]
    plan += [{"contents": [], "archive": archive} for archive in attributes["archives"]]

    outputs = attributes["outputs"]
    # Not `write_json`: a plan keeps alive what it names, so that the evaluation can rely on it.
    with open(outputs["out"], "w", encoding="utf-8") as file:
        json.dump(plan, file)
    with open(outputs["explain"], "w", encoding="utf-8") as file:
        file.write(format_explanation(explanation) + "\n")
    write_json(outputs["explanation"], explanation)


if __name__ == "__main__":
    main()
