"""Make a Nix database with the store paths of an image, for Nix inside the container.

The attributes are those of make_database.nix. Writes an uncompressed archive with `nix/var/nix` as
`out`. Its garbage collector roots protect all that is in the image; otherwise `nix-collect-garbage`
in a container would delete Nix itself. The entries of the base image's own database are copied.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import subprocess
from contextlib import closing

from attributes import fail, read_attributes, read_json
from image_tree import read_tree
from oci import WHITEOUT
from place_files import DATABASE_FOLDERS, NIX_STATE, own_folder, place_files
from write_archive import write_archive

DATABASE_LOGS = ("db.sqlite-wal", "db.sqlite-shm")


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
    """Return the store paths that no other one refers to: their closures cover all paths."""
    kept = [entry for entry in entries if entry["path"] not in left_out]
    needed = {path for e in kept for path in e["references"] if path != e["path"]}
    return [entry["path"] for entry in kept if entry["path"] not in needed]


def read_database(file: str) -> list[dict]:
    """Return the entries of a Nix database, as exportReferencesGraph has them.

    Ends the build with one line if it is not a valid Nix database.
    """
    # SQLite writes next to the file that it reads, and reads the log there.
    shutil.copyfile(file, "base.sqlite")
    if os.path.exists(f"{file}-wal"):
        shutil.copyfile(f"{file}-wal", "base.sqlite-wal")
    try:
        with closing(sqlite3.connect("base.sqlite")) as database:
            rows = database.execute("select id, path, hash, narSize from ValidPaths").fetchall()
            references = database.execute("select referrer, reference from Refs").fetchall()
    except sqlite3.Error as error:
        fail(f"fromImage has a Nix database that can't be read: {error}")
    entries = {
        number: {"path": path, "narHash": nar_hash, "narSize": size, "references": []}
        for number, path, nar_hash, size in rows
        if re.fullmatch("sha256:[0-9a-f]{64}", str(nar_hash)) and isinstance(size, int)
    }
    for referrer, reference in references:
        if referrer in entries and reference in entries:
            entries[referrer]["references"].append(entries[reference]["path"])
    return list(entries.values())


def find_base_entries(attributes: dict, closure: list[dict]) -> list[dict]:
    """Return the entries of the store paths that only the base image has.

    Ends the build with one line if they are not in the base's database: they would be garbage in a
    container.
    """
    there = {entry["path"] for entry in closure}
    layers = read_json(attributes["baseLayers"])
    wanted = {path for layer in layers for path in layer["storePaths"]} - there
    database = os.path.join(attributes["baseFolder"], "db.sqlite")
    known = read_database(database) if wanted and os.path.exists(database) else []
    found = [entry for entry in known if entry["path"] in wanted]
    if missing := sorted(wanted.difference(entry["path"] for entry in found)):
        fail(
            f"includeNixDB: fromImage has no Nix database that knows {missing[0]}: build it with "
            "includeNixDB as well"
        )
    there |= wanted
    return [
        {**entry, "references": sorted(there.intersection(entry["references"]))} for entry in found
    ]


def main() -> None:
    attributes = read_attributes()
    os.umask(0o022)
    entries = attributes["closure"]
    if attributes["baseFolder"]:
        entries = entries + find_base_entries(attributes, entries)
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
    text = registration(entries, attributes["leftOut"])
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
    files = {"": own_folder(attributes["owner"], attributes["group"])}
    own = files[""]
    for folder in ("nix", "nix/var", NIX_STATE, *(f"{NIX_STATE}/{it}" for it in DATABASE_FOLDERS)):
        files[folder] = own
    for name in ("db.sqlite", "schema"):
        file = f"state/db/{name}"
        files[f"{NIX_STATE}/db/{name}"] = own._replace(
            kind="file",
            mode=stat.S_IMODE(os.stat(file).st_mode),
            source=file,
            size=os.path.getsize(file),
        )
    for path in find_roots(entries, attributes["leftOut"]):
        place = f"{NIX_STATE}/gcroots/image/{os.path.basename(path)}"
        files[place] = own._replace(kind="link", target=path)
    base = read_tree(attributes["baseTree"], attributes["storeDir"].strip("/"))
    for name in DATABASE_LOGS:
        # SQLite would take it for the log of the new database.
        if f"{NIX_STATE}/db/{name}" in base.entries:
            files[f"{NIX_STATE}/db/{WHITEOUT}{name}"] = own._replace(kind="file", mode=0o644)
    placed = place_files(files, base, "includeNixDB", is_plain=True)
    del placed[""]  # that of the root's layer
    with open(attributes["outputs"]["out"], "wb") as out:
        write_archive(placed, out, attributes["mtime"])


if __name__ == "__main__":
    main()
