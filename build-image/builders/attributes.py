"""A builder's attributes, and the JSON that it writes.

The builders are started by Nix without a shell (`default.nix`): no set-up script runs, which
would take longer than most of them do. For the same reason they import little.
"""

from __future__ import annotations

import json
import os
import re
import sys

# The last character of the hash in "/<hash>-<name>": see `encode_json`.
_HASH_END = re.compile(r"(/[0-9a-z]{31})([0-9a-z])(?=-)")


def read_attributes() -> dict:
    """Return the derivation's structured attributes.

    Nix 2.8 names a file in NIX_ATTRS_JSON_FILE that does not exist in its sandbox; the copy in the
    build directory is read instead.
    """
    name = os.environ.get("NIX_ATTRS_JSON_FILE", "")
    return read_json(name if os.path.exists(name) else ".attrs.json")


def read_json(name: str) -> object:
    """Return what the JSON file `name` holds."""
    with open(name, encoding="utf-8") as file:
        return json.load(file)


def encode_json(value: object) -> bytes:
    """Return `value` as JSON in the one form used throughout: sorted keys, no white space.

    It is the form of Nix's `builtins.toJSON` and of Go's encoder, with one exception: the last
    character of the hash in every store path is escaped (`\\u0061` for `a`). A JSON reader sees the
    same string; Nix, which looks for hashes in what a build wrote, finds none, so a file that
    only names store paths does not keep them from being deleted.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return _HASH_END.sub(lambda match: f"{match[1]}\\u{ord(match[2]):04x}", text).encode()


def write_json(name: str, value: object) -> None:
    """Write `value` to the file `name` in the form of `encode_json`."""
    with open(name, "wb") as file:
        file.write(encode_json(value))


def fail(message: str) -> None:
    """End the build with `message` as the last line of its log; does not return."""
    sys.exit(f"error: {message}")
