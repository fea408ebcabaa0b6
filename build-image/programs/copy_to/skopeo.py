"""Push by skopeo, which knows registries, archives and folders."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass

from children import Failure, running, say
from destinations import Destination
from loopback_registry import Push

# Options with which the destination gets another manifest than the image has
CONVERSION = re.compile("-f|--format|--dest-(force-)?(de)?compress|--encrypt")

# A line of skopeo's, as the Go library logrus writes it where nobody watches: the message is quoted
# if need be, and may be followed by fields.
LOGGED = re.compile(r'time=(?:"[^"]*"|\S+) level=(\w+) msg=(?:"((?:[^"\\]|\\.)*)"|(\S*))')

# What to do about failures that skopeo only describes
ADVICE = {
    "server gave HTTP response": "a registry without TLS needs --dest-tls-verify=false",
    "unauthorized|resource is denied|Forbidden": "log in with `skopeo login`, or pass --dest-creds "
    "USER:PASSWORD",
    "x509": "--dest-cert-dir FOLDER names the folder with a registry's certificate, NAME.crt",
    "manifest invalid": "a registry that takes no OCI images needs --format v2s2",
    "closed pipe": "docker does not answer",
}

# What a registry adds to the address of an upload, which is long and may be secret
QUERY = re.compile(r"(?<=\?)[^\s\"]+")


# What a Go library writes around errors that it collects, with its escaped line breaks
LIST = re.compile(r"\d+ errors? occurred:(?:\\n\\t\* )?|(?:\\n)+$")


@dataclass(frozen=True)
class Skopeo:
    """The program, and its option that keeps digests ("" if it has none)."""

    program: str
    preserve: str

    def copy(self, push: Push, destination: Destination, options: list[str]) -> str:
        """Copy an image to its destination; return the digest that it has there.

        Raises `Failure`.
        """
        with tempfile.TemporaryDirectory() as folder:
            digest_file = os.path.join(folder, "digest")
            command = [self.program, "--insecure-policy", "copy", "--quiet"]
            command += ["--src-tls-verify=false", "--src-no-creds"]
            if push.image.is_index and destination.holds_index:
                command.append("--all")
            converts = any(map(CONVERSION.match, options))
            if self.preserve and destination.scheme == "docker://" and not converts:
                # Otherwise skopeo takes, instead of a layer, one with the same files that the
                # registry has in another compression, if it knows of one from an earlier push.
                command.append(self.preserve)
            command += [*options, "--digestfile", digest_file]
            command += [f"docker://{push.reference}", str(destination)]
            settings = environment(destination, folder)
            if push.is_dry:
                # Of what it knows from earlier pushes, skopeo would copy layers between names of
                # the registry. That is in a cache: of root unless root has another user's id.
                settings["XDG_DATA_HOME"] = folder
                settings["_CONTAINERS_ROOTLESS_UID"] = str(os.getuid() or 1)
            reason = run(command, settings)
            if reason:
                raise push.failures[0] if push.failures else Failure(explain(reason))
            with open(digest_file, encoding="utf-8") as file:
                return file.read().strip()


def environment(destination: Destination, folder: str) -> dict[str, str]:
    """Return the environment for skopeo; `folder` is an empty one.

    skopeo looks for credentials in XDG_RUNTIME_DIR first. By default it takes /run/containers/UID,
    and fails if that cannot be read, as where /run/containers belongs to root.
    """
    if "XDG_RUNTIME_DIR" not in os.environ and destination.scheme == "docker://":
        try:
            os.stat(f"/run/containers/{os.getuid()}/auth.json")
        except PermissionError:
            return {**os.environ, "XDG_RUNTIME_DIR": folder}
        except OSError:
            pass
    return dict(os.environ)


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run skopeo and pass its messages on; return the one that says why it failed, or ""."""
    reason = ""
    with running(*command, stdout=subprocess.DEVNULL, env=environment) as process:
        for line in process.stderr or ():
            level, message = read_message(line.rstrip())
            if level == "fatal":
                reason = message
            else:
                say(message)
    return reason or (f"skopeo's status is {process.returncode}" if process.returncode else "")


def read_message(line: str) -> tuple[str, str]:
    r"""Return level and message of a line; what Go has escaped stays so, except quotes.

    >>> read_message('time="12:00" level=fatal msg="a \\"b\\" \\x1b" error=x')
    ('fatal', 'a "b" \\x1b')
    >>> read_message("other")
    ('', 'other')
    """
    logged = LOGGED.match(line)
    if not logged:
        return "", line.strip()
    level, quoted, bare = logged.groups()
    return level, bare or re.sub(r'\\(["\\])', r"\1", quoted or "").strip()


def explain(reason: str) -> str:
    """Return why skopeo failed, without the digests that it was about, and what to do.

    >>> explain("trying to reuse blob sha256:0e3424 at destination: unauthorized")
    'unauthorized (log in with `skopeo login`, or pass --dest-creds USER:PASSWORD)'
    """
    *steps, last = LIST.sub("", QUERY.sub("...", reason)).split(": ")
    short = ": ".join([step for step in steps if "sha256:" not in step] + [last])
    advice = [ADVICE[pattern] for pattern in ADVICE if re.search(pattern, short)]
    return f"{short} ({advice[0]})" if advice else short
