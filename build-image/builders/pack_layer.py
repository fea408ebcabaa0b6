"""Pack store paths, or an existing archive, into one layer of an image.

GNU tar writes the archive. It is read once, to be hashed and compressed; the compressor's output is
read once, to be hashed. The store paths are not copied, and no byte is read from the disk twice.
The compressor runs on one part per core. The size of the parts is fixed, so the result depends only
on the attributes, not on the number of cores or the user who builds.

The attributes are those of pack_layer.nix. Writes the blob as output `out`, and as output
`description` a list of one `LayerDescription`.
"""

from __future__ import annotations

import hashlib
import os

from attributes import attributes_file, fail
from chunks import read_chunks
from oci import LAYER_TYPE, WHITEOUT
from processes import cores, expect_success, start

TYPE_CHECKING = False  # as typing has it, which is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from layer import LayerDescription

# compressor: (ending of the media type, arguments, bytes of a part)
# bench/speed.py compares them. libdeflate makes smaller layers than zlib (pigz, gzip) in less than
# half the time. Parts of 2 MiB add 0.1 % to its output. To zstd's, parts of 4 MiB add 0.9 %, parts
# of 8 MiB 0.3 %. With -T1, no setting of the machine plays a part.
_COMPRESSORS = {
    "none": ("", None, 0),
    "gz": ("+gzip", ["-6", "-c"], 2 << 20),
    "zstd": ("+zstd", ["-6", "--quiet", "--stdout", "-T1"], 8 << 20),
}

# More would wait for tar and for hashing, which take one core each. A compressor has its part and
# its output in memory.
MOST_COMPRESSORS = 12


def pack_layer(packing: dict, layer: dict, blob: str, compressors: int) -> LayerDescription:
    """Write a layer to the new file `blob`; return its description.

    `packing` is the attributes that say how; `layer` has `contents` or `archive`, as above;
    `compressors` says how many may run at once. Ends the build with one line if tar or the
    compressor fails.
    """
    ending, arguments, part_size = _COMPRESSORS[packing["compressor"]]
    digest, md5, diff_id = hashlib.sha256(), hashlib.md5(usedforsecurity=False), hashlib.sha256()

    def uncompressed() -> Iterator[bytes]:
        archive = layer.get("archive")
        for chunk in read_chunks(archive) if archive else _archive(packing, layer["contents"]):
            diff_id.update(chunk)
            yield chunk

    stored = uncompressed()
    if arguments is not None:
        command = [packing["compressorProgram"], *arguments]
        stored = _compress(command, min(compressors, MOST_COMPRESSORS), _parts(stored, part_size))
    size = 0
    with open(blob, "wb") as file:
        for chunk in stored:
            file.write(chunk)
            digest.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return {
        "digest": "sha256:" + digest.hexdigest(),
        "diffId": "sha256:" + diff_id.hexdigest(),
        "size": size,
        "mediaType": LAYER_TYPE + ending,
        "md5": md5.hexdigest(),
        "storePaths": layer["contents"],
        "file": "",
    }


def _parts(chunks: Iterator[bytes], size: int) -> Iterator[int]:
    """Yield files in memory with the same bytes, `size` in each; the last one may have fewer."""
    room = 0
    for chunk in chunks:
        while chunk:
            if room == 0:
                part, room = os.memfd_create("part"), size
            written = os.write(part, chunk[:room])
            chunk, room = chunk[written:], room - written
            if room == 0:
                yield part
    if room > 0:
        yield part


def _compress(command: list[str], limit: int, parts: Iterator[int]) -> Iterator[bytes]:
    """Yield the compressed parts, in order.

    Concatenated, they are one compressed file: gzip's has one or more members (RFC 1952, 2.2),
    zstd's one or more frames (RFC 8878, 3.1). At most `limit` compressors run at once. There is at
    least one part.
    """
    running: list[tuple[int, int]] = []  # process, and its output file

    def begin(part: int) -> None:
        target = os.memfd_create("compressed part")
        os.lseek(part, 0, os.SEEK_SET)
        running.append((start(command, part, os.dup(target)), target))

    def finish() -> bytes:
        process, target = running.pop(0)
        expect_success(process, command)
        os.lseek(target, 0, os.SEEK_SET)
        with open(target, "rb", buffering=0) as file:
            return file.read()

    for part in parts:
        if len(running) == limit:
            yield finish()
        begin(part)
    while running:
        yield finish()


def refuse_whiteouts(store_paths: list[str]) -> None:
    """End the build with one line if a file's name would remove another file from the image."""
    for store_path in store_paths:
        for folder, folders, files in os.walk(store_path):
            for name in folders + files:
                if name.startswith(WHITEOUT):
                    fail(
                        f"{folder}/{name} would remove a file from the image: names must not "
                        f"begin with {WHITEOUT}"
                    )


def _archive(packing: dict, store_paths: list[str]) -> Iterator[bytes]:
    """Yield the tar archive of `store_paths`, the folders above the store first."""
    reading, writing = os.pipe()
    # The store's own folders have odd modes on some machines: these stand in for them. Each tar has
    # its own, since it minds when another touches them; its pipe is its own as long as it writes.
    stand_ins = f"folders.{reading}"
    parts = packing["storeDir"].strip("/").split("/")
    folders = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for folder in folders:
        os.makedirs(os.path.join(stand_ins, folder), exist_ok=True)
        os.chmod(os.path.join(stand_ins, folder), 0o755)
    command = [packing["tar"], "--create", "--format=gnu", "--sort=name"]
    command += [f"--{option}={packing[option]}" for option in ("owner", "group")]
    command += [f"--mtime=@{packing['mtime']}", "--hard-dereference"]
    command += [f"--directory={stand_ins}", "--no-recursion", *folders]
    # A layer can have more paths than an argument list holds.
    command += ["--directory=/", "--recursion", "--null", "--files-from=-"]
    names = os.memfd_create("store paths")
    with open(names, "wb", closefd=False) as listing:
        listing.write(b"".join(os.fsencode(path.lstrip("/")) + b"\0" for path in store_paths))
    os.lseek(names, 0, os.SEEK_SET)
    tar = start(command, names, writing)
    end, may_have_whiteouts = b"", False
    for chunk in read_chunks(reading):
        mark = b"/" + WHITEOUT.encode()
        if mark in chunk or mark in end + chunk[:8]:
            may_have_whiteouts = True
        end = chunk[-8:]
        yield chunk
    if may_have_whiteouts:
        refuse_whiteouts(store_paths)
    # Status 1: a file's inode changed meanwhile. Nix does that to files with equal contents
    # (`auto-optimise-store`): it adds a link, and their bytes stay.
    expect_success(tar, command, (0, 1))


def read_layer() -> dict:
    """Return the derivation's attributes."""
    with open(attributes_file(), encoding="utf-8") as file:
        # Nix's JSON is Python but for three names.
        return eval(file.read(), {"false": False, "null": None, "true": True})


def encode_description(description: LayerDescription) -> str:
    """Return what `encode_json` makes of a list of one description.

    Nothing in it has to be escaped but the hashes.
    """

    def encode(value: object) -> str:
        if isinstance(value, list):
            return f"[{','.join(map(encode_path, value))}]"
        return str(value) if isinstance(value, int) else f'"{value}"'

    def encode_path(path: str) -> str:
        end = path.rindex("/") + 32
        return f'"{path[:end]}\\u{ord(path[end]):04x}{path[end + 1 :]}"'

    members = [f'"{key}":{encode(value)}' for key, value in sorted(description.items())]
    return "[{" + ",".join(members) + "}]"


def main() -> None:
    layer = read_layer()
    outputs = layer["outputs"]
    description = pack_layer(layer["packing"], layer, outputs["out"], cores())
    with open(outputs["description"], "w", encoding="utf-8") as file:
        file.write(encode_description(description))


if __name__ == "__main__":
    main()
