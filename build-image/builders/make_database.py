"""Make a Nix database that knows the store paths of an image, for Nix inside the container.

Attributes: `exportReferencesGraph.closure`, the closure; `leftOut`, paths of it that are not in
the image; `nixStore`, `tar`, programs; `storeDir`; `mtime`, in seconds; `owner`, `group`, NAME:ID
each. Writes an uncompressed archive with `nix/var/nix` as `out`. Its garbage collector roots keep
all that is in the image, or `nix-collect-garbage` in a container would delete Nix itself.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess

from archives import tar_command
from attributes import fail, read_attributes


def registration(entries: list[dict], left_out: list[str]) -> str:
    """Return what `nix-store --load-db` reads: of each path its hash, size and references.

    Follows the output of `nix-store --dump-db`: path, hash in base 16, size, deriver (none),
    number of references, references, each on a line.
    """
    lines: list[str] = []
    for entry in entries:
        if entry["path"] in left_out:
            continue
        references = [path for path in entry["references"] if path not in left_out]
        lines += [entry["path"], entry["narHash"], str(entry["narSize"]), "", str(len(references))]
        lines += references
    return "".join(line + "\n" for line in lines)


def find_roots(entries: list[dict], left_out: list[str]) -> list[str]:
    """Return the store paths that no other one refers to: with their closures they are all."""
    kept = [entry for entry in entries if entry["path"] not in left_out]
    needed = {path for e in kept for path in e["references"] if path != e["path"]}
    return [entry["path"] for entry in kept if entry["path"] not in needed]


def main() -> None:
    attributes = read_attributes()
    os.umask(0o022)
    environment = {
        "HOME": os.getcwd(),
        "NIX_STATE_DIR": os.path.abspath("state"),
        "NIX_CONF_DIR": os.getcwd(),
        "NIX_LOG_DIR": os.getcwd(),
        "NIX_STORE_DIR": attributes["storeDir"],
        "NIX_REMOTE": "",
        "USER": "nobody",
    }
    # The paths are not checked: this is the database of another machine.
    text = registration(attributes["closure"], attributes["leftOut"])
    command = [attributes["nixStore"], "--option", "build-users-group", "", "--load-db"]
    done = subprocess.run(command, input=text.encode(), env=environment, check=False)
    if done.returncode != 0:
        fail(f"nix-store --load-db failed with status {done.returncode}")
    # The same database, whenever it is made: no time of registration, no write-ahead log.
    with sqlite3.connect("state/db/db.sqlite") as database:
        database.execute("update ValidPaths set registrationTime = 1")
        database.commit()
        database.execute("pragma journal_mode = delete")
        database.execute("vacuum")
    database.close()
    # The rest of Nix's state is about this machine: locks, folders of the user who builds.
    for folder in ("db", "gcroots/image", "profiles", "temproots"):
        os.makedirs(os.path.join("root/nix/var/nix", folder))
    for name in ("db.sqlite", "schema"):
        os.rename(f"state/db/{name}", f"root/nix/var/nix/db/{name}")
    for path in find_roots(attributes["closure"], attributes["leftOut"]):
        os.symlink(path, f"root/nix/var/nix/gcroots/image/{os.path.basename(path)}")
    how = [attributes[name] for name in ("tar", "mtime", "owner", "group")]
    archive = [*tar_command(*how), "--blocking-factor=1", "--file", attributes["outputs"]["out"]]
    done = subprocess.run([*archive, "--directory=root", "nix"], check=False)
    if done.returncode != 0:
        fail(f"tar failed with status {done.returncode}")


if __name__ == "__main__":
    main()
