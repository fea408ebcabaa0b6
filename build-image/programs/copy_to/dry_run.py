"""Say what a push would do, and send nothing: `copy-to --dry-run`.

skopeo is started as for a push. It asks the registry for each layer, by its digest, and asks here
for those that the registry lacks: here it gets none, so it uploads nothing and ends. What the image
under the same tag has is read from its manifest and configuration; docker is asked for it by its
API. The rest is comparing (changes.py).
"""

from __future__ import annotations

import copy
import json
import os
import re
import tempfile
from typing import Any

from changes import (
    Layer,
    above_common,
    compare,
    platform_of,
    read_image,
    read_json,
    read_references,
)
from children import Failure, running
from destinations import Destination, option_value
from docker import Docker
from loopback_registry import GONE, Image, Registry, nix_store
from skopeo import Skopeo, explain, read_message

# Options of `skopeo copy` that say how to reach a destination, without their `--dest-`
FOR_INSPECT = re.compile(
    r"--dest-(creds|username|password|cert-dir|tls-verify|authfile|registry-token)"
)

# What registries and podman's store say of an image or a repository that is not there
ABSENT = re.compile("manifest unknown|name unknown|not found|404|not an image", re.IGNORECASE)

Platforms = dict[str, list[Layer]]  # layers by platform


class DryRun:
    """What all questions have in common: skopeo and its options."""

    def __init__(self, skopeo: Skopeo, options: list[str]) -> None:
        self.registry = Registry()
        self.skopeo = skopeo
        self.options = options
        # What registries have of layers once the images asked for so far are pushed: skopeo lets
        # them copy those from one name to another. By host and digest
        self.known: set[tuple[str, str]] = set()

    def report(
        self, image: Image, sbom: dict[str, str], destination: Destination
    ) -> dict[str, Any]:
        """Return what a push would do, as changes.compare has it. Raises `Failure`.

        `sbom` has the path of the image's CycloneDX document, or of a folder of them, and the
        derivation that builds it.
        """
        if image.is_index and not destination.holds_index:
            raise Failure("--dry-run knows an image index in a registry only, docker://...")
        if destination.scheme == "docker-daemon:":
            older, lacking = self.ask_docker(image, destination)
            return compare(read_documents(image), older, read_graph(sbom), lacking)
        if destination.scheme == "containers-storage:":
            return compare(read_documents(image), self.read_older(destination), read_graph(sbom))
        host = destination.rest.partition("/")[0]
        blobs: set[str] = set()
        for instance in instances(image):
            blobs |= self.find_lacking(instance, destination)
        lacking = {digest for digest in blobs if (host, digest) not in self.known}
        self.known.update((host, digest) for digest in image.layers)
        older, graph = self.read_older(destination), read_graph(sbom)
        return compare(read_documents(image), older, graph, lacking)

    def ask_docker(
        self, image: Image, destination: Destination
    ) -> tuple[Platforms | None, set[str]]:
        """Return the layers of the image that docker has now, and what it lacks.

        Docker tells of one image; it may have layers of others. Raises `Failure`.
        """
        docker = Docker.find(option_value(self.options, "--dest-daemon-host"))
        if docker.server:
            raise Failure("--dry-run does not know docker by ssh: ask a registry, docker://...")
        config = docker.describe(*destination.image)
        older: Platforms = {}
        if config:
            unknown = [{"digest": "", "size": 0}] * len(config["rootfs"]["diff_ids"])
            older[platform_of(config)] = read_image({"layers": unknown}, config)
        lacking = set()
        for platform, layers in read_documents(image).items():
            below = older.get(platform, [])
            missing = above_common(layers, below)
            if not docker.keeps_chains():
                missing = [layer for layer in layers if not layer.is_in(below)]
            lacking |= {layer.digest for layer in missing}
        return older or None, lacking

    def find_lacking(self, image: Image, destination: Destination) -> set[str]:
        """Return the digests of the blobs that the destination lacks. Raises `Failure`."""
        with self.registry.serving(image, is_dry=True) as push:
            try:
                self.skopeo.copy(push, destination, self.options)
            except Failure as failure:
                # Of several reasons it gives the first, which may be the registry's.
                if not push.wanted or str(GONE) not in str(failure):
                    raise
        return push.wanted

    def read_older(self, destination: Destination) -> Platforms | None:
        """Return the layers of the image that is there now, or None. Raises `Failure`."""
        text = self.inspect(str(destination), "--raw")
        if text is None:
            return None
        document, repository = json.loads(text), str(destination).partition("@")[0]
        repository = re.sub(":[^:/]+$", "", repository)
        digests = [it["digest"] for it in document.get("manifests", [])]
        older: Platforms = {}
        for name in [f"{repository}@{digest}" for digest in digests] or [str(destination)]:
            manifest = json.loads(self.inspect(name, "--raw") or "{}") if digests else document
            config = json.loads(self.inspect(name, "--raw", "--config") or "{}")
            if "layers" in manifest and "rootfs" in config:  # an index has attestations as well
                older[platform_of(config)] = read_image(manifest, config)
        return older

    def inspect(self, name: str, *words: str) -> str | None:
        """Return what `skopeo inspect` writes, or None if there is no such image."""
        command = [self.skopeo.program, "inspect", *words, *inspect_options(self.options), name]
        reason = ""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            with running(*command, stdout=output) as process:
                for line in process.stderr or ():
                    level, message = read_message(line.rstrip())
                    reason = message if level == "fatal" else reason
            if process.returncode == 0:
                output.seek(0)
                return output.read()
        if ABSENT.search(reason):
            return None
        raise Failure(explain(reason))


def inspect_options(options: list[str]) -> list[str]:
    """Return those of the options of `skopeo copy` that `skopeo inspect` needs, as it has them.

    >>> inspect_options(["--dest-creds", "a:b", "--format", "oci", "--dest-tls-verify=false"])
    ['--creds', 'a:b', '--tls-verify=false']
    """
    found = []
    for number, option in enumerate(options):
        if FOR_INSPECT.match(option) or re.match("--authfile(=|$)", option):
            found.append(option.replace("--dest-", "--", 1))
            if "=" not in option and option != "--dest-tls-verify":
                found += options[number + 1 : number + 2]
    return found


def instances(image: Image) -> list[Image]:
    """Return the images of an index, or the image itself."""
    if not image.is_index:
        return [image]
    found = []
    for entry in read_json(image.files[image.digest])["manifests"]:
        instance = copy.copy(image)
        instance.digest, instance.is_index = entry["digest"], False
        found.append(instance)
    return found


def read_documents(image: Image) -> Platforms:
    """Return the layers of each platform of an image."""
    platforms = {}
    for instance in instances(image):
        manifest = read_json(image.files[instance.digest])
        config = read_json(image.files[manifest["config"]["digest"]])
        platforms[platform_of(config)] = read_image(manifest, config)
    return platforms


def read_graph(sbom: dict[str, str]) -> dict[str, list[str]]:
    """Return the references of each store path of an image; nothing where Nix cannot have it."""
    try:
        if not os.path.exists(sbom["path"]):
            derivation = sbom["derivation"]
            wanted = f"{derivation}!out" if os.path.exists(derivation) else sbom["path"]
            nix_store("--realise", "--no-gc-warning", wanted)
    except Failure:
        return {}
    return read_references(sbom["path"])
