"""Pack store paths, and the files that go beside them, into one layer of an image.

GNU tar writes the archive; it is read once, by the digest of the uncompressed layer and by the
compressor, whose output is read once by the digest of the layer as it is stored. No copy of the
store paths is made and no byte is read from the disk twice. The compressor gets a part at a time,
so that all cores have one, and the parts are as large whatever the machine: the result depends on
nothing but the attributes, neither on the number of cores nor on the user who builds.

Attributes: `storePaths`, a list; `archives`, uncompressed tar files whose entries follow the store
paths (the symlinks and files of the image's root), each ended by two empty blocks and no more; and
how every layer of the image is packed: `tar`, a program; `compressor` ("gz", "zstd" or "none") and
`compressorProgram`; `storeDir`; `mtime` of all files, as tar takes it; `owner` and `group` of the
store paths, NAME:ID each.
Writes into the output:

    layer.tar[.gz|.zst]   the layer
    layer.json            {"digest", "diffId", "size", "mediaType", "md5", "file", "storePaths"}

digest and diffId are those of the OCI image specification: "sha256:" and the hash of the layer as
stored and of the uncompressed archive.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections import deque
from collections.abc import Iterator

from builder import cores, fail, read_attributes, write_json

CHUNK = 1 << 18  # bytes read at once; from 64 KiB on it makes no measurable difference
BLOCK = 512  # bytes; the unit of a tar archive

# compressor: (ending of the file, ending of the media type, arguments, bytes of a part)
# Of 447 MB of programs `libdeflate-gzip -6` makes 149.8 MB in 4.8 s of one core, zlib (pigz, gzip)
# 152.2 MB in 16 s. Parts of 2 MiB add .09 % to what it makes of the whole, parts of 8 MiB .2 % to
# what zstd makes (4 MiB: .9 %). -T1 lets no setting of the machine decide.
_COMPRESSORS = {
    "none": ("", "", None, 0),
    "gz": (".gz", "+gzip", ["-6", "-c"], 2 << 20),
    "zstd": (".zst", "+zstd", ["-6", "--quiet", "--stdout", "-T1"], 8 << 20),
}

# More would wait: tar and a digest come to 800 MB/s, a compressor to 90 (zstd: 60). Each has its
# part in memory, and what it makes of it.
MOST_COMPRESSORS = 12


def pack_layer(
    packing: dict, store_paths: list[str], archives: list[str], out: str, compressors: int
) -> None:
    """Write one layer and its description into the new folder `out`.

    `packing` are the attributes that say how, as above; `compressors`, how many may run at once.
    Ends the build with one line when tar or the compressor fails.
    """
    ending, media_type, arguments, part_size = _COMPRESSORS[packing["compressor"]]
    digest, md5, diff_id = hashlib.sha256(), hashlib.md5(usedforsecurity=False), hashlib.sha256()

    def uncompressed() -> Iterator[bytes]:
        for chunk in _entries(packing, store_paths, archives):
            diff_id.update(chunk)
            yield chunk

    stored = uncompressed()
    if arguments is not None:
        command = [packing["compressorProgram"], *arguments]
        stored = _compress(command, min(compressors, MOST_COMPRESSORS), _parts(stored, part_size))
    os.mkdir(out)
    file = "layer.tar" + ending
    size = 0
    with open(os.path.join(out, file), "wb") as layer:
        for chunk in stored:
            layer.write(chunk)
            digest.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    description = {
        "digest": "sha256:" + digest.hexdigest(),
        "diffId": "sha256:" + diff_id.hexdigest(),
        "size": size,
        "mediaType": "application/vnd.oci.image.layer.v1.tar" + media_type,
        "md5": md5.hexdigest(),
        "file": file,
        "storePaths": store_paths,
    }
    write_json(os.path.join(out, "layer.json"), description)


def _parts(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the same bytes, `size` at a time; the last part may be smaller."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _compress(command: list[str], limit: int, parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what the compressor makes of each part, in their order.

    One after the other that is a compressed file again: gzip's has one member or more (RFC 1952,
    2.2), zstd's frames (RFC 8878, 3.1). At most `limit` compressors run at once. There is at least
    one part.
    """
    running: deque[tuple[int, int]] = deque()  # process, and the file that it writes

    def start(part: bytes) -> None:
        source, target = os.memfd_create("part"), os.memfd_create("compressed part")
        with open(source, "wb", closefd=False) as file:
            file.write(part)
        os.lseek(source, 0, os.SEEK_SET)
        running.append((_start(command, source, os.dup(target)), target))

    def finish() -> bytes:
        process, target = running.popleft()
        _expect_success(process, command)
        os.lseek(target, 0, os.SEEK_SET)
        with open(target, "rb", buffering=0) as file:
            return file.read()

    for part in parts:
        if len(running) == limit:
            yield finish()
        start(part)
    while running:
        yield finish()


def _entries(packing: dict, store_paths: list[str], archives: list[str]) -> Iterator[bytes]:
    """Yield the bytes of the uncompressed layer."""
    if not store_paths and len(archives) == 1:
        yield from _chunks(archives[0])  # nothing in it can be there twice
        return
    seen: set[str] = set()
    if store_paths:
        if not archives:
            yield from _store_path_entries(packing, store_paths)
            return
        # What follows is appended, so the two empty blocks that end the archive are held back.
        held = b""
        for chunk in _store_path_entries(packing, store_paths, "--blocking-factor=1"):
            held += chunk
            yield held[: -2 * BLOCK]
            held = held[-2 * BLOCK :]
        seen = set(_ancestors(packing["storeDir"]))
    for archive in archives:
        yield from _archive_entries(archive, seen)
    yield bytes(2 * BLOCK)


def _store_path_entries(packing: dict, store_paths: list[str], *options: str) -> Iterator[bytes]:
    """Yield the tar archive of `store_paths`, the folders above the store first."""
    ours, theirs = os.pipe()
    # The store's own folders have odd modes on some machines: these stand in for them. Each tar has
    # its own, since it minds when another touches them; its pipe is its own as long as it writes.
    above = f"above.{ours}"
    ancestors = _ancestors(packing["storeDir"])
    for folder in ancestors:
        os.makedirs(os.path.join(above, folder), exist_ok=True)
        os.chmod(os.path.join(above, folder), 0o755)
    command = [packing["tar"], "--create", "--format=gnu", "--sort=name", "--hard-dereference"]
    command += [f"--{option}={packing[option]}" for option in ("mtime", "owner", "group")]
    command += [*options, f"--directory={above}", "--no-recursion", *ancestors]
    # A layer can have more paths than an argument list holds.
    command += ["--directory=/", "--recursion", "--null", "--files-from=-"]
    names = os.memfd_create("store paths")
    with open(names, "wb", closefd=False) as listing:
        listing.write(b"".join(os.fsencode(path.lstrip("/")) + b"\0" for path in store_paths))
    os.lseek(names, 0, os.SEEK_SET)
    tar = _start(command, names, theirs)
    yield from _chunks(ours)
    # Status 1: a file's inode changed meanwhile. Nix does that to files that it finds to be equal
    # (`auto-optimise-store`): it adds a link, and their bytes stay.
    _expect_success(tar, command, (0, 1))


def _archive_entries(archive: str, seen: set[str]) -> Iterator[bytes]:
    """Yield the entries of a tar file without its end, leaving out folders already in `seen`.

    A layer must not hold one name twice. Entries are copied as they are.
    """
    import tarfile  # 15 ms that only the layers with archives need

    with tarfile.open(archive, "r:") as members, open(archive, "rb") as file:
        for member in members:
            # All of it: the header, those that extend it, and the data in whole blocks.
            remaining = members.offset - member.offset
            if member.isdir() and member.name in seen:
                continue
            seen.add(member.name)
            file.seek(member.offset)
            while remaining:
                chunk = file.read(min(CHUNK, remaining))
                remaining -= len(chunk)
                yield chunk


def _ancestors(folder: str) -> list[str]:
    """Return `folder` and those above it but the root, the highest first, as tar names them.

    >>> _ancestors("/nix/store")
    ['nix', 'nix/store']
    """
    parts = folder.strip("/").split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _chunks(file: int | str) -> Iterator[bytes]:
    """Yield what comes out of a pipe, and close it; or what is in the file of that name."""
    with open(file, "rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _start(command: list[str], stdin: int, stdout: int) -> int:
    """Start a program with two file descriptors, which it takes over; return its process id.

    The module subprocess would do the same, and take 5 ms a layer for being imported.
    """
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    # Python ignores SIGPIPE. tar would, too, and complain after us when its reader has failed.
    process = os.posix_spawn(
        command[0], command, os.environ, file_actions=actions, setsigdef=[signal.SIGPIPE]
    )
    os.close(stdin)
    os.close(stdout)
    return process


def _expect_success(process: int, command: list[str], accepted: tuple[int, ...] = (0,)) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in accepted:
        fail(f"{command[0]} failed with status {status}")


def main() -> None:
    attributes = read_attributes()
    out = attributes["outputs"]["out"]
    pack_layer(attributes, attributes["storePaths"], attributes["archives"], out, cores())


if __name__ == "__main__":
    main()
