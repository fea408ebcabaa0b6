"""Tar archives made by GNU tar, with the same bytes whoever makes them, and whenever."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 18  # bytes read at once; more than a pipe holds


def tar_command(tar: str, mtime: int, owner: str | None = None, group: str | None = None) -> list:
    """Return the beginning of a command that writes an archive.

    `tar` is the program, `mtime` the time of all files, in seconds; `owner` and `group`,
    NAME:ID each, are those of all files unless None.
    """
    command = [tar, "--create", "--format=gnu", "--sort=name", f"--mtime=@{mtime}"]
    if owner is not None:
        command.append(f"--owner={owner}")
    if group is not None:
        command.append(f"--group={group}")
    return command


def read_chunks(file: int | str) -> Iterator[bytes]:
    """Yield the contents of a pipe, which is closed afterwards, or of the file of that name."""
    with open(file, "rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
