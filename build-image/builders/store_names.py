"""What the name of a store path says: package, version, output."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

# nixpkgs appends the names of all outputs but the first.
OUTPUTS = "bin|debug|dev|devdoc|dist|doc|info|lib|libgcc|man|py|static"
# As builtins.parseDrvName: a version begins after the first dash that no letter follows.
NAME = re.compile(rf"(?P<name>.+?)(?:-(?P<version>[^a-zA-Z].*?))?(?:-(?P<output>{OUTPUTS}))?")


class StoreName(NamedTuple):
    """A package, its version, and the output if it is not the first; what is not named is ""."""

    name: str
    version: str
    output: str


def parse_store_path(path: str) -> StoreName:
    """Return what the name of a store path says.

    >>> parse_store_path("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-openssl-3.0.13-bin")
    StoreName(name='openssl', version='3.0.13', output='bin')
    >>> parse_store_path("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-python3.11-six-1.16")[:2]
    ('python3.11-six', '1.16')
    """
    match = NAME.fullmatch(os.path.basename(path)[33:])
    return StoreName(*(match.groups(default="") if match else (os.path.basename(path), "", "")))
