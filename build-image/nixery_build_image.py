"""Run nix-build on build-image.nix for a program that has to know in one line what went wrong.

    nixery_build_image.py NIX_BUILD SOURCES [ARGUMENT ...]

The arguments go to nix-build as they are. Standard output is nix-build's: one store path, the
answer. Standard error is nix-build's as it comes, and on failure ends with one more line

    nixery-build-image: what failed

since Nix itself ends with traces, notes and advice in an order that differs by version. The exit
status is nix-build's.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable

# "error: ..." at any depth of a trace, coloured or not.
_ERROR = re.compile(r"^\s*error:\s*(\S.*)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_LINE = re.compile(r"^\s*> (.*)$")
_PACKAGE = re.compile(r"while looking up the package '(.*)'")
# Follows from an error that was reported before it.
_CONSEQUENCE = re.compile(r"^(\d+ dependenc|some errors|build of .* failed$|Cannot build)")


def summarize(lines: Iterable[str]) -> str:
    """Return in one line what made Nix fail, from what it wrote on standard error.

    The first error that is not the consequence of another, with the last line of the failed
    builder's log and the package that was looked up, where there are such.

    >>> summarize(["error: builder for '/nix/store/x.drv' failed", "  last 1 log lines:",
    ...            "  > cannot write: no space", "error: 1 dependencies of derivation failed"])
    "builder for '/nix/store/x.drv' failed: cannot write: no space"
    """
    error, log, package, disk_full = "", "", "", False
    for line in (_COLOUR.sub("", line).rstrip() for line in lines):
        disk_full = disk_full or "lack of free disk space" in line
        if match := _PACKAGE.search(line):
            package = package or match[1]
        elif match := _ERROR.match(line):
            # In a trace the error comes last and is indented; the line before names no more.
            if not error or (line[0] == " " and not log):
                error = error if _CONSEQUENCE.match(match[1]) else match[1]
        elif error and (match := _LOG_LINE.match(line)):
            log = match[1].strip() or log
    summary = error.rstrip(";:") or "nix-build gave no reason"
    if log:
        summary += f": {log}"
    if package:
        summary = f"package {package}: {summary}"
    return summary + " (the disk may be full)" * disk_full


def readable_paths(arguments: list[str]) -> list[str]:
    """Return what an evaluation with restrict-eval must be let read besides our own files."""
    paths = []
    for flag, name, value in zip(arguments, arguments[1:], arguments[2:]):
        if flag == "--argstr" and name in ("srcArgs", "loadPkgs", "popularity"):
            paths += [value] if value.startswith("/") else []
    return paths


def main() -> int:
    nix_build, sources, *arguments = sys.argv[1:]
    command = [nix_build, "--no-out-link", "--show-trace", *arguments]
    for path in [os.path.dirname(sources), *readable_paths(arguments)]:
        command += ["-I", path]
    command.append(os.path.join(sources, "build-image.nix"))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: process.send_signal(received))
    lines = []
    for line in process.stderr:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        lines.append(line.decode(errors="replace"))
    status = process.wait()
    if status < 0:
        print(f"nixery-build-image: nix-build was ended by signal {-status}", file=sys.stderr)
        return 128 - status
    if status > 0:
        print(f"nixery-build-image: {summarize(lines)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
