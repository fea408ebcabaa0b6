"""Make the files of the image's root: symlinks to the contents, and what commands add to them.

Every file of the contents is linked at its place; folders are real, so that the commands, and
whoever runs the image, can write beside the links. Where two of the contents bring the same file,
the first named wins and the log says so. A link to a folder is taken for the folder at the root
(`/sbin`, which is a link in some packages) and where several of the contents have that name;
deeper down it stays a link. `/tmp` is writable by everyone; `/usr/bin/env` is there when a store
path of the image has `bin/env`.

Attributes: `contents`, a list; `exportReferencesGraph.closure`, theirs; `extraCommands` and
`fakeRootCommands`, shell text that runs in the tree ("" for none), the latter under fakeroot;
`shell`, `fakeroot`, `tar`, programs; `path`, the PATH of the commands; `mtime`, in seconds.
Writes the tree as the uncompressed archive `out`, ended by two empty blocks and no more: not packed
yet, so that Nix sees which store paths it names.

The tree is in memory until commands want to see it: an image has thousands of links, and making
6 500 of them as files only for tar to read took 2 s more, of 3.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile

from archives import tar_command
from attributes import fail, read_attributes

TREE = "root"

# From <linux/prctl.h>
PR_SET_CHILD_SUBREAPER = 36

# What is at each place, as seen from the root: the target of a link, None for a folder. Folders
# come before what is in them.
Tree = dict[str, "str | None"]


def link_contents(contents: list[str]) -> tuple[Tree, list[str]]:
    """Return a tree with links to the files of `contents`.

    Also returns the places for which the contents have different files, sorted. `nix-support`,
    which some packages have for those that build with them, is left out.
    """
    tree: Tree = {}
    contested: list[str] = []
    # Each entry: a folder of the tree, as the parts of its name; the folders to link there; and
    # the links that were followed on the way, each of them once, or the walk might not end.
    todo: list[tuple[tuple[str, ...], list[str], frozenset[str]]] = []
    todo.append(((), [content for content in contents if os.path.isdir(content)], frozenset()))
    while todo:
        parts, sources, followed = todo.pop()
        if parts:
            tree["/".join(parts)] = None
        providers: dict[str, list[str]] = {}
        for source in sources:
            for name in set(os.listdir(source)) - (set() if parts else {"nix-support"}):
                providers.setdefault(name, []).append(os.path.join(source, name))
        for name, candidates in sorted(providers.items()):
            place = (*parts, name)
            links = {c: os.path.realpath(c) for c in candidates if os.path.islink(c)}
            if parts and len(candidates) == 1:
                folders = [c for c in candidates if c not in links and os.path.isdir(c)]
            else:
                folders = [
                    c for c in candidates if os.path.isdir(c) and links.get(c) not in followed
                ]
            if candidates[0] in folders:
                todo.append((place, folders, followed.union(links.values())))
            else:
                tree["/".join(place)] = candidates[0]
                folders = []
            winner = links.get(candidates[0], candidates[0])
            if any(c not in folders and links.get(c, c) != winner for c in candidates):
                contested.append("/".join(place))
    return tree, sorted(contested)


def find_env(closure: list[str]) -> str | None:
    """Return a program `bin/env` in one of the store paths `closure`: coreutils' if it is there."""
    found = [path for path in closure if os.access(path + "/bin/env", os.X_OK)]
    # By name before hash: which one is taken must not change with every rebuild.
    found.sort(key=lambda path: ("-coreutils" not in path, os.path.basename(path)[32:], path))
    return found[0] + "/bin/env" if found else None


def complete_root(tree: Tree, closure: list[str]) -> None:
    """Add `/tmp`, and `/usr/bin/env` where one is to be had and the contents do not bring it."""
    tree["tmp"] = None
    env = find_env(closure)
    if env and not any(tree.get(place) for place in ("usr", "usr/bin", "usr/bin/env")):
        tree.update({"usr": None, "usr/bin": None, "usr/bin/env": env})


def mode(place: str) -> int:
    """Return the permissions of a folder of the tree."""
    return stat.S_ISVTX | 0o777 if place == "tmp" else 0o755


def make_tree(tree: Tree, folder: str) -> None:
    """Make the files of the tree below the new folder `folder`."""
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
        for place in sorted(tree, key=lambda place: place.split("/")):
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
    """Run `command` in `folder`; end the build with one line when it fails."""
    import ctypes  # 9 ms, with the next, that an image without commands does not need
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
    tree, contested = link_contents(attributes["contents"])
    if contested:
        shown = ", ".join(contested[:5]) + (", ..." if len(contested) > 5 else "")
        print(f"in more than one package, the first named wins: {shown}", file=sys.stderr)
    complete_root(tree, [entry["path"] for entry in attributes.get("closure", [])])
    if not (attributes["extraCommands"] or attributes["fakeRootCommands"]):
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
    # Given a list of names, tar makes an empty archive as well.
    run("tar", [*archive, "--files-from=/dev/null", "--", *sorted(os.listdir(TREE))], ".", path)


if __name__ == "__main__":
    main()
