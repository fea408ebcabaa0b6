"""Unpack images with umoci, and run their programs with nothing of this machine around them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nix import Image, attempt, run


@dataclass(frozen=True)
class Container:
    """An image that is unpacked: a bundle of the OCI runtime specification."""

    bundle: Path

    @classmethod
    def of(cls, image: Image, bundle: Path) -> Container:
        """Unpack `image` into the new folder `bundle`."""
        run("umoci", "unpack", "--image", f"{image.layout}:{image.reference}", bundle)
        return cls(bundle)

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"

    def bwrap(
        self, *command: object, network: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command by bubblewrap, with no environment but what is given."""
        words: list[object] = ["bwrap", "--bind", self.rootfs, "/", "--dev", "/dev"]
        words += ["--proc", "/proc", "--unshare-all", "--clearenv", "--die-with-parent"]
        words += ["--share-net"] if network else []
        for name, value in environment.items():
            words += ["--setenv", name, value]
        return attempt(*words, "--", *command)

    def runc(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run the image's own command, or the one given, by runc."""
        file = self.bundle / "config.json"
        config: dict[str, Any] = json.loads(file.read_text())
        config["process"]["terminal"] = False
        if command:
            config["process"]["args"] = list(command)
        file.write_text(json.dumps(config))
        name = f"test-{os.getpid()}-{self.bundle.parent.name}"
        return attempt("runc", "run", "--bundle", self.bundle, name)


def podman(storage: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run podman with images and state below `storage`."""
    options["env"] = {**os.environ, "HOME": str(container_home(storage))}
    return run(*podman_command(storage), *arguments, **options)


def container_home(folder: Path) -> Path:
    """Return a HOME with settings of skopeo and podman, which want to know whose images to take.

    The machine may have none.
    """
    policy = folder / "home" / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True, exist_ok=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return folder / "home"


def podman_command(storage: Path) -> list[object]:
    """Return podman's name and the options with which it works inside a container."""
    words: list[object] = ["podman", "--root", storage / "root", "--runroot", storage / "run"]
    words += ["--tmpdir", storage / "tmp", "--storage-driver", storage_driver(storage)]
    return [*words, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]


def storage_driver(storage: Path) -> str:
    """Return how podman can keep layers there: `vfs` copies all files of a layer for the next."""
    folders = [storage / name for name in ("lower", "upper", "work", "merged")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    options = "lowerdir={},upperdir={},workdir={}".format(*folders)
    command = ("unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, folders[3])
    return "overlay" if attempt(*command).returncode == 0 else "vfs"


# Options of `podman run` for the same reason.
PODMAN_RUN = ["--rm", "--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
