#!/usr/bin/env python3
"""Kill a registry server, or Nix under it, again and again, while garbage is being collected.

    tests/kill_loop.py --kills 60

Each round asks the example registry for an image that is not there yet, kills at a random moment,
starts the server again where it was the one to die, and asks for the same image: it must come with
the same digest and whole, every time. All the while another process collects garbage, in a store
made for this (root only), so that the next round begins with nothing again. Prints how many kills
hit which part of the work, and what they left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path.append(str(Path(__file__).resolve().parent / "support"))

from nix import ROOT, Nix
from registry_process import Registry
from served import OwnStore

IMAGE = "jq/hello/tree"

# Whom a kill hits: the server alone, Nix alone, or all of it at once, as when the machine fails.
VICTIMS = ("server", "nix", "all")

# Within how many seconds of its beginning each part of the work is interrupted; the image above
# takes about as long on an idle machine.
LONGEST = {"evaluation": 0.5, "planning": 0.2, "packing": 0.5, "answering": 0.15}


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_of(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; "" if it does not run.

    Numbers of processes come again within minutes where many are started.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def kill(victim: str, server: int) -> None:
    """Send SIGKILL to whom it hits."""
    below = descendants(server)
    targets = {"server": [server], "nix": below, "all": [server, *below]}[victim]
    for pid in targets:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def part_of(log: str) -> str:
    """Return what Nix was doing when its log ended."""
    building = [line for line in log.splitlines() if " building '" in line]
    if not building:
        return "evaluation"
    if "-grouped-layers.json.drv'" in building[-1]:
        return "planning"
    return "answering" if re.search("-image(-documents)?.drv'", building[-1]) else "packing"


def wait_for(part: str, registry: Registry, start: int, request: threading.Thread) -> None:
    """Wait until a part of the work has begun, or all is done; the log begins at `start` bytes."""
    while request.is_alive() and part_of(registry.log.read_bytes()[start:].decode()) != part:
        time.sleep(0.005)


class GarbageCollection(threading.Thread):
    """Collects garbage until it is told to stop."""

    def __init__(self, store: OwnStore) -> None:
        super().__init__()
        self.store, self.collections, self.stopping = store, 0, threading.Event()
        self.failures: list[str] = []

    def run(self) -> None:
        while not self.stopping.wait(0.1):
            done = subprocess.run(
                self.store.command("nix-store", "--gc"),
                env=self.store.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            self.collections += done.returncode == 0
            if done.returncode != 0:
                self.failures.append(done.stderr)


def check(registry: Registry, reference: str) -> str:
    """Ask for the image, verify every blob of it, and return its digest."""
    response, body = registry.get(f"/v2/{IMAGE}/manifests/{reference}")
    assert response.status == 200, body.decode()
    manifest = json.loads(body)
    for blob in [manifest["config"], *manifest["layers"]]:
        answer, data = registry.get(f"/v2/{IMAGE}/blobs/{blob['digest']}")
        assert answer.status == 200, data.decode()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == blob["digest"]
    return response.headers["Docker-Content-Digest"]


def forget(registry: Registry) -> None:
    """Let go of the image: the next collection takes it."""
    for root in (registry.folder / "state").glob("*-answer"):
        root.unlink()


def kill_loop(store: OwnStore, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill so many times; return what was hit and what was found. Raises AssertionError."""
    registry = Registry(store.wrapper, store.folder, store=store)
    parts: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    registry.start()
    digest = check(registry, "latest")
    collection = GarbageCollection(store)
    collection.start()
    try:
        for _ in range(kills):
            forget(registry)
            store.run("nix-store", "--gc")
            seen = registry.log.stat().st_size
            request = threading.Thread(target=ask, args=[registry])
            request.start()
            part = chance.choice(list(LONGEST))
            wait_for(part, registry, seen, request)
            time.sleep(chance.uniform(0, LONGEST[part]))
            victim = chance.choice(VICTIMS)
            kill(victim, registry.process.pid)
            parts[part_of(registry.log.read_bytes()[seen:].decode())] += 1
            hit[victim] += 1
            request.join()
            if victim != "nix":
                registry.process.wait()
                registry.start()
            assert check(registry, "latest") == digest
            # What is held outlives a collection; asked by digest, nothing is built.
            store.run("nix-store", "--gc")
            check(registry, digest)
    finally:
        collection.stopping.set()
        collection.join()
        registry.stop()
    assert not collection.failures, collection.failures[0]
    # Where builds run: in TMPDIR, with newer Nixes below the store's folder.
    left = [*store.folder.glob("tmp/nix-build-*"), *store.folder.glob("nix/var/nix/builds/*")]
    return {
        "kills": kills,
        "hit": dict(hit),
        "during": dict(parts),
        "collections": collection.collections,
        "folders left by killed builds": len(left),
        "digest": digest,
    }


def ask(registry: Registry) -> None:
    """Ask for the image; whether an answer comes does not matter."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        registry.get(f"/v2/{IMAGE}/manifests/latest")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    arguments = parser.parse_args()
    os.environ["NIX_CONFIG"] = f"{os.environ.get('NIX_CONFIG', '')}\nsubstituters ="
    fetch = ROOT / "tests" / "packages" / "fetch"
    packages = subprocess.run([fetch], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        store = OwnStore(Nix(Path(packages)), Path(folder))
        report = kill_loop(store, arguments.kills, random.Random(arguments.seed))
        # The store's files are read-only for their owner.
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
