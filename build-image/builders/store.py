"""Follow links in store paths without depending on anything else on the machine."""

from __future__ import annotations

import os

# As many as Linux follows before it gives up
MAXIMUM_LINKS = 40


def resolve(path: str, store_paths: set[str]) -> str | None:
    """Return the file that `path` leads to through links, or None if they leave `store_paths`.

    A package can have a link to /etc, or to a store path that it does not refer to. Whether that
    exists depends on the machine and on the sandbox, so builders treat it as missing. Returns None,
    too, if there is no such file, or if links form a cycle. `path` is absolute; all of
    `store_paths` are in one folder.
    """
    store = os.path.dirname(next(iter(store_paths), "/"))
    resolved, pending, links = "", path.split("/")[::-1], 0
    while pending:
        part = pending.pop()
        if part == "..":
            resolved = os.path.dirname(resolved)
        if part in ("", ".", ".."):
            continue
        resolved += "/" + part
        if store == resolved or store.startswith(resolved + "/"):
            continue  # links above the store paths are not followed
        above, _, inside = resolved.partition(store + "/")
        if above or store + "/" + inside.partition("/")[0] not in store_paths:
            return None
        try:
            target = os.readlink(resolved)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # not a link
            continue
        links += 1
        if links > MAXIMUM_LINKS:
            return None
        resolved = "" if target.startswith("/") else os.path.dirname(resolved)
        pending += target.split("/")[::-1]
    return resolved if resolved.startswith(store + "/") else None
