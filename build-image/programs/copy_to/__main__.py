"""Push the image: copy-to DESTINATION ... [OPTION ...]

Destinations are skopeo's, and ssh:

  docker://REGISTRY/NAME:TAG       a registry
  docker-daemon:NAME:TAG           docker on this machine, or where DOCKER_HOST and contexts say
  containers-storage:NAME:TAG      podman on this machine
  ssh://[USER@]HOST[:PORT]/NAME:TAG  docker or podman on another machine
  oci:FOLDER:TAG, oci-archive:FILE, docker-archive:FILE, dir:FOLDER

Only the layers that are missing there are sent. Options go to `skopeo copy`, for example

  --dest-creds USER:PASSWORD  (or log in beforehand, with `skopeo login` or `docker login`)
  --dest-tls-verify=false     for a registry without TLS
  --retry-times N             for a network that fails now and then

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
import signal
import sys
from typing import Any

from children import Failure, end_all, format_bytes, say
from destinations import Destination, UsageError, option_value, read_words
from loopback_registry import Image, Registry
from skopeo import Skopeo

FLEET_HELP = """Push the images of a fleet: copy-to DESTINATION ... [OPTION ...]

Pushes {names}.
Each becomes DESTINATION/NAME:TAG; its name and digest are written. Destinations begin as those of a
single image do: docker://REGISTRY/TEAM, docker-daemon:, containers-storage:, ssh://[USER@]HOST[:PORT],
oci:FOLDER. Options go to `skopeo copy`.
"""


def copy(
    registry: Registry, skopeo: Skopeo, image: Image, destination: Destination, options: list[str]
) -> str:
    """Push an image to one destination; return the digest that it has there. Raises `Failure`."""
    with registry.serving(image) as push:
        digest = skopeo.copy(push, destination, options)
    layers, size = len(push.sent), sum(push.sent.values())
    say(f"{destination}: sent {layers} of {len(image.layers)} layers, {format_bytes(size)}")
    return digest


def main(settings_file: str, *words: str) -> int:
    """Push to the destinations among `words`; copy-to.nix says what the settings are."""
    with open(settings_file, encoding="utf-8") as file:
        settings: dict[str, Any] = json.load(file)
    images, is_fleet = settings["images"], settings["isFleet"]
    if {"--help", "-h"}.intersection(words):
        help_text = FLEET_HELP.format(names=", ".join(images)) if is_fleet else __doc__ or ""
        print(help_text.strip())
        return 0
    try:
        example = f"docker://registry.example.org/{'team' if is_fleet else 'name:tag'}"
        destinations, options = read_words(words, example)
        targets = [
            (name, destination.below(image["place"]) if is_fleet else destination)
            for name, image in images.items()
            for destination in destinations
        ]
        for _, destination in targets:
            destination.check()
    except UsageError as error:
        say(str(error))
        return 2

    digest_file = option_value(options, "--digestfile")
    registry = Registry()
    skopeo = Skopeo(settings["skopeo"], settings["preserveDigests"])
    opened: dict[str, Image] = {}
    status = 0
    for name, destination in targets:
        try:
            if name not in opened:
                opened[name] = Image(images[name]["documents"], images[name]["derivations"])
            digest = copy(registry, skopeo, opened[name], destination, options)
        except Failure as failure:
            say(f"{destination}: not pushed: {failure}")
            status = 1
        else:
            print(*([name] if is_fleet else []), digest, flush=True)
            if digest_file:
                with open(digest_file, "w", encoding="utf-8") as file:
                    file.write(digest)
    return status


def interrupt(number: int, _: object) -> None:
    """Leave as for an exception, so that what this program has started ends, too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        sys.exit(main(*sys.argv[1:]))
    finally:
        end_all()
