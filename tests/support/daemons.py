"""Run docker's daemon and an ssh server, with all that they write in a folder of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nix import run
from registry_process import free_port


@dataclass(frozen=True)
class Docker:
    """A daemon that runs, and how it is reached."""

    url: str  # unix://...
    tcp: str  # tcp://...

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs that are to use it."""
        return {**os.environ, "DOCKER_HOST": self.url}

    def run(self, *words: object) -> str:
        """Return what `docker` writes."""
        return run("docker", *words, env=self.environment).stdout

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what it knows of an image: its ID is the digest of the configuration."""
        return json.loads(self.run("image", "inspect", image))[0]

    @property
    def names(self) -> set[str]:
        """The names and digests of all images."""
        form = "{{.Repository}}:{{.Tag}}@{{.Digest}}"
        shown = self.run("images", "--digests", "--format", form).splitlines()
        return {name for name in shown if not name.startswith("<none>:")}


@contextmanager
def run_docker(folder: Path, *prefix: str, certificates: Path | None = None) -> Iterator[Docker]:
    """Run a daemon that keeps its images below `folder`, which must have a short name.

    It makes no network for containers. `prefix` are words before its command line; with
    `certificates`, a folder as in DOCKER_CERT_PATH, it serves whoever has them by TLS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    docker = Docker(f"unix://{folder}/socket", f"tcp://127.0.0.1:{free_port()}")
    # It mounts its data root on itself and does not always unmount it: its mounts end with it here.
    command = [*prefix, "unshare", "--mount", "dockerd"]
    command += ["--host", docker.url, "--host", docker.tcp]
    if certificates:
        command += ["--tlsverify", "--tlscacert", str(certificates / "ca.pem")]
        command += ["--tlscert", str(certificates / "cert.pem")]
        command += ["--tlskey", str(certificates / "key.pem")]
    else:
        command += ["--tls=false"]
    for name in "data-root", "exec-root", "pidfile":
        command += [f"--{name}", str(folder / name)]
    command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        while not answers(folder / "socket"):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield docker
    finally:
        process.terminate()
        process.wait(60)


def answers(file: Path) -> bool:
    """Return whether somebody listens at a socket of the file system."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(file)) == 0


@dataclass(frozen=True)
class SshServer:
    """A server that lets root in with the key of `folder`."""

    folder: Path
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def environment(self, key: str = "user", path: str = "") -> dict[str, str]:
        """Return the environment of programs whose `ssh` logs in with a key of the folder.

        An `ssh` before all others in the search path, this one's or `path`, since ssh has no
        variable for its settings.
        """
        programs = self.folder / f"bin-{key}"
        programs.mkdir(exist_ok=True)
        options = f"UserKnownHostsFile={self.folder}/known StrictHostKeyChecking=accept-new"
        options += f" IdentityFile={self.folder}/{key} IdentitiesOnly=yes BatchMode=yes"
        words = " ".join(f"-o {option}" for option in options.split())
        program = programs / "ssh"
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F none {words} "$@"\n')
        program.chmod(0o755)
        return {**os.environ, "PATH": f"{programs}:{path or os.environ['PATH']}"}


@contextmanager
def run_ssh_server(folder: Path, *settings: str, **environment: str) -> Iterator[SshServer]:
    """Run a server; `settings` are lines of sshd_config, `environment` is that of its users."""
    folder.mkdir(parents=True, exist_ok=True)
    server = SshServer(folder, free_port())
    for name in "host", "user", "stranger":
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    # It wants a user and a folder with certain names, which the machine may not have.
    users = Path("/etc/passwd").read_text() + "sshd:x:74:65534::/run/sshd:/bin/false\n"
    (folder / "passwd").write_text(users)
    lines = [
        *settings,
        f"Port {server.port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/user.pub",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PermitRootLogin yes",
        "SetEnv " + " ".join("=".join(variable) for variable in environment.items()),
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", folder / "passwd", "/etc/passwd"]
    command += ["--tmpfs", "/run", "--dir", "/run/sshd", "--die-with-parent", "--"]
    command += [shutil.which("sshd"), "-D", "-e", "-f", folder / "sshd_config"]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output)
    try:
        while "Server listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(60)
