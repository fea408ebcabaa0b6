"""The NAR hash of a store path, computed while its files come from a tar archive.

The NAR format is described in figure 5.2 of Eelco Dolstra's thesis, "The Purely Functional Software
Deployment Model": a folder lists what is in it by name, and files are executable or not. An archive
that tar has sorted by name has the same order, so nothing needs to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

# Nix's digits in base 32: without e, o, t and u
_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"


class NarHash:
    """Takes the files of a store path, the path itself first, each as a path below it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.folders: list[str] = []  # those that are open, the innermost one last
        self.last: list[bytes] = []  # in each, the name that came last
        self.count = 0  # files
        self.is_right = True  # whether the files came in the format's order
        self._put("nix-archive-1")

    def _put(self, *words: str | bytes) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else word.encode(errors="surrogateescape")
            self.sha256.update(len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8))

    def _begin(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        while len(self.folders) > 1 and self.folders[-1] != folder:
            self._end_folder()
        data = name.encode(errors="surrogateescape")
        if self.count == 0:
            self.is_right = path == ""
        elif not self.folders or self.folders[-1] != folder or data <= self.last[-1]:
            self.is_right = False
        else:
            self.last[-1] = data
            self._put("entry", "(", "name", data, "node")
        self.count += 1
        self._put("(", "type")

    def _end(self, path: str) -> None:
        self._put(")", ")") if path else self._put(")")

    def _end_folder(self) -> None:
        self.last.pop()
        self._end(self.folders.pop())

    def add_folder(self, path: str) -> None:
        """Add a folder; what is in it comes next."""
        self._begin(path)
        self._put("directory")
        self.folders.append(path)
        self.last.append(b"")

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._begin(path)
        self._put("symlink", "target", target)
        self._end(path)

    def add_file(self, path: str, is_executable: bool, size: int, chunks: Iterable[bytes]) -> None:
        """Add a file; `chunks` has `size` bytes in all."""
        self._begin(path)
        self._put("regular", *(["executable", ""] if is_executable else []), "contents")
        self.sha256.update(size.to_bytes(8, "little"))
        for chunk in chunks:
            self.sha256.update(chunk)
        self.sha256.update(bytes(-size % 8))
        self._end(path)

    def digest(self) -> str | None:
        """Return the hash as "sha256:" and 64 hexadecimal digits; None if the order was another."""
        while self.folders:
            self._end_folder()
        return f"sha256:{self.sha256.hexdigest()}" if self.is_right and self.count else None


def in_base_16(nar_hash: str) -> str:
    """Return a hash as `NarHash.digest` has it; Nix also writes it in base 32.

    >>> in_base_16("sha256:" + "0" * 51 + "1")
    'sha256:0100000000000000000000000000000000000000000000000000000000000000'
    """
    digits = nar_hash.rpartition(":")[2]
    if len(digits) != 52:
        return nar_hash
    number = 0
    for digit in digits:
        number = number * 32 + _DIGITS.index(digit)
    return "sha256:" + number.to_bytes(33, "little")[:32].hex()
