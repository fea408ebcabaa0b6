"""Read what may not fit into memory."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 18  # bytes read at once; more than a pipe holds


def read_chunks(file: int | str) -> Iterator[bytes]:
    """Yield the contents of a pipe, which is closed afterwards, or of the file of that name."""
    with open(file, "rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
