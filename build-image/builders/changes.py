"""Compare two images: which layers are new, what is new in them, and which change caused which.

An image is known by what every registry has: the manifest, which has the layers' sizes, and the
configuration, whose history names the store paths in each layer (describe_image.py). Why a path is
new follows from the reference graph of the newer image: a store path changes when its own inputs
change, or when one of those that it refers to does. Paths of the same name and version are rebuilt,
and what they were rebuilt for is each package among their references whose version is another.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from group_layers import format_bytes
from store_names import parse_store_path

# A store path in a comment of the history, of this project or of other builders
STORE_PATH = re.compile(r"/[\w./-]*?/[0-9a-df-np-sv-z]{32}-[\w.+?=-]+", re.ASCII)

# Tables have as many rows, for a comment that people read; JSON has all.
MAXIMUM_ROWS = 20
MAXIMUM_NAMES = 4

Graph = Mapping[str, Collection[str]]  # the references of each path


@dataclass(frozen=True)
class Layer:
    """A layer of an image. Of one that only a plan describes, nothing but the contents is known."""

    contents: frozenset[str]  # store paths
    digest: str = ""
    diff_id: str = ""
    size: int = 0  # bytes, compressed
    comment: str = ""  # what else is in it

    def is_in(self, others: Iterable[Layer]) -> bool:
        """Return whether one of `others` is the same layer, for all that is known."""
        return any(
            self.diff_id == other.diff_id
            if other.diff_id
            else bool(self.contents) and self.contents == other.contents
            for other in others
        )


def read_image(manifest: dict[str, Any], config: dict[str, Any]) -> list[Layer]:
    """Return the layers of an image from its manifest and its configuration, the lowest first."""
    history = [entry for entry in config.get("history") or [] if not entry.get("empty_layer")]
    descriptors, diff_ids = manifest["layers"], config["rootfs"]["diff_ids"]
    comments = [entry.get("comment", "") for entry in history]
    if len(comments) != len(descriptors):  # a history is not required
        comments = [""] * len(descriptors)
    return [
        Layer(
            frozenset(STORE_PATH.findall(comment)),
            descriptor["digest"],
            diff_id,
            descriptor["size"],
            comment,
        )
        for descriptor, diff_id, comment in zip(descriptors, diff_ids, comments)
    ]


def read_plan(plan: list[dict[str, Any]]) -> list[Layer]:
    """Return the layers of a plan, [{"contents": [path, ...]}, ...]."""
    return [Layer(frozenset(layer["contents"])) for layer in plan]


def platform_of(config: dict[str, Any]) -> str:
    """Return what an image is for, such as linux/arm/v7, from its configuration."""
    return "/".join(filter(None, map(config.get, ("os", "architecture", "variant"))))


def read_references(path: str) -> dict[str, list[str]]:
    """Return the reference graph from a CycloneDX document (write_sbom.py), or a folder of them."""
    names = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
    documents = [read_json(os.path.join(path, name).rstrip("/")) for name in names]
    return {row["ref"]: row["dependsOn"] for it in documents for row in it["dependencies"]}


def read_json(file: str) -> Any:
    """Return what a JSON file holds."""
    with open(file, encoding="utf-8") as opened:
        return json.load(opened)


def count(layers: Iterable[Layer]) -> dict[str, int]:
    """Return how many layers these are, and how many bytes."""
    sizes = [layer.size for layer in layers]
    return {"layers": len(sizes), "bytes": sum(sizes)}


def above_common(new: list[Layer], old: list[Layer]) -> list[Layer]:
    """Return the layers of an image above those at its bottom that another one has there, too."""
    shared = 0
    while shared < min(len(new), len(old)) and new[shared].is_in([old[shared]]):
        shared += 1
    return new[shared:]


def reach(path: str, graph: Graph, within: Collection[str]) -> set[str]:
    """Return the paths of `within` that `path` needs by way of others of them, and itself."""
    found, pending = {path}, [path]
    while pending:
        for reference in graph.get(pending.pop(), ()):
            if reference in within and reference not in found:
                found.add(reference)
                pending.append(reference)
    return found


def label(path: str) -> str:
    """Return a store path's name and version for people.

    >>> label("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-openssl-3.0.13-bin")
    'openssl 3.0.13'
    """
    name, version, _ = parse_store_path(path)
    return f"{name} {version}".strip()


def versions_of(paths: Iterable[str]) -> dict[str, set[str]]:
    """Return the versions of each package among store paths."""
    versions: dict[str, set[str]] = {}
    for path in paths:
        name, version, _ = parse_store_path(path)
        versions.setdefault(name, set()).add(version)
    return versions


def compare_packages(new: Collection[str], old: Collection[str], graph: Graph) -> dict[str, Any]:
    """Return what differs between two sets of store paths, package by package, and why.

        changed  [{"name", "old": versions, "new": versions, "rebuilt": paths}]
        new      [{"name", "new": versions, "rebuilt": paths}], of names that were not there
        gone     [{"name", "old": versions}], of names that are not there
        rebuilt  [{"name", "version", "path", "because": labels}]: same name and version as before

    `rebuilt` of a package are the paths that need it. Where no other version is the reason, it is
    the lowest path that changed; without a reason, a path is changed itself: its source, or how it
    is built.
    """
    added, removed = set(new) - set(old), set(old) - set(new)
    before, now = versions_of(old), versions_of(new)
    parsed = {path: parse_store_path(path) for path in added}
    moved = {
        path for path in added if parsed[path].version not in before.get(parsed[path].name, ())
    }
    reached = {path: reach(path, graph, added) for path in added}
    lowest = {path for path in added if reached[path] == {path}}
    causes = {
        path: reached[path] & moved or (reached[path] & lowest) - {path}
        for path in sorted(added - moved)
    }

    def users(name: str) -> list[str]:
        return [
            path
            for path, found in causes.items()
            if any(cause in moved and parsed[cause].name == name for cause in found)
        ]

    changes: dict[str, Any] = {"changed": [], "new": [], "gone": []}
    for name in sorted({*versions_of(moved), *versions_of(removed)}):
        fresh = sorted(now.get(name, set()) - before.get(name, set()))
        lost = sorted(before.get(name, set()) - now.get(name, set()))
        if fresh and name in before:
            entry = {"name": name, "old": lost or sorted(before[name]), "new": fresh}
            changes["changed"].append({**entry, "rebuilt": users(name)})
        elif fresh:
            changes["new"].append({"name": name, "new": fresh, "rebuilt": users(name)})
        elif lost:
            changes["gone"].append({"name": name, "old": lost})
    changes["rebuilt"] = [
        {
            "name": parsed[path].name,
            "version": parsed[path].version,
            "path": path,
            "because": sorted({label(cause) for cause in found}),
        }
        for path, found in causes.items()
    ]
    return changes


def compare(
    new: Mapping[str, list[Layer]],
    old: Mapping[str, list[Layer]] | None,
    graph: Graph,
    lacking: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return how an image differs from another one, as JSON has it.

    `new` and `old` have the layers of the image for each platform; `old` is None if there is none.
    `lacking` are digests of the layers that a destination does not have; without it, the older
    image is the destination. Sizes are bytes of compressed layers.

        layers        [{"platform", "number", "digest", "size", "there", "contents", "new": paths}]
        send          {"layers", "bytes"}: what the destination lacks, each layer once
        pull          {platform: {"layers", "bytes"}}: what a host pulls that has the older image
        pullByPrefix  the same for hosts that keep chains of layers, as docker's own store does:
                      all from the first that differs
        packages      what compare_packages returns, or null if there is no older image
    """
    before = {
        path for layers in (old or {}).values() for layer in layers for path in layer.contents
    }
    now = {path for layers in new.values() for layer in layers for path in layer.contents}
    rows, send, pull, pull_by_prefix = [], {}, {}, {}
    for platform, layers in new.items():
        below = (old or {}).get(platform, [])
        for number, layer in enumerate(layers, 1):
            there = layer.is_in(below) if lacking is None else layer.digest not in lacking
            if not there:
                send[layer.digest] = layer
            rows.append(
                {
                    "platform": platform,
                    "number": number,
                    "digest": layer.digest,
                    "size": layer.size,
                    "there": there,
                    "contents": sorted(layer.contents) or [layer.comment],
                    "new": sorted(layer.contents - before),
                }
            )
        pull[platform] = count(layer for layer in layers if not layer.is_in(below))
        pull_by_prefix[platform] = count(above_common(layers, below))
    return {
        "layers": rows,
        "send": count(send.values()),
        "pull": pull,
        "pullByPrefix": pull_by_prefix,
        "packages": None if old is None else compare_packages(now, before, graph),
    }


def shorten(parts: list[str], maximum: int) -> list[str]:
    """Return `parts`, or the first of them and how many more there are."""
    return parts if len(parts) <= maximum else [*parts[:maximum], f"{len(parts) - maximum} more"]


def format_row(row: dict[str, Any]) -> str:
    """Return the row of a layer in a table."""
    names = sorted({label(path) for path in row["new"]})
    if not names:
        only_known = [path for path in row["contents"] if not STORE_PATH.match(path)]
        names = only_known or ["nothing: what was in other layers"]
    text = ", ".join(shorten(names, MAXIMUM_NAMES))
    return f"| {row['number']} | {format_bytes(row['size'])} | {text} |"


def format_packages(packages: dict[str, Any]) -> list[str]:
    """Return a line for each package that differs, and for those that were rebuilt for no other."""

    def consequence(paths: list[str]) -> str:
        return f", and {plural(len(paths), 'path')} rebuilt for it" if paths else ""

    lines = [
        f"{entry['name']} {', '.join(entry['old'])} -> {', '.join(entry['new'])}"
        + consequence(entry["rebuilt"])
        for entry in packages["changed"]
    ]
    lines += [
        f"{' '.join([entry['name'], ', '.join(entry['new'])]).strip()} is new"
        + consequence(entry["rebuilt"])
        for entry in packages["new"]
    ]
    lines += [
        f"{' '.join([entry['name'], ', '.join(entry['old'])]).strip()} is gone"
        for entry in packages["gone"]
    ]
    own = [entry for entry in packages["rebuilt"] if not entry["because"]]
    for entry in own:
        name = f"{entry['name']} {entry['version']}".strip()
        users = [other["path"] for other in packages["rebuilt"] if name in other["because"]]
        lines.append(f"{name}: its source or its build has changed{consequence(users)}")
    return lines


def plural(number: int, word: str) -> str:
    """Return a number of things.

    >>> plural(1, "layer"), plural(2, "path")
    ('1 layer', '2 paths')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


def format_report(report: dict[str, Any], title: str) -> str:
    """Return what `compare` returned for people, in Markdown."""
    packages = report["packages"]

    def amount(counted: dict[str, int]) -> str:
        return f"{plural(counted['layers'], 'layer')}, {format_bytes(counted['bytes'])}"

    platforms = report["pull"]
    send = report["send"]
    total = plural(len({row["digest"] for row in report["layers"]}), "layer")
    sent = f"{send['layers']} of {total} to send, {format_bytes(send['bytes'])}"
    lines = [f"**{title}**: {sent}.", ""]
    if packages is None:
        lines[0] += " There is no older image."
    else:
        for platform in platforms:
            who = "A host that has" if len(platforms) == 1 else f"On {platform}, a host that has"
            lines[0] += (
                f" {who} the older image pulls {amount(report['pull'][platform])};"
                f" with docker's own store, {amount(report['pullByPrefix'][platform])}."
            )
    missing = [row for row in report["layers"] if not row["there"]]
    if missing:
        shown = sorted(missing, key=lambda row: -row["size"])[:MAXIMUM_ROWS]
        lines += ["| layer | size | new in it |", "|---:|---:|---|"]
        lines += [format_row(row) for row in missing if row in shown]
        rest = [row for row in missing if row not in shown]
        if rest:
            size = format_bytes(sum(row["size"] for row in rest))
            lines.append(f"| {len(rest)} more | {size} | |")
        there = [row for row in report["layers"] if row["there"]]
        if there:
            size = format_bytes(sum(row["size"] for row in there))
            lines.append(f"| {len(there)} others | {size} | there already |")
        lines.append("")
    if packages is not None:
        differences = format_packages(packages)
        lines += [f"- {line}" for line in shorten(differences, MAXIMUM_ROWS)]
        lines += [] if differences else ["All packages are the same."]
    return "\n".join(lines).rstrip() + "\n"
