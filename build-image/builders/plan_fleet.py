"""Decide what is in the layers of images that are built together, by group_layers.group_fleet.

The attributes are those of plan_fleet.nix. Writes

    out          {name: [{"contents": [store path, ...]}, ...]}: the layers of each image for the
                 store paths that the caller has not grouped, as `known` of plan_layers.py
    explain      which layers several images share, for people
    explanation  all distinct layers, in the form of group_layers.explain
"""

from __future__ import annotations

import json

from attributes import Caller, read_attributes, read_json, write_json
from group_layers import Layer, format_bytes, group_fleet, read_graph, read_plans, store_name
from plan_layers import read_input, split_budget


def explain_fleet(fleet: dict[str, list[Layer]], sizes: dict[str, int]) -> dict:
    """Return all distinct layers, those that most images share first, and their sizes."""
    images: dict[tuple, list[str]] = {}
    layers = {}
    for name, plan in fleet.items():
        for layer in plan:
            contents = tuple(layer.contents)
            layers[contents] = layer
            images.setdefault(contents, []).append(name)
    order = sorted(layers, key=lambda it: (-len(images[it]), -layers[it].size, it))
    return {
        "paths": len(sizes),
        "size": sum(sizes.values()),
        "layers": [
            {
                "layer": number,
                "size": layers[contents].size,
                "name": layers[contents].name,
                "reason": f"in {len(images[contents])} of {len(fleet)}",
                "contents": [[path, sizes[path]] for path in contents],
                "images": images[contents],
            }
            for number, contents in enumerate(order, 1)
        ],
    }


def format_fleet(explanation: dict) -> str:
    """Return what `explain_fleet` returned as a table for people."""
    lines = ["layer        size  paths  images     named after              in"]
    for layer in explanation["layers"]:
        images = ", ".join(layer["images"])
        lines.append(
            f"{layer['layer']:5} {format_bytes(layer['size']):>11} {len(layer['contents']):6}"
            f"  {layer['reason'][3:]:9}  {store_name(layer['name'])[:23]:23}  "
            + (images if len(images) <= 40 else images[:37] + "...")
        )
    moved = sum(layer["size"] for layer in explanation["layers"])
    lines.append(
        f"{explanation['paths']} different paths, {format_bytes(explanation['size'])}, in"
        f" {len(lines) - 1} different layers, {format_bytes(moved)}"
    )
    return "\n".join(lines)


def main() -> None:
    attributes = read_attributes()

    graphs, budgets = {}, {}
    for name, image in attributes["images"].items():
        roots = attributes["exportReferencesGraph"][f"image-{name}"]
        base_layers = read_json(image["baseLayers"]) if image["baseLayers"] else []
        exported = {"exportReferencesGraph": {"graph": roots}, "graph": attributes[f"image-{name}"]}
        with Caller(f"buildImages: images.{name}"):
            graph, _, budget = split_budget({**image, **exported}, base_layers)
        if graph["graph"]:
            graphs[name], budgets[name] = read_graph(graph), budget
    fleet = group_fleet(graphs, budgets, read_input(attributes, "known", read_plans, []))
    sizes = {path: size for g in graphs.values() for path, size in zip(g.paths, g.nar_sizes)}
    explanation = explain_fleet(fleet, sizes)

    outputs = attributes["outputs"]
    plans = {name: [{"contents": it.contents} for it in fleet[name]] for name in sorted(fleet)}
    with open(outputs["out"], "w", encoding="utf-8") as file:
        file.write(json.dumps(plans, indent=1) + "\n")
    with open(outputs["explain"], "w", encoding="utf-8") as file:
        file.write(format_fleet(explanation) + "\n")
    write_json(outputs["explanation"], explanation)


if __name__ == "__main__":
    main()
