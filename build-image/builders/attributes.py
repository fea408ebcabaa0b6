"""A builder's attributes, and the JSON that it writes.

The builders are started by Nix without a shell (`default.nix`): no set-up script runs, which
would take longer than most of them do. For the same reason they import little. The one that runs
for each layer does without the modules json and re, which take about as long to import as Python to
start (python3 -X importtime).
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False  # as typing has it, which is slow to import
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, NoReturn


def attributes_file() -> str:
    """Return the name of the JSON file with the derivation's structured attributes.

    Nix 2.8 names a file in NIX_ATTRS_JSON_FILE that does not exist in its sandbox; the copy in the
    build directory is read instead.
    """
    name = os.environ.get("NIX_ATTRS_JSON_FILE", "")
    return name if os.path.exists(name) else ".attrs.json"


def read_attributes() -> dict:
    """Return the derivation's structured attributes."""
    return read_json(attributes_file())


def read_json(name: str) -> Any:
    """Return what the JSON file `name` holds."""
    import json

    with open(name, encoding="utf-8") as file:
        return json.load(file)


def encode_json(value: object) -> bytes:
    """Return `value` as JSON in the one form used throughout: sorted keys, no white space.

    It is the form of Nix's `builtins.toJSON` and of Go's encoder, with one exception: the last
    character of the hash in every store path is escaped (`\\u0061` for `a`). A JSON reader sees the
    same string; Nix, which looks for hashes in what a build wrote, finds none, so a file that
    only names store paths does not keep them from being deleted.
    """
    import json
    import re

    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    last = re.compile(r"(/[0-9a-z]{31})([0-9a-z])(?=-)")
    return last.sub(lambda match: f"{match[1]}\\u{ord(match[2]):04x}", text).encode()


def write_json(name: str, value: object) -> None:
    """Write `value` to the file `name` in the form of `encode_json`."""
    with open(name, "wb") as file:
        file.write(encode_json(value))


def fail(message: str) -> NoReturn:
    """End the build with `message` as the last line of its log."""
    sys.exit(f"error: {message}")


class Caller:
    """A context in which messages of `fail` begin with what called the builder, if it is given."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.name and isinstance(error, SystemExit) and isinstance(error.code, str):
            fail(error.code.replace("error: ", f"{self.name}: ", 1))


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line that the disk is full, where Python would print a trace."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        sys.stderr.write(f"error: {error.filename or 'writing the output'}: {error.strerror}\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = explain
