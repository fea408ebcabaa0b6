"""Run the programs that do the work, so that none outlives this one, and say what they say.

What they write comes in part from strangers, such as a registry: it reaches the terminal with
control characters escaped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

# More of a line than this many characters is no message for people.
LONGEST_LINE = 1000

# How long programs get to clean up before they are killed. Nix ends its builds within that time.
SECONDS_TO_END = 5

# From linux/prctl.h: the signal that a process gets when the thread that started it ends
PR_SET_PDEATHSIG = 1
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)


class Failure(Exception):
    """The image is not pushed; the message says why."""


_running: set[subprocess.Popen[str]] = set()


@contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program, whose standard error is a pipe, until it ends. Raises `Failure`.

    It is asked to end when the block raises, by `end_all`, and (on Linux) when this program is
    killed: by SIGTERM rather than SIGKILL, since Nix then ends its builds.
    """
    try:
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=partial(_end_with, os.getpid()),
            **options,
        )
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    _running.add(process)
    try:
        with process:
            try:
                yield process
            except BaseException:
                _end(process)
                raise
    finally:
        _running.discard(process)


def end_all() -> None:
    """End what other threads have started."""
    for process in list(_running):
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()


def _end_with(parent: int) -> None:
    if _PRCTL:
        _PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)


def printable(text: str) -> str:
    r"""Return a line for the terminal: escaped, and cut if it is long.

    >>> printable("denied\x1b]0;x\x07 \u202e")
    'denied\\x1b]0;x\\x07 \\u202e'
    """
    if len(text) > LONGEST_LINE:
        text = text[:LONGEST_LINE] + " ..."
    escaped = (
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    return "".join(escaped)


def say(message: str) -> None:
    """Write a line on standard error."""
    print(f"copy-to: {printable(message)}", file=sys.stderr, flush=True)
