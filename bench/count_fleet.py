#!/usr/bin/env python3
"""Count the bytes that the images of examples/fleet cost a registry's clients.

    count_fleet.py PACKAGE_SET

builds them with a package set (a folder that is loaded like nixpkgs), pushes them to a registry and
pulls them on one host, and does the same with the next revision; then again with each image planned
alone, and with the layers of dockerTools' auto-layer. Prints a Markdown table of the bytes that the
host pulled. Needs nix-build, nix-instantiate, skopeo and docker-registry.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from corpora import Corpus  # noqa: E402
from docker_registry import run_registry  # noqa: E402
from peers import Image, auto_layer  # noqa: E402

NAMES = ("api", "worker", "mailer", "search", "nightly")
LAYERS = 12


def run(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def build(packages: Path, revision: int, change: str) -> dict[str, Path]:
    """Build an attribute or an override (Nix text) of each image; return the results by name."""
    names = " ".join(f'"{name}"' for name in NAMES)
    text = f"""let
        pkgs = import {packages} {{ }};
        fleet = ((import "{ROOT}/examples/fleet/flake.nix").outputs {{
          self.shortRev = "{revision}";
          nixpkgs.legacyPackages.x86_64-linux = pkgs;
          nixery.lib.x86_64-linux = import "{ROOT}" {{ inherit pkgs; }};
        }}).packages.x86_64-linux;
      in map (name: {change}) [ {names} ]"""
    results = run("nix-build", "--no-out-link", "-E", text)
    return dict(zip(NAMES, map(Path, results.split())))


def build_together(packages: Path, revision: int) -> dict[str, Path]:
    return build(packages, revision, "fleet.${name}")


def build_alone(packages: Path, revision: int) -> dict[str, Path]:
    return build(packages, revision, "fleet.${name}.override { known = null; }")


def build_by_auto_layer(packages: Path, revision: int) -> dict[str, Path]:
    """Give each image the layers that auto-layer decides on, beside that of its root."""
    plans = {}
    for name, plan in build(packages, revision, "fleet.${name}.groupedLayers").items():
        paths = [path for layer in json.loads(plan.read_text()) for path in layer["contents"]]
        command = "nix", "--extra-experimental-features", "nix-command", "path-info", "--json"
        info = json.loads(run(*command, *paths))
        entries = info if isinstance(info, list) else [{"path": p, **it} for p, it in info.items()]
        corpus = Corpus(
            "image",
            {entry["path"]: entry["narSize"] for entry in entries},
            {entry["path"]: sorted(entry["references"]) for entry in entries},
            {},
            {},
        )
        plans[name] = auto_layer(Image(corpus, paths), LAYERS - 1, {})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plans, file)
        file.flush()
        groups = f"(builtins.fromJSON (builtins.readFile {file.name})).${{name}}"
        layers = f"map (map builtins.storePath) {groups}"
        # One more for store paths that are in no group: there are none.
        change = f"known = null; layers = {layers}; maxLayers = {LAYERS + 1};"
        return build(packages, revision, f"fleet.${{name}}.override {{ {change} }}")


def pull(images: dict[str, Path], host: Path, folder: Path) -> int:
    """Push images to a registry and pull them to a host; return how many bytes it pulled."""

    def size() -> int:
        return sum(file.stat().st_size for file in host.glob("blobs/sha256/*"))

    before = size()
    copy = "skopeo", "--insecure-policy", "copy", "--quiet"
    with run_registry(folder) as registry:
        for name, layout in images.items():
            there = registry.reference(f"{name}:latest")
            run(*copy, "--dest-tls-verify=false", f"oci:{layout}:latest", there)
            run(*copy, "--src-tls-verify=false", there, f"oci:{host}:{name}")
    return size() - before


def main(packages: str) -> int:
    lines = ["| planned | first pull | next revision |", "|:--|--:|--:|"]
    ways = {
        "auto-layer": build_by_auto_layer,
        "each alone": build_alone,
        "**together**": build_together,
    }
    for way, build_images in ways.items():
        with tempfile.TemporaryDirectory() as name:
            host = Path(name, "host")
            pulled = []
            for revision in (1, 2):
                folder = Path(name, str(revision))
                folder.mkdir()
                pulled.append(pull(build_images(Path(packages), revision), host, folder))
        lines.append(f"| {way} | {pulled[0] / 1e6:.2f} MB | {pulled[1] / 1e6:.2f} MB |")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
