#!/usr/bin/env python3
"""Measure how many bytes move, for each known way to group store paths into layers.

    reuse.py --debian                                  Debian's release and its updates, from apt
    reuse.py --nix-store                               what is in this machine's Nix store
    reuse.py --corpus old.json.gz new.json.gz          package sets from files, here with an update

Hosts and registries keep layers by digest: a layer is reused exactly when its set of store paths is
the same. From that, the figures follow without packing anything. For all but the last two, 1.0 is
one path per layer, which moves no byte twice but needs more layers than a host takes:

fleet    bytes of all different layers / bytes of all different paths, over a fleet of images: what
         one host pulls that runs them all, what a registry stores (lower is better)
share    of the bytes that two images of the fleet have in common, the part that is not pulled again
         for the second one (higher is better)
update   bytes pulled again / bytes changed, when each root by itself moves to the updated package
         set (lower is better)
rollout  the same, when all roots do on one host
layers   how many layers an image of the fleet has, on average
largest  the largest layer's part of an image's bytes, on average: a pull waits for it

An image of the fleet has one to six roots, some roots far more often than others, and half of the
images have a shell. The spread is half the range over the seeds, each of which draws another fleet.

The peers are described in peers.py, the package sets in corpora.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from corpora import Corpus, CorpusError, read_corpus, read_debian, read_nix_store
from peers import OURS, STRATEGIES, Image, Strategy
from plot import Panel, draw

# Enough to tell strategies apart: with more pairs the shares change in the fourth digit.
PAIRS = 1000

# Where the curves of the plot are measured: from few layers to the 125 that dockerd takes.
PLOT_BUDGETS = (8, 16, 24, 32, 48, 64, 80, 96, 125)

# Roots that are whole systems. They are updated, but nobody puts them into an image beside others.
SYSTEM_PREFIX = "nixos-"


class Layer(NamedTuple):
    digest: bytes  # of the set of paths
    size: int  # bytes


class Figures(NamedTuple):
    """What is measured of one strategy with one budget. `update` and `rollout` need an update."""

    strategy: str
    budget: int | None  # None where the budget makes no difference
    fleet: list[float]  # one for each seed
    share: list[float]  # one for each seed
    layers: float
    largest: float
    update: float | None
    rollout: float | None


Plan = list[Layer]
Case = tuple[Strategy, "int | None"]


def draw_fleet(corpus: Corpus, seed: str, images: int) -> list[list[str]]:
    """Return the roots of each image of a fleet."""
    chance = random.Random(f"fleet {seed}")
    attributes = sorted(name for name in corpus.roots if not name.startswith(SYSTEM_PREFIX))
    chance.shuffle(attributes)
    weights = [(rank + 3) ** -0.5 for rank in range(len(attributes))]
    fleet = []
    for _ in range(images):
        (count,) = chance.choices(range(1, 7), [25, 25, 20, 12, 10, 8])
        chosen = set(chance.choices(attributes, weights, k=count))
        if chance.random() < 0.5:
            chosen.update({"bash", "coreutils"} & corpus.roots.keys())
        fleet.append(sorted({path for name in chosen for path in corpus.roots[name]}))
    return fleet


def plan(image: Image, popularity: dict[str, int], cases: Iterable[Case]) -> dict[Case, Plan]:
    """Group one image with each strategy and budget, and check that the layers hold its closure."""
    plans = {}
    for strategy, budget in cases:
        layers = strategy.group(image, budget or 0, popularity if strategy.table else {})
        paths = sorted(path for layer in layers for path in layer)
        if paths != list(image.sizes) or (budget and len(layers) > budget):
            raise AssertionError(f"{strategy.name}, budget {budget}: not a plan of {image.roots}")
        plans[strategy, budget] = [
            Layer(
                hashlib.blake2b("\n".join(sorted(layer)).encode(), digest_size=16).digest(),
                sum(image.sizes[path] for path in layer),
            )
            for layer in layers
        ]
    return plans


def moved(plans: Iterable[Plan], present: Iterable[Plan] = ()) -> int:
    """Return the bytes of all different layers of the plans that no plan of `present` has."""
    have = {layer.digest for plan in present for layer in plan}
    sizes = {layer.digest: layer.size for plan in plans for layer in plan}
    return sum(size for digest, size in sizes.items() if digest not in have)


# The corpora and the cases, where the workers find them without a copy for each image.
_shared: tuple[list[Corpus], list[Case], list[Case]]


def _share(*values: object) -> None:
    global _shared
    _shared = values  # type: ignore[assignment]


def _plan_roots(task: tuple[int, list[str], bool]) -> dict[tuple[int, int | None], Plan]:
    corpora, cases, plot_cases = _shared
    number, roots, plotted = task
    plans = plan(
        Image(corpora[number], roots),
        corpora[number].popularity,
        cases + plot_cases if plotted else cases,
    )
    return {(STRATEGIES.index(strategy), budget): p for (strategy, budget), p in plans.items()}


def measure(
    corpus: Corpus,
    update: Corpus | None,
    budgets: Sequence[int],
    seeds: Sequence[str],
    images: int,
    plot_budgets: Sequence[int] = (),
    processes: int | None = None,
) -> tuple[list[Figures], dict[str, list[tuple[int, float]]]]:
    """Return the figures of all strategies, and the points (budget, fleet) of each.

    The points are those of `plot_budgets`. Without an update, what needs one is None.
    """
    cases = [(s, b) for s in STRATEGIES for b in (budgets if s.budgeted else [None])]
    extra = [b for b in plot_budgets if b not in budgets]
    plot_cases = [(s, b) for s in STRATEGIES if s.budgeted for b in extra]

    fleets = [draw_fleet(corpus, seed, images) for seed in seeds]
    both = sorted(corpus.roots.keys() & update.roots.keys()) if update else []
    tasks = [(0, roots, True) for fleet in fleets for roots in fleet]
    tasks += [(0, corpus.roots[name], False) for name in both]
    tasks += [(1, update.roots[name], False) for name in both if update]
    shared = ([corpus, update] if update else [corpus], cases, plot_cases)
    with multiprocessing.Pool(processes, _share, shared) as pool:
        planned = pool.map(_plan_roots, tasks, chunksize=4)
    held = [
        {path: c.sizes[path] for path in c.closure(roots)}
        for c, roots in ((shared[0][number], roots) for number, roots, _ in tasks)
    ]

    in_fleets = images * len(seeds)
    fleet_slices = [slice(n * images, (n + 1) * images) for n in range(len(seeds))]
    old, new = slice(in_fleets, in_fleets + len(both)), slice(in_fleets + len(both), None)
    ideal = [_bytes_of(held[part]) for part in fleet_slices]
    pairs = [_draw_pairs(held[part], seed) for part, seed in zip(fleet_slices, seeds)]
    changed = [_bytes_of([after], [before]) for before, after in zip(held[old], held[new])]
    changed_together = _bytes_of(held[new], held[old])

    def fleet_figures(key: tuple[int, int | None]) -> list[float]:
        return [
            moved(p[key] for p in planned[part]) / all_paths
            for part, all_paths in zip(fleet_slices, ideal)
        ]

    figures = []
    for strategy, budget in cases:
        key = (STRATEGIES.index(strategy), budget)
        plans = [p[key] for p in planned]
        shares = []
        for part, drawn in zip(fleet_slices, pairs):
            reused = sum(_reused(plans[part][a], plans[part][b]) for a, b, _ in drawn)
            shares.append(reused / sum(common for _, _, common in drawn))
        again = [moved([after], [before]) for before, after in zip(plans[old], plans[new])]
        figures.append(
            Figures(
                strategy.name,
                budget,
                fleet_figures(key),
                shares,
                statistics.mean(len(p) for p in plans[:in_fleets]),
                statistics.mean(
                    max(layer.size for layer in p) / (sum(layer.size for layer in p) or 1)
                    for p in plans[:in_fleets]
                ),
                sum(again) / sum(changed) if sum(changed) else None,
                moved(plans[new], plans[old]) / changed_together if changed_together else None,
            )
        )
    curves = {
        strategy.name: [
            (b, statistics.mean(fleet_figures((STRATEGIES.index(strategy), b))))
            for b in plot_budgets
        ]
        for strategy in STRATEGIES
        if strategy.budgeted and plot_budgets
    }
    return figures, curves


def _bytes_of(images: Iterable[dict[str, int]], present: Iterable[dict[str, int]] = ()) -> int:
    """Return the bytes of all different paths of the images that no image of `present` has."""
    have = {path for image in present for path in image}
    sizes = {path: size for image in images for path, size in image.items()}
    return sum(size for path, size in sizes.items() if path not in have)


def _draw_pairs(fleet: Sequence[dict[str, int]], seed: str) -> list[tuple[int, int, int]]:
    """Return pairs of images, by number, and the bytes that the two have in common."""
    chance = random.Random(f"pairs {seed}")
    pairs = (chance.sample(range(len(fleet)), 2) for _ in range(PAIRS))
    return [
        (a, b, sum(size for path, size in fleet[b].items() if path in fleet[a])) for a, b in pairs
    ]


def _reused(first: Plan, second: Plan) -> int:
    have = {layer.digest for layer in first}
    return sum(layer.size for layer in second if layer.digest in have)


def table(figures: list[Figures]) -> str:
    """Return the figures as a Markdown table, one budget after the other."""
    lines = [
        "| budget | strategy | fleet | share | update | rollout | layers | largest |",
        "|--:|:--|--:|--:|--:|--:|--:|--:|",
    ]
    budgets = sorted({f.budget for f in figures if f.budget})
    unbudgeted = [f for f in figures if f.budget is None]
    ordered = [*unbudgeted[:1], *(f for b in budgets for f in figures if f.budget == b)]
    for f in [*ordered, *unbudgeted[1:]]:
        cells = [
            str(f.budget or "any"),
            f"**{f.strategy}**" if f.strategy in OURS else f.strategy,
            _spread(f.fleet, 2),
            _spread(f.share, 3),
            "" if f.update is None else f"{f.update:.3f}",
            "" if f.rollout is None else f"{f.rollout:.3f}",
            f"{f.layers:.0f}",
            f"{f.largest:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else mean


def describe(corpus: Corpus, update: Corpus | None) -> str:
    megabytes = sum(corpus.sizes.values()) / 1_000_000
    text = (
        f"{corpus.name}: {len(corpus.sizes)} paths, {megabytes:.0f} MB, {len(corpus.roots)} roots"
    )
    if update:
        kept = len(corpus.sizes.keys() & update.sizes.keys())
        text += f"; {kept} paths are the same in {update.name}"
    return text


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debian", action="store_true", help="the default")
    parser.add_argument("--nix-store", action="store_true")
    parser.add_argument(
        "--corpus",
        action="append",
        nargs="+",
        default=[],
        metavar=("FILE", "UPDATE"),
        help="a package set and, optionally, its later state; corpora.py has the format",
    )
    parser.add_argument("--budgets", type=_numbers, default=[24, 64, 96], metavar="N,N,...")
    parser.add_argument("--seeds", type=_numbers, default=[1, 2], metavar="N,N,...")
    parser.add_argument("--images", type=int, default=100, metavar="N", help="in a fleet")
    parser.add_argument("--plot", metavar="FILE", help="draw fleet against budget, as SVG")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    arguments = parser.parse_args(argv)
    if any(len(files) > 2 for files in arguments.corpus):
        parser.error("--corpus takes one file or two")
    if arguments.images < 2 or min(arguments.budgets) < 1:
        parser.error("at least two images and one layer")
    return arguments


def _numbers(text: str) -> list[int]:
    return sorted({int(word) for word in text.split(",")})


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    sets: list[tuple[Corpus, Corpus | None]] = []
    try:
        for old, *new in arguments.corpus:
            sets.append((read_corpus(old), read_corpus(new[0]) if new else None))
        if arguments.nix_store:
            sets.append((read_nix_store(), None))
        if arguments.debian or not sets:
            sets.append(read_debian())
    except CorpusError as error:
        print(f"reuse: {error}", file=sys.stderr)
        return 2

    panels, results = [], []
    for corpus, update in sets:
        figures, curves = measure(
            corpus,
            update,
            arguments.budgets,
            [str(seed) for seed in arguments.seeds],
            arguments.images,
            PLOT_BUDGETS if arguments.plot else (),
        )
        print(f"{describe(corpus, update)}\n\n{table(figures)}\n", flush=True)
        panels.append(Panel(corpus.name, curves))
        results.append(
            {
                "corpus": corpus.name,
                "update": update and update.name,
                "figures": [f._asdict() for f in figures],
            }
        )
    if arguments.plot:
        text = draw(
            panels,
            "Bytes moved for a fleet of images",
            "layer budget",
            "bytes moved / bytes of all paths",
            bold=OURS,
        )
        with open(arguments.plot, "w") as file:
            file.write(text)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
