#!/usr/bin/env python3
"""Measure what planning images together is worth, and when.

    fleets.py --corpus old.json.gz new.json.gz --debian --write fleets.md

The figures, images and options are those of reuse.py. Each fleet is planned in five ways: every
image alone, with strategy `reuse`; all together; in two halves; in groups of ten; and four fifths
together, then the others one by one with the lock of those before. The last figures are those of
planning together with half and twice each constant.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence

import group_layers
from corpora import DEBIAN_SETS, Corpus, CorpusError, read_corpus, read_debian
from peers import Image, graph_of
from reuse import Figures, Plan, again, describe, draw_fleet, moved, shared_part, table

Way = Callable[[Sequence[Image], int], "list[list[list[str]]]"]

CONSTANTS = ("PATHS_PER_CHANGE", "MOST_PARTS")


def plan_together(
    images: Sequence[Image], budget: int, known: Sequence[list[list[str]]] = ()
) -> list[list[list[str]]]:
    """Return the layers of each image."""
    graphs = {str(number): graph_of(image) for number, image in enumerate(images)}
    fleet = group_layers.group_fleet(graphs, dict.fromkeys(graphs, budget), known)
    return [[layer.contents for layer in fleet[name]] for name in graphs]


def in_groups(count: int) -> Way:
    """Return a way to plan that takes so many images at a time."""

    def plan(images: Sequence[Image], budget: int) -> list[list[list[str]]]:
        starts = range(0, len(images), count)
        return [it for n in starts for it in plan_together(images[n : n + count], budget)]

    return plan


def one_by_one(images: Sequence[Image], budget: int) -> list[list[list[str]]]:
    """Plan four fifths together, and the others each with the lock of those before it."""
    plans = plan_together(images[: len(images) * 4 // 5], budget)
    for image in images[len(plans) :]:
        plans += plan_together([image], budget, plans)
    return plans


def with_constant(plan: Way, name: str, factor: float) -> Way:
    """Return the same way to plan with one of the constants multiplied."""

    def plan_with(images: Sequence[Image], budget: int) -> list[list[list[str]]]:
        value = getattr(group_layers, name)
        setattr(group_layers, name, int(value * factor))
        try:
            return plan(images, budget)
        finally:
            setattr(group_layers, name, value)

    return plan_with


def measure(
    plan: Way, corpora: Sequence[Corpus], seeds: Sequence[str], images: int, budget: int
) -> Figures:
    """Return the figures of a way to plan; those of single images are missing."""

    def planned(corpus: Corpus, names: Sequence[list[str]]) -> tuple[list[Plan], list[dict]]:
        fleet = [Image(corpus, sorted({p for n in it for p in corpus.roots[n]})) for it in names]
        plans = plan(fleet, budget)
        sizes = [image.sizes for image in fleet]
        return [
            {frozenset(layer): sum(map(held.get, layer)) for layer in layers}
            for layers, held in zip(plans, sizes)
        ], sizes

    ratios, shares, updated = [], [], (None, None)
    for seed in seeds:
        names = draw_fleet(corpora[0], seed, images)
        plans, held = planned(corpora[0], names)
        ratios.append(moved(plans) / moved(held))
        every = dict(enumerate(plans)), dict(enumerate(held))
        shares.append(shared_part(range(len(plans)), *every, seed))
        if len(corpora) > 1 and seed == seeds[0]:
            kept = [n for n, it in enumerate(names) if set(it) <= corpora[1].roots.keys()]
            new = planned(corpora[1], [names[n] for n in kept])
            updated = again([plans[n] for n in kept], new[0], [held[n] for n in kept], new[1])
    return Figures(statistics.mean(ratios), statistics.mean(shares), None, None, *updated)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debian", action="store_true", help="releases and their updates")
    parser.add_argument(
        "--corpus", action="append", nargs="+", default=[], metavar=("FILE", "UPDATE")
    )
    parser.add_argument("--budgets", default="24,96", metavar="N,N,...")
    parser.add_argument("--seeds", default="1,2", metavar="N,N,...")
    parser.add_argument("--images", type=int, default=100, metavar="N")
    parser.add_argument("--write", metavar="FILE", help="write the tables there, with a heading")
    arguments = parser.parse_args(argv)
    try:
        sets = [[read_corpus(file) for file in files] for files in arguments.corpus]
        if arguments.debian:
            updated = [(old, new) for old, new in DEBIAN_SETS if new == f"{old}-updated"]
            sets += [[read_debian(old), read_debian(new)] for old, new in updated]
    except CorpusError as error:
        print(f"fleets: {error}", file=sys.stderr)
        return 2
    ways = {
        "each alone": in_groups(1),
        "groups of ten": in_groups(10),
        "two halves": in_groups((arguments.images + 1) // 2),
        "80 %, then one by one": one_by_one,
        "**together**": in_groups(arguments.images),
    }
    for name in CONSTANTS:
        for word, factor in (("half", 0.5), ("twice", 2)):
            together = in_groups(arguments.images)
            ways[f"together, {word} `{name}`"] = with_constant(together, name, factor)
    sections = [HEADING]
    for corpora in sets:
        rows = []
        for budget in map(int, arguments.budgets.split(",")):
            for name, way in ways.items():
                options = arguments.seeds.split(","), arguments.images, budget
                rows.append(((str(budget), name), measure(way, corpora, *options)))
        update = corpora[1] if len(corpora) > 1 else None
        title = f"## {corpora[0].name}, {update.name if update else 'no update'}"
        text = f"{title}\n\n{describe(corpora[0], update)}\n\n{table(rows, ('layers', 'planned'))}"
        print(text + "\n", flush=True)
        sections.append(text)
    if arguments.write:
        with open(arguments.write, "w", encoding="utf-8") as file:
            file.write("\n\n".join(sections) + "\n")
    return 0


HEADING = """# Images planned together, measured

`bench/fleets.py` wrote this file; its `--help` says what is planned together with what, and that
of `bench/reuse.py` what the figures mean: 1.0 is one path per layer, lower is better except for
share. How layers are merged was chosen on nixos-18.03-0405 and debian-bookworm; trixie was looked
at meanwhile, the others were measured when all was chosen."""


if __name__ == "__main__":
    sys.exit(main())
