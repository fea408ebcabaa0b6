"""Read the archive of a layer that somebody else made. Nothing in it is used unchecked."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from itertools import chain
from posixpath import normpath
from typing import IO, NamedTuple, cast

from chunks import CHUNK, read_chunks
from image_tree import Entry
from nar import NarHash
from oci import WHITEOUT

# Bytes of a header that says more about the next file: a long name, extended attributes. tarfile
# has it in memory as a whole; real ones have some hundred bytes, and Linux allows attributes of
# 64 KiB.
MOST_HEADER = 1 << 20
# Bytes of a file's name. Linux has a limit of 4096; much longer ones would cost time alone.
MOST_NAME = 4096

_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_KINDS = {
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
}
_XATTR = "SCHILY.xattr."  # the prefix of a pax header's keyword for an extended attribute

# By the first bytes of a file: the program that decompresses it
_COMPRESSORS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    # A frame that is skipped may come first (RFC 8878, 3.1.2): pzstd writes its sizes there.
    **{bytes([first]) + b"\x2a\x4d\x18": "zstd" for first in range(0x50, 0x60)},
}


class ImageError(ValueError):
    """The file or folder is not a valid image."""


class CheckedHeader(tarfile.TarInfo):
    """A header of a tar archive, which is refused if it announces more than there can be."""

    # The one method that tarfile says can be overridden, and that it calls in all versions.
    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > MOST_HEADER:
            raise ImageError(f"an archive in it has a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def find_compressor(file: str) -> str | None:
    """Return which program decompresses a file: "gzip", "zstd", "xz", "bzip2"; None for none."""
    with open(file, "rb") as stream:
        start = stream.read(8)
    return next((name for magic, name in _COMPRESSORS.items() if start.startswith(magic)), None)


def decompress(file: str, program: str | None) -> Iterator[bytes]:
    """Yield the bytes of a file that a program compressed, None for none.

    Raises ImageError if the program can't read it.
    """
    if program is None:
        yield from read_chunks(file)
        return
    with open(file, "rb") as stream:
        command = [program, "--decompress", "--stdout"]
        process = subprocess.Popen(command, stdin=stream, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        while chunk := process.stdout.read(CHUNK):
            yield chunk
    if process.returncode != 0:
        raise ImageError(f"{os.path.basename(program)} can't read {file}")


class _Stream:
    """A file object from which tarfile reads an archive; it hashes what is read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest, self.sha256 = chunks, b"", hashlib.sha256()

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (chunk := next(self.chunks, b"")):
            self.sha256.update(chunk)
            self.rest += chunk
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


class LayerFiles(NamedTuple):
    """What is in the archive of a layer."""

    members: list[tuple[str, Entry]]  # places and entries, in the archive's order
    diff_id: str
    nar_hashes: dict[str, str | None]  # of store paths, by place; None where it is not known


def place_of(name: str) -> str:
    """Return the place of a file with that name in an archive, which never leads out of it.

    >>> place_of("./usr/../bin/"), place_of("../../etc"), place_of("./")
    ('bin', 'etc', '')
    """
    return normpath("/" + name).lstrip("/")


def describe(member: tarfile.TarInfo) -> Entry:
    """Return what is known of a file from its header."""
    xattrs = {
        key[len(_XATTR) :]: value
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR)
    }
    target = member.linkname
    if member.islnk():
        target = place_of(target)
    owner = member.uid, member.gid, member.uname, member.gname
    mode = member.mode & 0o7777
    return Entry(_KINDS.get(member.type, "file"), target, mode, *owner, xattrs)


def _add_to_nar(nar: NarHash, path: str, member: tarfile.TarInfo, data: IO[bytes] | None) -> None:
    if member.isdir():
        nar.add_folder(path)
    elif member.issym():
        nar.add_link(path, member.linkname)
    elif member.isreg() and not member.issparse() and data is not None:
        chunks = iter(lambda: data.read(CHUNK), b"")
        nar.add_file(path, bool(member.mode & 0o100), member.size, chunks)
    else:
        nar.is_right = False


def read_layer(
    chunks: Iterator[bytes], store: str, keep: Callable[[str], str | None]
) -> LayerFiles:
    """Return what is in a layer's archive. `store` is the place of the Nix store.

    A file for whose place `keep` returns a name is written to the file of that name. Raises
    tarfile.TarError and ImageError.
    """
    first = next(chunks, b"")
    if not first:  # Go's library, and so docker, takes it for an archive without files
        return LayerFiles([], "sha256:" + hashlib.sha256().hexdigest(), {})
    stream, members = _Stream(chain([first], chunks)), []
    nars: dict[str, NarHash] = {}
    with tarfile.open(
        fileobj=cast("IO[bytes]", stream),
        mode="r|",
        bufsize=CHUNK,
        tarinfo=CheckedHeader,
        errors="surrogateescape",
    ) as archive:
        while (member := archive.next()) is not None:
            # tarfile keeps all headers, of hundreds of bytes each.
            archive.members.clear()  # type: ignore[attr-defined]
            place = place_of(member.name)
            if len(place) > MOST_NAME:
                raise ImageError(f"an archive in it has a name of {len(place)} characters")
            members.append((place, describe(member)))
            data = archive.extractfile(member) if member.isreg() else None
            name = keep(place)
            if name and data:
                with open(name, "wb") as copy:
                    shutil.copyfileobj(data, copy)
                data = None
            start = len(store) + 1
            if place.startswith(store + "/"):
                top, _, path = place[start:].partition("/")
                if not top.startswith(WHITEOUT):
                    _add_to_nar(nars.setdefault(top, NarHash()), path, member, data)
    while stream.read(CHUNK):
        pass
    hashes = {f"{store}/{name}": nar.digest() for name, nar in nars.items()}
    return LayerFiles(members, "sha256:" + stream.sha256.hexdigest(), hashes)
