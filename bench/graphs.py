#!/usr/bin/env python3
"""Make reference graphs of any size, as Nix would export them.

    graphs.py PATHS > graph.json

The same number gives the same bytes on every machine. The graphs look like the closures of big
images: a few libraries that nearly everything needs, many leaves that one package needs, about ten
references per path, sizes from a hundred bytes to sixteen megabytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from typing import TextIO

# A graph without names: the references of each path, to earlier ones, by number.
References = list[list[int]]


def closure(count: int) -> References:
    """Ecosystems of 400 paths on a common core: most references stay within one, some do not."""
    draw = random.Random(f"closure {count}").random
    references: References = []
    for path in range(count):
        first = path - path % 400
        wanted = int(1 + 20 * draw() ** 2) if path else 0
        core = min(path, 300)
        targets = {int(core * draw() ** 4) for _ in range((wanted + 1) // 2)}
        targets |= {first + int((path - first) * draw() ** 0.8) for _ in range(wanted // 2)}
        if path and draw() < 0.02:
            targets.add(int(path * draw()))
        if draw() < 0.5:
            targets.add(path)
        references.append(sorted(targets))
    return references


def write_graph(file: TextIO, count: int) -> None:
    """Write a graph entry by entry: a million paths should not be held in memory."""
    references = closure(count)
    digests = [hashlib.sha256(b"%d" % path).hexdigest() for path in range(count)]
    paths = [
        f"/nix/store/{digest[:32]}-package{path}-1.{path % 10}"
        for path, digest in enumerate(digests)
    ]
    draw = random.Random(f"sizes closure {count}").random
    sizes = [int(100 * 10 ** (5.2 * draw() ** 3)) for _ in range(count)]
    # A bound is enough here, the true sum would take quadratic time: the largest of what it needs.
    closure_sizes = sizes[:]
    for path, targets in enumerate(references):
        closure_sizes[path] += max((closure_sizes[t] for t in targets if t < path), default=0)
    needed = {
        target for path, targets in enumerate(references) for target in targets if target < path
    }
    roots = [paths[path] for path in reversed(range(count)) if path not in needed]
    file.write(f'{{"exportReferencesGraph": {json.dumps({"graph": roots})},\n"graph": [\n')
    for position, path in enumerate(sorted(range(count), key=paths.__getitem__)):
        row = {
            "closureSize": closure_sizes[path],
            "narHash": f"sha256:{digests[path][:52]}",
            "narSize": sizes[path],
            "path": paths[path],
            "references": sorted(paths[target] for target in references[path]),
        }
        file.write((",\n" if position else "") + json.dumps(row))
    file.write("\n]}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=int, metavar="PATHS")
    arguments = parser.parse_args()
    write_graph(sys.stdout, arguments.paths)
