"""Decide which store paths share a layer: run group_layers.py on the closure that Nix exported.

The graph that Nix exports is group_layers.py's input as it is, but for two things. The archive of
the image's root is in it, since what that refers to must be in the image, but goes into no layer.
And paths that the caller has grouped already (`layers`) leave the grouping when it is done.

Attributes: `exportReferencesGraph.graph`, the roots; `archives`, those of them that are no
contents; `grouped`, a list of lists of store paths; `maxLayers`, for all layers of the image;
`base`, a base image or null; `popularity`, a file or null; `groupLayers`, the program.
Writes the plan, `[{"contents": [store path, ...]}, ...]` in the order of the image's layers, as
output `out`, and why each layer is one, for people, as output `explain`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from builder import fail, read_attributes

# What dockerd accepts; some hosts' overlay file systems stop there as well.
LAYER_LIMIT = 125


def without_archives(graph: dict, archives: list[str]) -> dict:
    """Return the graph without `archives`, whose references become roots in their place.

    `graph` and what is returned are exportReferencesGraph files, as group_layers.py reads them.
    """
    roots = set(graph["exportReferencesGraph"]["graph"]).difference(archives)
    entries = []
    for entry in graph["graph"]:
        if entry["path"] in archives:
            roots.update(entry["references"])
        else:
            entries.append(entry)
    roots.difference_update(archives)
    return {"exportReferencesGraph": {"graph": sorted(roots)}, "graph": entries}


def set_apart(plan: list[dict], groups: list[list[str]]) -> list[dict]:
    """Return the plan with each of `groups` as a layer of its own, after the others.

    Of a path that is in two groups the first keeps it; empty layers are left out.
    """
    taken: set[str] = set()
    last = []
    for group in groups:
        last.append(sorted(set(group) - taken))
        taken.update(group)
    layers = [[path for path in layer["contents"] if path not in taken] for layer in plan]
    return [{"contents": contents} for contents in layers + last if contents]


def plan_layers(attributes: dict, out: str, explain: str) -> list[dict]:
    """Write the plan and its explanation for a derivation's attributes; return the plan."""
    archives, groups = attributes["archives"], attributes["grouped"]
    graph = without_archives(attributes, archives)
    # The last layer holds the image's root; with one layer in all it holds the rest as well.
    budget = attributes["maxLayers"] - len(groups)
    if attributes["base"]:
        with open(os.path.join(attributes["base"], "index.json"), encoding="utf-8") as file:
            digest = json.load(file)["manifests"][0]["digest"]
        name = os.path.join(attributes["base"], "blobs", digest.replace(":", "/"))
        with open(name, encoding="utf-8") as file:
            budget -= len(json.load(file)["layers"])
    if budget > 1:
        budget -= 1
    elif budget < 1 or attributes["base"] or groups:
        fail(f"maxLayers = {attributes['maxLayers']} leaves no layer for the store paths")
    if not graph["graph"]:
        plan: list[dict] = []
        reasons = b"no store paths\n"
    else:
        with open("graph.json", "w", encoding="utf-8") as file:
            json.dump(graph, file)
        command = [sys.executable, "-B", attributes["groupLayers"], "--graph", "graph.json"]
        command += ["--out", "plan.json", "--budget", str(budget), "--explain"]
        if attributes["popularity"]:
            command += ["--pop", attributes["popularity"]]
        done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
        reasons = done.stderr
        if done.returncode != 0:
            sys.stderr.buffer.write(reasons)
            sys.exit(1)
        with open("plan.json", encoding="utf-8") as file:
            plan = set_apart(json.load(file), groups)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(plan, file)
    with open(explain, "wb") as file:
        file.write(reasons)
    return plan


def main() -> None:
    attributes = read_attributes()
    outputs = attributes["outputs"]
    plan_layers(attributes, outputs["out"], outputs["explain"])


if __name__ == "__main__":
    main()
