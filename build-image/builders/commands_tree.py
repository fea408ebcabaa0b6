"""The tree in which the commands for an image's root run, and what comes of it.

It has the links to the contents and, with a base image, the base's folders, without what is in
them, and its links to folders: so `mkdir -p var/run/app` follows the base's link, and chmod and
chown change what the base has. Of these, the layer gets what the commands changed, and what is
above files of theirs.
"""

from __future__ import annotations

import os
import stat
from posixpath import dirname, relpath
from typing import NamedTuple

from attributes import fail
from image_tree import Entry, ImageTree, above
from run_commands import Setting, isolate, run, run_under_fakeroot, walk

TREE = "root"

# The options that stdenv sets
OPTIONS = ["-e", "-o", "pipefail", "-O", "inherit_errexit", "-O", "nullglob"]

# Commands are also written for images without a base: a folder that is there may be made again.
MKDIR = """
mkdir() {
  if [[ " $* " =~ " -"[[:alpha:]]*m|" --mode" ]]; then
    command install -d "${@/#--parents/-p}"
  else
    command mkdir -p "$@"
  fi
}
"""

# Bits that Nix's sandbox does not let a builder set
_SPECIAL = stat.S_ISUID | stat.S_ISGID


class OnDisk(NamedTuple):
    """A folder of the base image, as it was made for the commands."""

    inode: int
    mode: int


class CommandsTree:
    """A tree on the disk with these files, above a base image."""

    def __init__(self, base: ImageTree, files: dict[str, Entry], *, has_base: bool) -> None:
        self.base, self.files, self.has_base = base, files, has_base
        self.folders: dict[str, OnDisk] = {}
        self.links: dict[str, str] = {}  # the base's links to folders, each with its target here

    def make(self) -> None:
        """Create the files, in the new folder TREE."""
        os.mkdir(TREE)
        of_base: dict[str, Entry] = {}
        if self.has_base:
            start = self.base.store + "/"
            of_base = {
                place: entry
                for place, entry in self.base.entries.items()
                if entry.kind in ("folder", "link") and not place.startswith(start)
            }
        for place in sorted({*of_base, *self.files}, key=lambda place: place.split("/")):
            name = os.path.join(TREE, place)
            below, entry = of_base.get(place), self.files.get(place)
            if below is not None and below.kind == "link":
                found = self.base.follow(place)
                if found.kind == "folder" and (entry is None or entry == below):
                    # An absolute target would lead out of the tree.
                    target = relpath(f"/{found.place}", f"/{dirname(place)}")
                    self.links[place] = target
                    os.symlink(target, name)
                    continue
                below = None
            made = below or entry
            if made is None:
                continue
            if made.kind == "link":
                os.symlink(made.target, name)
                continue
            mode = made.mode & ~_SPECIAL | stat.S_IRWXU
            if place:
                os.mkdir(name)
            os.chmod(name, mode)
            if below is not None:
                self.folders[place] = OnDisk(os.lstat(name).st_ino, mode)

    def owners(self) -> str:
        """Return the base's modes and owners as `fakeroot -s` writes them."""
        lines = []
        for place, made in self.folders.items():
            status, below = os.lstat(os.path.join(TREE, place)), self.base.entries[place]
            if status.st_ino != made.inode:
                continue
            mode = below.mode
            if stat.S_IMODE(status.st_mode) != made.mode:
                mode = stat.S_IMODE(status.st_mode) | below.mode & _SPECIAL
            lines.append(
                f"dev={status.st_dev:x},ino={status.st_ino},mode={stat.S_IFDIR | mode:o},"
                f"uid={below.uid},gid={below.gid},nlink={status.st_nlink},rdev=0\n"
            )
        return "".join(lines)

    def run(self, attributes: dict) -> dict[str, Entry]:
        """Run the commands; return all files, by place, those of a folder after it."""
        self.make()
        setting = Setting(
            [attributes["shell"], *OPTIONS, "-c"],
            attributes["path"],
            self.base.store,
            isolate(),
        )
        prelude = MKDIR if self.has_base else ""
        if attributes["extraCommands"]:
            run(
                "extraCommands",
                [*setting.command, prelude + attributes["extraCommands"]],
                TREE,
                setting,
            )
        self.check_readable()
        if not attributes["fakeRootCommands"]:
            return self.adopt(walk(TREE, is_fake=False), is_fake=False)
        self.check_folders(walk(TREE, is_fake=False))
        text = prelude + attributes["fakeRootCommands"]
        files = run_under_fakeroot(attributes["fakeroot"], text, TREE, setting, self.owners())
        self.check_readable()
        return self.adopt(files, is_fake=True)

    def check_readable(self) -> None:
        """End the build with one line if the archive could not have what extraCommands made.

        Ordinary users cannot read their own files of mode 000; fakeroot keeps its files readable.
        """
        todo = [TREE]
        while todo:
            path = todo.pop()
            is_folder = os.path.isdir(path)
            if not os.access(path, os.R_OK | os.X_OK if is_folder else os.R_OK):
                fail(
                    f"extraCommands gave {path[len(TREE) :] or '/'} a mode with which the build "
                    "cannot read it: do that in fakeRootCommands"
                )
            if is_folder:
                with os.scandir(path) as entries:
                    todo += sorted(
                        entry.path
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                        or entry.is_file(follow_symlinks=False)
                    )

    def check_folders(self, files: dict[str, Entry]) -> None:
        """End the build with one line if commands removed a folder of the base, or a link."""
        for place in [*self.folders, *self.links]:
            entry = files.get(place)
            as_links = self.links.get(place), self.base.entries[place].target
            if entry is None or (place in self.links and entry.target not in as_links):
                what = "folder" if place in self.folders else "link"
            elif place in self.folders and entry.kind != "folder":
                what = "folder"
            else:
                continue
            fail(
                f"the commands removed or replaced /{place}, a {what} of the base image, whose "
                "layers stay as they are"
            )

    def adopt(self, files: dict[str, Entry], *, is_fake: bool) -> dict[str, Entry]:
        """Return what of the files is in the layer, with modes and owners of the base's folders."""
        self.check_folders(files)
        files = dict(files)
        unchanged = set()
        for place, made in self.folders.items():
            below, entry = self.base.entries[place], files[place]
            if os.lstat(os.path.join(TREE, place)).st_ino != made.inode:
                continue  # made again
            if is_fake:
                changed = entry._replace(xattrs={**below.xattrs, **entry.xattrs})
                if changed[2:5] == below[2:5]:
                    changed = below._replace(xattrs=changed.xattrs)
            elif entry.mode == made.mode:
                changed = below
            else:
                changed = below._replace(mode=entry.mode | below.mode & _SPECIAL)
            files[place] = changed
            if changed == below and place not in self.files:
                unchanged.add(place)
        for place in self.links:
            files[place] = self.base.entries[place]
            unchanged.add(place)

        needed = {folder for place in files if place not in unchanged for folder in above(place)}
        needed.update(files.keys() - unchanged)
        for place in self.links:
            if self.base.follow(place).place in needed and place not in needed:
                needed.update([*above(place), place])
        return {place: entry for place, entry in files.items() if place in needed}
