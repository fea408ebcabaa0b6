"""Write the files of an image as a tar archive, with the bytes that GNU tar would write.

GNU tar itself can't be told the owners, modes and links of files that are not on the disk, and of
extended attributes it writes those that the builder's file system happens to have. Headers are
those of tar --format=gnu; extended attributes are in a pax header before them (POSIX.1-2001, pax),
as docker and podman write them.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from chunks import read_chunks
from image_tree import Entry

BLOCK = 512  # bytes
GNU, PAX = b"ustar  \0", b"ustar\x0000"

_TYPES = {
    "file": b"0",
    "hard link": b"1",
    "link": b"2",
    "character device": b"3",
    "block device": b"4",
    "folder": b"5",
    "fifo": b"6",
}


def _number(value: int, width: int) -> bytes:
    """Return a number as a field of a header: in octal digits, or as such if it has too many."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (value % (1 << 8 * width) | (0x80 if value >= 0 else 0xFF) << 8 * (width - 1)).to_bytes(
        width, "big"
    )


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _block(
    name: bytes,
    kind: bytes,
    size: int,
    link: bytes = b"",
    mode: int = 0o644,
    owner: tuple[int, int, str, str] = (0, 0, "root", "root"),
    mtime: int = 0,
    device: tuple[int, int] | None = None,
    magic: bytes = GNU,
) -> bytes:
    """Return one header of 512 bytes."""
    uid, gid, *names = owner
    numbers = b"".join(_number(number, 8) for number in (mode, uid, gid))
    sizes = _number(size, 12) + _number(mtime, 12)
    place = b"".join(_number(number, 8) for number in device) if device else bytes(16)
    rest = kind + link[:100].ljust(100, b"\0") + magic
    rest += b"".join(name.encode(errors="surrogateescape")[:31].ljust(32, b"\0") for name in names)
    start, end = name[:100].ljust(100, b"\0") + numbers + sizes, rest + place
    checksum = sum(start) + sum(end) + 8 * ord(" ")
    return (start + b"%06o\0 " % checksum + end).ljust(BLOCK, b"\0")


def _long(kind: bytes, text: bytes, root: str) -> bytes:
    """Return what stands before a header whose name, or link, has more than 100 bytes.

    `root` is the name of user 0.
    """
    data = text + b"\0"
    block = _block(b"././@LongLink", kind, len(data), owner=(0, 0, root, root))
    return block + data + _padding(len(data))


def _records(values: dict[str, bytes]) -> bytes:
    """Return a pax header with these values, by their keywords."""
    data = b""
    for keyword, value in sorted(values.items()):
        record = b" " + os.fsencode(keyword) + b"=" + value + b"\n"
        # The length counts its own digits.
        length = len(record) + len(str(len(record)))
        length = len(record) + len(str(length))
        data += b"%d" % length + record
    return _block(b"././@PaxHeader", b"x", len(data), magic=PAX) + data + _padding(len(data))


def header(place: str, entry: Entry, mtime: int) -> bytes:
    """Return all headers of a file."""
    name, target = os.fsencode(place or "."), os.fsencode(entry.target)
    if entry.kind == "folder":
        name += b"/"
    found, magic = b"", GNU
    root = "root" if entry.uname else ""
    if entry.xattrs:
        magic, values = PAX, {}
        for key, value in entry.xattrs.items():
            values[f"SCHILY.xattr.{key}"] = value.encode(errors="surrogateescape")
        if len(name) > 100:
            values["path"] = name
        if len(target) > 100:
            values["linkpath"] = target
        found = _records(values)
    else:
        if len(target) > 100:
            found += _long(b"K", target, root)
        if len(name) > 100:
            found += _long(b"L", name, root)
    owner = entry.uid, entry.gid, entry.uname, entry.gname
    device = entry.device if entry.kind.endswith("device") else None
    mode = 0o777 if entry.kind == "link" else entry.mode
    kind = _TYPES[entry.kind]
    return found + _block(name, kind, entry.size, target, mode, owner, mtime, device, magic)


def write_archive(entries: dict[str, Entry], file: BinaryIO, mtime: int) -> None:
    """Write files, by their places, as an archive; in the order of their names, like tar."""
    for place in sorted(entries, key=lambda place: os.fsencode(place).split(b"/")):
        entry = entries[place]
        file.write(header(place, entry, mtime))
        if entry.source:
            for chunk in read_chunks(entry.source):
                file.write(chunk)
            file.write(_padding(entry.size))
    file.write(bytes(2 * BLOCK))
