"""Make packages of given sizes from the files of others. This is the builder of images.nix.

Attributes: `sizes`, bytes, one for each of the `outputs`; `sources`, the packages to take bytes
from; `needs`, store paths that all of them refer to; `revision`, a text that is in all of them.
"""

from __future__ import annotations

import json
import os

PIECE = 200_000  # bytes; files in packages are rarely larger

with open(".attrs.json", encoding="utf-8") as file:
    attributes = json.load(file)
found = sorted(
    os.path.join(folder, name)
    for source in attributes["sources"]
    for folder, _, names in os.walk(source)
    for name in names
)
data = bytearray()
for name in found:
    if not os.path.islink(name):
        with open(name, "rb") as file:
            data += file.read()
data.reverse()  # so that Nix finds no reference in them

start = 0
# In the order in which the derivation names them: out, package1, ..., package10.
outputs = [
    out for _, out in sorted(attributes["outputs"].items(), key=lambda item: (len(item[0]), item))
]
for number, (out, size) in enumerate(zip(outputs, attributes["sizes"])):
    os.mkdir(out)
    with open(f"{out}/needs", "w", encoding="utf-8") as file:
        needed = outputs[number - 4 : number] if number % 5 == 4 else []
        file.write("\n".join([attributes["revision"], *attributes["needs"], *needed]))
    for piece in range(0, size, PIECE):
        length = min(PIECE, size - piece)
        with open(f"{out}/{piece}", "wb") as file:
            file.write(bytes(data[start : start + length]))
        start = (start + length) % (len(data) - PIECE)
