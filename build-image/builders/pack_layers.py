"""Pack all layers of an image in one derivation, without import from derivation.

For places that forbid it (Hydra, nixpkgs, `--option allow-import-from-derivation false`). The
layers are the same to the byte; only they are not shared between images in the Nix store.

Attributes: `groupedLayers`, the plan as plan_layers.py writes it; those of pack_layer.py that say
how. Writes the blobs into the folder `out`, named by their order, and the list of their
descriptions as output `description`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from attributes import read_attributes, read_json, write_json
from pack_layer import pack_layer
from processes import cores


def main() -> None:
    attributes = read_attributes()
    out = attributes["outputs"]["out"]
    os.mkdir(out)
    # Threads share Python's lock: more than a few do not read faster. One compressor more for each
    # than its share of the cores goes on while the thread reads.
    threads = min(cores(), 8)
    compressors = cores() // threads + 1
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(
                pack_layer, attributes, layer, os.path.join(out, f"{number:03}"), compressors
            )
            for number, layer in enumerate(read_json(attributes["groupedLayers"]))
        ]
        write_json(attributes["outputs"]["description"], [job.result() for job in jobs])


if __name__ == "__main__":
    main()
