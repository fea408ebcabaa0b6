"""Images that nobody has built before, and whose layers can be taken away."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from nix import Nix, run


def with_new_page() -> str:
    """Return arguments of an image that was not built before: with a page of its own."""
    page = f'pkgs.writeTextDir "page" "{uuid.uuid4()} ${{pkgs.tree}}"'
    return f'{{ name = "page"; contents = [ ({page}) ]; }}'


def delete_layers(nix: Nix, arguments: str) -> list[Path]:
    """Delete those layers of an image that no other image has; return them."""
    own = re.compile("layer-page|layer-image-root.tar|layers")
    built = nix.build_image(arguments, "layers").paths
    layers = [path for path in built if own.fullmatch(path.name[33:])]
    run("nix-store", "--delete", *layers)
    return layers
