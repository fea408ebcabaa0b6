"""Download packages of any Debian release on any Debian machine, without changing the machine.

`Apt` is apt-get with sources, lists, downloads and installed packages of its own, in one folder. Of
the machine's settings, it uses those for reaching a mirror: address, proxies, keys. No
root is needed.

    apt = Apt(folder, ["bookworm"])
    files = apt.download(["git"])          the .deb files of git and of all that it needs
    extract(files, folder / "root")        their files, below one folder

    apt = Apt(folder, ["bookworm", "bookworm-security"])
    apt.lists()                            [("bookworm", "Package: 0ad\n..."), ...]

All raise `AptError`, whose message is one line.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Apt", "AptError", "extract", "read_control", "say"]

SUITES = re.compile(
    r"(bullseye|bookworm|trixie|forky|sid|unstable|testing|(old)*stable)(-security)?"
)
KEYRINGS = [f"/usr/share/keyrings/debian-archive-keyring.{end}" for end in ("pgp", "gpg")]

SETTINGS = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root"; // the unprivileged user can't write here
APT::Update::Error-Mode "any";
Acquire::Check-Valid-Until "false"; // a mirror's copy of a release may be an old one
Acquire::Languages "none";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/debs";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
"""
INSTALLED = """\
Package: {name}
Status: install ok installed
Architecture: all
Version: 99:1
Description: -

"""


class AptError(Exception):
    """A program of Debian's failed, or is not there; the message says which, and why."""


def say(text: str) -> None:
    """Tell the user what the program is about to do."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)


def extract(files: Iterable[Path], folder: Path) -> None:
    """Unpack the files of Debian packages below `folder`."""
    for file in files:
        _run("dpkg-deb", "--extract", file, folder)


def read_control(file: Path) -> dict[str, str]:
    """Return the fields that describe a Debian package, of each the first line."""
    return dict(re.findall(r"^([\w-]+): *(.*)$", _run("dpkg-deb", "--field", file), re.MULTILINE))


class Apt:
    """apt-get for the packages of `suites`, with all that it keeps in `folder`.

    `installed` are packages to be taken for installed: they are not downloaded.
    """

    def __init__(self, folder: Path, suites: Iterable[str], installed: Iterable[str] = ()) -> None:
        self.folder = folder
        for name in ("debs/partial", "state/lists/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        keyring = next((f"[signed-by={file}] " for file in KEYRINGS if Path(file).exists()), "")
        known = _sites()
        lines = [f"deb {keyring}{_site(suite, known)} {suite} main\n" for suite in suites]
        (folder / "sources.list").write_text("".join(lines))
        (folder / "apt.conf").write_text(SETTINGS.format(folder=folder))
        status = "".join(INSTALLED.format(name=name) for name in installed)
        (folder / "state" / "status").write_text(status)

    def update(self) -> None:
        """Fetch the suites' lists of packages."""
        self._get("update")

    def lists(self) -> list[tuple[str, str]]:
        """Return each suite with its list of packages, in the format of Debian's archives.

        The lists are fetched if they are not there; `update` fetches them again.
        """
        if not self._list_files():
            self.update()
        return [
            (suite, _run("/usr/lib/apt/apt-helper", "cat-file", file))
            for suite, file in self._list_files()
        ]

    def _list_files(self) -> list[list[str]]:
        # apt-get names none as long as a suite's own file is not there.
        form = ["--format", "$(RELEASE) $(FILENAME)", "Created-By: Packages"]
        return [line.split(" ", 1) for line in self._get("indextargets", *form).splitlines()]

    def download(self, packages: Iterable[str]) -> list[Path]:
        """Download packages and all that they depend on; return the .deb files of all of them.

        Files that are there already are kept, and the lists of packages are used as they are unless
        they turn out to be too old.
        """
        install = ["--yes", "--no-install-recommends", "install", *packages]
        for is_last in (False, True) if self._list_files() else (True,):
            if is_last:
                say("fetching the list of packages, 10 MB")
                self.update()
            try:
                # Asked about an empty folder, apt names every file, also those that are here.
                with tempfile.TemporaryDirectory() as empty:
                    there = f"Dir::Cache::archives={empty}"
                    uris = self._get("-o", there, "--print-uris", *install)
                rows = [line.split() for line in uris.splitlines() if line.startswith("'")]
                files = [self.folder / "debs" / row[1] for row in rows]
                missing = [int(row[2]) for row, file in zip(rows, files) if not file.exists()]
                if missing:
                    size = f"{len(missing)} packages, {sum(missing) / 1e6:.1f} MB"
                    say(f"downloading {size}, into {self.folder / 'debs'}")
                    self._get("--download-only", *install)
                return files
            except AptError:
                if is_last:
                    raise
        raise AssertionError("unreachable")

    def _get(self, *arguments: str) -> str:
        return _run("apt-get", "-q", "-c", self.folder / "apt.conf", *arguments)


def _sites() -> dict[str, str]:
    """Return the addresses of the suites in the machine's own sources, whatever their form."""
    uris = _run("apt-get", "update", "--print-uris")
    return {suite: site for site, suite in re.findall(r"'(\S+)/dists/([^/]+)/InRelease'", uris)}


def _site(suite: str, known: dict[str, str]) -> str:
    """Return the address to take a suite from: its own, or that of another on the same mirror.

    Raises AptError if the machine's sources have no suite of Debian.
    """
    if suite in known:
        return known[suite]
    is_security = suite.endswith("-security")
    sites = {
        other.endswith("-security"): site
        for other, site in known.items()
        if re.fullmatch(SUITES, other)
    }
    if is_security in sites:
        return sites[is_security]
    if is_security and sites:
        return sites[False].rstrip("/") + "-security"  # mirrors have both side by side
    raise AptError(f"apt's sources name no mirror of Debian: add one that has {suite}")


def _run(*command: str | Path) -> str:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise AptError(f"{words[0]}: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        reason = next((line[3:] for line in lines if line.startswith("E: ")), lines[-1])
        raise AptError(f"{Path(words[0]).name}: {reason}")
    return done.stdout
