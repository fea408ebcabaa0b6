"""Write the image as one file to standard output: an OCI archive that `docker load` reads, too."""

# The program of an image's attribute `stream`: Nix passes tar, the image's layout, and what the
# caller writes. The option is that of the script of dockerTools.streamLayeredImage.

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import NoReturn

from oci import qualify

# As arguments.nix has it
PART = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
REFERENCE = re.compile(f"([a-z0-9.-]+:[0-9]+/)?{PART}(/{PART})*:[A-Za-z0-9_][A-Za-z0-9._-]{{,127}}")

# The files of a layout that have the image's name
NAMED = ["index.json", "manifest.json"]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"stream: {message}: write --repo_tag NAME:TAG, or nothing\n")


def parse_reference(word: str) -> str:
    """Return `word` if it is a name and a tag; raises ArgumentTypeError."""
    if not REFERENCE.fullmatch(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a name and tag such as team/notes:2")
    return word


def rename(layout: str, reference: str, folder: str) -> None:
    """Write the layout's files that name the image to `folder`, with the name `reference`."""
    for name in NAMED:
        with open(os.path.join(layout, name), encoding="utf-8") as file:
            document = json.load(file)
        if name == "index.json":
            annotations = document["manifests"][0]["annotations"]
            annotations["org.opencontainers.image.ref.name"] = reference.rpartition(":")[2]
            annotations["io.containerd.image.name"] = qualify(reference)
        else:
            document[0]["RepoTags"] = [reference]
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(document, file, sort_keys=True, separators=(",", ":"))
        os.chmod(os.path.join(folder, name), 0o444)  # as in the store


def write_archive(tar: str, layout: str, folder: str) -> int:
    """Write the layout, with the image's name as in `folder`; return an exit status."""
    command = [tar, "--create", "--format=gnu", "--dereference", "--sort=name", "--mtime=@1"]
    command += ["--owner=root:0", "--group=root:0", "--warning=no-file-changed"]
    # Folders in the store are read-only: users other than root could not unpack files into them.
    command.append("--mode=u+w")
    command += ["--directory", layout, "oci-layout", "--directory", folder, *NAMED]
    command += ["--directory", layout, "blobs"]
    status = subprocess.run(command, check=False).returncode
    # tar's status is 1 if a file's inode changed meanwhile, as in pack_layer.py, but also if a blob
    # has been collected before tar came to it.
    blobs = os.path.join(layout, "blobs", "sha256")
    if status == 1 and all(os.path.exists(os.path.join(blobs, blob)) for blob in os.listdir(blobs)):
        return 0
    return status


def main() -> int:
    tar, layout, *words = sys.argv[1:]
    parser = Parser(prog="stream", description=__doc__)
    parser.add_argument(
        *("-t", "--repo_tag"),
        type=parse_reference,
        metavar="NAME:TAG",
        help="name and tag of the image in the archive, instead of its own",
    )
    reference = parser.parse_args(words).repo_tag
    if not reference:
        return write_archive(tar, layout, layout)
    with tempfile.TemporaryDirectory() as folder:
        rename(layout, reference, folder)
        return write_archive(tar, layout, folder)


if __name__ == "__main__":
    sys.exit(main())
