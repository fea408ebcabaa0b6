"""Links in store paths, followed so that nothing else on the machine plays a part."""

from __future__ import annotations

import os

# As many as Linux follows before it gives up
MOST_LINKS = 40


def resolve(path: str, store_paths: set[str]) -> str | None:
    """Return the file that `path` leads to through links, or None if they leave `store_paths`.

    A package can have a link to /etc, or to a store path that it does not refer to. What is there
    depends on the machine, and on whether builds have a sandbox: for builders, nothing is there.
    None, too, if there is no such file, or links lead in a circle. `path` is absolute; all of
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
            continue  # the folders above store paths are no links for this purpose
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
        if links > MOST_LINKS:
            return None
        resolved = "" if target.startswith("/") else os.path.dirname(resolved)
        pending += target.split("/")[::-1]
    return resolved if resolved.startswith(store + "/") else None
