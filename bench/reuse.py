#!/usr/bin/env python3
"""Measure how many bytes are transferred with each strategy for grouping store paths into layers.

    reuse.py                                          package sets of Debian, from its mirrors
    reuse.py --corpus old.json.gz new.json.gz         sets from files, here with an update
    reuse.py --nix-store                              what is in this machine's Nix store
    reuse.py --budgets 96 --only "this project"       one row for each set
    reuse.py --program FILE                           beside another version of group_layers.py

Hosts and registries keep layers by digest: a layer is reused exactly if its set of store paths is
the same. So the figures can be computed without packing anything. Where no unit is given, 1.0 is
one path per layer, which transfers no byte twice. Lower is better, except for share:

fleet           bytes of all different layers / bytes of all different paths, over a fleet of
                images: what one host pulls that runs them all, what a registry stores
share           of the bytes that two images of the fleet have in common, the part that is not
                pulled again for the second one (higher is better)
update          bytes pulled again / bytes changed, when each root by itself moves to the updated
                package set
rollout         the same, when all roots do on one host
fleet_update    the same as update, for the images of the fleet
fleet_rollout   the same as rollout, for the images of the fleet
join            bytes of layers that change in the other images when the fleet is planned anew with
                one image more / bytes of those images

Someone's own application of 100 kB, with a library of 60 kB, stands on one to four roots. Means of
14 such images, with the maximum in brackets:

layers          how many layers the image has
touch           when a path and all that need it change: bytes of layers with one of them / bytes of
                those paths, less 1, over all paths of the image
edit, library   MB of layers that change with the application alone, and with its library
year            MB that a host pulls for a service: the image (the mean of the fleet's), twelve
                updates (each the mean of update's images) and 250 edits of an application; each
                layer counts as 1 MB more

Some hosts, such as docker's own store, keep *chains* of layers: a layer is found there only upon
the same layers. The figures on them say what is pulled from the first layer on that differs. fleet
is of 40 images.

An image of the fleet has one to six roots, some roots far more often than others, and half of the
images have a shell. fleet and share are means over the seeds, each of which draws another fleet;
the other figures of fleets are of the first seed. The peers are described in peers.py, the package
sets in corpora.py.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from corpora import DEBIAN_SETS, Corpus, CorpusError, read_corpus, read_debian, read_nix_store
from peers import OURS, STRATEGIES, TOGETHER, Image, Program, Strategy
from plot import Panel, draw

# Enough to tell strategies apart: with more pairs the shares change in the fourth digit.
PAIRS = 1000

# Where the curves of the plot are measured: from few layers to nearly the 127 that dockerd takes.
PLOT_BUDGETS = (8, 16, 24, 32, 48, 64, 80, 96, 120)

# Roots that are whole systems. They are updated, but nobody puts them into an image beside others.
SYSTEM_PREFIX = "nixos-"

# So many images join the rest of the fleet, each by itself.
JOINING = 5

# So many images are on a host that keeps chains of layers.
ON_ONE_HOST = 40

# Applications of one's own, and the bytes of each and of its library.
APPLICATIONS, APPLICATION_SIZE, LIBRARY_SIZE = 14, 100_000, 60_000

# What a layer costs beside its bytes, in bytes that a host pulls in the same time, and how often a
# service is updated and edited in a year.
LAYER_COST, UPDATES, EDITS = 1_000_000, 12, 250


class Figures(NamedTuple):
    """What is measured of one strategy with one budget, as described above; `chain_...` are those
    of hosts that keep chains. Figures of updates are None without an update, and those of single
    images for joint strategies."""

    fleet: float
    share: float
    join: float
    chain_fleet: float
    update: float | None = None
    rollout: float | None = None
    fleet_update: float | None = None
    fleet_rollout: float | None = None
    chain_update: float | None = None
    chain_fleet_update: float | None = None
    layers: float | None = None
    touch: float | None = None
    edit: float | None = None
    edit_max: float | None = None
    library: float | None = None
    library_max: float | None = None
    chain_edit: float | None = None
    chain_library: float | None = None
    year: float | None = None


class Case(NamedTuple):
    """A strategy with a budget, or without where that makes no difference."""

    strategy: Strategy
    budget: int | None


Plan = dict[frozenset, int]  # bytes of layers by their paths, the lowest first
Sizes = dict[str, int]  # bytes of the paths of an image


def draw_fleet(corpus: Corpus, seed: str, images: int) -> list[list[str]]:
    """Return the attributes in each image of a fleet."""
    chance = random.Random(f"fleet {seed}")
    attributes = _packages(corpus)
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


def add_applications(corpus: Corpus) -> tuple[Corpus, list[tuple[str, str]]]:
    """Return a package set with applications of one's own, and each with its library."""
    sizes, references = dict(corpus.sizes), dict(corpus.references)
    chance = random.Random(7)
    attributes = _packages(corpus)
    added = []
    for number in range(APPLICATIONS):
        count = min(chance.choice([1, 2, 3, 4]), len(attributes))
        below = _paths(corpus, chance.sample(attributes, count))
        application = f"/nix/store/{'a' * 32}-my-app-1.{number}"
        library = f"/nix/store/{'b' * 32}-my-lib-1.{number}"
        sizes[application], references[application] = APPLICATION_SIZE, [library, *below]
        sizes[library], references[library] = LIBRARY_SIZE, below[:1]
        added.append((application, library))
    return corpus._replace(sizes=sizes, references=references), added


def _packages(corpus: Corpus) -> list[str]:
    return sorted(name for name in corpus.roots if not name.startswith(SYSTEM_PREFIX))


def _paths(corpus: Corpus, attributes: Iterable[str]) -> list[str]:
    return sorted({path for name in attributes for path in corpus.roots[name]})


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
        {frozenset(layer): image.size(layer) for layer in layers}
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
    corpus, applications = add_applications(corpus)
    corpora = [corpus, update] if update else [corpus]

    def task(number: int, attributes: Iterable[str]) -> Task:
        return number, tuple(_paths(corpora[number], attributes))

    fleets = [draw_fleet(corpus, seed, images) for seed in seeds]
    parts = [tuple(task(0, names) for names in fleet) for fleet in fleets]
    joining = sorted({len(parts[0]) * n // JOINING for n in range(JOINING)})
    without = [parts[0][:n] + parts[0][n + 1 :] for n in joining]
    common = sorted(corpus.roots.keys() & update.roots.keys()) if update else []
    singles = [tuple(task(n, [name]) for name in common) for n in range(len(corpora))]
    own = tuple((0, (application,)) for application, _ in applications)
    kept = [n for n, names in enumerate(fleets[0]) if set(names) <= set(common)]
    updated = tuple(task(1, fleets[0][n]) for n in kept)
    together = [part for part in (*parts, *without, updated) if part]
    tasks = sorted({task for part in (*parts, updated, *singles, own) for task in part})
    jobs = [(n, part) for part in together for n, case in enumerate(cases) if case.strategy.joint]
    with multiprocessing.get_context("fork").Pool(None, _share, (corpora, cases)) as pool:
        alone = dict(zip(tasks, pool.imap(_plan_alone, tasks, chunksize=4)))
        jointly = dict(zip(jobs, pool.imap(_plan_fleet, jobs)))
    held = {t: {path: corpora[t[0]].sizes[path] for path in corpora[t[0]].closure(t[1])}
            for t in tasks}  # fmt: skip
    pairs = [_pairs(len(part), seed) for part, seed in zip(parts, seeds)]
    in_common = [_bytes_in_common([held[task] for task in part], drawn)
                 for part, drawn in zip(parts, pairs)]  # fmt: skip
    touched = Touched(corpus, (path for task in own for path in held[task]))

    def figures(case: int) -> Figures:
        def plan(part: Sequence[Task]) -> list[Plan]:
            return jointly.get((case, part)) or [alone[task][case] for task in part]

        def sizes(part: Iterable[Task]) -> list[Sizes]:
            return [held[task] for task in part]

        joint = cases[case].strategy.joint
        plans = [plan(part) for part in parts]
        others = [plans[0][:n] + plans[0][n + 1 :] for n in joining] if joint else []
        here = slice(ON_ONE_HOST)
        found = {
            "fleet": statistics.mean(
                moved(fleet) / moved(sizes(part)) for fleet, part in zip(plans, parts)
            ),
            "share": statistics.mean(
                _bytes_in_common(fleet, drawn) / size
                for fleet, drawn, size in zip(plans, pairs, in_common)
            ),
            "join": statistics.mean(
                moved_each(plan(part), new) / moved_each([{}] * len(new), new)
                for part, new in zip(without, others)
            )
            if joint
            else 0,
            "chain_fleet": moved_in_chains(plans[0][here]) / moved(sizes(parts[0][here])),
        }
        if update:
            old, new = [plans[0][n] for n in kept], plan(updated)
            before, after = [held[parts[0][n]] for n in kept], sizes(updated)
            found["fleet_update"] = _ratio(moved_each(old, new), moved_each(before, after))
            found["fleet_rollout"] = _ratio(moved(new, old), moved(after, before))
            found["chain_fleet_update"] = _ratio(
                sum(map(moved_above, old, new)), moved_each(before, after)
            )
        if joint:
            return Figures(**found)
        found.update(of_applications(plan(own), applications, touched))
        if update:
            old, new = map(plan, singles)
            before, after = map(sizes, singles)
            found["update"] = _ratio(moved_each(old, new), moved_each(before, after))
            found["rollout"] = _ratio(moved(new, old), moved(after, before))
            found["chain_update"] = _ratio(
                sum(map(moved_above, old, new)), moved_each(before, after)
            )
            first = statistics.mean(map(_cost, plans[0]))
            again = statistics.mean(_cost(b, a) for a, b in zip(old, new))
            edits = (_cost(p, [it for it in p if application not in it])
                     for p, (application, _) in zip(plan(own), applications))  # fmt: skip
            found["year"] = (first + UPDATES * again + EDITS * statistics.mean(edits)) / 1e6
        return Figures(**found)

    return [figures(case) for case in range(len(cases))]


def _ratio(pulled: int, changed: int) -> float | None:
    return pulled / changed if changed else None


def moved(images: Iterable[Mapping], present: Iterable[Mapping] = ()) -> int:
    """Return the bytes of all different layers (or paths) of images that none present has."""
    have = {key for image in present for key in image}
    return sum({key: size for image in images for key, size in image.items()
                if key not in have}.values())  # fmt: skip


def moved_each(before: Iterable[Mapping], after: Iterable[Mapping]) -> int:
    """Return the same of images that are pulled by different hosts, each of which had one image."""
    return sum(moved([new], [old]) for old, new in zip(before, after))


def moved_in_chains(plans: Iterable[Plan]) -> int:
    """Return the bytes that a host pulls which finds layers only upon the same layers."""
    chains: dict[tuple[int, frozenset], tuple[int, int]] = {}
    for plan in plans:
        below = 0
        for layer, size in plan.items():
            below, _ = chains.setdefault((below, layer), (len(chains) + 1, size))
    return sum(size for _, size in chains.values())


def moved_above(old: Plan, new: Plan) -> int:
    """Return the bytes of a plan from the first layer on that differs from the old plan's."""
    pairs = enumerate(zip(old, new))
    same = next((n for n, (before, after) in pairs if before != after), min(len(old), len(new)))
    return sum(list(new.values())[same:])


def _cost(plan: Plan, present: Iterable[frozenset] = ()) -> int:
    """Return what the layers of a plan that are not there cost to pull, in bytes."""
    have = {*present}
    return sum(size + LAYER_COST for layer, size in plan.items() if layer not in have)


def _pairs(count: int, seed: str) -> list[list[int]]:
    """Draw pairs of images."""
    chance = random.Random(f"pairs {seed}")
    return [chance.sample(range(count), 2) for _ in range(PAIRS)]


def _bytes_in_common(images: Sequence[Mapping], pairs: Iterable[Sequence[int]]) -> int:
    return sum(size for a, b in pairs for key, size in images[b].items() if key in images[a])


class Touched:
    """Counts the paths that a layer needs: with each of those that changes, the layer changes."""

    def __init__(self, corpus: Corpus, paths: Iterable[str]) -> None:
        self.sizes = corpus.sizes
        numbers = {path: 1 << number for number, path in enumerate(sorted({*paths}))}
        self.closures = {path: sum(map(numbers.__getitem__, corpus.closure([path])))
                         for path in numbers}  # fmt: skip

    def by_one(self, layers: Iterable[Iterable[str]]) -> int:
        """Return the bytes of layers that change with a path, summed over all paths."""
        total = 0
        for layer in layers:
            needs = size = 0
            for path in layer:
                needs |= self.closures[path]
                size += self.sizes[path]
            total += size * f"{needs:b}".count("1")
        return total


def of_applications(
    plans: list[Plan], applications: Iterable[tuple[str, str]], touched: Touched
) -> dict[str, float]:
    """Return the figures of images of applications by name."""
    touch, edit, library, chain_edit, chain_library = ([] for _ in range(5))
    for plan, (own, its_library) in zip(plans, applications):
        alone = touched.by_one([path] for layer in plan for path in layer)
        touch.append(touched.by_one(plan) / alone - 1)
        for paths, each, chained in (
            ({own}, edit, chain_edit),
            ({own, its_library}, library, chain_library),
        ):
            kept = {layer: size for layer, size in plan.items() if not layer & paths}
            each.append(moved([plan], [kept]) / 1e6)
            chained.append(moved_above(kept, plan) / 1e6)
    mean = statistics.mean
    return {
        "layers": mean(map(len, plans)),
        "touch": mean(touch),
        **{"edit": mean(edit), "edit_max": max(edit), "chain_edit": mean(chain_edit)},
        **{"library": mean(library), "library_max": max(library)},
        "chain_library": mean(chain_library),
    }


# The report


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def _with_maximum(figures: Figures, name: str) -> str:
    mean, most = getattr(figures, name), getattr(figures, f"{name}_max")
    return "" if mean is None else f"{mean:.2f} ({most:.1f})"


_ALONE = ("layers", "fleet", "share", "update", "rollout", "fleet_update", "fleet_rollout", "touch")
_FLEETS = ("fleet", "share", "fleet_update", "fleet_rollout", "join")
_CHAINS = ("fleet", "update", "fleet_update", "edit", "library")


def table(
    rows: Iterable[tuple[Sequence[str], Figures]], headings: Sequence[str], joint: bool = False
) -> str:
    """Return figures as a Markdown table; each row begins with cells for the headings."""
    names = _FLEETS if joint else (*_ALONE, "edit", "library", "year")
    chained = ["fleet", "fleet_update"] if joint else _CHAINS
    titles = [*headings, *names, *(f"{name}, chains" for name in chained)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in titles) + " |"]
    lines.append("|" + ":--|" * len(headings) + "--:|" * (len(titles) - len(headings)))
    for cells, figures in rows:
        texts = [
            _with_maximum(figures, name) if name in ("edit", "library")
            else _number(getattr(figures, name))
            for name in names
        ]  # fmt: skip
        texts += [_number(getattr(figures, f"chain_{name}")) for name in chained]
        lines.append("| " + " | ".join([*cells, *texts]) + " |")
    return "\n".join(lines)


def compare(
    corpus: Corpus,
    update: Corpus | None,
    strategies: Sequence[Strategy],
    budgets: Sequence[int],
    **options: object,
) -> str:
    """Return the figures of all strategies as tables, one budget after the other."""
    cases = [Case(s, None) for s in strategies if not s.budgeted]
    cases += [Case(s, budget) for budget in budgets for s in strategies if s.budgeted]
    alone, joint = [], []
    for case, figures in zip(cases, measure(corpus, update, cases, **options)):
        name = case.strategy.name
        cells = str(case.budget or "any"), f"**{name}**" if name in (OURS, TOGETHER) else name
        (joint if case.strategy.joint else alone).append((cells, figures))
    headings = "most", "strategy"
    tables = [table(alone, headings)] if alone else []
    return "\n\n".join(tables + ([table(joint, headings, joint=True)] if joint else []))


def vary_constants(
    corpus: Corpus,
    update: Corpus | None,
    names: Sequence[str],
    budgets: Sequence[int],
    **options: object,
) -> str:
    """Return the figures of our strategy with half and twice each constant as a table."""
    ours = next(strategy for strategy in STRATEGIES if strategy.name == OURS)
    variants = [ours]
    for name in names:
        for amount, factor in (("half", 0.5), ("twice", 2)):
            group = partial(ours.group, constants={name: factor})
            variants.append(Strategy(f"{amount} `{name}`", group))
    return compare(corpus, update, variants, budgets, **options)


def describe(corpus: Corpus, update: Corpus | None) -> str:
    megabytes = sum(corpus.sizes.values()) / 1_000_000
    text = (
        f"{corpus.name}: {len(corpus.sizes)} paths, {megabytes:.0f} MB, {len(corpus.roots)} roots"
    )
    if update:
        kept = len(corpus.sizes.keys() & update.sizes.keys())
        text += f"; {kept} paths are the same in {update.name}"
    return text


# What readers know the strategies by.
KNOWN_AS = {
    "popularity contest": "dockerTools until 2025, nix2container",
    "auto-layer": "dockerTools since 2025",
    "Nixery": "Nixery (2019)",
    OURS: OURS,
}


def curves(corpus: Corpus, seeds: Sequence[str], images: int) -> list[Panel]:
    """Return the figures fleet and edit of each strategy against the budget."""
    drawn = [strategy for strategy in STRATEGIES if strategy.name in KNOWN_AS]
    cases = [Case(strategy, budget) for strategy in drawn for budget in PLOT_BUDGETS]
    panels = [
        Panel(f"Pull {images} images, on {corpus.name}", {}, "bytes pulled / bytes of all paths"),
        Panel("Change one's own application of 0.1 MB", {}, "MB to build, push and pull"),
    ]
    for case, figures in zip(cases, measure(corpus, None, cases, seeds[:1], images)):
        for panel, figure in zip(panels, (figures.fleet, figures.edit)):
            line = panel.lines.setdefault(KNOWN_AS[case.strategy.name], [])
            line.append((case.budget, figure))
    return panels


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--debian", action="store_true", help="Debian's sets, beside those of other arguments")
    add("--nix-store", action="store_true")
    add(
        "--corpus",
        action="append",
        nargs="+",
        default=[],
        metavar=("FILE", "UPDATE"),
        help="a package set and, optionally, its later state; corpora.py has the format",
    )
    add("--budgets", type=_numbers, default=[24, 48, 96], metavar="N,N,...")
    add("--only", type=_words, metavar="NAME,NAME,...", help="strategies, by their names")
    add("--program", metavar="FILE", help="another version of group_layers.py to measure beside")
    add("--seeds", type=_numbers, default=[1, 2], metavar="N,N,...")
    add("--images", type=int, default=100, metavar="N", help="in a fleet")
    add(
        "--constants",
        type=_words,
        default=[],
        metavar="NAME,NAME,...",
        help="vary constants of group_layers.py as well, on the first two sets",
    )
    add("--write", type=Path, metavar="FOLDER", help="write results.md and reuse.svg there")
    arguments = parser.parse_args(argv)
    if any(len(files) > 2 for files in arguments.corpus):
        parser.error("--corpus takes one file or two")
    if arguments.images < 2 or min(arguments.budgets) < 1:
        parser.error("at least two images and one layer")
    return arguments


def _numbers(text: str) -> list[int]:
    return sorted({int(word) for word in text.split(",")})


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def choose_strategies(program: str | None, only: list[str] | None) -> list[Strategy]:
    """Return the strategies to compare. Raises `CorpusError` for one that there is not."""
    strategies = list(STRATEGIES)
    if program:
        before = Program(program)
        beside = [
            Strategy(Path(program).stem, before.plan_alone),
            Strategy(f"{Path(program).stem}, together", before.plan_together, joint=True),
        ]
        strategies[-1:-1] = beside
    names = [strategy.name for strategy in strategies]
    for name in only or []:
        if name not in names:
            raise CorpusError(f"--only: {name}: write one of: {', '.join(names)}")
    return [strategy for strategy in strategies if not only or strategy.name in only]


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    sets: list[tuple[Corpus, Corpus | None]] = []
    try:
        strategies = choose_strategies(arguments.program, arguments.only)
        if arguments.debian or not (arguments.corpus or arguments.nix_store):
            sets += [(read_debian(old), read_debian(new)) for old, new in DEBIAN_SETS]
        for old, *new in arguments.corpus:
            sets.append((read_corpus(old), read_corpus(new[0]) if new else None))
        if arguments.nix_store:
            sets.append((read_nix_store(), None))
    except CorpusError as error:
        print(f"reuse: {error}", file=sys.stderr)
        return 2

    seeds = [str(seed) for seed in arguments.seeds]
    options = {"seeds": seeds, "images": arguments.images}
    sections = []

    def report(section: str) -> None:
        print(section + "\n", flush=True)
        sections.append(section)

    for corpus, update in sets:
        rows = compare(corpus, update, strategies, arguments.budgets, **options)
        report(f"## {corpus.name}, {update.name if update else 'no update'}\n\n"
               f"{describe(corpus, update)}\n\n{rows}")  # fmt: skip
    for corpus, update in sets[:2] if arguments.constants else []:
        ends = sorted({min(arguments.budgets), max(arguments.budgets)})
        rows = vary_constants(corpus, update, arguments.constants, ends, **options)
        report(f"## Constants: {corpus.name}, {update.name if update else 'no update'}\n\n{rows}")
    if arguments.write:
        (arguments.write / "results.md").write_text("\n\n".join([HEADING, *sections]) + "\n")
        panels = curves(sets[0][0], **options)
        chart = draw(panels, "Lower is better", "layers that an image may have", bold=(OURS,))
        (arguments.write / "reuse.svg").write_text(chart)
    return 0


HEADING = """# Bytes moved, measured

`bench/reuse.py --help` says what the figures mean. It wrote this file."""


if __name__ == "__main__":
    sys.exit(main())
