"""Processes that builders start.

The module subprocess is not used: it is slow to import, beside packing a small layer.
"""

from __future__ import annotations

import os

from attributes import fail

SIGPIPE = 13  # as the module signal has it, which is slow to import


def cores() -> int:
    """Return how many cores Nix lets this build use (`--cores`; 0 means all of them)."""
    return int(os.environ.get("NIX_BUILD_CORES", "1")) or os.cpu_count() or 1


def start(
    command: list[str],
    stdin: int | None = None,
    stdout: int | None = None,
    environment: dict[str, str] | None = None,
) -> int:
    """Start a program; return its process id. It takes over the file descriptors given."""
    given = [(file, number) for number, file in enumerate((stdin, stdout)) if file is not None]
    actions = [(os.POSIX_SPAWN_DUP2, file, number) for file, number in given]
    # Python ignores SIGPIPE. tar would, too, and complain after us when its reader has failed.
    process = os.posix_spawn(
        command[0],
        command,
        os.environ if environment is None else environment,
        file_actions=actions,
        setsigdef=[SIGPIPE],
    )
    for file, _ in given:
        os.close(file)
    return process


def expect_success(process: int, command: list[str], accepted: tuple[int, ...] = (0,)) -> None:
    """Wait for a process; end the build with one line unless its exit status is `accepted`."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in accepted:
        fail(f"{command[0]} failed with status {status}")
