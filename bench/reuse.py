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
join           bytes of layers that change in the other images when the fleet is planned anew with
               one image more / bytes of those images (0 if each image is planned alone)

An image of the fleet has one to six roots, some roots far more often than others, and half of the
images have a shell. Figures of fleets are means over the seeds, each of which draws another fleet;
those of updated and of joined fleets are of the first seed. `--constants` adds the figures with
half and twice each constant, on the first two sets and of the first seed as well.

All tables of results.md take about 20 minutes on two cores. The peers are described in peers.py,
the package sets in corpora.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from corpora import DEBIAN_SETS, Corpus, CorpusError, read_corpus, read_debian, read_nix_store
from peers import OURS, STRATEGIES, TOGETHER, Image, Strategy, with_constant
from plot import Panel, draw

# Enough to tell strategies apart: with more pairs the shares change in the fourth digit.
PAIRS = 1000

# Where the curves of the plot are measured: from few layers to the 125 that dockerd takes.
PLOT_BUDGETS = (8, 16, 24, 32, 48, 64, 80, 96, 125)

# Roots that are whole systems. They are updated, but nobody puts them into an image beside others.
SYSTEM_PREFIX = "nixos-"

# So many images join the rest of the fleet, each by itself.
JOINING = 5

# The constants, and the strategies that use them.
CONSTANTS = {
    **dict.fromkeys(("SMALL_CLOSURE", "STEADY_WORTH", "POPULAR_WORTH", "DETAILED"), OURS),
    **dict.fromkeys(("PATHS_PER_CHANGE", "MOST_PARTS"), TOGETHER),
}


class Figures(NamedTuple):
    """What is measured of one strategy with one budget. All but three need an update; `update` and
    `rollout` are of single images, so joint strategies have none."""

    fleet: float
    share: float
    update: float | None
    rollout: float | None
    fleet_update: float | None
    fleet_rollout: float | None
    join: float


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


Task = tuple[int, tuple[str, ...]]  # an image: number of the corpus, roots

# What the workers share, so that it need not be copied for each image.
_shared: tuple[list[Corpus], list[Case]]


def _share(corpora: list[Corpus], cases: list[Case]) -> None:
    global _shared
    _shared = corpora, cases


@lru_cache(maxsize=128)
def _image(task: Task) -> Image:
    number, roots = task
    return Image(_shared[0][number], list(roots))


def _plan_alone(task: Task) -> list[Plan | None]:
    """Plan an image for each case whose strategy is not joint."""
    return [None if case.strategy.joint else _plan(case, [task])[0] for case in _shared[1]]


def _plan_fleet(job: tuple[int, tuple[Task, ...]]) -> list[Plan]:
    """Plan images for one case whose strategy is joint."""
    return _plan(_shared[1][job[0]], job[1])


def _plan(case: Case, tasks: Sequence[Task]) -> list[Plan]:
    """Group images, and check that the layers hold their closures."""
    strategy, budget = case
    table = _shared[0][tasks[0][0]].popularity if strategy.table else {}
    images = [_image(task) for task in tasks]
    if strategy.joint:
        plans = strategy.group(images, budget, table)
    else:
        plans = [strategy.group(image, budget or 0, table) for image in images]
    for image, layers in zip(images, plans):
        paths = sorted(path for layer in layers for path in layer)
        if paths != list(image.sizes) or (budget and len(layers) > budget):
            raise AssertionError(f"{strategy.name}, budget {budget}: not a plan of {image.roots}")
    return [
        {frozenset(layer): sum(map(image.sizes.get, layer)) for layer in layers}
        for image, layers in zip(images, plans)
    ]


def measure(
    corpus: Corpus,
    update: Corpus | None,
    cases: list[Case],
    seeds: Sequence[str] = ("1", "2"),
    images: int = 100,
) -> list[Figures]:
    """Return the figures of each case."""
    corpora = [corpus, update] if update else [corpus]

    def task(number: int, attributes: Iterable[str]) -> Task:
        roots = corpora[number].roots
        return number, tuple(sorted({path for name in attributes for path in roots[name]}))

    fleets = [draw_fleet(corpus, seed, images) for seed in seeds]
    parts = [tuple(task(0, names) for names in fleet) for fleet in fleets]
    joining = sorted({len(parts[0]) * n // JOINING for n in range(JOINING)})
    without = [parts[0][:n] + parts[0][n + 1 :] for n in joining]
    common = sorted(corpus.roots.keys() & update.roots.keys()) if update else []
    singles = [tuple(task(n, [name]) for name in common) for n in range(len(corpora))]
    kept = [n for n, names in enumerate(fleets[0]) if set(names) <= set(common)]
    updated = tuple(task(1, fleets[0][n]) for n in kept)
    together = [part for part in (*parts, *without, updated) if part]
    tasks = sorted({task for part in (*together, *singles) for task in part})
    jobs = [(n, part) for part in together for n, case in enumerate(cases) if case.strategy.joint]
    with multiprocessing.get_context("fork").Pool(None, _share, (corpora, cases)) as pool:
        alone = dict(zip(tasks, pool.imap(_plan_alone, tasks, chunksize=4)))
        jointly = dict(zip(jobs, pool.imap(_plan_fleet, jobs)))
    held = {t: {path: corpora[t[0]].sizes[path] for path in corpora[t[0]].closure(t[1])}
            for t in tasks}  # fmt: skip

    def figures(case: int) -> Figures:
        def plan(part: Sequence[Task]) -> list[Plan]:
            return jointly.get((case, part)) or [alone[task][case] for task in part]

        def sizes(part: Iterable[Task]) -> list[Sizes]:
            return [held[task] for task in part]

        plans = [plan(part) for part in parts]
        others = [plans[0][:n] + plans[0][n + 1 :] for n in joining]
        of_singles = of_fleet = None, None
        if update:
            if not cases[case].strategy.joint:
                of_singles = again(*map(plan, singles), *map(sizes, singles))
            old, old_sizes = [plans[0][n] for n in kept], [held[parts[0][n]] for n in kept]
            of_fleet = again(old, plan(updated), old_sizes, sizes(updated))
        return Figures(
            statistics.mean(moved(it) / moved(sizes(part)) for it, part in zip(plans, parts)),
            statistics.mean(
                shared_part(it, sizes(part), seed) for it, part, seed in zip(plans, parts, seeds)
            ),
            *of_singles,
            *of_fleet,
            statistics.mean(
                moved_each(plan(part), new) / moved_each([{}] * len(new), new)
                for part, new in zip(without, others)
            ),
        )

    return [figures(case) for case in range(len(cases))]


def moved(images: Iterable[dict], present: Iterable[dict] = ()) -> int:
    """Return the bytes of all different layers (or paths) of images that none present has."""
    have = {key for image in present for key in image}
    return sum({key: size for image in images for key, size in image.items()
                if key not in have}.values())  # fmt: skip


def moved_each(before: Iterable[dict], after: Iterable[dict]) -> int:
    """Return the same of images that are pulled by different hosts, each of which had one image."""
    return sum(moved([new], [old]) for old, new in zip(before, after))


def shared_part(plans: list[Plan], held: list[Sizes], seed: str) -> float:
    """Return the figure share: of pairs of images, drawn at random."""
    chance = random.Random(f"pairs {seed}")
    pairs = [chance.sample(range(len(plans)), 2) for _ in range(PAIRS)]

    def common(images: list[dict]) -> int:
        return sum(size for a, b in pairs for key, size in images[b].items() if key in images[a])

    return common(plans) / common(held)


def again(
    old: list[Plan], new: list[Plan], held: list[Sizes], updated: list[Sizes]
) -> tuple[float | None, float | None]:
    """Return bytes pulled / bytes changed, of images updated one by one and all at once."""
    one_by_one, at_once = moved_each(held, updated), moved(updated, held)
    return (
        moved_each(old, new) / one_by_one if one_by_one else None,
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
        cells = str(case.budget or "any"), f"**{name}**" if name in (OURS, TOGETHER) else name
        rows.append((cells, figures))
    return table(rows, ("layers", "strategy"))


def vary_constants(
    corpus: Corpus, update: Corpus | None, budgets: Sequence[int], seeds: Sequence[str], images: int
) -> str:
    """Return the figures of our strategies with half and twice each constant as a table."""
    named = {strategy.name: strategy for strategy in STRATEGIES}
    variants = [(OURS, named[OURS]), (f"{OURS}, with a table", named[OURS]._replace(table=True))]
    variants.append((TOGETHER, named[TOGETHER]))
    for name, strategy in CONSTANTS.items():
        for amount, factor in (("half", 0.5), ("twice", 2)):
            word, variant = amount, with_constant(named[strategy], name, factor)
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
    drawn = [strategy for strategy in STRATEGIES if strategy.budgeted and not strategy.joint]
    cases = [Case(strategy, budget) for strategy in drawn for budget in PLOT_BUDGETS]
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
    for corpus, update in sets[:2] if arguments.constants else []:
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
of the same package set. "{TOGETHER}" plans all images of a fleet at once, as `buildImages` does.
The rows above it show what smaller fleets are worth: the same images in groups of ten, in two
halves, and four fifths of them together, to which the others are added one by one with the lock.

![Bytes moved against the layer budget](reuse.svg)

The form of strategy `reuse` and its constants were chosen on nixos-18.03-0405, debian-bookworm and
bookworm; trixie, bullseye and the step from bookworm to trixie were looked at meanwhile. The steps
from bullseye to bookworm and from trixie to forky were measured when all was chosen. How images
are planned together was chosen on the first five sets, the others were measured then. The
NixOS sets are of 2018: hashes, dependency inputs and revisions are real, which of the inputs stay
references, and most sizes, are modelled. Debian's dependencies, sizes and updates are real, its
store paths made up (see corpora.py); debian-bookworm is another choice of packages than bookworm,
with few updates. Sets that begin with nixos- or debian- come from files that are not in this
repository, the others from Debian's mirrors. The tables of constants are of the first fleet of the
first two sets."""


if __name__ == "__main__":
    sys.exit(main())
