"""Join folders with symbolic links, in a build: for `symlinkJoin` and `buildEnv`.

Reads `.attrs.json`: `paths` to join, `pathsToLink` (["/"] for all), `ignoreCollisions`, and
`linkFolders`, which says whether a folder that only one path has becomes one link (as buildEnv does
it) or a folder of links (as lndir does it).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

attrs = json.loads(Path(".attrs.json").read_text())
out = Path(attrs["outputs"]["out"])


def wanted(inside: str) -> bool:
    """Tell whether inside ("/bin/git") is below one of pathsToLink, or a folder above one."""
    for path in attrs["pathsToLink"]:
        below = path.rstrip("/") + "/"
        if f"{inside}/".startswith(below) or below.startswith(f"{inside}/"):
            return True
    return False


def join(sources: list[Path], target: Path, inside: str) -> None:
    target.mkdir(exist_ok=True)
    by_name: dict[str, list[Path]] = {}
    for source in sources:
        for name in sorted(os.listdir(source)):
            by_name.setdefault(name, []).append(source / name)
    for name, found in sorted(by_name.items()):
        here = f"{inside}/{name}"
        folders = [path for path in found if path.is_dir()]
        if not wanted(here):
            continue
        whole = any(f"{here}/".startswith(path.rstrip("/") + "/") for path in attrs["pathsToLink"])
        if folders == found and (len(found) > 1 or not attrs["linkFolders"] or not whole):
            join(found, target / name, here)
            continue
        others = [path for path in found[1:] if not same(path, found[0])]
        if others and not attrs["ignoreCollisions"]:
            sys.exit(f"collision between `{others[0]}' and `{found[0]}'")
        (target / name).symlink_to(found[0])


def same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


join([Path(path) for path in attrs["paths"] if Path(path).is_dir()], out, "")
