"""Say how an image differs from an older one, without a registry: the report of changes.py.

The attributes are those of compare_images.nix. Writes as `out` the report for people, in Markdown,
and as `json` the same for programs.
"""

from __future__ import annotations

import os
from typing import Any

from attributes import fail, read_attributes, write_json
from changes import (
    Layer,
    compare,
    format_report,
    platform_of,
    read_image,
    read_json,
    read_plan,
    read_references,
)


def read_documents(folder: str) -> dict[str, list[Layer]]:
    """Return the layers by platform of an image or an index from its documents."""
    images = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith("config.json"):
            config = read_json(os.path.join(folder, name))
            manifest = read_json(os.path.join(folder, name.replace("config", "manifest")))
            images[platform_of(config)] = read_image(manifest, config)
    return images


def read_older_plan(file: str, name: str) -> list[Layer]:
    """Return the layers of a plan, or those that a fleet's lock has for the image `name`."""
    try:
        plan: Any = read_json(file)
        if isinstance(plan, dict):
            if name not in plan:
                fail(f"{file} has plans of {', '.join(sorted(plan))}, and none of {name}")
            plan = plan[name]
        return read_plan(plan)
    except (KeyError, TypeError, ValueError):
        expected = '[{"contents": [PATH, ...]}, ...]'
        fail(f"{file} is not a plan: expected {expected} or a fleet's lock")


def main() -> None:
    attributes = read_attributes()
    new, older = read_documents(attributes["documents"]), attributes["older"]
    if "documents" in older:
        old = read_documents(older["documents"])
    else:
        layers = read_older_plan(older["plan"], os.path.basename(attributes["imageName"]))
        old = dict.fromkeys(new, layers)
    report = compare(new, old, read_references(attributes["sbom"]))
    title = f"{attributes['imageName']}:{attributes['tag']}"
    with open(attributes["outputs"]["out"], "w", encoding="utf-8") as file:
        file.write(format_report(report, title))
    write_json(attributes["outputs"]["json"], report)


if __name__ == "__main__":
    main()
