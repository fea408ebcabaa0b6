"""Decide which store paths share a layer: run group_layers.py on the closure that Nix exported.

The graph that Nix exports is group_layers.py's input as it is, but for three things. The archive of
the image's root is in it, since what that refers to must be in the image, but goes into no layer;
nor does the file with the references of the configuration.
Store paths that the base image has are not packed again. And paths that the caller has grouped
already leave the grouping when it is done.

Attributes: `exportReferencesGraph.graph`, the roots; `archives` and `references`, those of them
that are no contents; `grouped`, a list of lists of store paths; `maxLayers`, for all layers of the
image; `base`, a base image or null; `popularity`, a file or null; `groupLayers`, the program.
Writes the plan, `[{"contents": [store path, ...]}, ...]` in the order of the image's layers, as
output `out`, and why each layer is one, for people, as output `explain`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import redirect_stderr
from importlib.util import module_from_spec, spec_from_file_location
from io import StringIO

from builder import CREATED_BY, STORE_PATHS, fail, read_attributes
from read_base import find_manifest, read_blob


def without(graph: dict, archives: list[str], present: set[str]) -> dict:
    """Return the graph without `archives` and without the store paths `present` in the base.

    Both are exportReferencesGraph files, as group_layers.py reads them. What an archive refers to
    becomes a root in its place.
    """
    roots = set(graph["exportReferencesGraph"]["graph"])
    entries = []
    for entry in graph["graph"]:
        if entry["path"] in archives:
            roots.update(entry["references"])
        elif entry["path"] not in present:
            kept = [path for path in entry["references"] if path not in present]
            entries.append({**entry, "references": kept})
    roots = roots.difference(archives, present)
    return {"exportReferencesGraph": {"graph": sorted(roots)}, "graph": entries}


def read_base(layout: str | None) -> tuple[int, set[str]]:
    """Return how many layers a base image has, and the store paths that it is known to have.

    Known are those of an image that we built, from its history; a layout of any other is read as
    having none.
    """
    if layout is None:
        return 0, set()
    manifest = read_blob(layout, find_manifest(layout, None))
    present: set[str] = set()
    for entry in read_blob(layout, manifest["config"]).get("history") or []:
        marker, _, paths = entry.get("comment", "").partition(STORE_PATHS)
        if entry.get("created_by") == CREATED_BY and not marker:
            present.update(paths.split())
    return len(manifest["layers"]), present


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


def run_program(file: str, arguments: list[str]) -> str:
    """Run group_layers.py and return what it says on standard error.

    A process of its own would take 97 ms for the plan of 50 store paths instead of 63. Ends the
    build with what it says when it fails.
    """
    specification = spec_from_file_location("group_layers", file)
    program = module_from_spec(specification)
    specification.loader.exec_module(program)
    with redirect_stderr(StringIO()) as said:
        status = program.main(arguments)
    gc.enable()  # off, since the program is made for a short life of its own
    if status != 0:
        sys.exit(said.getvalue().rstrip())
    return said.getvalue()


def plan_layers(attributes: dict, out: str, explain: str) -> list[dict]:
    """Write the plan and its explanation for a derivation's attributes; return the plan."""
    groups, limit = attributes["grouped"], attributes["maxLayers"]
    base_layers, present = read_base(attributes["base"])
    left_out = attributes["archives"] + attributes["references"]
    graph = without(attributes, left_out, present)
    # The last layer holds the image's root; where the image has one layer, the rest as well.
    budget = 1 if limit == 1 else limit - base_layers - len(groups) - 1
    if budget < 1 or (limit == 1 and (base_layers or groups)):
        fail(
            f"maxLayers = {limit} is too few: the base has {base_layers} layers, {len(groups)} are "
            "given, the root takes one and the store paths at least one"
        )
    if not graph["graph"]:
        plan: list[dict] = []
        reasons = "no store paths\n"
    else:
        with open("graph.json", "w", encoding="utf-8") as file:
            json.dump(graph, file)
        arguments = ["--graph", "graph.json", "--out", "plan.json", "--budget", str(budget)]
        if attributes["popularity"]:
            arguments += ["--pop", attributes["popularity"]]
        reasons = run_program(attributes["groupLayers"], [*arguments, "--explain"])
        with open("plan.json", encoding="utf-8") as file:
            plan = set_apart(json.load(file), groups)
    for group in groups:
        names = " ".join(os.path.basename(path)[33:] for path in group)
        reasons += f"in a layer of their own, as given: {names}\n"
    with open(out, "w", encoding="utf-8") as file:
        json.dump(plan, file)
    with open(explain, "w", encoding="utf-8") as file:
        file.write(reasons)
    return plan


def main() -> None:
    attributes = read_attributes()
    outputs = attributes["outputs"]
    plan_layers(attributes, outputs["out"], outputs["explain"])


if __name__ == "__main__":
    main()
