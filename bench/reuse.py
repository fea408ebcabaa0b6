#!/usr/bin/env python3
"""Measure how many bytes are transferred with each strategy for grouping store paths into layers.

    reuse.py                                             package sets of Debian, from its mirrors
    reuse.py debian old.json.gz,new.json.gz nix-store    these, files, and the machine's Nix store
    reuse.py --budgets 96 --only "this project" trixie,trixie-updated       one row
    reuse.py --program FILE                              beside another version of group_layers.py

A set may be followed by its later state. corpora.py describes the sets, peers.py the strategies.

Hosts and registries keep layers by digest: a layer is reused exactly if its set of store paths is
the same. So the figures can be computed without packing anything. Where no unit is given, 1.0 is
one path per layer, which transfers no byte twice. Lower is better, except for share:

fleet           bytes of all different layers / bytes of all different paths, over a fleet of
                images: what one host pulls that runs them all, what a registry stores
share           of the bytes that two images of the fleet have in common, the part that is not
                pulled again for the second one (higher is better)
update          bytes pulled again / bytes changed, when each root by itself moves to the later set
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

Some hosts, such as docker's own store, keep *chains* of layers: a layer is found there only on top
of the same layers. The figures on them say what is pulled from the first layer on that differs.
fleet is of 40 images.

An image of the fleet has one to six roots, some roots far more often than others, and half of the
images have a shell. fleet and share are means over two fleets; the other figures of fleets are of
the first one. All tables of results.md take half an hour on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import NamedTuple, Optional

from corpora import DEBIAN_SETS, Corpus, CorpusError, read_corpus
from peers import OURS, STRATEGIES, TOGETHER, Image, Program, Strategy
from plot import Panel, draw
from timing import table

# Enough to tell strategies apart: with more pairs the shares change in the fourth digit.
PAIRS = 1000

# Where the curves of the chart are measured: from few layers to nearly the 127 that dockerd takes.
PLOT_BUDGETS = (8, 16, 24, 32, 48, 64, 80, 96, 120)

# Roots that are whole systems. They are updated, but nobody puts them into an image beside others.
SYSTEM_PREFIX = "nixos-"

SEEDS = ("1", "2")  # of the fleets
JOINING = 5  # images that join the rest of the fleet, each by itself
ON_ONE_HOST = 40  # images on a host that keeps chains of layers

# Applications of one's own, and the bytes of each and of its library.
APPLICATIONS, APPLICATION_SIZE, LIBRARY_SIZE = 14, 100_000, 60_000

# What a layer costs beside its bytes, in bytes that a host pulls in the same time, and how often a
# service is updated and edited in a year.
LAYER_COST, UPDATES, EDITS = 1_000_000, 12, 250

# The figures of a strategy with a budget by name, as above; those of hosts that keep chains end in
# CHAINS. Some are missing: of updates without a later set, of single images for joint strategies.
Figures = dict[str, Optional[float]]
CHAINS = ", chains"


class Case(NamedTuple):
    """A strategy with a budget, or without where that makes no difference."""

    strategy: Strategy
    budget: int | None


Plan = dict[frozenset, int]  # bytes of layers by their paths, the lowest first
Task = tuple[int, tuple[str, ...]]  # an image: number of the corpus, roots


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


# Planning, in processes that share what need not be copied for each image

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


# Figures


def measure(
    corpus: Corpus, update: Corpus | None, cases: list[Case], images: int = 100
) -> list[Figures]:
    """Return the figures of each case."""
    corpus, applications = add_applications(corpus)
    corpora = [corpus, update] if update else [corpus]

    def task(number: int, attributes: Iterable[str]) -> Task:
        return number, tuple(_paths(corpora[number], attributes))

    fleets = [draw_fleet(corpus, seed, images) for seed in SEEDS]
    parts = [tuple(task(0, names) for names in fleet) for fleet in fleets]
    joining = sorted({images * n // JOINING for n in range(JOINING)})
    without = [parts[0][:n] + parts[0][n + 1 :] for n in joining]
    common = sorted(corpus.roots.keys() & update.roots.keys()) if update else []
    old, new = (tuple(task(n, [name]) for name in common) for n in (0, 1))
    kept = [n for n, names in enumerate(fleets[0]) if set(names) <= set(common)]
    outdated = tuple(parts[0][n] for n in kept)
    updated = tuple(task(1, fleets[0][n]) for n in kept)
    own = tuple((0, (application,)) for application, _ in applications)

    tasks = sorted({task for part in (*parts, updated, old, new, own) for task in part})
    together = [part for part in (*parts, *without, updated) if part]
    jobs = [(n, part) for part in together for n, case in enumerate(cases) if case.strategy.joint]
    with multiprocessing.get_context("fork").Pool(None, _share, (corpora, cases)) as pool:
        alone = dict(zip(tasks, pool.imap(_plan_alone, tasks, chunksize=4)))
        jointly = dict(zip(jobs, pool.imap(_plan_fleet, jobs)))
    held = {t: {path: corpora[t[0]].sizes[path] for path in corpora[t[0]].closure(t[1])}
            for t in tasks}  # fmt: skip
    pairs = [_pairs(images, seed) for seed in SEEDS]
    needs = _Needs(corpus, {path for task in own for path in held[task]})

    def sizes(part: Iterable[Task]) -> list[dict[str, int]]:
        return [held[task] for task in part]

    in_common = [_bytes_in_common(sizes(part), drawn) for part, drawn in zip(parts, pairs)]

    def figures(case: int) -> Figures:
        joint = cases[case].strategy.joint

        def plan(part: tuple[Task, ...]) -> list[Plan]:
            return jointly.get((case, part)) or [alone[task][case] or {} for task in part]

        def of_update(old: list[Plan], new: list[Plan], before: list, after: list) -> list:
            """The figures update, rollout and update for chains."""
            pulled = moved_each(old, new), moved(new, old), sum(map(moved_above, old, new))
            each, at_once = moved_each(before, after), moved(after, before)
            return [a / b if b else None for a, b in zip(pulled, (each, at_once, each))]

        plans = [plan(part) for part in parts]
        shared = (_bytes_in_common(*pair) for pair in zip(plans, pairs))
        one_host = moved(sizes(parts[0][:ON_ONE_HOST]))
        found: Figures = {
            "fleet": mean(moved(fleet) / moved(sizes(part)) for fleet, part in zip(plans, parts)),
            "share": mean(size / of if of else 1 for size, of in zip(shared, in_common)),
            "fleet" + CHAINS: moved_in_chains(plans[0][:ON_ONE_HOST]) / one_host,
        }
        if update:
            before = [plans[0][n] for n in kept]
            moves = of_update(before, plan(updated), sizes(outdated), sizes(updated))
            names = "fleet_update", "fleet_rollout", "fleet_update" + CHAINS
            found.update(zip(names, moves))
        if joint:
            others = [plans[0][:n] + plans[0][n + 1 :] for n in joining]
            found["join"] = mean(
                moved_each(plan(part), fleet) / moved_each([{}] * len(fleet), fleet)
                for part, fleet in zip(without, others)
            )
            return found
        found.update(of_applications(plan(own), applications, needs))
        if update:
            before, after = plan(old), plan(new)
            moves = of_update(before, after, sizes(old), sizes(new))
            found.update(zip(("update", "rollout", "update" + CHAINS), moves))
            pull = mean(map(_cost, plans[0]))
            again = mean(map(_cost, after, before))
            edit = mean(
                _cost(it, [layer for layer in it if application not in layer])
                for it, (application, _) in zip(plan(own), applications)
            )
            found["year"] = (pull + UPDATES * again + EDITS * edit) / 1e6
        return found

    return [figures(case) for case in range(len(cases))]


def moved(images: Iterable[Mapping], present: Iterable[Mapping] = ()) -> int:
    """Return the bytes of all different layers (or paths) of images that none present has."""
    have = {key for image in present for key in image}
    return sum({key: size for image in images for key, size in image.items()
                if key not in have}.values())  # fmt: skip


def moved_each(before: Iterable[Mapping], after: Iterable[Mapping]) -> int:
    """Return the same of images that are pulled by different hosts, each of which had one image."""
    return sum(moved([new], [old]) for old, new in zip(before, after))


def moved_in_chains(plans: Iterable[Plan]) -> int:
    """Return the bytes that a host pulls that finds layers only on top of the same layers."""
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


class _Needs:
    """What each path needs, as bits: a layer changes with each path that one of its own needs."""

    def __init__(self, corpus: Corpus, paths: Iterable[str]) -> None:
        self.sizes = corpus.sizes
        bits = {path: 1 << number for number, path in enumerate(sorted(paths))}
        self.closures = {path: sum(bits[it] for it in corpus.closure([path])) for path in bits}

    def moved(self, layers: Iterable[Iterable[str]]) -> int:
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
    plans: list[Plan], applications: Iterable[tuple[str, str]], needs: _Needs
) -> Figures:
    """Return the figures of images of applications."""
    touch = []
    megabytes: dict[str, list[float]] = {}
    for plan, (application, library) in zip(plans, applications):
        alone = needs.moved([path] for layer in plan for path in layer)
        touch.append(needs.moved(plan) / alone - 1)
        for name, changed in ("edit", {application}), ("library", {application, library}):
            kept = {layer: size for layer, size in plan.items() if not layer & changed}
            megabytes.setdefault(name, []).append(moved([plan], [kept]) / 1e6)
            megabytes.setdefault(name + CHAINS, []).append(moved_above(kept, plan) / 1e6)
    return {
        "layers": mean(map(len, plans)),
        "touch": mean(touch),
        **{name: mean(amounts) for name, amounts in megabytes.items()},
        **{f"{name}, maximum": max(amounts) for name, amounts in megabytes.items()},
    }


# The report

ALONE = (
    "layers fleet share update rollout fleet_update fleet_rollout touch edit library year".split()
)
ALONE += [name + CHAINS for name in ("fleet", "update", "fleet_update", "edit", "library")]
JOINT = "fleet share fleet_update fleet_rollout join".split()
JOINT += [name + CHAINS for name in ("fleet", "fleet_update")]


def _cell(figures: Figures, name: str) -> str:
    value = figures.get(name)
    if value is None:
        return ""
    if name in ("edit", "library"):
        return f"{value:.2f} ({figures[name + ', maximum']:.1f})"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def _bold(name: str) -> str:
    return f"**{name}**" if name in (OURS, TOGETHER) else name


Compared = list[tuple[Case, Figures]]


def tables(compared: Compared) -> str:
    """Return figures as two tables, of strategies that plan images alone and together."""
    parts = []
    for joint, names in (False, ALONE), (True, JOINT):
        rows = [
            [_bold(strategy.name), budget or "any", *(_cell(figures, n) for n in names)]
            for (strategy, budget), figures in compared
            if strategy.joint == joint
        ]
        heads = ["strategy", "at most", *(name.replace("_", " ") for name in names)]
        if rows:
            parts.append(table(heads, rows))
    return "\n\n".join(parts)


def compare(
    corpus: Corpus,
    update: Corpus | None,
    strategies: Sequence[Strategy],
    budgets: Sequence[int],
    images: int,
) -> Compared:
    """Return the figures of all strategies, one budget after the other."""
    cases = [Case(s, None) for s in strategies if not s.budgeted]
    cases += [Case(s, budget) for budget in budgets for s in strategies if s.budgeted]
    return [*zip(cases, measure(corpus, update, cases, images))]


def vary(names: Iterable[str]) -> list[Strategy]:
    """Return our strategy, and with half and twice each constant."""
    ours = next(strategy for strategy in STRATEGIES if strategy.name == OURS)
    return [ours] + [
        Strategy(f"{amount} `{name}`", partial(ours.group, constants={name: factor}))
        for name in names
        for amount, factor in (("half", 0.5), ("twice", 2))
    ]


def summarize(sets: Mapping[str, Compared]) -> str:
    """Return the figure year with the largest budget, by package set and strategy."""
    rows = []
    for title, compared in sets.items():
        last = {case.strategy.name: figures for case, figures in compared if "year" in figures}
        rows.append([title, *(_cell(figures, "year") for figures in last.values())])
    return table(["package sets", *map(_bold, last)], rows)


def describe(corpus: Corpus, update: Corpus | None) -> str:
    megabytes = sum(corpus.sizes.values()) / 1e6
    text = f"{len(corpus.sizes)} paths, {megabytes:.0f} MB, {len(corpus.roots)} roots"
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


def chart(corpus: Corpus, images: int) -> str:
    """Return a chart of the figures fleet and edit of each strategy against the budget."""
    drawn = [strategy for strategy in STRATEGIES if strategy.name in KNOWN_AS]
    panels = [
        Panel(f"{images} images from {corpus.name}", {}, "bytes pulled / bytes of all store paths"),
        Panel("a change of one's own application (0.1 MB)", {}, "MB to build, push and pull"),
    ]
    for case, figures in compare(corpus, None, drawn, PLOT_BUDGETS, images):
        for panel, name in zip(panels, ("fleet", "edit")):
            panel.lines.setdefault(KNOWN_AS[case.strategy.name], []).append(
                (case.budget or 0, figures[name] or 0)
            )
    title = "What hosts pull, by the number of layers: lower is better"
    return draw(panels, title, "layers that an image may have", bold=(OURS,))


def choose_strategies(program: str | None, only: list[str] | None) -> list[Strategy]:
    """Return the strategies to compare. Raises `CorpusError` for one that there is not."""
    strategies = list(STRATEGIES)
    if program:
        name, before = Path(program).stem, Program(program)
        strategies.insert(-1, Strategy(name, before.plan_alone))
        strategies.insert(-1, Strategy(f"{name} together", before.plan_together, joint=True))
    names = [strategy.name for strategy in strategies]
    for name in only or []:
        if name not in names:
            raise CorpusError(f"--only: {name}: write one of: {', '.join(names)}")
    return [strategy for strategy in strategies if not only or strategy.name in only]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return sorted({int(word) for word in text.split(",")})

    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, metavar="NAME,...")
    sets = [",".join(names) for names in DEBIAN_SETS]
    add(
        "sets", nargs="*", metavar="SET[,LATER]", help="default: debian, which is " + " ".join(sets)
    )
    add("--budgets", type=numbers, default=[24, 48, 96], metavar="N,...")
    add("--only", type=words, help="strategies, by their names")
    add("--program", metavar="FILE", help="another version of group_layers.py to measure beside")
    add("--images", type=int, default=100, metavar="N", help="in a fleet (default: 100)")
    add("--constants", type=words, default=[], help="vary these as well, on the first two sets")
    why = "write results.md and reuse.svg there; needs matplotlib, as `dev/test -- COMMAND` has it"
    add("--write", type=Path, metavar="FOLDER", help=why)
    arguments = parser.parse_args(argv)
    if arguments.images < 2 or min(arguments.budgets) < 1:
        parser.error("at least two images and one layer")
    if arguments.write and not find_spec("matplotlib"):
        parser.error("--write needs matplotlib: run dev/test -- bench/reuse.py ...")
    pairs: list[Sequence[str]] = []
    for name in arguments.sets or ["debian"]:
        pairs += DEBIAN_SETS if name == "debian" else [name.split(",", 1)]
    arguments.sets = pairs
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        strategies = choose_strategies(arguments.program, arguments.only)
        sets = [
            (read_corpus(name), read_corpus(later[0]) if later else None)
            for name, *later in arguments.sets
        ]
    except CorpusError as error:
        print(f"reuse: {error}", file=sys.stderr)
        return 2

    budgets, images = arguments.budgets, arguments.images
    sections: list[str] = []

    def report(*paragraphs: str) -> None:
        print(*paragraphs, sep="\n\n", end="\n\n", flush=True)
        sections.extend(paragraphs)

    results = {}
    for corpus, update in sets:
        title = f"{corpus.name}, {update.name if update else 'no update'}"
        results[title] = compare(corpus, update, strategies, budgets, images)
        report(f"## {title}", describe(corpus, update), tables(results[title]))
    if arguments.constants:
        variants, ends = vary(arguments.constants), sorted({min(budgets), max(budgets)})
        for title, (corpus, update) in [*zip(results, sets)][:2]:
            varied = compare(corpus, update, variants, ends, images)
            report(f"## Constants: {title}", tables(varied))
    if arguments.write:
        words = [",".join(map(os.path.basename, word.split(","))) for word in sys.argv[1:]]
        head = HEADING.format(
            command=shlex.join(["dev/test", "--", "bench/reuse.py", *words]),
            year=summarize(results),
        )
        (arguments.write / "results.md").write_text("\n\n".join([head, *sections]) + "\n")
        (arguments.write / "reuse.svg").write_text(chart(sets[0][0], images))
    return 0


HEADING = """# Bytes moved, measured

`bench/reuse.py --help` says what the figures mean. It wrote this file:

```
{command}
```

- **this project** is how images are grouped, "with a table" when a popularity table of the same
  package set is given. "1.1.0" is this project's version 1.1.0.
- "auto-layer" is nixpkgs' dockerTools since 2025, "popularity contest" dockerTools until 2025 and
  nix2container, "Nixery" `--strategy nixery`, which decides as the server of 2019 did.
- **planned together** plans all images of a fleet at once, as `buildImages` does. The rows above
  show what smaller fleets are worth: the same images in two halves, and four fifths of them
  together, to which the others are added one by one with the lock.

Debian's dependencies, sizes and updates are real, its store paths made up (corpora.py). Sets that
begin with nixos- or debian- come from files that are not in this repository. The NixOS sets are of
2018: hashes, dependency inputs and revisions are real; which of the inputs stay references, and
most sizes, are modelled. debian-bookworm is another choice of packages than bookworm, with few
updates. How images are grouped was chosen on these two, and confirmed on trixie, forky and
bullseye; the other sets were measured when all was chosen.

![Bytes pulled, and bytes that an edit changes, against the number of layers](reuse.svg)

## A year of a service, MB

{year}"""


if __name__ == "__main__":
    sys.exit(main())
