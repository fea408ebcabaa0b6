"""Layers as docs/layers.md describes them: shared however packages are asked for."""

from __future__ import annotations

import re

import pytest

from group_layers import read_file, read_popularity, store_name
from nix import ROOT, Image, Nix, run

ONE = "[ pkgs.git ]"
BOTH = "[ pkgs.git pkgs.nginx ]"
# As buildEnv makes it: links to what the packages have.
ENVIRONMENT = """[ (pkgs.runCommand "both" { } ''
  mkdir -p $out/bin
  ln -s ${pkgs.git}/bin/* ${pkgs.nginx}/bin/* $out/bin
'') ]"""


def store_layers(nix: Nix, contents: str, max_layers: int) -> dict[str, int]:
    """Return the bytes of an image's layers of store paths by digest."""
    image: Image = nix.image(f"{{ contents = {contents}; maxLayers = {max_layers}; }}")
    layers = zip(image.manifest["layers"], image.store_paths)
    return {layer["digest"]: layer["size"] for layer, paths in layers if paths}


@pytest.mark.parametrize("contents", [BOTH, ENVIRONMENT])
def test_all_layers_are_shared_where_the_budget_is_enough(nix, contents):
    assert store_layers(nix, ONE, 100).items() <= store_layers(nix, contents, 100).items()


@pytest.mark.parametrize("contents", [BOTH, ENVIRONMENT])
def test_most_bytes_are_shared_where_it_is_not(nix, contents):
    one, other = (store_layers(nix, c, 16) for c in (ONE, contents))
    assert max(len(one), len(other)) <= 15
    assert sum(one[digest] for digest in one.keys() & other.keys()) > 0.8 * sum(one.values())


def test_an_environment_has_the_layers_of_its_packages(nix):
    both, environment = (store_layers(nix, c, 16) for c in (BOTH, ENVIRONMENT))
    assert len(both.keys() - environment.keys()) <= 1


def test_documented_command_makes_a_popularity_table(nix, tmp_path):
    document = (ROOT / "docs" / "layers.md").read_text()
    (command,) = re.findall(r"```sh\n(nix .*?)```", document, re.DOTALL)
    git = str(nix.package("git"))
    users = {}
    for needed in {*run("nix-store", "--query", "--references", git).stdout.split()} - {git}:
        referrers = run("nix-store", "--query", "--referrers", needed).stdout.split()
        users[store_name(needed)] = {r for r in referrers if not r.endswith(".drv")} - {needed}
    run("bash", "-euo", "pipefail", "-c", command, cwd=tmp_path)
    table = read_file(str(tmp_path / "popularity.json"), read_popularity)
    assert all(table[name] >= len(some) > 0 for name, some in users.items())
