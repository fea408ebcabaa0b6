"""Pack all layers of an image in one derivation, without import from derivation.

For environments that forbid it (Hydra, nixpkgs, `--option allow-import-from-derivation false`). The
layers have the same bytes, but are not shared between images in the Nix store.

The attributes are those of pack_layers.nix. Writes the blobs into the folder `out`, named by their
position, and the list of their descriptions as output `description`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from attributes import read_attributes, read_json, write_json
from pack_layer import pack_layer
from processes import cores


def main() -> None:
    attributes = read_attributes()
    outputs, packing = attributes["outputs"], attributes["packing"]
    plan = read_json(attributes["groupedLayers"])
    files = [f"{number:03}" for number in range(len(plan))]
    os.mkdir(outputs["out"])
    # Threads share Python's lock: more than a few do not read faster. Each gets one compressor more
    # than its share of the cores, which runs while the thread reads.
    threads = min(cores(), 8)
    compressors = cores() // threads + 1
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(pack_layer, packing, layer, os.path.join(outputs["out"], file), compressors)
            for file, layer in zip(files, plan)
        ]
        descriptions = [{**job.result(), "file": file} for file, job in zip(files, jobs)]
    write_json(outputs["description"], descriptions)


if __name__ == "__main__":
    main()
