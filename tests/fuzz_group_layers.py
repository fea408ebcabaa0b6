#!/usr/bin/env python3
"""Feed group_layers.py damaged reference graphs: it must refuse them, or plan them rightly.

    tests/fuzz_group_layers.py [--seconds 60] [--seed 1]

Genuine graphs are damaged in their text (bytes lost, doubled, replaced, odd words put in) and in
their structure (values replaced, fields dropped, entries doubled), several times over, and given
to the program together with popularity tables treated alike. Each time it must end with exit
status 0 and a plan that agrees with a plain reading of the same bytes, or with exit status 2, one
line on standard error, and the output file as it was. Whatever else happens ends the run with the
input that did it. The same seed tries the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path += [str(TESTS.parent), str(TESTS / "support")]

import group_layers  # noqa: E402
from nixery_model import nixery_plan, reachable  # noqa: E402

WORDS = [
    *"null true false 0 -1 1.5 1e999 -0 NaN Infinity -Infinity 18446744073709551616".split(),
    *'[] {} [[[[ {"a": "" "\\ud800" "\\u0000" , : " \\ \ufeff \xa0 é'.split(" "),
    *'"path" "narSize" "closureSize" "references" "graph"'.split(),
    *['"path": "x", ', '"narSize": 0, ', "9" * 5000, "[" * 3000, '{"":' * 3000],
]

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**63, 2**64, 10**30, 0.5, 1e300, float("nan")),
    *("", "x", "\ud800", "a\nb", [], {}, [[]], [None], {"path": "x"}),
]


def seeds() -> list[dict]:
    """Return small graphs as Nix writes them."""
    folder = TESTS / "data"
    genuine = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]

    def entry(name: str, size: int, *references: str) -> dict:
        return {
            **{"path": f"/nix/store/{name}", "narSize": size, "closureSize": size, "valid": True},
            **{"references": [f"/nix/store/{reference}" for reference in references]},
        }

    return [
        *genuine,
        {
            "exportReferencesGraph": {"graph": ["/nix/store/1a-app", "/nix/store/2b-tool"]},
            "graph": [
                entry("1a-app", 10, "1a-app", "3c-libc", "4d-data"),
                entry("2b-tool", 20, "3c-libc"),
                entry("3c-libc", 200_000_000, "3c-libc"),
                entry("4d-data", 30),
            ],
            "outputs": {"out": "/nix/store/5e-plan"},
        },
    ]


def damage_structure(chance: random.Random, document: object) -> object:
    """Return a copy in which one place is replaced, dropped, doubled or moved."""
    document = copy.deepcopy(document)
    places = []
    todo = [document] if isinstance(document, (dict, list)) else []
    while todo:
        part = todo.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part))
        for key in keys:
            places.append((part, key))
            if isinstance(part[key], (dict, list)):
                todo.append(part[key])
    if not places:
        return chance.choice(VALUES)
    part, key = chance.choice(places)
    action = chance.randrange(4)
    if action == 0:
        part[key] = copy.deepcopy(chance.choice(VALUES))
    elif action == 1:
        del part[key]
    elif action == 2:
        other, place = chance.choice(places)
        part[key] = copy.deepcopy(other[place]) if _holds(other, place) else None
    elif isinstance(part, list):
        part.insert(chance.randrange(len(part) + 1), copy.deepcopy(part[key]))
    return document


def _holds(part: dict | list, key: Any) -> bool:
    return key in part if isinstance(part, dict) else key < len(part)


def damage_text(chance: random.Random, text: bytes) -> bytes:
    start = chance.randrange(len(text) + 1)
    end = min(len(text), start + int(chance.expovariate(1 / 8)))
    action = chance.randrange(5)
    if action == 0:
        return text[:start] + text[end:]
    if action == 1:
        return text[:start] + 2 * text[start:end] + text[end:]
    if action == 2:
        return text[:start] + bytes([chance.randrange(256)]) + text[start + 1 :]
    if action == 3:
        word = chance.choice(WORDS).encode("utf-8", "surrogatepass")
        return text[:start] + word + text[end:]
    return text[:start]


def damaged(chance: random.Random, document: object) -> bytes:
    for _ in range(chance.choice([0, 0, 1, 1, 1, 2, 3])):
        document = damage_structure(chance, document)
    text = json.dumps(document, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1]))
    content = text.encode("utf-8", "surrogatepass")
    for _ in range(chance.choice([0, 0, 1, 1, 2, 5])):
        content = damage_text(chance, content)
    return content


def disagreement(content: bytes, table: bytes, arguments: dict, plan: list) -> str | None:
    """Say how an accepted plan differs from a plain reading of its input."""
    document, popularity = json.loads(content.decode()), json.loads(table.decode())
    entries = {entry["path"]: entry for entry in document["graph"]}
    roots = document["exportReferencesGraph"]["graph"]
    contents = [layer["contents"] for layer in plan]
    placed = [path for paths in contents for path in paths]
    if len(placed) != len(set(placed)) or set(placed) != set(entries):
        return "not every path is in exactly one layer"
    if not 1 <= len(contents) <= arguments["budget"]:
        return "the budget is not kept"
    if not roots or not entries.keys() >= set(roots):
        return "the roots are not in the graph"
    for entry in document["graph"]:
        for size in entry["narSize"], entry["closureSize"]:
            if type(size) is not int or size < 0:
                return "a size that is none was accepted"
        if not entries.keys() >= set(entry["references"]):
            return "a reference that is not in the graph was accepted"
    unique = list(entries.values())
    if arguments["strategy"] == "nixery" and reachable(unique, roots) == entries.keys():
        document = {"exportReferencesGraph": {"graph": roots}, "graph": unique}
        if contents != nixery_plan(document, arguments["budget"], popularity):
            return "the decisions are not those of the original"
    return None


def fuzz(seed: int, inputs: int = sys.maxsize, seconds: float = float("inf")) -> dict[int, int]:
    """Try inputs until there were enough, or the time is over; return how many had which status.

    Raises `AssertionError` with what went wrong and the input, or what the program raised.
    """
    chance = random.Random(seed)
    documents = seeds()
    statuses = {0: 0, 2: 0}
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        graph, table, out = (Path(folder, name) for name in ("graph", "table", "out"))
        while sum(statuses.values()) < inputs and time.monotonic() < until:
            content = damaged(chance, chance.choice(documents))
            counts = {"libc": 5000, "app": 2} if chance.random() < 0.7 else {}
            popularity = (
                damaged(chance, counts) if chance.random() < 0.3 else json.dumps(counts).encode()
            )
            arguments = {
                "budget": chance.choice([1, 2, 3, 94]),
                "strategy": chance.choice(sorted(group_layers.STRATEGIES)),
            }
            graph.write_bytes(content)
            table.write_bytes(popularity)
            out.write_text("as it was")
            command = ["--graph", graph, "--pop", table, "--out", out]
            command += [word for name, value in arguments.items() for word in (f"--{name}", value)]
            if chance.random() < 0.3:
                command += ["--explain", "--explain-json", "/dev/null"]
            errors = io.StringIO()
            problem: str | None = "it raised"
            try:
                with contextlib.redirect_stderr(errors):
                    status = group_layers.main(list(map(str, command)))
                if status == 0:
                    plan = json.loads(out.read_text())
                    problem = disagreement(content, popularity, arguments, plan)
                elif status != 2 or errors.getvalue().count("\n") != 1:
                    problem = f"exit status {status}, and said {errors.getvalue()!r}"
                else:
                    kept = out.read_text() == "as it was" and len(list(Path(folder).iterdir())) == 3
                    problem = None if kept else "the output was touched"
            finally:
                if problem:
                    print(f"{problem}: {arguments}\n{content!r}\n{popularity!r}", file=sys.stderr)
            assert problem is None, problem
            statuses[status] += 1
    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()
    statuses = fuzz(arguments.seed, seconds=arguments.seconds)
    print(f"{sum(statuses.values())} inputs: {statuses[0]} planned, {statuses[2]} refused")


if __name__ == "__main__":
    main()
