"""The compared strategies for grouping store paths into layers: ours and those of others.

Each strategy takes images, a layer budget and a popularity table, and returns for each image its
layers as lists of store paths, in the order in which they lie in the image, lowest first. The peers
are implemented from their published descriptions; ties are broken by store path, so that the
figures are reproducible.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from corpora import Corpus

__all__ = ["OURS", "STRATEGIES", "TOGETHER", "Image", "Program", "Strategy"]

Layers = list[list[str]]


class Image:
    """The closure of some roots of a corpus, as Nix describes it to a layering tool.

    `references` has the paths in the order of the alphabet, and leaves out self references.
    """

    def __init__(self, corpus: Corpus, roots: list[str]) -> None:
        self.roots = roots
        paths = sorted(corpus.closure(roots))
        self.sizes = {path: corpus.sizes[path] for path in paths}
        self.references = {
            path: [needed for needed in corpus.references[path] if needed != path] for path in paths
        }

    @cached_property
    def closures(self) -> dict[str, set[str]]:
        """Each path's closure: itself and all that it needs."""
        closures: dict[str, set[str]] = {}
        for path in reversed(self.dependents_first()):
            needed = map(closures.__getitem__, self.references[path])
            closures[path] = {path}.union(*needed)
        return closures

    def size(self, paths: Iterable[str]) -> int:
        """Return the bytes of paths."""
        return sum(map(self.sizes.__getitem__, paths))

    def entries(self) -> list[dict]:
        """Return the entries of the graph that Nix exports for this image."""
        return [
            {
                "path": path,
                "narSize": self.sizes[path],
                "closureSize": self.size(self.closures[path]),
                "references": self.references[path],
            }
            for path in self.sizes
        ]

    def dependents_first(self) -> list[str]:
        """Return the paths such that each comes before those that it refers to."""
        order: list[str] = []
        done: set[str] = set()
        for start in self.references:
            stack = [(start, iter(self.references[start]))] if start not in done else []
            done.add(start)
            while stack:
                following = next((needed for needed in stack[-1][1] if needed not in done), None)
                if following is None:
                    order.append(stack.pop()[0])
                else:
                    done.add(following)
                    stack.append((following, iter(self.references[following])))
        return order[::-1]


def one_layer(image: Image, budget: int, popularity: Mapping[str, int]) -> Layers:
    """All paths in one layer: an image without layering."""
    return [list(image.sizes)]


def popularity_contest(image: Image, budget: int, popularity: Mapping[str, int]) -> Layers:
    """The most popular paths get a layer each, the rest share the last one.

    dockerTools until 2025, and nix2container. A path is as popular as there are ways to it along
    references, from any path of the image.

    G. Christensen, "Optimising Docker Layers for Better Caching with Nix", 2018.
    """
    ways = dict.fromkeys(image.sizes, 1)
    for path in image.dependents_first():
        for needed in image.references[path]:
            ways[needed] += ways[path]
    return _first_alone(sorted(ways, key=lambda path: (-ways[path], path)), budget)


def _first_alone(ranked: list[str], budget: int) -> Layers:
    if len(ranked) <= budget:
        return [[path] for path in ranked]
    return [[path] for path in ranked[: budget - 1]] + [ranked[budget - 1 :]]


def auto_layer(image: Image, budget: int, popularity: Mapping[str, int]) -> Layers:
    """Paths that the same large paths need share a layer; so many are large as the budget allows.

    dockerTools since 2025 (NixOS/nixpkgs#355189), and proposed for nix2container (#204).

    Starting with one group, the paths are declared large one after the other, by size, and each
    group is split into what the new one needs, itself included, and what it does not need. Layers
    with small closures lie lowest. So does nixpkgs' own program (26.11): its layers and their order
    were the same for 100 images from each package set, for 24 and 96 layers.
    """
    group_of = dict.fromkeys(image.sizes, 0)
    members = [len(group_of)]
    groups = 1
    for large in sorted(image.sizes, key=lambda path: (image.sizes[path], path), reverse=True):
        needed = image.closures[large]
        taken: dict[int, int] = {}
        for path in needed:
            taken[group_of[path]] = taken.get(group_of[path], 0) + 1
        # A group that is needed as a whole is not split.
        split = sorted(group for group, count in taken.items() if count < members[group])
        groups += len(split)
        if groups > budget:
            break
        new = {group: len(members) + number for number, group in enumerate(split)}
        for group in split:
            members[group] -= taken[group]
            members.append(taken[group])
        for path in needed:
            group_of[path] = new.get(group_of[path], group_of[path])
    layers: dict[int, list[str]] = {}
    for path, group in group_of.items():
        layers.setdefault(group, []).append(path)

    def closure_size(layer: list[str]) -> int:
        return image.size(set().union(*map(image.closures.__getitem__, layer)))

    return sorted(layers.values(), key=lambda layer: (closure_size(layer), layer))


class Program:
    """A group_layers.py of any version, run by its command line, which all versions have alike."""

    def __init__(self, file: Path | str) -> None:
        spec = importlib.util.spec_from_file_location("group_layers", file)
        assert spec and spec.loader
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def plan(
        self,
        images: Sequence[Image],
        budget: int,
        popularity: Mapping[str, int] = {},
        strategy: str | None = None,
        known: Sequence[Layers] = (),
        constants: Mapping[str, float] = {},
    ) -> list[Layers]:
        """Plan images together; return the layers of each. `constants` are factors by name."""
        if not images:
            return []
        graphs = {str(number): image for number, image in enumerate(images)}
        roots = {"exportReferencesGraph": {name: it.roots for name, it in graphs.items()}}
        document = {**roots, **{name: image.entries() for name, image in graphs.items()}}
        plans = [[{"contents": layer} for layer in layers] for layers in known]
        inputs = {
            "--graph": document,
            "--pop": dict(popularity),
            "--known": {str(number): plan for number, plan in enumerate(plans)},
        }
        values = {name: getattr(self.module, name) for name in constants}
        with tempfile.TemporaryDirectory(prefix="reuse-") as folder:
            words = ["--budget", str(budget), "--out", f"{folder}/out"]
            words += ["--strategy", strategy] if strategy else []
            for flag, content in inputs.items():
                if content:
                    Path(folder, flag).write_text(json.dumps(content))
                    words += [flag, f"{folder}/{flag}"]
            try:
                for name, value in values.items():
                    setattr(self.module, name, type(value)(value * constants[name]))
                status = self.module.main(words)
            finally:
                gc.enable()  # which a program that ends soon does without
                for name, value in values.items():
                    setattr(self.module, name, value)
            if status:
                raise AssertionError(f"{self.module.__file__}: exit status {status}")
            planned = json.loads(Path(folder, "out").read_text())
        return [[layer["contents"] for layer in planned[name]] for name in graphs]

    def plan_alone(
        self, image: Image, budget: int, popularity: Mapping[str, int], **more: Any
    ) -> Layers:
        """Plan one image."""
        return self.plan([image], budget, popularity, **more)[0]

    def plan_together(self, images: Sequence[Image], budget: int, _: object) -> list[Layers]:
        """Plan all images of a fleet at once."""
        return self.plan(images, budget)

    def plan_halves(self, images: Sequence[Image], budget: int, _: object) -> list[Layers]:
        """Plan the first half of the images together, and the second."""
        half = -(-len(images) // 2)
        return self.plan(images[:half], budget) + self.plan(images[half:], budget)

    def plan_one_by_one(self, images: Sequence[Image], budget: int, _: object) -> list[Layers]:
        """Plan four fifths together, and the others each with the lock of those before it."""
        plans = self.plan(images[: len(images) * 4 // 5], budget)
        for image in images[len(plans) :]:
            plans += self.plan([image], budget, known=plans)
        return plans


class Strategy(NamedTuple):
    """A strategy, under its name in the report."""

    name: str
    group: Callable
    table: bool = False  # whether it is given the popularity table of the corpus
    budgeted: bool = True  # whether the budget makes a difference
    joint: bool = False  # whether it is given all images of a fleet at once


OURS = "this project"
TOGETHER = "planned together"

_program = Program(Path(__file__).resolve().parent.parent / "group_layers.py")
_nixery = partial(_program.plan_alone, strategy="nixery")

STRATEGIES = (
    Strategy("one layer", one_layer, budgeted=False),
    Strategy("popularity contest", popularity_contest),
    Strategy("Nixery", _nixery),
    Strategy("Nixery with a table", _nixery, table=True),
    Strategy("auto-layer", auto_layer),
    Strategy(f"{OURS} with a table", _program.plan_alone, table=True),
    Strategy(OURS, _program.plan_alone),
    Strategy("two halves", _program.plan_halves, joint=True),
    Strategy("80 % and then one by one", _program.plan_one_by_one, joint=True),
    Strategy(TOGETHER, _program.plan_together, joint=True),
)
