"""Make the files of the image's root: symlinks to the contents, and what commands add to them.

Every file of the contents is linked at its place. Folders are real, so that the commands and the
programs in a container can write next to the links. If two of the contents have the same file, the
first one wins, and the log names both. A link to a folder is treated as that folder at the root
(`/sbin`, which is a link in some packages) and where several of the contents, or one and the base
image, have that name; deeper down, and if it leads out of the closure, it stays a link. What a base
image has is respected as place_files.py says. `/tmp` is writable by everyone; `/usr/bin/env` exists
if a store path of the image has `bin/env`.

The attributes are those of link_contents.nix. Writes the tree as the archive `out`, which ends with
exactly two empty blocks and is not compressed, so that Nix finds the store paths that it names.

The tree stays in memory unless there are commands: an image has thousands of links, and
creating them as files, only for tar to read them, would take most of the time.
"""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from attributes import Caller, fail, read_attributes
from commands_tree import CommandsTree
from image_tree import Entry, ImageTree, above, read_tree
from oci import WHITEOUT
from place_files import DATABASE_FOLDERS, NIX_STATE, lay_own_layers, own_folder, place_files
from store import resolve
from write_archive import write_archive

# The log names at most this many files that two of the contents have.
MOST_CONTESTED = 10

# At how many places a folder may be there by links. Packages that link to each other's folders make
# a tree that is exponential in their number otherwise; real ones have one or two.
MOST_PLACES = 8

# What is at each place, as seen from the root: the target of a link, None for a folder. Folders
# come before what is in them.
Tree = dict[str, "str | None"]


class Provider(NamedTuple):
    """A file or folder of the contents."""

    path: str  # what a link to it names
    target: str | None  # the same without links on the way; None where they lead out of the store
    is_link: bool

    @property
    def is_folder(self) -> bool:
        return self.target is not None and os.path.isdir(self.target)

    @property
    def identity(self) -> str:
        """Return what is equal for links to the same file, even if that does not exist."""
        if self.target is not None:
            return self.target
        return os.path.join(os.path.dirname(self.path), os.readlink(self.path))


def list_folder(folder: Provider, store_paths: set[str]) -> dict[str, Provider]:
    """Return what is in a folder, by name."""
    found = {}
    with os.scandir(folder.target) as entries:
        for entry in entries:
            path = os.path.join(folder.path, entry.name)
            is_link = entry.is_symlink()
            target = resolve(entry.path, store_paths) if is_link else entry.path
            found[entry.name] = Provider(path, target, is_link)
    return found


def link_contents(
    contents: list[str],
    store_paths: set[str],
    is_below: Callable[[str], bool] = lambda place: False,
) -> tuple[Tree, list[tuple[str, str, str]]]:
    """Return a tree with links to the files of `contents`, and the files that are in conflict.

    The latter are sorted: place, the file there, another of the contents for the same place.
    `store_paths` are the closure of the contents: a link that leads out of it is not treated as a
    folder. `is_below` says whether the base image has a folder at a place. `nix-support`, which
    some packages have for the builds that use them, is left out. Ends the build with one line if
    one of the contents does not exist.
    """
    tree: Tree = {}
    contested: list[tuple[str, str, str]] = []
    roots = [Provider(path, resolve(path, store_paths), False) for path in contents]
    for root in roots:
        if root.target is None:
            fail(f"contents: there is no {root.path}")
    places: Counter[str] = Counter()  # how many each folder has by links
    # Each entry: a folder of the tree, as the parts of its name; the folders to link there; and
    # what was reached through links on the way, once each, or the walk might not end.
    todo: list[tuple[tuple[str, ...], list[Provider], frozenset[str]]] = []
    todo.append(((), [root for root in roots if root.is_folder], frozenset()))
    while todo:
        parts, folders, followed = todo.pop()
        if parts:
            tree["/".join(parts)] = None
        unique: dict[str | None, Provider] = {}
        for folder in folders:
            unique.setdefault(folder.target, folder)
        providers: dict[str, list[Provider]] = {}
        for folder in unique.values():
            for name, provider in list_folder(folder, store_paths).items():
                providers.setdefault(name, []).append(provider)
        if not parts:
            providers.pop("nix-support", None)
        closed = followed | {path for path, count in places.items() if count >= MOST_PLACES}
        for name, candidates in sorted(providers.items()):
            place = (*parts, name)
            is_alone = bool(parts) and len(candidates) == 1 and not is_below("/".join(place))
            merged = [
                candidate
                for candidate in candidates
                if candidate.is_folder
                and not (candidate.is_link and (is_alone or candidate.target in closed))
            ]
            first = candidates[0]
            if first in merged:
                targets = {it.target for it in merged if it.is_link and it.target is not None}
                places.update(targets)
                todo.append((place, merged, followed | targets))
            else:
                tree["/".join(place)] = first.path
                merged = []
            for other in candidates[1:]:
                if other not in merged and other.identity != first.identity:
                    contested.append(("/".join(place), first.path, other.path))
                    break
    return tree, sorted(contested)


def find_env(store_paths: set[str]) -> str | None:
    """Return a program `bin/env` in one of the store paths: that of coreutils if it is there."""
    programs = {path: resolve(path + "/bin/env", store_paths) for path in store_paths}
    found = [path for path, program in programs.items() if program and os.access(program, os.X_OK)]
    # By name before hash: the choice must not change with every rebuild.
    found.sort(key=lambda path: ("-coreutils" not in path, os.path.basename(path)[32:], path))
    return found[0] + "/bin/env" if found else None


def complete_root(tree: Tree, store_paths: set[str], lower: ImageTree) -> None:
    """Add `/tmp`, and `/usr/bin/env` if a store path has one and nobody else does."""
    tree.setdefault("tmp", None)
    env = find_env(store_paths)
    if lower.follow("usr/bin/env").kind != "missing":
        return
    if env and "usr/bin/env" not in tree and not (tree.get("usr") or tree.get("usr/bin")):
        tree.update({"usr": None, "usr/bin": None, "usr/bin/env": env})


def entries_of(tree: Tree) -> dict[str, Entry]:
    """Return the files of a tree, the root first."""
    entries = {"": Entry("folder")}
    for place, target in tree.items():
        if target is not None:
            entries[place] = Entry("link", target)
        else:
            entries[place] = Entry("folder", mode=mode(place))
    return entries


def mode(place: str) -> int:
    """Return the permissions of a folder of the tree."""
    return stat.S_ISVTX | 0o777 if place == "tmp" else 0o755


def pass_through(entries: dict[str, Entry], base: ImageTree, lower: ImageTree) -> dict[str, Entry]:
    """Return what commands made, with folders of our own layers below as these have them.

    The commands do not see these folders: what they leave as mkdir makes it counts as theirs.
    """
    passed = dict(entries)
    for place, entry in entries.items():
        below = lower.entries.get(place)
        if below is None or below.kind != "folder" or place in base.entries:
            continue
        if entry[:5] == Entry("folder")[:5]:
            passed[place] = below
    return passed


def check_files(entries: dict[str, Entry], what: str, store: str, store_paths: set[str]) -> None:
    """End the build with one line if the root's layer would remove files of other layers.

    `what` says whose the files are.
    """
    for place, entry in entries.items():
        source = entry.target or f"the {entry.kind} {place}"
        if os.path.basename(place).startswith(WHITEOUT):
            fail(
                f"{what}: {source} would remove a file from the image: names must not begin with "
                f"{WHITEOUT}"
            )
        if place and entry.kind != "folder" and f"{store}/".startswith(f"{place}/"):
            fail(
                f"{what}: {source} is not a folder, and would take the place of /{place}, which "
                "holds the store"
            )
        if f"/{place}" in store_paths:
            fail(f"{what}: {source} would take the place of the store path /{place}")
        if entry.kind == "socket":
            fail(f"{what}: /{place} is a socket, which an image can't have: remove it")


def check_base(base: ImageTree) -> None:
    """End the build with one line if the base image has files where the store must be a folder."""
    for place in [*above(base.store)[1:], base.store]:
        entry = base.entries.get(place)
        if entry is None or entry.kind == "folder":
            continue
        found = base.follow(place)
        hides = found.kind == "folder" and base.names.get(found.place)
        if entry.kind == "file" or hides:
            fail(
                f"fromImage has a {entry.kind} at /{place}, where the image has the folder of its "
                "store paths"
            )


def write_root(attributes: dict) -> None:
    """Write the archive of the root, whose files the attributes say."""
    store = attributes["storeDir"].strip("/")
    store_paths = {entry["path"] for entry in attributes.get("closure", [])}
    base = read_tree(attributes["baseTree"], store)
    own = [store] if attributes["includeStorePaths"] else []
    if attributes["includeNixDB"]:
        own += [f"{NIX_STATE}/{folder}" for folder in DATABASE_FOLDERS]
    if own:
        check_base(base)
    own_entry = own_folder(attributes["owner"], attributes["group"])
    lower = lay_own_layers(base, own_entry, own)

    tree, contested = link_contents(
        attributes["contents"], store_paths, lambda place: base.follow(place).kind == "folder"
    )
    for place, linked, other in contested[:MOST_CONTESTED]:
        print(f"/{place}: {linked} is linked, not {other}", file=sys.stderr)
    if len(contested) > MOST_CONTESTED:
        print(f"and so for {len(contested) - MOST_CONTESTED} more files", file=sys.stderr)
    complete_root(tree, store_paths, base)
    entries = entries_of(tree)
    check_files(entries, "contents", store, store_paths)
    entries = place_files(entries, lower, "contents", is_plain=True)
    check_files(entries, "contents", store, store_paths)

    # Before the commands, for which all else is read-only
    has_commands = bool(attributes["extraCommands"] or attributes["fakeRootCommands"])
    with open(attributes["outputs"]["out"], "wb") as out:
        if has_commands:
            has_base = attributes["baseTree"] is not None
            entries = CommandsTree(base, entries, has_base=has_base).run(attributes)
            entries = pass_through(entries, base, lower)
            check_files(entries, "the commands", store, store_paths)
            entries = place_files(entries, lower, "the commands", is_plain=False)
            check_files(entries, "the commands", store, store_paths)
        if attributes["includeStorePaths"]:
            # The layers with store paths have these folders too, without asking what the base has.
            for place in [*above(store)[1:], store]:
                below = base.entries.get(place, own_entry)
                if below.kind == "folder" and below[2:5] != own_entry[2:5]:
                    entries.setdefault(place, below)
        write_archive(entries, out, attributes["mtime"])


def main() -> None:
    attributes = read_attributes()
    os.umask(0o022)
    with Caller(attributes["caller"]):
        write_root(attributes)


if __name__ == "__main__":
    main()
