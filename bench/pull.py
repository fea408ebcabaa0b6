#!/usr/bin/env python3
"""Measure what a layer costs besides its bytes, and which size of layers pays.

Images with the same bytes in few and in many layers are pushed to a registry on the loopback
interface and pulled from it into an empty containers-storage (the store of podman and CRI-O), so
that a pull downloads, verifies and unpacks as a host would. The tools are docker-registry and
skopeo; pulling into a storage needs root. `--network 20,100` puts a link of 20 ms round-trip time
and 100 Mbit/s between the two.

The model: seconds = start + LAYER x layers + BYTE x bytes. Both slopes are differences, between the
most and the fewest layers of the same image and between the largest and the smallest image with the
same number of layers; the medians over all such pairs are printed. Store paths of `s` bytes can
have a layer of their own, which costs LAYER each time they are pulled, or share a layer with
others, which costs BYTE x s each time that layer changes while they do not. If the second happens
`q` times for each of the first, a layer of its own pays above s = LAYER / (BYTE x q). The printed
size is that of q = 1.

The link is a relay in user space: it delays each direction by half the round trip, lets the
connections share the bandwidth, and charges each new connection one round trip. It knows no slow
start and no TLS, so a real connection is rather slower to start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator

MEGABYTE = 1_000_000


def read_machine_files(limit: int) -> bytes:
    """Return bytes as images hold them: `limit` of this machine's libraries and programs."""
    data = bytearray()
    for folder in ("/usr/lib", "/usr/bin", "/usr/share"):
        for where, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(where, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        data += file.read(limit - len(data))
                if len(data) >= limit:
                    return bytes(data)
    sys.exit(
        f"pull: this machine's files have only {len(data)} of {limit} bytes; use --data random"
    )


def write_image(folder: str, layers: int, data: bytes) -> None:
    """Write an OCI image layout whose `layers` gzip layers share `data` evenly."""
    os.makedirs(os.path.join(folder, "blobs", "sha256"))

    def write_blob(content: bytes, kind: str) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        with open(os.path.join(folder, "blobs", "sha256", digest), "wb") as file:
            file.write(content)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    descriptors, diff_ids = [], []
    for layer in range(layers):
        content = data[len(data) * layer // layers : len(data) * (layer + 1) // layers]
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(f"nix/store/{layer:03}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        diff_ids.append(f"sha256:{hashlib.sha256(archive.getvalue()).hexdigest()}")
        packed = gzip.compress(archive.getvalue(), 1, mtime=0)
        descriptors.append(write_blob(packed, "layer.v1.tar+gzip"))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": write_blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": descriptors,
    }
    descriptor = write_blob(json.dumps(manifest).encode(), "manifest.v1+json")
    for name, value in (
        ("index.json", {"schemaVersion": 2, "manifests": [descriptor]}),
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
    ):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(value, file)


class Link:
    """A TCP relay that behaves like a link of a given round-trip time and bandwidth."""

    def __init__(self, target: int, round_trip: float, bits_per_second: float) -> None:
        self.target, self.round_trip, self.rate = target, round_trip, bits_per_second
        self.free_at = {"up": 0.0, "down": 0.0}

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        travelling: asyncio.Queue = asyncio.Queue()

        async def deliver() -> None:
            while True:
                arrival, chunk = await travelling.get()
                await asyncio.sleep(arrival - time.monotonic())
                if not chunk:
                    writer.close()
                    return
                writer.write(chunk)
                await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        chunk = b"-"
        while chunk:
            try:
                chunk = await reader.read(1 << 15)
            except ConnectionError:
                chunk = b""
            sent = max(time.monotonic(), self.free_at[way]) + len(chunk) * 8 / self.rate
            self.free_at[way] = sent
            await travelling.put((sent + self.round_trip / 2, chunk))
            await asyncio.sleep(sent - time.monotonic())
        with contextlib.suppress(ConnectionError):
            await delivery

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.round_trip)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(
            self.carry(reader, far_writer, "up"), self.carry(far_reader, writer, "down")
        )

    def serve(self, port: int) -> None:
        async def run() -> None:
            server = await asyncio.start_server(self.connect, "127.0.0.1", port)
            async with server:
                await server.serve_forever()

        asyncio.run(run())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port: int) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("pull: the registry does not answer")


def copy(*arguments: str) -> float:
    """Run `skopeo copy` and return the seconds that it took."""
    started = time.monotonic()
    command = ["skopeo", "copy", "--quiet", *arguments]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"pull: skopeo copy: {done.stderr.strip().splitlines()[-1]}")
    return time.monotonic() - started


def measure(
    workdir: str, port: int, layers: list[int], megabytes: list[int], kind: str, repeats: int
) -> Iterator[dict]:
    """Yield, for each size and number of layers, the seconds of each push and pull."""
    for size in megabytes:
        for count in layers:
            pushes, pulls = [], []
            for repeat in range(repeats):
                name = f"{kind}-{size}-{count}-{repeat}"
                seed = random.Random(name)
                length = size * MEGABYTE
                # Each image has bytes of its own, or the registry would have its layers already.
                if kind == "random":
                    data = b"".join(seed.randbytes(MEGABYTE) for _ in range(size))
                else:
                    data = read_machine_files(length)
                    data = b"".join(
                        seed.randbytes(8) + data[i : i + 8192] for i in range(0, length, 8192)
                    )
                folder = os.path.join(workdir, name)
                write_image(folder, count, data)
                remote = f"docker://127.0.0.1:{port}/{name}"
                pushes.append(copy("--dest-tls-verify=false", f"oci:{folder}", remote))
                storage = f"{workdir}/storage"
                local = f"containers-storage:[overlay@{storage}+{workdir}/run]{name}"
                try:
                    pulls.append(copy("--src-tls-verify=false", remote, local))
                finally:
                    # The storage mounts its folder onto itself, and leaves it so.
                    mounted = ["umount", f"{storage}/overlay"]
                    subprocess.run(mounted, check=False, stderr=subprocess.DEVNULL)
                    shutil.rmtree(storage)
                shutil.rmtree(folder)
            yield {"megabytes": size, "layers": count, "push": pushes, "pull": pulls}


def slopes(rows: list[dict], what: str) -> tuple[float, float]:
    """The seconds for each layer and for each megabyte, as the model in the header has them."""
    seconds = {(r["megabytes"], r["layers"]): min(r[what]) for r in rows}
    sizes, counts = sorted({s for s, _ in seconds}), sorted({n for _, n in seconds})
    few, many, small, large = counts[0], counts[-1], sizes[0], sizes[-1]
    layer = [(seconds[s, many] - seconds[s, few]) / (many - few) for s in sizes]
    byte = [(seconds[large, n] - seconds[small, n]) / (large - small) for n in counts]
    return statistics.median(layer), statistics.median(byte)


def print_table(rows: list[dict]) -> None:
    counts = sorted({r["layers"] for r in rows})
    print("| seconds (push / pull) | " + " | ".join(f"{n} layers" for n in counts) + " |")
    print("|" + "---|" * (len(counts) + 1))
    for size in sorted({r["megabytes"] for r in rows}):
        cells = [
            f"{min(r['push']):.2f} / {min(r['pull']):.2f}"
            for r in sorted(rows, key=lambda r: r["layers"])
            if r["megabytes"] == size
        ]
        print(f"| {size} MB | " + " | ".join(cells) + " |")
    for what in ("push", "pull"):
        layer, byte = slopes(rows, what)
        line = f"\n{what}: {layer * 1000:.1f} ms a layer, {byte * 1000:.1f} ms a megabyte"
        if byte > 0:
            line += f"; a layer of its own pays above {layer / byte:.2f} MB"
        print(line)


def parse_numbers(text: str) -> list[int]:
    return sorted({int(word) for word in text.split(",")})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=parse_numbers, default=[4, 16, 64, 100], metavar="N,N")
    parser.add_argument(
        "--megabytes", type=parse_numbers, default=[1, 16, 64], metavar="N,N", help="uncompressed"
    )
    parser.add_argument(
        "--data",
        choices=["files", "random"],
        default="files",
        help="what the layers hold: this machine's programs, or bytes that do not compress",
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--network", metavar="MS,MBIT", help="a link between host and registry")
    parser.add_argument("--json", metavar="FILE", help="also write every measured time")
    arguments = parser.parse_args()
    try:
        link = arguments.network and [float(word) for word in arguments.network.split(",", 1)]
    except ValueError:
        parser.error(f"--network: want MS,MBIT, got {arguments.network!r}")
    missing = [tool for tool in ("docker-registry", "skopeo") if not shutil.which(tool)]
    if missing:
        parser.error(f"needs {' and '.join(missing)}")

    with tempfile.TemporaryDirectory() as workdir:
        registry_port, port = free_port(), free_port()
        with open(os.path.join(workdir, "registry.yml"), "w") as file:
            storage = json.dumps({"filesystem": {"rootdirectory": f"{workdir}/registry"}})
            file.write(f"version: 0.1\nlog: {{level: error}}\nstorage: {storage}\n")
            file.write(f"http: {{addr: '127.0.0.1:{registry_port}'}}\n")
        registry = subprocess.Popen(
            ["docker-registry", "serve", f"{workdir}/registry.yml"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        relay = None
        try:
            wait_for(registry_port)
            if link:
                serve = Link(registry_port, link[0] / 1000, link[1] * 1_000_000).serve
                relay = multiprocessing.Process(target=serve, args=(port,), daemon=True)
                relay.start()
                wait_for(port)
            rows = []
            for row in measure(
                workdir,
                port if link else registry_port,
                arguments.layers,
                arguments.megabytes,
                arguments.data,
                arguments.repeats,
            ):
                rows.append(row)
                if sys.stderr.isatty():
                    print(f"{row['megabytes']} MB in {row['layers']} layers", file=sys.stderr)
        finally:
            if relay:
                relay.terminate()
            registry.terminate()
            registry.wait()
    print_table(rows)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"data": arguments.data, "network": link, "rows": rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
