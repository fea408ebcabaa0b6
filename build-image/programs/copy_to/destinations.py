"""Read the words that copy-to is given: destinations, and options for `skopeo copy`.

No word that may be a password is taken for a destination, or repeated in a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# How destinations begin, as skopeo names them, and go on; ssh:// is copy-to's own. The last two
# name an image of a daemon.
SCHEMES = {
    "docker://": "REGISTRY/NAME:TAG",
    "containers-storage:": "NAME:TAG",
    "oci:": "FOLDER:TAG",
    "oci-archive:": "FILE:TAG",
    "docker-archive:": "FILE:NAME:TAG",
    "dir:": "FOLDER",
    "docker-daemon:": "NAME:TAG",
    "ssh://": "[USER@]HOST[:PORT]/NAME:TAG",
}

# Those that can hold an image index. From others, skopeo selects the image for this machine.
HOLD_INDEX = ("docker://", "oci:", "oci-archive:", "dir:")

# Options of `skopeo copy` whose value is the next word, in any of its versions
TAKE_VALUE = frozenset(
    """
    -f --additional-tag --authfile --command-timeout --decryption-key --dest-authfile
    --dest-cert-dir --dest-compress-format --dest-compress-level --dest-creds --dest-daemon-host
    --dest-password --dest-registry-token --dest-shared-blob-dir --dest-username --digestfile
    --encrypt-layer --encryption-key --format --image-parallel-copies --multi-arch --override-arch
    --override-os --override-variant --policy --registries.d --retry-delay --retry-times --sign-by
    --sign-by-sigstore --sign-by-sigstore-private-key --sign-by-sq-fingerprint --sign-identity
    --sign-passphrase-file --src-authfile --src-cert-dir --src-creds --src-daemon-host
    --src-password --src-registry-token --src-shared-blob-dir --src-username --tmpdir --user-agent
    """.split()
)

# The name of an image of a daemon, without a tag, and a tag
NAME = re.compile(r"(?:[\w.-]+(?::\d+)?/)?[a-z0-9]+(?:(?:[._/]|__|-+)[a-z0-9]+)*", re.ASCII)
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

# After the @ of an image's name
DIGEST = re.compile(r"\w+:[0-9a-f]{32,}", re.ASCII)

SERVER = re.compile(
    r"(?:(?P<user>[\w.][\w.+-]*)@)?(?P<host>[\w.][\w.-]*|\[[\da-fA-F:.]+\])(?::(?P<port>\d+))?",
    re.ASCII,
)

# An image of a registry, whose docker:// is forgotten. What has an @ may have a password before it.
BARE = re.compile(
    r"(?:https?://)?((?:localhost|[\w-]+(?:\.[\w-]+)+|[\w-]+(?=:\d))(?::\d+)?(?:/[\w.-]+)+"
    r"(?::[\w.-]+)?)/?",
    re.ASCII,
)


class UsageError(Exception):
    """The words make no sense; the message says what to write."""


@dataclass(frozen=True)
class Server:
    """A machine that ssh reaches; what is empty is ssh's to choose."""

    user: str
    host: str
    port: str

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read USER@HOST:PORT. Raises ValueError."""
        match = SERVER.fullmatch(text)
        if not match:
            raise ValueError
        user, host, port = match.groups(default="")
        return cls(user, host.strip("[]"), port)


@dataclass(frozen=True)
class Destination:
    """Where an image goes, as on the command line: `str` gives the word."""

    scheme: str  # one of SCHEMES
    rest: str

    def __str__(self) -> str:
        return self.scheme + self.rest

    @property
    def holds_index(self) -> bool:
        return self.scheme in HOLD_INDEX

    def below(self, place: str) -> Destination:
        """Return the destination of an image of a fleet, NAME:TAG."""
        separator = "/" if self.rest and not self.rest.endswith("/") else ""
        return Destination(self.scheme, f"{self.rest}{separator}{place}")

    @property
    def server(self) -> Server:
        """The machine of ssh://USER@HOST:PORT/NAME:TAG. Raises ValueError."""
        return Server.parse(self.rest.partition("/")[0])

    @property
    def image(self) -> tuple[str, str]:
        """Name and tag of a daemon's image; the tag is `latest` by default. Raises ValueError."""
        image = self.rest.partition("/")[2] if self.scheme == "ssh://" else self.rest
        name, colon, tag = image.rpartition(":")
        if not colon or "/" in tag:
            name, tag = image, "latest"
        if not (NAME.fullmatch(name) and TAG.fullmatch(tag)):
            raise ValueError
        return name, tag

    def check(self) -> None:
        """Raise `UsageError` if it cannot be meant so."""
        login, at, digest = self.rest.rpartition("@")
        if self.scheme == "docker://" and at and not DIGEST.fullmatch(digest):
            raise UsageError(
                "docker://... has a user or a password in it: leave it out, and pass --dest-creds"
            )
        if self.scheme == "ssh://" and ":" in login:
            raise UsageError("ssh://... has a password in it: leave it out, and ssh asks for one")
        if self.scheme == "docker://" and "://" in self.rest:
            raise UsageError(f"{self}: write docker://{self.rest.partition('://')[2]}")
        try:
            if self.scheme == "ssh://":
                self.server  # noqa: B018
            if self.scheme in ("docker-daemon:", "ssh://"):
                self.image  # noqa: B018
            # skopeo would take a registry without a name for a name of Docker Hub's.
            if not self.rest or (self.scheme == "docker://" and "/" not in self.rest):
                raise ValueError
        except ValueError:
            form = self.scheme + SCHEMES[self.scheme]
            case = ", the name in lower case" if self.scheme in ("docker-daemon:", "ssh://") else ""
            raise UsageError(f"{self}: write {form}{case}") from None


def read_words(words: Sequence[str], example: str) -> tuple[list[Destination], list[str]]:
    """Return the destinations, and the options with their values. Raises `UsageError`.

    `example` is a destination to write, for messages.
    """
    destinations, options = [], []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        scheme = next((scheme for scheme in SCHEMES if word.startswith(scheme)), None)
        if word.startswith("-"):
            options.append(word)
            if word in TAKE_VALUE:
                if not remaining:
                    raise UsageError(f"{word} needs a value")
                options.append(remaining.pop(0))
        elif scheme:
            destinations.append(Destination(scheme, word[len(scheme) :]))
        elif bare := BARE.fullmatch(word):
            raise UsageError(f"{word} is not a destination: write docker://{bare[1]}")
        else:
            number = len(words) - len(remaining)
            raise UsageError(
                f"word {number} is neither a destination, such as {example}, nor an option (an "
                "option's value can be joined to it, as in --option=value)"
            )
    if not destinations:
        raise UsageError(f"no destination: name one, as in copy-to {example}")
    return destinations, options


def option_value(options: Sequence[str], name: str) -> str | None:
    """Return the last value that an option is given.

    >>> option_value(["--format", "oci", "--format=v2s2"], "--format")
    'v2s2'
    """
    for number in reversed(range(len(options))):
        if options[number] == name and number + 1 < len(options):
            return options[number + 1]
        if options[number].startswith(f"{name}="):
            return options[number].partition("=")[2]
    return None
