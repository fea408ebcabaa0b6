"""Run a program and keep what it writes.

It could be a derivation's builder itself, but Nix kills a builder that closes its standard error
before it ends, as GNU tar does.

Writes the program's standard output as `out`; capture_output.nix has the attributes.
"""

from __future__ import annotations

import subprocess

from attributes import fail, read_attributes


def main() -> None:
    attributes = read_attributes()
    with open(attributes["outputs"]["out"], "wb") as out:
        status = subprocess.run(attributes["command"], stdout=out, check=False).returncode
    if status != 0:
        fail(f"{attributes['command'][0]} failed with status {status}")


if __name__ == "__main__":
    main()
