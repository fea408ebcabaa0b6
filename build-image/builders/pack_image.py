"""Plan and pack all layers of an image in one derivation, without import from derivation.

For places that forbid it (Hydra, nixpkgs, `--option allow-import-from-derivation false`). The
layers are the same to the byte; only they are not shared between images in the Nix store.

Attributes: those of plan_layers.py and of pack_layer.py, and `includeStorePaths`. Writes a
folder for each layer, as pack_layer.py does, below `out`, named by their order; the plan's
explanation as `explain`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from builder import cores, read_attributes
from pack_layer import pack_layer
from plan_layers import plan_layers


def main() -> None:
    attributes = read_attributes()
    out, archives = attributes["outputs"]["out"], attributes["archives"]
    plan = plan_layers(attributes, "plan.json", attributes["outputs"]["explain"])
    contents = [layer["contents"] for layer in plan] if attributes["includeStorePaths"] else []
    if attributes["maxLayers"] == 1:
        layers = [([path for paths in contents for path in paths], archives)]
    else:
        layers = [(paths, []) for paths in contents] + [([], archives)]
    os.mkdir(out)
    # Threads share Python's lock: more than a few do not read faster. One compressor more for each
    # than its share of the cores goes on while the thread reads.
    threads = min(cores(), 8)
    compressors = cores() // threads + 1
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(
                pack_layer, attributes, *layer, os.path.join(out, f"{number:03}"), compressors
            )
            for number, layer in enumerate(layers)
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
