"""What is at each place of an image, once its layers are stacked.

A place is a path without the leading slash; that of the root is "". Folders are known with mode,
owner and extended attributes, links with their targets. Of other files it is known that they are
there. Follows the OCI image specification 1.1, layer.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from posixpath import dirname
from typing import Any, NamedTuple

from attributes import read_json
from oci import WHITEOUT
from store import MAXIMUM_LINKS

OPAQUE = ".wh..wh..opq"  # a whiteout of all that the layers below have in its folder
AUFS = ".wh..wh."  # what else begins like this was the business of a file system, and no file


class Entry(NamedTuple):
    """A file of an image; what most files of an archive are made with is the default.

    `kind` is one of "folder", "link", "file", "hard link", "fifo", "character device" and "block
    device".
    """

    kind: str
    target: str = ""  # of a link; of a hard link the place of the file
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    uname: str = "root"
    gname: str = "root"
    # By name, such as "security.capability"; bytes that are no UTF-8 as surrogates (PEP 383)
    xattrs: dict[str, str] = {}  # noqa: RUF012 (nobody changes it)
    source: str = ""  # of a file: where its bytes are on the machine that builds
    size: int = 0  # of a file: how many they are
    device: tuple[int, int] = (0, 0)  # of a device: major and minor number


class Found(NamedTuple):
    """Where a place leads: "folder", "file", "missing", "store" or "nowhere"; and that place.

    "store" is a place in a store path; a way that ends at a file, or is a circle, leads nowhere.
    """

    kind: str
    place: str


def join(folder: str, name: str) -> str:
    """Return the place of a name in a folder."""
    return f"{folder}/{name}" if folder else name


def above(place: str) -> list[str]:
    """Return the folders above a place, the root first.

    >>> above("usr/bin/env"), above("")
    (['', 'usr', 'usr/bin'], [])
    """
    found = []
    while place:
        place = dirname(place)
        found.append(place)
    return found[::-1]


class ImageTree:
    """The files of an image. `store` is the place of the Nix store."""

    def __init__(self, store: str, entries: dict[str, Entry] | None = None) -> None:
        self.store = store
        self.entries = {"": Entry("folder")}
        self.names: dict[str, set[str]] = {}  # what is in each folder
        for place, entry in (entries or {}).items():
            self.put(place, entry)

    def follow(self, place: str) -> Found:
        """Return where a place leads when all links are followed, within the image."""
        resolved, pending, links = "", place.split("/")[::-1], 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            here = self.entries.get(resolved)
            if here is not None and here.kind != "folder":
                return Found("nowhere", resolved)
            if part == "..":
                resolved = dirname(resolved)
                continue
            next_place = join(resolved, part)
            entry = self.entries.get(next_place)
            if entry is None or entry.kind != "link":
                resolved = next_place
                continue
            links += 1
            if links > MAXIMUM_LINKS:
                return Found("nowhere", place)
            if entry.target.startswith("/"):
                resolved = ""
            pending += entry.target.split("/")[::-1]
        if resolved.startswith(self.store + "/"):
            return Found("store", resolved)
        entry = self.entries.get(resolved)
        if entry is None:
            return Found("missing", resolved)
        return Found("folder" if entry.kind == "folder" else "file", resolved)

    def put(self, place: str, entry: Entry) -> None:
        """Add a file, in place of what is there: all but a folder makes room for a folder."""
        old = self.entries.get(place)
        if old is not None and not old.kind == entry.kind == "folder":
            self.remove(place)
        self.entries[place] = entry
        while place:
            folder, _, name = place.rpartition("/")
            self.names.setdefault(folder, set()).add(name)
            here = self.entries.get(folder)
            if here is not None and here.kind == "folder":
                break
            self.entries[folder] = Entry("folder")
            place = folder

    def remove(self, place: str) -> None:
        """Remove a file, or a folder and all that is in it. The root itself stays."""
        todo = [place]
        while todo:
            here = todo.pop()
            todo += [join(here, name) for name in self.names.pop(here, ())]
            if here and self.entries.pop(here, None) is not None and here == place:
                folder, _, name = place.rpartition("/")
                self.names[folder].discard(name)

    def locate(self, place: str) -> str:
        """Return where a file of a layer comes to lie: links above it are followed."""
        folder, _, name = place.rpartition("/")
        here = self.entries.get(folder)
        if here is not None and here.kind == "folder":
            return place
        found = self.follow(folder)
        # A file that is in the way makes room for a folder.
        return join(folder if found.kind == "nowhere" else found.place, name)

    def add_layer(self, members: Iterable[tuple[str, Entry]]) -> None:
        """Put a layer on top of those that are there: its places and entries, in its order.

        Whiteouts hide what is below the layer, wherever they stand in it.
        """
        added = []
        for place, entry in members:
            name = place.rpartition("/")[2]
            if not name.startswith(WHITEOUT):
                added.append((place, entry))
            elif name == OPAQUE:
                folder = dirname(self.locate(place))
                for hidden in list(self.names.get(folder, ())):
                    self.remove(join(folder, hidden))
            elif not name.startswith(AUFS) and name != WHITEOUT:
                folder = dirname(self.locate(place))
                hidden = join(folder, name[len(WHITEOUT) :])
                if hidden in self.entries:
                    self.remove(hidden)
        for place, entry in added:
            if entry.kind == "hard link":
                entry = self.entries.get(self.locate(entry.target), Entry("file"))
            if place or entry.kind == "folder":
                self.put(self.locate(place), entry)

    def expand(self, place: str) -> dict[str, Entry]:
        """Make a folder of a link into the store, with links to what is there; return these."""
        found = self.follow(place)
        self.put(place, Entry("folder"))
        links = {
            join(place, name): Entry("link", f"/{found.place}/{name}")
            for name in sorted(self.names.get(found.place, ()))
        }
        for link, entry in links.items():
            self.put(link, entry)
        return links

    def to_json(self) -> str:
        """Return the tree as JSON.

        What is in store paths is left out, except folders that links elsewhere lead to.
        """
        start = self.store + "/"
        linked = set()
        for place, entry in self.entries.items():
            if entry.kind == "link" and not place.startswith(start):
                found = self.follow(place)
                if found.kind == "store" and self.entries.get(found.place, entry).kind == "folder":
                    linked.add(found.place)
        rows = {
            place: list(entry[:8]) if entry.kind in ("folder", "link") else ["file"]
            for place, entry in self.entries.items()
            if not (place.startswith(start) and "/" in place[len(start) :])
            or (linked and not linked.isdisjoint([*above(place), place]))
        }
        return json.dumps(rows, sort_keys=True, separators=(",", ":"))


def read_tree(file: str | None, store: str) -> ImageTree:
    """Return the tree that a file holds, in the form of `to_json`; an empty one without a file."""
    if file is None:
        return ImageTree(store)
    rows: Any = read_json(file)
    return ImageTree(store, {place: Entry(*row) for place, row in rows.items()})
