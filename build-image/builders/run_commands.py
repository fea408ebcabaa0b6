"""Run the commands of extraCommands and fakeRootCommands in the tree of an image's root.

They can't change anything else: where the kernel allows it, all other files are read-only for them.
Where it does not, what they add at the root of the machine ends the build.

As a program, with the name of a JSON file, this runs one of them under fakeroot, and writes what
fakeroot makes of the files: it forgets extended attributes when it ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import stat
import subprocess
import sys
import threading
from typing import NamedTuple

from attributes import fail
from image_tree import Entry, join

# From <linux/prctl.h>, <linux/sched.h> and <linux/mount.h>
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 0x40000
# Options of a mount that must stay when it becomes read-only, as /proc/self/mountinfo has them
MOUNT_OPTIONS = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "relatime": 0x200000,
}
READ_ONLY = MOUNT_OPTIONS["ro"]

# What programs say of a file that they could not make at an absolute path
_REFUSED = re.compile(
    rb"(?<![^\s'\"\x98])(/[^\s'\"]*?)['\"\xe2\x80\x99]*: "
    rb"(Read-only file system|Permission denied|No such file or)"
)

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name} failed")


def _mount(source: str | None, target: str, flags: int) -> None:
    _call("mount", source and os.fsencode(source), os.fsencode(target), None, flags, None)


def _write(file: str, text: str) -> None:
    with open(file, "w", encoding="ascii") as stream:
        stream.write(text)


def _enter_user_namespace(more: int, uid: int, gid: int) -> None:
    """Enter a user namespace, and more kinds of them, with these numbers for user and group."""
    outside = os.getuid(), os.getgid()
    _call("unshare", CLONE_NEWUSER | more)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {outside[0]} 1")
    _write("/proc/self/gid_map", f"{gid} {outside[1]} 1")


def _become_root() -> None:
    _enter_user_namespace(0, 0, 0)


def _may_become_root() -> bool:
    """Return whether this process is an ordinary user who can be root in a user namespace."""
    if os.getuid() == 0:
        return False
    child = os.fork()
    if child == 0:
        try:
            _become_root()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def isolate() -> bool:
    """Make all files but those in the working directory read-only, for this process and its own.

    Returns whether the machine allows that.
    """
    folder, uid, gid = os.getcwd(), os.getuid(), os.getgid()
    try:
        try:
            _call("unshare", CLONE_NEWNS)
        except OSError:
            _enter_user_namespace(CLONE_NEWNS, uid, gid)
        _mount(None, "/", MS_REC | MS_PRIVATE)
        _mount(folder, folder, MS_BIND | MS_REC)
        os.chdir(folder)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            mounts = [line.split()[4:6] for line in table]
    except OSError:
        return False
    for place, options in mounts:
        place = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), place)
        if f"{place}/".startswith(f"{folder}/"):
            continue
        flags = sum(MOUNT_OPTIONS.get(option, 0) for option in options.split(","))
        try:
            _mount(None, place, MS_REMOUNT | MS_BIND | READ_ONLY | flags)
        except OSError:
            if place == "/":
                return False
    return True


def explain(said: bytes, store: str) -> str:
    """Return what to write instead, if commands ended because they wrote outside of the root.

    `said` is what they wrote on standard error, `store` the place of the Nix store.

    >>> explain(b"mkdir: cannot create directory '/data': Read-only file system", "nix/store")
    ': paths are relative to the root of the image: write data, not /data'
    >>> explain(b"bash: line 1: etc/motd: No such file or directory", "nix/store")
    ''
    """
    known = f"/{store}/", f"{os.getcwd()}/", f"{os.environ.get('HOME', store)}/"
    for path in (os.fsdecode(match[1]) for match in _REFUSED.finditer(said)):
        if path.strip("/") and not f"{path}/".startswith(known):
            relative = path.lstrip("/")
            return f": paths are relative to the root of the image: write {relative}, not {path}"
    if b"Read-only file system" in said:
        return ": they can only write to files in the root of the image"
    return ""


class Setting(NamedTuple):
    """How commands run."""

    command: list[str]  # the shell, without the text that it runs
    path: str  # PATH
    store: str  # the place of the Nix store
    is_isolated: bool


def run(
    what: str, command: list[str], folder: str, setting: Setting, *, is_fake: bool = False
) -> None:
    """Run `command` in `folder`; end the build with one line if it fails.

    `what` is the name of the argument. With `is_fake`, the builder is user 0 where the machine
    allows that: fakeroot takes a file that gets an extended attribute for one of its real owner.
    """
    before_start = _become_root if is_fake and _may_become_root() else None
    # Time zone and epoch are those that stdenv sets. fakeroot is to imitate a change of owner even
    # where the builder could really make one.
    environment = dict(os.environ, PATH=setting.path, LC_ALL="C", TZ="UTC")
    environment.update(SOURCE_DATE_EPOCH="315532800", FAKEROOTDONTTRYCHOWN="1")
    # fakeroot waits for its daemon, an orphan, to be gone, and it is gone when somebody has asked
    # for its status. That falls to the first process of a sandbox or container, which may not ask;
    # so this one takes the orphans.
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = set(os.listdir("/"))
    said = bytearray()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, preexec_fn=before_start
    )
    assert process.stderr is not None
    pipe = process.stderr.fileno()

    def pass_on() -> None:
        while chunk := os.read(pipe, 1 << 16):
            said.extend(chunk)
            del said[: -1 << 16]
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    while True:
        ended, status = os.wait()
        if ended == process.pid:
            break
    process.returncode = os.waitstatus_to_exitcode(status)
    # A process that they left behind may keep the pipe open.
    reader.join(1)
    if process.returncode != 0:
        hint = explain(bytes(said), setting.store)
        # As shells have it, 128 and the number of a signal
        status = process.returncode if process.returncode > 0 else 128 - process.returncode
        fail(f"{what} failed with status {status}{hint}")
    # Without isolation: with it, nothing comes of these commands, but others may work beside them.
    for name in sorted(set() if setting.is_isolated else set(os.listdir("/")) - before):
        fail(f"{what} made /{name} on the machine that builds: write {name}, not /{name}")


def _real_owner() -> tuple[int, int]:
    """Return user and group of this process, whatever fakeroot says."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as table:
        numbers = {line.split()[0]: int(line.split()[1]) for line in table if line[1:4] == "id:"}
    return numbers["Uid:"], numbers["Gid:"]


def walk(root: str, *, is_fake: bool) -> dict[str, Entry]:
    """Return the files in the folder `root`, by place.

    Owners and extended attributes are those that fakeroot says if `is_fake`, else root and none.
    A file with several links is a hard link at all places but the first.
    """
    found: dict[str, Entry] = {}
    inodes: dict[tuple[int, int], str] = {}
    todo = [""]
    while todo:
        place = todo.pop()
        file = join(root, place) if place else root
        status = os.lstat(file)
        entry = describe(file, status, is_fake=is_fake)
        if entry.kind == "folder":
            # The reverse of the order in the archive, since the last one is taken first.
            names = sorted(os.listdir(file), key=os.fsencode, reverse=True)
            todo += [join(place, name) for name in names]
        elif status.st_nlink > 1 and entry.kind != "link":
            first = inodes.setdefault((status.st_dev, status.st_ino), place)
            if first != place:
                entry = entry._replace(kind="hard link", target=first, source="", size=0, xattrs={})
        found[place] = entry
    return found


def describe(file: str, status: os.stat_result, *, is_fake: bool) -> Entry:
    """Return what an archive says of a file of the disk."""
    mode = status.st_mode
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "link",
        stat.S_IFIFO: "fifo",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFREG: "file",
    }
    entry = Entry(kinds.get(stat.S_IFMT(mode), "socket"), mode=stat.S_IMODE(mode))
    if is_fake:
        # Names would be those that the building machine has for the numbers.
        entry = entry._replace(uid=status.st_uid, gid=status.st_gid, uname="", gname="")
        names = os.listxattr(file, follow_symlinks=False) if entry.kind != "link" else []
        entry = entry._replace(
            xattrs={
                name: os.getxattr(file, name).decode(errors="surrogateescape") for name in names
            }
        )
        if names and (entry.uid, entry.gid) == _real_owner():
            entry = entry._replace(uid=0, gid=0)
    if entry.kind == "link":
        return entry._replace(target=os.readlink(file))
    if entry.kind == "file":
        return entry._replace(source=file, size=status.st_size)
    if entry.kind.endswith("device"):
        return entry._replace(device=(os.major(status.st_rdev), os.minor(status.st_rdev)))
    return entry


def run_under_fakeroot(
    fakeroot: str, text: str, folder: str, setting: Setting, owners: str
) -> dict[str, Entry]:
    """Run fakeRootCommands; return the files in the folder, with owners as they are then.

    `owners` is the text of a file as `fakeroot -s` writes it.
    """
    _write("owners", owners)
    request = {
        "command": [*setting.command, text],
        "folder": os.path.abspath(folder),
        "files": os.path.abspath("files.json"),
    }
    _write("request.json", json.dumps(request))
    words = [fakeroot, "-i", os.path.abspath("owners"), "--", sys.executable, "-BEsS", __file__]
    run("fakeRootCommands", [*words, os.path.abspath("request.json")], ".", setting, is_fake=True)
    with open("files.json", encoding="ascii") as stream:
        return {place: Entry(*row) for place, row in json.load(stream).items()}


def main() -> None:
    """Run a command in a folder and write its files, by place."""
    with open(sys.argv[1], encoding="ascii") as stream:
        request = json.load(stream)
    status = subprocess.run(request["command"], cwd=request["folder"], check=False).returncode
    if status != 0:
        sys.exit(status if status > 0 else 128 - status)
    _write(request["files"], json.dumps(walk(request["folder"], is_fake=True)))


if __name__ == "__main__":
    main()
