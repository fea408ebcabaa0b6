#!/usr/bin/env python3
"""Measure how many bytes are transferred with each strategy for grouping store paths into layers.

    reuse.py --debian                                  suites of Debian, from its mirrors
    reuse.py --nix-store                               what is in this machine's Nix store
    reuse.py --corpus old.json.gz new.json.gz          package sets from files, here with an update
    reuse.py --debian --corpus ... --constants --write results.md      all tables, into a file

Hosts and registries keep layers by digest: a layer is reused exactly if its set of store paths is
the same. So the figures can be computed without packing anything. For all but share, lower is
better, and 1.0 is one path per layer, which transfers no byte twice but needs more layers than
hosts allow:

fleet          bytes of all different layers / bytes of all different paths, over a fleet of images:
               what one host pulls that runs them all, what a registry stores
share          of the bytes that two images of the fleet have in common, the part that is not pulled
               again for the second one (higher is better)
update         bytes pulled again / bytes changed, when each root by itself moves to the updated
               package set
rollout        the same, when all roots do on one host
fleet_update   the same as update, for the images of the fleet
fleet_rollout  the same as rollout, for the images of the fleet

An image of the fleet has one to six roots, some roots far more often than others, and half of the
images have a shell. Figures of fleets are means over the seeds, each of which draws another fleet;
those of updated fleets are of the first seed. `--constants` adds the figures with half and twice
each constant of strategy `reuse`, of the first seed as well.

The peers are described in peers.py, the package sets in corpora.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from corpora import DEBIAN_SETS, Corpus, CorpusError, read_corpus, read_debian, read_nix_store
from peers import OURS, STRATEGIES, Image, Strategy, with_constant
from plot import Panel, draw

# Enough to tell strategies apart: with more pairs the shares change in the fourth digit.
PAIRS = 1000

# Where the curves of the plot are measured: from few layers to the 125 that dockerd takes.
PLOT_BUDGETS = (8, 16, 24, 32, 48, 64, 80, 96, 125)

# Roots that are whole systems. They are updated, but nobody puts them into an image beside others.
SYSTEM_PREFIX = "nixos-"

# The constants of strategy reuse.
CONSTANTS = ("SMALL_CLOSURE", "STEADY_WORTH", "POPULAR_WORTH", "DETAILED")


class Figures(NamedTuple):
    """What is measured of one strategy with one budget. All but two need an update."""

    fleet: float
    share: float
    update: float | None = None
    rollout: float | None = None
    fleet_update: float | None = None
    fleet_rollout: float | None = None


class Case(NamedTuple):
    """A strategy with a budget, or without where that makes no difference."""

    strategy: Strategy
    budget: int | None


Plan = dict[frozenset, int]  # bytes of layers by their paths
Sizes = dict[str, int]  # bytes of the paths of an image


def draw_fleet(corpus: Corpus, seed: str, images: int) -> list[list[str]]:
    """Return the attributes in each image of a fleet."""
    chance = random.Random(f"fleet {seed}")
    attributes = sorted(name for name in corpus.roots if not name.startswith(SYSTEM_PREFIX))
    chance.shuffle(attributes)
    weights = [1 / (rank + 3) ** 0.5 for rank in range(len(attributes))]
    fleet = []
    for _ in range(images):
        (count,) = chance.choices(range(1, 7), [25, 25, 20, 12, 10, 8])
        chosen = set(chance.choices(attributes, weights, k=count))
        if chance.random() < 0.5:
            chosen.update({"bash", "coreutils"} & corpus.roots.keys())
        fleet.append(sorted(chosen))
    return fleet


def plan_image(corpus: Corpus, roots: Iterable[str], cases: Iterable[Case]) -> list[Plan]:
    """Group one image for each case, and check that the layers hold its closure."""
    image = Image(corpus, sorted(roots))
    plans = []
    for strategy, budget in cases:
        layers = strategy.group(image, budget or 0, corpus.popularity if strategy.table else {})
        paths = sorted(path for layer in layers for path in layer)
        if paths != list(image.sizes) or (budget and len(layers) > budget):
            raise AssertionError(f"{strategy.name}, budget {budget}: not a plan of {image.roots}")
        plans.append({frozenset(layer): sum(map(image.sizes.get, layer)) for layer in layers})
    return plans


# What the workers share, so that it need not be copied for each image.
_shared: tuple[list[Corpus], list[Case]]


def _share(corpora: list[Corpus], cases: list[Case]) -> None:
    global _shared
    _shared = corpora, cases


def _plan_task(task: tuple[int, tuple[str, ...]]) -> list[Plan]:
    corpora, cases = _shared
    number, roots = task
    return plan_image(corpora[number], roots, cases)


def measure(
    corpus: Corpus,
    update: Corpus | None,
    cases: list[Case],
    seeds: Sequence[str] = ("1", "2"),
    images: int = 100,
) -> list[Figures]:
    """Return the figures of each case."""
    fleets = [draw_fleet(corpus, seed, images) for seed in seeds]
    corpora = [corpus, update] if update else [corpus]

    def task(number: int, attributes: Iterable[str]) -> tuple[int, tuple[str, ...]]:
        roots = corpora[number].roots
        return number, tuple(sorted({path for name in attributes for path in roots[name]}))

    common = sorted(corpus.roots.keys() & update.roots.keys()) if update else []
    kept = [names for names in fleets[0] if set(names) <= set(common)]
    fleet_tasks = [[task(0, names) for names in fleet] for fleet in fleets]
    moves = [[[task(n, names) for names in images] for n in (0, 1)]
             for images in ([[name] for name in common], kept)] if update else []  # fmt: skip
    tasks = sorted({t for part in fleet_tasks + [p for pair in moves for p in pair] for t in part})
    with multiprocessing.get_context("fork").Pool(None, _share, (corpora, cases)) as pool:
        planned = dict(zip(tasks, pool.imap(_plan_task, tasks, chunksize=4)))
    held = {t: {path: corpora[t[0]].sizes[path] for path in corpora[t[0]].closure(t[1])}
            for t in tasks}  # fmt: skip

    def figures(case: int) -> Figures:
        plans = {t: planned[t][case] for t in tasks}
        return Figures(
            statistics.mean(
                moved(plans[t] for t in part) / moved(held[t] for t in part)
                for part in fleet_tasks
            ),
            statistics.mean(
                shared_part(part, plans, held, seed) for part, seed in zip(fleet_tasks, seeds)
            ),
            *(
                ratio
                for old, new in moves
                for ratio in again(
                    [plans[t] for t in old], [plans[t] for t in new],
                    [held[t] for t in old], [held[t] for t in new],
                )
            ),
        )  # fmt: skip

    return [figures(case) for case in range(len(cases))]


def moved(images: Iterable[dict], present: Iterable[dict] = ()) -> int:
    """Return the bytes of all different layers (or paths) of images that none present has."""
    have = {key for image in present for key in image}
    return sum({key: size for image in images for key, size in image.items()
                if key not in have}.values())  # fmt: skip


def shared_part(fleet: list, plans: dict, held: dict, seed: str) -> float:
    """Return the figure share: of pairs of images, drawn at random."""
    chance = random.Random(f"pairs {seed}")
    pairs = [[fleet[n] for n in chance.sample(range(len(fleet)), 2)] for _ in range(PAIRS)]

    def common(images: dict) -> int:
        return sum(size for a, b in pairs for key, size in images[b].items() if key in images[a])

    return common(plans) / common(held)


def again(
    old: list[Plan], new: list[Plan], held: list[Sizes], updated: list[Sizes]
) -> tuple[float | None, float | None]:
    """Return bytes pulled / bytes changed, of images updated one by one and all at once."""

    def each(before: list[dict], after: list[dict]) -> int:
        return sum(moved([b], [a]) for a, b in zip(before, after))

    one_by_one, at_once = each(held, updated), moved(updated, held)
    return (
        each(old, new) / one_by_one if one_by_one else None,
        moved(new, old) / at_once if at_once else None,
    )


def table(rows: Iterable[tuple[Sequence[str], Figures]], headings: Sequence[str]) -> str:
    """Return figures as a Markdown table; each row begins with cells for the headings."""
    lines = [
        "| " + " | ".join([*headings, *Figures._fields]) + " |",
        "|" + ":--|" * len(headings) + "--:|" * len(Figures._fields),
    ]
    for cells, figures in rows:
        texts = ["" if f is None else f"{f:.2f}" if f >= 10 else f"{f:.3f}" for f in figures]
        lines.append("| " + " | ".join([*cells, *texts]) + " |")
    return "\n".join(lines)


def compare(
    corpus: Corpus, update: Corpus | None, budgets: Sequence[int], seeds: Sequence[str], images: int
) -> str:
    """Return the figures of all strategies as a table, one budget after the other."""
    cases = [Case(s, None) for s in STRATEGIES if not s.budgeted]
    cases += [Case(s, budget) for budget in budgets for s in STRATEGIES if s.budgeted]
    rows = []
    for case, figures in zip(cases, measure(corpus, update, cases, seeds, images)):
        name = case.strategy.name
        cells = str(case.budget or "any"), f"**{name}**" if name == OURS else name
        rows.append((cells, figures))
    return table(rows, ("layers", "strategy"))


def vary_constants(
    corpus: Corpus, update: Corpus | None, budgets: Sequence[int], seeds: Sequence[str], images: int
) -> str:
    """Return the figures of strategy reuse with half and twice each constant as a table."""
    ours = next(strategy for strategy in STRATEGIES if strategy.name == OURS)
    variants = [("as it is", ours), ("with a table", ours._replace(table=True))]
    for name in CONSTANTS:
        for amount, factor in (("half", 0.5), ("twice", 2)):
            word, variant = amount, with_constant(ours, name, factor)
            if name == "POPULAR_WORTH":  # has an effect with a table only
                word, variant = f"with a table, {amount}", variant._replace(table=True)
            variants.append((f"{word} `{name}`", variant))
    cases = [Case(strategy, budget) for budget in budgets for _, strategy in variants]
    labels = [(str(budget), label) for budget in budgets for label, _ in variants]
    return table(
        zip(labels, measure(corpus, update, cases, seeds, images)), ("layers", "constants")
    )


def describe(corpus: Corpus, update: Corpus | None) -> str:
    megabytes = sum(corpus.sizes.values()) / 1_000_000
    text = (
        f"{corpus.name}: {len(corpus.sizes)} paths, {megabytes:.0f} MB, {len(corpus.roots)} roots"
    )
    if update:
        kept = len(corpus.sizes.keys() & update.sizes.keys())
        text += f"; {kept} paths are the same in {update.name}"
    return text


def curves(corpus: Corpus, seeds: Sequence[str], images: int) -> Panel:
    """Return the figure fleet of each strategy against the budget."""
    budgeted = [strategy for strategy in STRATEGIES if strategy.budgeted]
    cases = [Case(strategy, budget) for strategy in budgeted for budget in PLOT_BUDGETS]
    lines: dict[str, list[tuple[float, float]]] = {}
    for case, figures in zip(cases, measure(corpus, None, cases, seeds, images)):
        lines.setdefault(case.strategy.name, []).append((case.budget, figures.fleet))
    return Panel(corpus.name, lines)


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
    parser.add_argument("--constants", action="store_true", help="vary the constants as well")
    parser.add_argument("--plot", metavar="FILE", help="draw fleet against budget, as SVG")
    parser.add_argument("--write", metavar="FILE", help="write the tables there, with a heading")
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
            sets += [(read_debian(old), read_debian(new)) for old, new in DEBIAN_SETS]
    except CorpusError as error:
        print(f"reuse: {error}", file=sys.stderr)
        return 2

    options = ([str(seed) for seed in arguments.seeds], arguments.images)
    sections = []

    def report(section: str) -> None:
        print(section + "\n", flush=True)
        sections.append(section)

    for corpus, update in sets:
        rows = compare(corpus, update, arguments.budgets, *options)
        report(f"## {corpus.name}, {update.name if update else 'no update'}\n\n"
               f"{describe(corpus, update)}\n\n{rows}")  # fmt: skip
    for corpus, update in sets if arguments.constants else []:
        ends = sorted({min(arguments.budgets), max(arguments.budgets)})
        rows = vary_constants(corpus, update, ends, options[0][:1], options[1])
        report(f"## Constants: {corpus.name}, {update.name if update else 'no update'}\n\n{rows}")
    if arguments.write:
        with open(arguments.write, "w", encoding="utf-8") as file:
            file.write("\n\n".join([HEADING, *sections]) + "\n")
    if arguments.plot:
        panels = [curves(corpus, *options) for corpus, _ in sets[:2]]
        text = draw(
            panels,
            "Bytes moved for a fleet of images",
            "layer budget",
            "bytes moved / bytes of all paths",
            bold=(OURS,),
        )
        with open(arguments.plot, "w", encoding="utf-8") as file:
            file.write(text)
    return 0


HEADING = f"""# Bytes moved, measured

`bench/reuse.py --help` says what the figures mean: 1.0 is one path per layer, lower is better
except for share. It wrote this file. "{OURS}" is this project's default, "Nixery" its
`--strategy nixery`, which decides as the original did; "with a table" means with a popularity table
of the same package set.

![Bytes moved against the layer budget](reuse.svg)

The form of strategy `reuse` and its constants were chosen on nixos-18.03-0405, debian-bookworm and
bookworm; trixie, bullseye and the step from bookworm to trixie were looked at meanwhile. The steps
from bullseye to bookworm and from trixie to forky were measured when all was chosen. The
NixOS sets are of 2018: hashes, dependency inputs and revisions are real, which of the inputs stay
references, and most sizes, are modelled. Debian's dependencies, sizes and updates are real, its
store paths made up (see corpora.py); debian-bookworm is another choice of packages than bookworm,
with few updates. Sets that begin with nixos- or debian- come from files that are not in this
repository, the others from Debian's mirrors. The tables of constants are of the
first fleet alone."""


if __name__ == "__main__":
    sys.exit(main())
