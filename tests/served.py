"""Call the wrapper `nixery-build-image` as a server does."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nix import ROOT, TIMEOUT, Nix


def set_argument(package_set: Path) -> str:
    """Return the Nix text that loads the package set, with the Nix that is tested as its `nix`."""
    if "NIX_BIN_DIR" not in os.environ:
        return f"import {package_set} {{ }}"
    folder = Path(os.environ["NIX_BIN_DIR"]).parent
    return f'import {package_set} {{ overlays = [ (_: _: {{ nix = "{folder}"; }}) ]; }}'


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

    def command(self, packages: object, *words: object, **arguments: object) -> list[str]:
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
        **arguments: object,
    ) -> subprocess.CompletedProcess[str]:
        """Run it in an empty environment, or as `options` of subprocess.run say."""
        return subprocess.run(
            self.command(packages, *words, **arguments),
            **{
                "env": {},
                "text": True,
                "capture_output": True,
                "timeout": TIMEOUT,
                **(options or {}),
            },
        )

    def answer(self, packages: object, *words: object, **arguments: object) -> dict[str, Any]:
        """Run it and return the answer, which it must have."""
        done = self.call(packages, *words, **arguments)
        assert done.returncode == 0, done.stderr
        (path,) = done.stdout.splitlines()
        return json.loads(Path(path).read_bytes())

    def failure(self, packages: object, *words: object, **arguments: object) -> str:
        """Run it, which must fail, and return what its last line says."""
        done = self.call(packages, *words, **arguments)
        assert done.returncode != 0 and done.stdout == ""
        last = done.stderr.splitlines()[-1]
        assert last.startswith("nixery-build-image: ")
        return last.partition(": ")[2]
