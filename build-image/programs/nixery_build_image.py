"""Build the image of some packages, for a registry server.

    nixery-build-image --argstr packages '["git"]' [--argstr NAME VALUE ...] [OPTION ...]

The arguments are those of build-image.nix, the options are nix-build's: `--timeout SECONDS` for
each single build, `--out-link FILE` to keep an answer (Nix names the link FILE-answer, and FILE for
an error), `--store`, `--builders`, `--option`. What the caller gets:

    standard output    one store path, the answer: a JSON file with an image, or with an error
                       that the client can fix
    standard error     Nix's progress and errors as they come; then one more line: how large the
                       image is, and how much of it is new; or what failed, since Nix ends with
                       traces, notes and advice in an order that differs by version
    exit status        0 with an answer; 2 if an argument is not JSON; otherwise nix-build's, or 128
                       and the signal that ended it

Needs only the store: no channels, NIX_PATH, HOME or writable folder. When this program gets a
signal or is killed, its builds end. docs/nixery-build-image.md has the whole contract.
"""

# Run as `nixery_build_image.py NIX_BUILD SOURCES [ARGUMENT ...]`, see default.nix.

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NamedTuple

from group_layers import format_bytes

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# "error: ..." at any depth of a trace; without a message it opens a trace (seen with Nix 2.26).
_ERROR = re.compile(r"\s*error:\s*(.*)$")
_REASON = re.compile(r"\s*Reason: (.*)$")  # seen with Nix 2.34
_LOG_LINE = re.compile(r"\s*> (.*)$")
_BUILDING = re.compile(r"building '(.*)'")
_PACKING = re.compile(rb"building '[^']*-layer-[^']*\.drv'")
# What the Nix files of this folder were doing, by addErrorContext.
_SUBJECT = re.compile(
    r".* while (?:looking up|loading|reading) the (package '.*'|package set|argument \w+)"
)
# What git says before Nix says that git failed; the first is the cause.
_FATAL = re.compile(r"fatal: (.*)$")
# Follows from an error that was reported before it.
_CONSEQUENCE = re.compile(r"\d+ dependenc|some errors|build of .* failed$")

NO_REASON = "nix-build gave no reason"
# Arguments that are JSON, with what is one
JSON_ARGUMENTS = {
    "packages": '["git", "curl"]',
    "systems": '["x86_64-linux", "aarch64-linux"]',
    "importArgs": '{"config": {"allowUnfree": true}}',
    "srcArgs": '{"url": "https://git.example.org/packages", "ref": "main"}',
}
# A collection of garbage decides on a set of paths and then deletes one after the other; Nix can
# take one for its own in between, and misses it later. tests/kill_loop.py, with its collections one
# after the other, meets that now and then; the next attempt makes the paths again.
_COLLECTED = re.compile(
    rf"path '[^']*' is not valid|/[0-9a-z]{{32}}-\S*: No such file or directory|{NO_REASON}$"
)
ATTEMPTS = 3


class Cause(NamedTuple):
    """What made Nix fail."""

    message: str  # Nix's own
    log: str  # the last line of the failed builder's log
    summary: str  # all that is known, in one line

    @property
    def is_passing(self) -> bool:
        """Whether another attempt may succeed. What a builder wrote tells nothing of that."""
        return bool(_COLLECTED.search(self.message))


def find_cause(lines: Iterable[str]) -> Cause:
    """Find what made Nix fail in what it wrote on standard error.

    That is the first error that is not the consequence of another, with the last line of the failed
    builder's log and what was being looked up, loaded or read.

    >>> find_cause(["error: builder for '/nix/store/x.drv' failed", "  last 1 log lines:",
    ...     "  > cannot write: no space", "error: 1 dependencies of derivation failed"]).summary
    "builder for '/nix/store/x.drv' failed: cannot write: no space"
    """
    errors: list[dict[str, str]] = []
    subjects: list[str] = []
    building = fatal = ""
    disk_full = False
    for line in (printable(line).rstrip() for line in lines):
        disk_full = disk_full or "lack of free disk space" in line
        if match := _SUBJECT.match(line):
            subjects.append(match[1])
        elif match := _ERROR.match(line):
            errors.append({"message": match[1]})
        elif errors and (match := _REASON.match(line)):
            errors[-1]["reason"] = match[1]
        elif errors and (match := _LOG_LINE.match(line)):
            errors[-1]["log"] = match[1].strip() or errors[-1].get("log", "")
        elif match := _BUILDING.match(line):
            building = match[1]
        elif match := _FATAL.match(line):
            fatal = fatal or match[1]
    causes = [
        error
        for error in errors
        if error["message"] and not _CONSEQUENCE.match(error.get("reason", error["message"]))
    ]
    if not causes:
        return Cause(NO_REASON, "", NO_REASON)
    cause = causes[0]
    if cause["message"].startswith("program 'git' failed") and fatal:
        cause["log"] = fatal
    summary = ": ".join(part.rstrip(" ;:.") for part in cause.values() if part)
    if summary.startswith("timed out") and building:  # Nix 2.34 does not say what
        summary = f"building '{building}' {summary}"
    if subjects:
        # The first in the alphabet tells most: an argument, a package, the package set.
        summary = f"{min(subjects)}: {summary}"
    summary += " (the disk may be full)" * disk_full
    return Cause(cause["message"], cause.get("log", ""), summary)


def printable(text: str) -> str:
    """Return one line that does nothing to a terminal; packages and builders write what they like.

    >>> printable("a\\nnixery-build-image: b\\x1b[2J\\u2028c")
    'a nixery-build-image: b [2J c'
    """
    return "".join(it if it.isprintable() else " " for it in _COLOUR.sub("", text))


def check_json(given: dict[str, str]) -> str | None:
    """Return what is wrong with arguments that are to be JSON, or None.

    >>> check_json({"packages": "['git']"})
    'packages is not JSON: Expecting value at line 1, column 2: write it as in ["git", "curl"]'
    """
    for argument, example in JSON_ARGUMENTS.items():
        if argument not in given or (argument == "srcArgs" and given.get("srcType") != "git"):
            continue
        try:
            value = json.loads(given[argument])
            is_escaped = "\\u0000" in json.dumps(value).replace("\\\\", "")
            problem = "a string has \\u0000, which Nix cannot hold" if is_escaped else None
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
        except RecursionError:
            problem = "brackets are nested too deeply"
        if problem:
            return f"{argument} is not JSON: {problem}: write it as in {example}"
    return None


def describe_answer(path: str, packed_layers: int) -> str:
    """Return in one line what is in an answer's file. Raises OSError."""
    with open(path, encoding="utf-8") as file:
        answer = json.load(file)
    if "manifest" not in answer:
        return printable(f"no image, {answer['error']}: {', '.join(answer['pkgs'])}")
    sizes = [blob["size"] for blob in answer["layerLocations"].values()]
    size = format_bytes(sum(sizes))
    return f"{len(sizes)} blobs, {size}; layers that are new in this store: {packed_layers}"


def arguments_of(command: list[str]) -> dict[str, str]:
    """Return the values that `--argstr NAME VALUE` gives on a command line, by name."""
    triples = zip(command, command[1:], command[2:])
    return {name: value for flag, name, value in triples if flag == "--argstr"}


class ErrorOutput:
    """Standard error, written to by a thread of its own.

    A server may read standard output to its end before it turns to standard error, as Nixery's of
    2019 does. If a full pipe kept Nix waiting, both would wait for ever.
    """

    def __init__(self) -> None:
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.packed_layers = 0  # layers that Nix said it was building
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        # Whether anybody reads it makes no difference to the answer.
        with contextlib.suppress(OSError):
            for line in iter(self.lines.get, None):
                write(2, line)

    def pass_on(self, stream: Iterable[bytes]) -> Iterator[str]:
        """Write each line of `stream` as it comes, and yield it."""
        for line in stream:
            self.packed_layers += bool(_PACKING.match(line))
            text = printable(line.decode(errors="replace").rstrip("\r\n"))
            self.lines.put(f"{text}\n".encode())
            yield text

    def close(self) -> None:
        """Wait until all is written."""
        self.lines.put(None)
        self.thread.join()


def write(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def has_cache() -> bool:
    """Return whether there is a folder where Nix can keep what it downloads."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    while not os.path.exists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    # The file system is asked as well: root may write everywhere but on a read-only one.
    return os.path.isabs(folder) and os.path.isdir(folder) and os.access(folder, os.W_OK)


class Guard:
    """A process that ends nix-build when this one has been killed.

    Nix misses a signal that comes right before it waits, so it is told every second. The kernel's
    own signal at the death of a parent, PR_SET_PDEATHSIG, comes only once.
    """

    def __init__(self) -> None:
        reading, self.pipe = os.pipe()
        if os.fork() != 0:
            os.close(reading)
            self.watch(0)
            return
        os.setsid()  # signals to the caller's process group are not meant for it
        os.close(self.pipe)
        os.closerange(0, 3)  # else who reads the answer would wait for this process, too
        try:
            with open(reading, "rb") as pipe:
                process = int(pipe.read().split()[-1])  # ends when nobody can write any more
            while process and is_running(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
                time.sleep(1)
            kill_session(process)
        finally:
            os._exit(0)

    def watch(self, process: int) -> None:
        """Say which process is to end; 0 for none."""
        with contextlib.suppress(OSError):  # the guard itself has been killed
            write(self.pipe, b"%d\n" % process)


def is_running(process: int) -> bool:
    """Return whether a process has not ended. One that has, and that nobody waits for, has a number
    still: in a container, process 1 often waits for none of the orphans that it gets."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # a Mac has no /proc
        return True


def kill_session(leader: int) -> None:
    """Kill what a process that has ended has left behind, such as a git that waits for a server."""
    with contextlib.suppress(ProcessLookupError):
        if leader:
            os.killpg(leader, signal.SIGKILL)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)


def build(
    command: list[str], environment: dict[str, str], errors: ErrorOutput, guard: Guard
) -> tuple[int, bytes, Cause]:
    """Run nix-build; return its exit status, what it printed and, if it failed, why."""
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        if number != signal.SIGALRM:
            received.append(number)
        if received and process is not None:
            if process.poll() is None:
                process.terminate()
            else:
                kill_session(process.pid)

    for number in SIGNALS:
        signal.signal(number, end)
    # A signal that comes right before a program waits is noticed only when the wait ends. So this
    # program looks every second, and tells Nix again, which has the same problem.
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: guard.watch(os.getpid()),
    )
    assert process.stdout and process.stderr
    failure = find_cause(errors.pass_on(process.stderr))
    output = process.stdout.read()
    status = process.wait()
    guard.watch(0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if received:
        summary = f"ended by {signal.Signals(received[0]).name}"
        return 128 + received[0], b"", Cause(summary, "", summary)
    if status < 0:
        summary = f"nix-build was ended by {signal.Signals(-status).name}"
        return 128 - status, b"", Cause(summary, "", summary)
    return status, output, failure


def main() -> int:
    nix_build, sources, *arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(__doc__.strip())
        return 0
    if "--version" in arguments:
        with open(os.path.join(sources, "..", "VERSION"), encoding="utf-8") as file:
            print("nixery-build-image", file.read().strip())
        return 0
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # Else a pipe to Nix would take its number.
    given = arguments_of(arguments)
    if problem := check_json(given):
        print(f"nixery-build-image: {printable(problem)}", file=sys.stderr)
        return 2
    # -Q: Nix tells a failed builder's last lines with the error, not all of them as they come.
    command = [nix_build, "--no-out-link", "--show-trace", "-Q"]
    command.append(os.path.join(sources, "build-image.nix"))
    # What an evaluation with restrict-eval must be let read; with a name, so that "=" is no end.
    files = map(given.get, ("srcArgs", "loadPkgs", "popularity", "known"))
    for path in (os.path.dirname(sources), *files):
        if path and path.startswith("/"):
            command += ["-I", f"nixery={path}"]
    command += arguments
    try:
        os.getcwd()
    except OSError:
        os.chdir("/")
    environment = dict(os.environ)
    guard = Guard()
    errors = ErrorOutput()
    with contextlib.ExitStack() as stack:
        if not has_cache():
            with contextlib.suppress(OSError):  # nothing is writable: then Nix says what it needs
                folder = tempfile.TemporaryDirectory(prefix="nixery-build-image-")
                environment["XDG_CACHE_HOME"] = stack.enter_context(folder)
        for _ in range(ATTEMPTS):
            status, answer, failure = build(command, environment, errors, guard)
            if status == 0 or not failure.is_passing:
                break
    summary = failure.summary
    if status == 0:
        try:
            write(1, answer)
            os.close(1)
            with contextlib.suppress(OSError):  # --store says that it is elsewhere
                said = describe_answer(answer.decode().strip(), errors.packed_layers)
                errors.lines.put(f"nixery-build-image: {said}\n".encode())
        except OSError as error:
            status, summary = 1, f"cannot write the answer to standard output: {error.strerror}"
    # Nix 2.8 forgets where it was when the stack is full.
    elif summary.startswith("stack overflow"):
        summary = printable(f"packages {given.get('packages', '')}: {summary}")
    if status != 0:
        errors.lines.put(f"nixery-build-image: {summary}\n".encode(errors="replace"))
        # Who reads standard output to its end first must see it end.
        with contextlib.suppress(OSError):
            os.close(1)
    errors.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
