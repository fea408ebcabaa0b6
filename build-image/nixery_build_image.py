"""Run nix-build on build-image.nix for a program that has to know in one line what went wrong.

    nixery_build_image.py NIX_BUILD SOURCES [ARGUMENT ...]

The arguments go to nix-build as they are: `--argstr` for those of build-image.nix, `--timeout
SECONDS` for each single build, `--out-link FILE` to hold an answer (Nix names the link FILE-answer,
and FILE for an error), `--store`, `--builders`, `--option`. What the caller gets:

    standard output    one store path, the answer: a JSON file, an image or an error that whoever
                       asked for the image can mend
    standard error     Nix's progress and errors as they come; on failure one more line, the last,
                       since Nix ends with traces, notes and advice in an order that differs by
                       version: `nixery-build-image: what failed`
    exit status        0 with an answer; otherwise nix-build's, or 128 and the signal that ended it

Needs nothing but the store: no channels, NIX_PATH, HOME or writable folder. A signal to this
program ends the builds, and so does its death.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import BinaryIO

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What a terminal would obey; builders write what they like.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
# "error: ..." at any depth of a trace; without a message it opens a trace (seen with Nix 2.26).
_ERROR = re.compile(r"\s*error:\s*(.*)$")
_REASON = re.compile(r"\s*Reason: (.*)$")  # seen with Nix 2.34
_LOG_LINE = re.compile(r"\s*> (.*)$")
_BUILDING = re.compile(r"building '(.*)'")
_PACKAGE = re.compile(r".*while looking up the package '(.*)'$")
# Follows from an error that was reported before it.
_CONSEQUENCE = re.compile(r"\d+ dependenc|some errors|build of .* failed$")

NO_REASON = "nix-build gave no reason"
# A collection of garbage decides on a set of paths and then deletes one after the other; Nix can
# take one for its own in between, and misses it later. tests/kill_loop.py, with its collections one
# after the other, meets that now and then; the next attempt makes the paths anew.
_COLLECTED = re.compile(
    rf"path '[^']*' is not valid|/[0-9a-z]{{32}}-\S*: No such file or directory|{NO_REASON}$"
)
ATTEMPTS = 3

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies


def summarize(lines: Iterable[str]) -> str:
    """Return in one line what made Nix fail, from what it wrote on standard error.

    The first error that is not the consequence of another, with the last line of the failed
    builder's log and the package that was looked up, where there are such.

    >>> summarize(["error: builder for '/nix/store/x.drv' failed", "  last 1 log lines:",
    ...            "  > cannot write: no space", "error: 1 dependencies of derivation failed"])
    "builder for '/nix/store/x.drv' failed: cannot write: no space"
    """
    errors: list[dict[str, str]] = []
    package = building = ""
    disk_full = False
    for line in (_COLOUR.sub("", line).rstrip() for line in lines):
        disk_full = disk_full or "lack of free disk space" in line
        if match := _PACKAGE.match(line):
            package = package or match[1]
        elif match := _ERROR.match(line):
            errors.append({"message": match[1]})
        elif errors and (match := _REASON.match(line)):
            errors[-1]["reason"] = match[1]
        elif errors and (match := _LOG_LINE.match(line)):
            errors[-1]["log"] = match[1].strip() or errors[-1].get("log", "")
        elif match := _BUILDING.match(line):
            building = match[1]
    causes = [
        error
        for error in errors
        if error["message"] and not _CONSEQUENCE.match(error.get("reason", error["message"]))
    ]
    if not causes:
        return NO_REASON
    summary = ": ".join(part.rstrip(" ;:.") for part in causes[0].values() if part)
    if summary.startswith("timed out") and building:  # Nix 2.34 does not say what
        summary = f"building '{building}' {summary}"
    if package:
        summary = f"package {package}: {summary}"
    return _CONTROL.sub(" ", summary) + " (the disk may be full)" * disk_full


def arguments_of(command: list[str]) -> dict[str, str]:
    """Return the values that `--argstr NAME VALUE` gives on a command line, by name."""
    triples = zip(command, command[1:], command[2:])
    return {name: value for flag, name, value in triples if flag == "--argstr"}


def pass_on(stream: BinaryIO) -> Iterator[str]:
    """Write each line of `stream` to standard error as it comes, and yield it."""
    for line in stream:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        yield line.decode(errors="replace")


def has_cache() -> bool:
    """Return whether there is a folder where Nix can keep what it downloads."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    while not os.path.exists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    # The file system is asked as well: root may write everywhere but on a read-only one.
    return os.path.isabs(folder) and os.path.isdir(folder) and os.access(folder, os.W_OK)


def build(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run nix-build and return its exit status and, if it is not 0, what failed."""
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process is not None:
            process.terminate()
        # Nix 2.8 misses a signal that comes when it is about to wait for a builder.
        signal.setitimer(signal.ITIMER_REAL, 1)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end)
    prctl = ctypes.CDLL(None).prctl
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    summary = summarize(pass_on(process.stderr))
    status = process.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if received:
        return 128 + received[0], f"ended by {signal.Signals(received[0]).name}"
    if status < 0:
        return 128 - status, f"nix-build was ended by {signal.Signals(-status).name}"
    return status, summary


def main() -> int:
    nix_build, sources, *arguments = sys.argv[1:]
    given = arguments_of(arguments)
    # -Q: Nix tells a failed builder's last lines with the error, not all of them as they come.
    command = [nix_build, "--no-out-link", "--show-trace", "-Q", *arguments]
    # What an evaluation with restrict-eval must be let read; with a name, so that "=" is no end.
    for path in (os.path.dirname(sources), *map(given.get, ("srcArgs", "loadPkgs", "popularity"))):
        if path and path.startswith("/"):
            command += ["-I", f"nixery={path}"]
    command.append(os.path.join(sources, "build-image.nix"))
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")
    environment = dict(os.environ)
    with contextlib.ExitStack() as stack:
        if not has_cache():
            with contextlib.suppress(OSError):  # nothing is writable: then Nix says what it needs
                folder = tempfile.TemporaryDirectory(prefix="nixery-build-image-")
                environment["XDG_CACHE_HOME"] = stack.enter_context(folder)
        for _ in range(ATTEMPTS):
            status, summary = build(command, environment)
            if status == 0 or not _COLLECTED.search(summary):
                break
    if status != 0:
        # Nix 2.8 forgets where it was when the stack is full.
        if summary.startswith("stack overflow"):
            summary = _CONTROL.sub(" ", f"packages {given.get('packages', '')}: {summary}")
        print(f"nixery-build-image: {summary}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
