"""Container hosts to measure: docker, podman and containerd of any Debian release, on any machine.

A release's packages are downloaded and unpacked into the user's cache (250 MB to download for
bookworm and sid, 1 GB on disk), without changing the machine. Each host sees them as its root, with
mounts and processes of its own, so that ending its first process ends all of them; the network is
the machine's. What it stores is in a folder of the caller's. Needs root.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from timing import Failure, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "dev"))
from debian import Apt, AptError, extract

__all__ = ["HOSTS", "Containerd", "Docker", "Host", "Podman", "Spent"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nixery-hosts"
# `apt-get install docker.io` installs pigz, too, which dockerd unpacks with.
PACKAGES = ("docker.io", "containerd", "podman", "pigz")

START = 60  # seconds that a daemon may take to answer
PULL = 600  # seconds that anything else may take

# Words of a command that runs in a release's system: $1 is its root, $2 the folder for data.
ENTER = """
mount --bind "$1" "$1" && cd "$1" && mkdir -p proc sys dev data tmp run
mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev
mount --bind "$2" data && mount -t tmpfs tmpfs tmp && mount -t tmpfs tmpfs run
shift 2 && exec chroot . "$@"
"""


class Spent(NamedTuple):
    """What one step took: seconds, of the wall and of all processors in use."""

    wall: float
    cpu: float


def unpack(release: str) -> Path:
    """Return the root of a release's system, which is downloaded if it is not there.

    Raises Failure.
    """
    folder = CACHE / release
    if not (folder / "root").exists():
        try:
            packages = Apt(folder, [release]).download(PACKAGES)
            _link_folders(folder / "unpacked")
            extract(packages, folder / "unpacked")
        except AptError as error:
            raise Failure(str(error)) from None
        shutil.rmtree(folder / "debs")
        (folder / "unpacked").rename(folder / "root")
    return folder / "root"


def find_version(text: str) -> str:
    """Return the version in what a program prints, without what Debian appends."""
    found = re.search(r"\b\d+(\.\d+)+", text)
    assert found, text
    return found[0]


def _link_folders(root: Path) -> None:
    """Make the folders that an installer makes; all recent releases have the links."""
    (root / "var/tmp").mkdir(parents=True)
    for name in "bin", "sbin", "lib", "lib64":
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


class Host:
    """A host with an empty store; a context manager that ends all that it has started.

    Subclasses give the `daemon`'s command, if there is one, say whether it `answers`, and `pull`.
    """

    program = ""  # what prints its version
    daemon: tuple[str, ...] = ()

    def __init__(self, release: str, folder: Path) -> None:
        """The store is in `folder`, which is made by entering the context and removed after it."""
        self.root, self.folder = unpack(release), folder
        self.process: subprocess.Popen[bytes] | None = None

    def enter(self, *words: str) -> list[str]:
        """Return a command that runs another one in the host's system, and ends with this."""
        command = ["setpriv", "--pdeathsig", "KILL", "env", "-i", "HOME=/data"]
        command += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "unshare", "--mount", "--pid", "--fork"]
        command += ["--kill-child", "sh", "-ec", ENTER, "sh", str(self.root), str(self.folder)]
        return [*command, *words]

    def run(self, *words: str) -> Spent:
        """Run a program of the host's to its end. Raises Failure unless it succeeds in time."""
        done = run(["timeout", "--kill-after=5", str(PULL), *self.enter(*words)])
        return Spent(done.wall, done.cpu)

    def version(self) -> str:
        """Return the version of the host's program."""
        words = run(self.enter(self.program, "--version")).output.replace(",", "").split()
        return (
            next(word for word in words if word[:1].isdigit()).partition("+")[0].partition("~")[0]
        )

    def configure(self) -> None:
        """Write settings to the folder."""

    def __enter__(self) -> Host:
        self.folder.mkdir()
        self.configure()
        if self.daemon:
            with (self.folder / "log").open("wb") as log:
                command = self.enter(*self.daemon)
                self.process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                self._wait()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        # Processes of the host may end a moment later.
        for _attempt in range(50):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break
            time.sleep(0.1)

    def _wait(self) -> None:
        """Wait for the daemon. Raises Failure if it ends or does not answer in time."""
        assert self.process
        end = time.monotonic() + START
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                log = (self.folder / "log").read_text(errors="replace")
                raise Failure(f"{self.daemon[0]} does not start: {log[-2000:].strip()}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Return whether the daemon answers."""
        return True

    def pull(self, image: str) -> Spent:
        """Pull an image, HOST:PORT/NAME:TAG. Raises Failure."""
        raise NotImplementedError

    def cpu(self) -> float:
        """Return the seconds of processors that the daemon and its children have used."""
        if not self.process:
            return 0.0
        parents: dict[int, list[int]] = {}
        ticks: dict[int, int] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    parents.setdefault(int(fields[1]), []).append(int(folder.name))
                    ticks[int(folder.name)] = sum(map(int, fields[11:15]))
        total, waiting = 0, [self.process.pid]
        while waiting:
            process = waiting.pop()
            total += ticks.get(process, 0)
            waiting += parents.get(process, [])
        return total / os.sysconf("SC_CLK_TCK")

    def timed(self, request: Any, *arguments: Any) -> Spent:
        """Call a function that asks the daemon for something; return what that took."""
        cpu, start = self.cpu(), time.perf_counter()
        request(*arguments)
        return Spent(time.perf_counter() - start, self.cpu() - cpu)


class _Socket(http.client.HTTPConnection):
    """HTTP to a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PULL)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Docker(Host):
    """dockerd with its own store, overlay2. Its API is used, as the command `docker` does."""

    program = "dockerd"
    containerd_store = False
    daemon = ("dockerd", "--config-file=/data/daemon.json")

    def configure(self) -> None:
        settings = {
            "data-root": "/data/store",
            "exec-root": "/data/state",
            "pidfile": "/data/pid",
            "hosts": ["unix:///data/socket"],
            "bridge": "none",
            "iptables": False,
            "features": {"containerd-snapshotter": self.containerd_store},
        }
        if not self.containerd_store:
            settings["storage-driver"] = "overlay2"
        (self.folder / "daemon.json").write_text(json.dumps(settings))

    def ask(self, method: str, path: str, body: object = None) -> list[Any]:
        """Send a request to the daemon; return the documents of its answer. Raises Failure."""
        connection = _Socket(self.folder / "socket")
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            lines = response.read().decode().splitlines()
        finally:
            connection.close()
        if response.status >= 400 or any('"errorDetail"' in line for line in lines):
            raise Failure(f"dockerd: {method} {path}: {' '.join(lines[-1:])}")
        return [json.loads(line) for line in lines if line.startswith(("{", "["))]

    def answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/version"))
        except OSError:
            return False

    def pull(self, image: str) -> Spent:
        name, _, tag = image.rpartition(":")
        query = urllib.parse.urlencode({"fromImage": name, "tag": tag})
        return self.timed(self.ask, "POST", f"/images/create?{query}")


class DockerContainerd(Docker):
    """dockerd that stores images in containerd, as new installations of docker 29 do."""

    containerd_store = True


class Containerd(Host):
    """containerd, pulling by `ctr`."""

    program = "containerd"
    daemon = ("containerd", "--config=/data/config.toml")

    def configure(self) -> None:
        settings = "version = 2\nroot = '/data/store'\nstate = '/data/state'\n"
        settings += "disabled_plugins = ['io.containerd.grpc.v1.cri']\n"
        settings += "[grpc]\naddress = '/data/socket'\n"
        (self.folder / "config.toml").write_text(settings)

    def answers(self) -> bool:
        # Its socket takes connections when everything else is there.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.folder / "socket")) == 0

    def pull(self, image: str) -> Spent:
        cpu = self.cpu()
        words = "ctr", "--address=/data/socket", "image", "pull", "--plain-http", image
        # Its processes are the daemon's in part only.
        spent = self.run(*words)
        return Spent(spent.wall, spent.cpu + self.cpu() - cpu)


class Podman(Host):
    """podman, which has no daemon."""

    program = "podman"

    def pull(self, image: str) -> Spent:
        policy = self.folder / ".config/containers/policy.json"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        words = ["podman", "--root=/data/store", "--runroot=/data/run", "--tmpdir=/data/tmp"]
        words += ["--storage-driver=overlay", "--runtime=runc", "--cgroup-manager=cgroupfs"]
        return self.run(*words, "pull", "--quiet", "--tls-verify=false", image)


# By their names in the reports: the release, and what runs.
HOSTS: dict[str, tuple[str, type[Host]]] = {
    "docker of Debian 12": ("bookworm", Docker),
    "podman of Debian 12": ("bookworm", Podman),
    "containerd of Debian 12": ("bookworm", Containerd),
    "docker of sid": ("sid", Docker),
    "docker of sid, containerd's store": ("sid", DockerContainerd),
    "podman of sid": ("sid", Podman),
    "containerd of sid": ("sid", Containerd),
}
