"""Where files are put above the layers below, and with which modes and owners.

A folder that a layer below has keeps its mode, owner, group and extended attributes unless a
command changes them. A link of the base image to a folder is followed, within the image, as it is
when a container runs; one to a file gives way to a file, and one to a folder of a store path to a
folder with links to what is in that. Nothing takes the place of a folder of the base image, which
would hide what is in it.
"""

from __future__ import annotations

from attributes import fail
from image_tree import Entry, ImageTree, above, join

# Folders of a Nix database (make_database.py), below that of the store's folder
DATABASE_FOLDERS = ("db", "gcroots", "gcroots/image", "profiles", "temproots")
NIX_STATE = "nix/var/nix"


def own_folder(owner: str, group: str) -> Entry:
    """Return a folder of a layer with store paths. `owner` and `group` are NAME:ID each."""
    (uname, _, uid), (gname, _, gid) = owner.rpartition(":"), group.rpartition(":")
    return Entry("folder", "", 0o755, int(uid), int(gid), uname, gname)


def lay_own_layers(base: ImageTree, own: Entry, places: list[str]) -> ImageTree:
    """Return the base with folders that our own layers have below that of the root.

    What the base has stays as it is.
    """
    lower = ImageTree(base.store, base.entries)
    for last in places:
        for place in [*above(last)[1:], last]:
            found = lower.follow(place)
            if f"{base.store}/".startswith(f"{place}/"):
                if lower.entries.get(place, own).kind != "folder" or found.kind == "missing":
                    lower.put(place, own)
            elif found.kind == "missing":
                lower.put(found.place, own)
            elif found.kind != "folder":
                lower.put(place, own)
    return lower


def folder_at(place: str, lower: ImageTree) -> Entry:
    """Return a folder that nobody has given a mode: that of the layers below if they have it."""
    below = lower.entries.get(place)
    return below if below is not None and below.kind == "folder" else Entry("folder")


def place_files(
    files: dict[str, Entry], lower: ImageTree, what: str, *, is_plain: bool
) -> dict[str, Entry]:
    """Return files by the places where they come to lie; with all folders above them.

    Folders of `files` come before what is in them. Their modes and owners count unless `is_plain`.
    `what` says whose they are. Ends the build with one line if one would hide what the base has.
    """
    placed: dict[str, Entry] = {}
    where = {"": ""}
    given: set[str] = set()  # folders that are in `placed` as they are in `files`
    expanded: set[str] = set()  # what is in `placed` in place of a link of the base to its folder

    def put_folder(place: str, entry: Entry) -> None:
        there = placed.get(place)
        if there is not None and there.kind != "folder" and place not in expanded:
            print(f"/{place}: a folder is there, not {there.target or 'a file'}")
        placed[place] = entry

    for place, entry in files.items():
        folder, _, name = place.rpartition("/")
        real = join(where[folder], name) if place else ""
        below = lower.entries.get(real)
        found = lower.follow(real)
        source = entry.target or f"the folder {place}"
        if entry.kind == "folder" and below is not None and below.kind == "link":
            target = lower.entries.get(found.place)
            if found.kind == "store" and target is not None and target.kind == "folder":
                # Nothing is added to a store path.
                links = lower.expand(real)
                placed.update(links)
                expanded.update(links)
            if found.kind in ("folder", "missing"):
                placed[real] = below
                real = found.place
        is_same = below is not None and (below.kind, below.target) == (entry.kind, entry.target)
        if entry.kind != "folder" and found.kind == "folder" and not is_same:
            fail(f"{what}: {source} would take the place of /{real}, a folder of the layers below")
        if entry.kind == "folder":
            where[place] = real
            for above_it in above(real):
                if above_it not in placed or placed[above_it].kind != "folder":
                    put_folder(above_it, folder_at(above_it, lower))
            if real not in given:
                given.add(real)
                below = lower.entries.get(real)
                if below is None or below.kind != "folder" or not is_plain:
                    below = entry
                put_folder(real, below)
        else:
            if real in expanded:
                expanded.remove(real)
                del placed[real]
            # Where one has a folder, there may be files in it.
            first = placed.setdefault(real, entry)
            if first.target != entry.target:
                there = first.target or f"a {first.kind}"
                print(f"/{real}: {there} is there, not {entry.target or 'a file'}")
    return placed
