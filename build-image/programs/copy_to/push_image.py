"""Push the image: copy-to DESTINATION ... [OPTION ...]

Destinations are skopeo's, and ssh:

  docker://REGISTRY/NAME:TAG         a registry
  docker-daemon:NAME:TAG             docker, as set by DOCKER_HOST or its context
  containers-storage:NAME:TAG        podman
  ssh://[USER@]HOST[:PORT]/NAME:TAG  docker or podman on another machine
  oci:FOLDER:TAG, oci-archive:FILE, docker-archive:FILE, dir:FOLDER

Only the layers that are missing there are sent. Options go to `skopeo copy`, for example

  --dest-creds USER:PASSWORD  (or log in beforehand, with `skopeo login` or `docker login`)
  --dest-tls-verify=false     for a registry without TLS
  --retry-times N             for an unreliable network

  --dry-run  sends nothing, and says what a push to a registry, docker or podman would send, how the
             image differs from the one that has the tag now, and why; with --json, a line for each
             image

Standard error gets the progress, standard output the digest of what was pushed, one line for each
destination, so that a deployment can name it: REGISTRY/NAME@$(copy-to docker://REGISTRY/NAME:TAG)
"""

# While others copy, this program is a registry on the loopback interface that has this one image.
# skopeo or a daemon asks the destination for each blob by its digest, and fetches from here what
# is missing.
#
# skopeo copies up to six blobs at a time from a registry, and one at a time from an OCI image
# layout: most of a push to a distant registry is waiting for its answers.

from __future__ import annotations

import json
import re
import signal
import sys
from typing import Any

from changes import format_report
from children import Failure, end_all, say
from destinations import Destination, UsageError, option_value, read_words
from docker import Docker, Unreachable
from dry_run import DryRun
from group_layers import format_bytes
from loopback_registry import Image, Push, Registry
from skopeo import Skopeo
from ssh import pull_by_ssh

FLEET_HELP = """Push the images of a fleet: copy-to DESTINATION ... [OPTION ...]

Pushes {names}.
Each becomes DESTINATION/NAME:TAG; its name and digest are printed. Destinations begin like those of
a single image: docker://REGISTRY/TEAM, docker-daemon:, containers-storage:,
ssh://[USER@]HOST[:PORT], oci:FOLDER. Options go to `skopeo copy`.
"""


# What docker before version 23, and skopeo on its behalf, say of zstd
NO_ZSTD = re.compile("zstd compression is not supported|archive/tar: invalid tar header")
NO_ZSTD_ADVICE = 'this docker cannot read zstd: build the image with `compressor = "gz"`'

# Destinations that a dry run can ask
DRY_SCHEMES = "docker://", "docker-daemon:", "containers-storage:"


class Copier:
    """What all pushes have in common: the registry, skopeo, and the options for it."""

    def __init__(self, skopeo: Skopeo, options: list[str]) -> None:
        self.registry = Registry()
        self.skopeo = skopeo
        self.options = options

    def copy(self, image: Image, destination: Destination) -> str:
        """Push an image; return the digest that it has at its destination. Raises `Failure`."""
        with self.registry.serving(image) as push:
            try:
                if destination.scheme == "docker-daemon:":
                    digest = self.copy_to_docker(push, destination)
                elif destination.scheme == "ssh://":
                    pull_by_ssh(
                        self.registry, push, destination.server, ":".join(destination.image)
                    )
                    digest = image.digest
                else:
                    digest = self.skopeo.copy(push, destination, self.options)
            except Failure as failure:
                if NO_ZSTD.search(str(failure)):
                    raise Failure(f"{failure} ({NO_ZSTD_ADVICE})") from None
                raise
        layers, size = len(push.sent), sum(push.sent.values())
        say(f"{destination}: sent {layers} of {len(image.layers)} layers, {format_bytes(size)}")
        return digest

    def copy_to_docker(self, push: Push, destination: Destination) -> str:
        """Have docker pull an image, or send it as a whole to where docker cannot."""
        docker = Docker.find(option_value(self.options, "--dest-daemon-host"))
        name, tag = destination.image
        try:
            if docker.server:
                pull_by_ssh(self.registry, push, docker.server, f"{name}:{tag}", ["docker"])
            else:
                docker.pull(push, name, tag)
        except Unreachable:
            say(f"docker at {docker.url} cannot pull from this machine: sending all layers")
            whole = Destination("docker-daemon:", f"{name}:{tag}")
            return self.skopeo.copy(push, whole, [*self.options, *docker.skopeo_options])
        return push.image.digest


def main() -> int:
    """Push as the command line says, after the settings that copy-to.nix writes."""
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        return run(*sys.argv[1:])
    finally:
        end_all()


def run(settings_file: str, *words: str) -> int:
    """Push to the destinations among `words`; return the exit status."""
    with open(settings_file, encoding="utf-8") as file:
        settings: dict[str, Any] = json.load(file)
    images, is_fleet = settings["images"], settings["isFleet"]
    if {"--help", "-h"}.intersection(words):
        help_text = FLEET_HELP.format(names=", ".join(images)) if is_fleet else __doc__ or ""
        print(help_text.strip())
        return 0
    dry, as_json = "--dry-run" in words, "--json" in words
    words = tuple(word for word in words if word not in ("--dry-run", "--json"))
    try:
        if as_json and not dry:
            raise UsageError("--json is for --dry-run")
        example = f"docker://registry.example.org/{'team' if is_fleet else 'name:tag'}"
        destinations, options = read_words(words, example)
        targets = [
            (name, destination.below(image["place"]) if is_fleet else destination)
            for name, image in images.items()
            for destination in destinations
        ]
        for _, destination in targets:
            destination.check()
            if dry and destination.scheme not in DRY_SCHEMES:
                raise UsageError(f"{destination}: --dry-run asks {', '.join(DRY_SCHEMES)} only")
    except UsageError as error:
        say(str(error))
        return 2

    digest_file = option_value(options, "--digestfile")
    skopeo = Skopeo(settings["skopeo"], settings["preserveDigests"])
    copier, dry_run = Copier(skopeo, options), DryRun(skopeo, options)
    opened: dict[str, Image] = {}
    status = 0
    for name, destination in targets:
        try:
            if name not in opened:
                opened[name] = Image(images[name]["documents"], images[name]["derivations"])
            if dry:
                report = dry_run.report(opened[name], images[name]["sbom"], destination)
                print(show(report, name, destination, as_json), flush=True)
                continue
            digest = copier.copy(opened[name], destination)
        except Failure as failure:
            say(f"{destination}: {'not compared' if dry else 'not pushed'}: {failure}")
            status = 1
        else:
            print(*([name] if is_fleet else []), digest, flush=True)
            if digest_file:
                try:
                    with open(digest_file, "w", encoding="utf-8") as file:
                        file.write(digest)
                except OSError as error:
                    say(f"--digestfile {digest_file}: {error.strerror}")
                    status = 1
    return status


def show(report: dict[str, Any], name: str, destination: Destination, as_json: bool) -> str:
    """Return the report of a dry run as text or as JSON."""
    if as_json:
        return json.dumps({"image": name, "destination": str(destination), **report})
    return format_report(report, str(destination))


def interrupt(number: int, _: object) -> None:
    """Leave as for an exception, so that what this program has started ends, too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
