#!/usr/bin/env python3
"""Make reference graphs of any size and shape, as Nix would export them.

    graphs.py SHAPE PATHS > graph.json

The same arguments give the same bytes on every machine. `closure` and its variants look like the
closures of big images: a few libraries that nearly everything needs, many leaves that one package
needs, about ten references per path, sizes from a hundred bytes to sixteen megabytes. The others
are shapes that are hard for dominator algorithms, depth-first search, or sorting.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

__all__ = ["SHAPES", "Shape", "entries", "write_graph"]


class Shape(NamedTuple):
    """A graph without names. Path 0 is the first one; later ones refer to it."""

    references: list[list[int]]
    roots: list[int]
    order: str = (
        "sorted"  # of the entries: sorted (as Nix does), shuffled, topological (users first)
    )


def closure(count: int, order: str = "sorted", cycles: bool = False) -> Shape:
    """Ecosystems of 400 paths on a common core: most references stay within one, some do not."""
    draw = random.Random(f"closure {count}").random
    references: list[list[int]] = []
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
        if cycles and draw() < 0.02:
            targets.add(min(count - 1, path + 1 + int(200 * draw())))
        references.append(sorted(targets))
    roots, reached = [], set()
    for path in reversed(range(count)):
        if path not in reached:
            roots.append(path)
            todo = [path]
            while todo:
                needed = todo.pop()
                if needed not in reached:
                    reached.add(needed)
                    todo += references[needed]
    return Shape(references, roots, order)


def chain(count: int) -> Shape:
    """Each path needs the next, and nothing else."""
    return Shape([[path - 1] if path else [] for path in range(count)], [count - 1])


def star(count: int) -> Shape:
    """One path needs all others."""
    return Shape([[]] * (count - 1) + [list(range(count - 1))], [count - 1])


def ladder(count: int) -> Shape:
    """Each path needs the next two."""
    return Shape(
        [[p for p in (path - 1, path - 2) if p >= 0] for path in range(count)], [count - 1]
    )


def diamonds(count: int) -> Shape:
    """A chain of diamonds: one path needs two, both need the next one."""
    step = [lambda p: [p - 1], lambda p: [p - 2], lambda p: [p - 1, p - 2]]
    references = [step[(path - 1) % 3](path) if path else [] for path in range(count)]
    last = count - 1
    return Shape(references, [last] if (last % 3 == 0) else [last, max(last - 1, 0)])


def comb(count: int) -> Shape:
    """A chain of half the paths, each with a tooth that a path next to the root needs as well.

    The dominators of a tooth are those of a deep path and of a shallow one.
    """
    half = (count - 2) // 2
    spine = [[path - 1, half + path] if path else [half] for path in range(half)]
    teeth: list[list[int]] = [[] for _ in range(half)]
    shallow = list(range(half, 2 * half))
    return Shape([*spine, *teeth, shallow, [half - 1, 2 * half]], [2 * half + 1])


def two_chains(count: int) -> Shape:
    """Two chains from one path, with a path that both need at each length."""
    third = (count - 1) // 3
    references: list[list[int]] = [[] for _ in range(third)]
    for chain_start in (third, 2 * third):
        references += [[link, chain_start + link - 1] if link else [link] for link in range(third)]
    references.append([2 * third - 1, 3 * third - 1])
    return Shape(references, [3 * third])


def both_directions(count: int) -> Shape:
    """A chain with references both ways, entered at both ends: iteration takes as many passes."""
    near = [[p for p in (path - 1, path + 1) if 0 <= p < count] for path in range(count)]
    return Shape(near, [count - 1, 0])


def worst_order(count: int) -> Shape:
    """Many passes of the textbook iteration, each of which climbs a long way for many references.

    After the family itworst of Georgiadis, Tarjan and Werneck, "Finding Dominators in Practice"
    (2006): a long chain ends in one that can be walked both ways and is entered at its far end too,
    which takes a pass for each of its paths to find out; and all of the long chain's second half
    refers to paths that the image reaches at once, all to all up to a thousand paths.
    """
    part = count // 4
    degree = max(4, min(part, 62_500 // part))
    w, x, y, z = range(part), *(range(n * part, (n + 1) * part) for n in (1, 2, 3))
    references: list[list[int]] = [[n + 1] if n + 1 < part else [] for n in w]
    references += [[n + 1] for n in x]
    references += [[n + 1, *(w[(n + i) % part] for i in range(degree))] for n in y]
    references += [[m for m in (n - 1, n + 1) if m in z] for n in z]
    return Shape(references, [z[-1], w[0], x[0]])


def equal_ratings(count: int) -> Shape:
    """Requested paths of one size that need nothing: only their names can order them."""
    return Shape([[] for _ in range(count)], list(range(count)))


SHAPES: dict[str, Callable[[int], Shape]] = {
    "closure": closure,
    "closure-shuffled": lambda count: closure(count, "shuffled"),
    "closure-topological": lambda count: closure(count, "topological"),
    "closure-cyclic": lambda count: closure(count, cycles=True),
    "chain": chain,
    "star": star,
    "ladder": ladder,
    "diamonds": diamonds,
    "comb": comb,
    "two-chains": two_chains,
    "both-directions": both_directions,
    "worst-order": worst_order,
    "equal-ratings": equal_ratings,
}


def entries(name: str, count: int) -> tuple[list[str], Iterator[dict]]:
    """Return the roots, and an iterator over the entries, of the graph of that shape and size."""
    shape = SHAPES[name](count)
    references = shape.references
    count = len(references)  # some shapes round the number down
    digests = [hashlib.sha256(b"%d" % path).hexdigest() for path in range(count)]
    paths = [
        f"/nix/store/{digest[:32]}-package{path}-1.{path % 10}"
        for path, digest in enumerate(digests)
    ]
    draw = random.Random(f"sizes {name} {count}").random
    if name == "equal-ratings":
        sizes = [10_000] * count
    else:
        sizes = [int(100 * 10 ** (5.2 * draw() ** 3)) for _ in range(count)]
    # A bound is enough here, the true sum would take quadratic time: the largest of what it needs.
    closure_sizes = sizes[:]
    for path, targets in enumerate(references):
        closure_sizes[path] += max((closure_sizes[t] for t in targets if t < path), default=0)

    order = list(range(count))
    if shape.order == "sorted":
        order.sort(key=paths.__getitem__)
    elif shape.order == "shuffled":
        random.Random(name).shuffle(order)
    else:
        order.reverse()
    return [paths[root] for root in shape.roots], (
        {
            "closureSize": closure_sizes[path],
            "narHash": f"sha256:{digests[path][:52]}",
            "narSize": sizes[path],
            "path": paths[path],
            "references": sorted(paths[target] for target in references[path]),
        }
        for path in order
    )


def write_graph(file: TextIO, name: str, count: int) -> None:
    """Write the graph entry by entry: a million paths should not be held in memory."""
    roots, rows = entries(name, count)
    file.write(f'{{"exportReferencesGraph": {json.dumps({"graph": roots})},\n"graph": [\n')
    for position, row in enumerate(rows):
        file.write((",\n" if position else "") + json.dumps(row))
    file.write("\n]}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("paths", type=int, metavar="PATHS")
    arguments = parser.parse_args()
    write_graph(sys.stdout, arguments.shape, arguments.paths)
