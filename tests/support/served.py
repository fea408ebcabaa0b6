"""Call the wrapper `nixery-build-image` as a server does."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nix import ROOT, TIMEOUT, Nix, run


def set_argument(package_set: Path) -> str:
    """Return the Nix text that loads the package set, with the Nix that is tested as its `nix`."""
    if "NIX_BIN_DIR" not in os.environ:
        return f"import {package_set} {{ }}"
    folder = Path(os.environ["NIX_BIN_DIR"]).parent
    return f'import {package_set} {{ overlays = [ (_: _: {{ nix = "{folder}"; }}) ]; }}'


def settings() -> dict[str, str]:
    """Return the least environment in which Nix works on any machine: the settings of the tests."""
    return {"NIX_CONFIG": os.environ["NIX_CONFIG"]}


@dataclass(frozen=True)
class Wrapper:
    """The program in the store, and the package set that it is to use."""

    program: Path
    package_set: Path

    @classmethod
    def of(cls, nix: Nix) -> Wrapper:
        """Build the wrapper."""
        argument = set_argument(nix.package_set)
        built = nix.build(ROOT, "-A", "nixery-build-image", "--arg", "pkgs", argument)
        return cls(built.path / "bin" / "nixery-build-image", nix.package_set)

    def command(self, packages: object, *words: object, **arguments: Any) -> list[str]:
        """Return the command line for package names; `arguments` are passed with --argstr."""
        text = packages if isinstance(packages, str) else json.dumps(packages)
        arguments = {
            "packages": text,
            "srcType": "path",
            "srcArgs": self.package_set,
            **arguments,
        }
        command: list[object] = [self.program, "--option", "substituters", ""]
        for name, value in arguments.items():
            command += ["--argstr", name, value]
        return [str(word) for word in [*command, *words]]

    def call(
        self,
        packages: object,
        *words: object,
        options: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run it with Nix's settings alone around it, or as `options` of subprocess.run say."""
        return subprocess.run(
            self.command(packages, *words, **arguments),
            **{
                "env": settings(),
                "text": True,
                "capture_output": True,
                "timeout": TIMEOUT,
                **(options or {}),
            },
        )

    def answer(self, packages: object, *words: object, **arguments: Any) -> dict[str, Any]:
        """Run it and return the answer, which it must have."""
        done = self.call(packages, *words, **arguments)
        assert done.returncode == 0, done.stderr
        (path,) = done.stdout.splitlines()
        return json.loads(Path(path).read_bytes())

    def failure(self, packages: object, *words: object, **arguments: Any) -> str:
        """Run it, which must fail, and return what its last line says."""
        done = self.call(packages, *words, **arguments)
        assert done.returncode != 0 and done.stdout == ""
        last = done.stderr.splitlines()[-1]
        assert last.startswith("nixery-build-image: ")
        return last.partition(": ")[2]


# What the images of the tests are made with and of.
TOOLS = ("bash", "coreutils", "gnutar", "jq", "hello", "libdeflate", "nix", "python3", "tree")


def with_store(folder: Path, *words: object) -> list[str]:
    """Return the command line that runs `words` where the folder's `nix` is in place of /nix."""
    inside = f'mount --bind {folder}/nix /nix && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", inside, "sh", *map(str, words)]


class OwnStore:
    """A Nix store of its own, which commands see in place of /nix: its garbage can be collected.

    Needs root. Nothing of the machine's store is touched.
    """

    def __init__(self, nix: Nix, folder: Path) -> None:
        self.folder = folder
        for name in ("roots", "tmp"):
            (folder / name).mkdir()
        self.wrapper = Wrapper.of(nix)
        paths = [self.wrapper.program.parent.parent, *(nix.package(name) for name in TOOLS)]
        command = ["nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs"]
        run(*command, "--to", folder, *paths)
        # The packages and the derivations that evaluation writes stay.
        self.run("nix-store", "--realise", paths[0], "--add-root", f"{folder}/roots/wrapper")
        attributes = [word for name in TOOLS for word in ("-A", name)]
        link = folder / "roots" / "package"
        self.run("nix-instantiate", nix.package_set, *attributes, "--add-root", f"{link}.drv")
        self.run("nix-build", nix.package_set, *attributes, "--out-link", link)

    def command(self, *words: object) -> list[str]:
        """Return the command line that runs `words` with this store."""
        return with_store(self.folder, *words)

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Nix uses this store and its own folder for builds."""
        # Two Nixes that build as the same users end each other's builds.
        settings = f"{os.environ.get('NIX_CONFIG', '')}\nsubstituters =\nbuild-users-group ="
        settings += "\nmax-jobs = 1"  # as by default: several builds meet more collections
        folder = {"TMPDIR": str(self.folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**os.environ, **folder, "NIX_CONFIG": settings}

    def run(self, *words: object) -> str:
        """Run a command with this store, which must succeed; return its output."""
        return run(*self.command(*words), env=self.environment).stdout
