"""Make the files of the image's root: symlinks to the contents, and what commands add to them.

Every file of the contents is linked at its place. Folders are real, so that the commands and the
programs in a container can write beside the links. If two of the contents have the same file, the
first one wins, and the log names both. A link to a folder is treated as that folder at the root
(`/sbin`, which is a link in some packages) and where several of the contents have that name; deeper
down, and if it leads out of the closure, it stays a link. Where the base image has a link into /usr
(`/bin`, in most distributions), the link stays, and files are where it leads. `/tmp` is writable by
everyone; `/usr/bin/env` exists if a store path of the image has `bin/env`.

The attributes are those of link_contents.nix. Writes the tree as the archive `out`, which ends with
exactly two empty blocks and is not compressed, so that Nix finds the store paths that it names.

The tree stays in memory unless there are commands: an image has thousands of links, and
creating them as files, only for tar to read them, would take most of the time.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile
from collections import Counter
from typing import NamedTuple

from attributes import fail, read_attributes, read_json
from oci import WHITEOUT
from store import resolve
from tar import tar_command

TREE = "root"

# At most so many files that two of the contents have are named in the log.
MOST_CONTESTED = 10

# From <linux/prctl.h>
PR_SET_CHILD_SUBREAPER = 36

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
    contents: list[str], store_paths: set[str]
) -> tuple[Tree, list[tuple[str, str, str]]]:
    """Return a tree with links to the files of `contents`, and the files that are in conflict.

    The latter are sorted: place, the file there, another of the contents for the same place.
    `store_paths` are the closure of the contents: a link that leads out of it is not treated as a
    folder. `nix-support`, which some packages have for the builds that use them, is left out. Ends
    the build with one line if one of the contents does not exist.
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
            is_alone = bool(parts) and len(candidates) == 1
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


def follow_links(tree: Tree, links: dict[str, str], *, is_for_commands: bool) -> Tree:
    """Return the tree as it is upon a base image with these links at its root.

    A folder in place of such a link would hide what the base has there: a shell, if it is /bin. For
    commands, all links are in the tree, so that they find the folders of the base at both places.

    >>> follow_links({"bin": None, "bin/jq": "/nix/jq"}, {"bin": "usr/bin"}, is_for_commands=False)
    {'bin': 'usr/bin', 'usr': None, 'usr/bin': None, 'usr/bin/jq': '/nix/jq'}
    """
    wanted = {
        name: target
        for name, target in links.items()
        if (tree[name] is None if name in tree else is_for_commands)
    }
    moved: Tree = dict(wanted)
    for place, target in tree.items():
        top, slash, rest = place.partition("/")
        if top in wanted:
            place = wanted[top] + slash + rest
        if target is None or place not in moved:  # where one has a folder, there may be files in it
            moved[place] = target
    for target in wanted.values():
        while target:
            moved[target] = None
            target = target.rpartition("/")[0]
    return dict(sorted(moved.items(), key=lambda item: item[0].split("/")))


def find_env(store_paths: set[str]) -> str | None:
    """Return a program `bin/env` in one of the store paths: that of coreutils if it is there."""
    programs = {path: resolve(path + "/bin/env", store_paths) for path in store_paths}
    found = [path for path, program in programs.items() if program and os.access(program, os.X_OK)]
    # By name before hash: the choice must not change with every rebuild.
    found.sort(key=lambda path: ("-coreutils" not in path, os.path.basename(path)[32:], path))
    return found[0] + "/bin/env" if found else None


def complete_root(tree: Tree, store_paths: set[str]) -> None:
    """Add `/tmp`, and `/usr/bin/env` if a store path has one and the contents do not."""
    tree.setdefault("tmp", None)
    env = find_env(store_paths)
    if env and "usr/bin/env" not in tree and not (tree.get("usr") or tree.get("usr/bin")):
        tree.update({"usr": None, "usr/bin": None, "usr/bin/env": env})


def check_tree(tree: Tree, store_dir: str, store_paths: set[str]) -> None:
    """End the build with one line if the root's layer would remove files of other layers."""
    for place, target in tree.items():
        source = target or f"the folder {place}"
        if os.path.basename(place).startswith(WHITEOUT):
            fail(f"contents: {source} would remove a file from the image: no name may begin .wh.")
        if target and f"{store_dir}/".startswith(f"/{place}/"):
            fail(f"contents: {source} would take the place of /{place}, which holds the store")
        if f"/{place}" in store_paths:
            fail(f"contents: {source} would take the place of the store path /{place}")


def check_store_folder(root: str, store_dir: str) -> None:
    """End the build with one line if commands made something else where the store is."""
    place = root
    for part in store_dir.strip("/").split("/"):
        place = os.path.join(place, part)
        if os.path.lexists(place) and (os.path.islink(place) or not os.path.isdir(place)):
            fail(
                f"the commands made {place[len(root) :]}, which is no folder: it would take the "
                "place of the store"
            )


def check_readable(root: str) -> None:
    """End the build with one line if tar could not read what extraCommands made.

    Ordinary users cannot read their own files of mode 000; fakeroot keeps its files readable.
    """
    todo = [root]
    while todo:
        path = todo.pop()
        is_folder = os.path.isdir(path)
        if not os.access(path, os.R_OK | os.X_OK if is_folder else os.R_OK):
            fail(
                f"extraCommands gave {path[len(root) :] or '/'} a mode with which the build cannot "
                "read it: do that in fakeRootCommands"
            )
        if is_folder:
            with os.scandir(path) as entries:
                todo += sorted(
                    entry.path
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
                )


def mode(place: str) -> int:
    """Return the permissions of a folder of the tree."""
    return stat.S_ISVTX | 0o777 if place == "tmp" else 0o755


def make_tree(tree: Tree, folder: str) -> None:
    """Create the files of the tree in the new folder `folder`."""
    os.mkdir(folder)
    for place, target in tree.items():
        name = os.path.join(folder, place)
        if target is None:
            os.mkdir(name)
            os.chmod(name, mode(place))
        else:
            os.symlink(target, name)


def write_archive(tree: Tree, file: str, mtime: int) -> None:
    """Write the tree as an archive, in the order and with the owner that tar is told below."""
    with open(file, "wb") as archive:
        for place in sorted(tree, key=lambda place: os.fsencode(place).split(b"/")):
            entry = tarfile.TarInfo(place)
            entry.mtime, entry.uname, entry.gname = mtime, "root", "root"
            target = tree[place]
            if target is None:
                entry.type, entry.mode = tarfile.DIRTYPE, mode(place)
            else:
                entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, target
            archive.write(entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        archive.write(bytes(2 * tarfile.BLOCKSIZE))


def run(what: str, command: list[str], folder: str, path: str = "") -> None:
    """Run `command` in `folder`; end the build with one line if it fails."""
    import ctypes  # slow, as is the next one; an image without commands does not need them
    import subprocess

    # Time zone and epoch are those that stdenv sets. fakeroot is to imitate a change of owner even
    # where the builder could really make one.
    environment = dict(os.environ, PATH=path, LC_ALL="C", TZ="UTC", SOURCE_DATE_EPOCH="315532800")
    environment["FAKEROOTDONTTRYCHOWN"] = "1"
    # fakeroot waits for its daemon, an orphan, to be gone, and it is gone when somebody has asked
    # for its status. That falls to the first process of a sandbox or container, which may not ask;
    # so this one takes the orphans.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command, cwd=folder, env=environment)
    while True:
        ended, status = os.wait()
        if ended == process.pid:
            break
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        fail(f"{what} failed with status {process.returncode}")


def main() -> None:
    attributes = read_attributes()
    os.umask(0o022)
    store_paths = {entry["path"] for entry in attributes.get("closure", [])}
    tree, contested = link_contents(attributes["contents"], store_paths)
    for place, linked, other in contested[:MOST_CONTESTED]:
        print(f"/{place}: {linked} is linked, not {other}", file=sys.stderr)
    if len(contested) > MOST_CONTESTED:
        print(f"and so for {len(contested) - MOST_CONTESTED} more files", file=sys.stderr)
    has_commands = bool(attributes["extraCommands"] or attributes["fakeRootCommands"])
    if attributes["baseLinks"] is not None:
        links = read_json(attributes["baseLinks"])
        tree = follow_links(tree, links, is_for_commands=has_commands)
    complete_root(tree, store_paths)
    check_tree(tree, attributes["storeDir"], store_paths)
    if not has_commands:
        write_archive(tree, attributes["outputs"]["out"], attributes["mtime"])
        return

    make_tree(tree, TREE)
    # The options that stdenv sets
    options = ["-e", "-o", "pipefail", "-O", "inherit_errexit", "-O", "nullglob"]
    shell, path = [attributes["shell"], *options, "-c"], attributes["path"]
    if attributes["extraCommands"]:
        run("extraCommands", [*shell, attributes["extraCommands"]], TREE, path)
    owner = None if attributes["fakeRootCommands"] else "root:0"
    archive = tar_command(attributes["tar"], attributes["mtime"], owner, owner)
    archive += ["--blocking-factor=1", "--file", attributes["outputs"]["out"], "--directory", TREE]
    if attributes["fakeRootCommands"]:
        # fakeroot remembers the owners that its commands give; tar has to be shown them.
        remembered = os.path.abspath("owners")
        fakeroot = [attributes["fakeroot"], "-s", remembered, "--"]
        run("fakeRootCommands", [*fakeroot, *shell, attributes["fakeRootCommands"]], TREE, path)
        # Names would be those that the building machine has for the numbers.
        archive = [attributes["fakeroot"], "-i", remembered, "--", *archive, "--numeric-owner"]
    check_store_folder(TREE, attributes["storeDir"])
    check_readable(TREE)
    # The root itself is there too, with the mode and owner that commands gave it.
    archive += ["--no-unquote", "--no-recursion", "."]
    if names := sorted(os.listdir(TREE)):
        archive += ["--recursion", "--", *names]
    run("tar", archive, ".", path)


if __name__ == "__main__":
    main()
