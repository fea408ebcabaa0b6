"""Have docker or podman on another machine pull an image through ssh.

`ssh -R` lets the other machine's loopback interface lead to the registry here: what is pulled from
there is what it lacks, and nothing but ssh is needed on the way. One connection does all, so that
who types a password does so once.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from children import Failure, running, say
from destinations import Server
from loopback_registry import Push, Registry

OPTIONS = {
    "ControlPath": "none",  # a connection that is shared would forward for longer than this push
    "ExitOnForwardFailure": "yes",
    "LogLevel": "INFO",  # ssh says which port was chosen
    "RemoteCommand": "none",
    "ServerAliveInterval": "10",  # seconds
    "ServerAliveCountMax": "3",
}

# What runs there. The shell reads it to its end before it runs any of it.
SCRIPT = """{{
  found=
  reason='ssh finds no {missing} there: install one (`{command}` must work)'
  for program in {programs}; do
    command -v $program >/dev/null || continue
    reason=$($program version 2>&1 >/dev/null </dev/null) && found=$program && break
  done
  if [ -z "$found" ]; then
    echo "$reason" >&2
    exit 1
  fi
  echo "{mark}$found" >&2
  case $($found --version) in *podman*) option=--tls-verify=false ;; *) option= ;; esac
  exec </dev/null
  $found pull --quiet $option {pulled} >/dev/null && $found tag {pulled} {image} &&
    $found rmi {pulled} >/dev/null
  exit
}}
"""

# Before the name of the program that pulls
MARK = "copy-to: by "

# What to do about failures that ssh only describes
ADVICE = {
    "Permission denied": "copy-to logs in as `ssh` does: try that first",
    "Host key verification failed": "log in with `ssh` once, to accept the server's key",
    "forwarding failed": "the server must allow it: AllowTcpForwarding in its sshd_config",
}


def pull_by_ssh(
    registry: Registry,
    push: Push,
    server: Server,
    image: str,
    programs: Sequence[str] = ("docker", "podman"),
) -> None:
    """Have the first of the programs that works there pull what is served, as `image`.

    Raises `Failure`.
    """
    command = ["ssh", "-T", "-R", f"127.0.0.1:0:127.0.0.1:{push.port}"]
    command += [word for option in OPTIONS.items() for word in ("-o", "=".join(option))]
    command += ["-l", server.user] if server.user else []
    command += ["-p", server.port] if server.port else []
    chosen = re.compile(rf"Allocated port (\d+) for remote forward to 127\.0\.0\.1:{push.port}\b")
    port, reason = 0, ""
    with running(*command, "--", server.host, "exec sh -s", stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        for line in process.stderr:
            match = chosen.search(line)
            if match:
                port = int(match[1])
                registry.ports.add(port)
                script = SCRIPT.format(
                    mark=MARK,
                    missing=" and no ".join(programs),
                    command=f"ssh {server.host} {programs[0]} version",
                    programs=" ".join(programs),
                    pulled=f"127.0.0.1:{port}/{push.name}@{push.image.digest}",
                    image=image,
                )
                with suppress(BrokenPipeError):  # what ssh says of its end follows
                    process.stdin.write(script)
                    process.stdin.close()
            elif line.startswith(MARK):
                say(f"{line[len(MARK) :].strip()} on {server.host} pulls")
            elif line.strip():
                reason = line.strip()
    registry.ports.discard(port)
    if process.returncode == 0:
        return
    if push.failures:
        raise push.failures[0]
    if process.returncode != 255:
        unreached = port and not push.reached and f"127.0.0.1:{port}" in reason
        where = f" ({server.host} is not where its containers run)" if unreached else ""
        raise Failure(f"{reason}{where}")
    advice = [ADVICE[pattern] for pattern in ADVICE if pattern in reason]
    if port and not advice:
        raise Failure(f"the connection to {server.host} was lost: {reason}")
    raise Failure(f"{reason} ({advice[0]})" if advice else reason)
