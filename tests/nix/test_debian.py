"""dev/debian.py: apt with sources of its own, on whatever machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from debian import Apt, AptError

DEB822 = """\
Types: deb
URIs: mirror+file:/etc/apt/mirrors/debian.list
Suites: trixie trixie-updates
Components: main

Types: deb
URIs: https://mirror.example.org/security
Suites: trixie-security
Components: main
"""
SID = "deb [arch=amd64] http://mirror.example.org/debian sid main contrib\n"
OTHERS = "deb https://packages.example.org/apt nodistro main\n"


def sources_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, machine: str, *suites: str
) -> list[tuple[str, str]]:
    """Return address and suite of each source of an `Apt`, on a machine with the sources given."""
    (folder / name).write_text(machine)
    settings = f'Dir::Etc::sourcelist "{folder / name}"; Dir::Etc::sourceparts "/dev/null";'
    (folder / "machine.conf").write_text(f'{settings} Dir::State::Lists "{folder}/none";')
    (folder / "none" / "partial").mkdir(parents=True)
    monkeypatch.setenv("APT_CONFIG", str(folder / "machine.conf"))
    Apt(folder / "apt", suites)
    lines = (folder / "apt" / "sources.list").read_text().splitlines()
    return [(url, suite) for *_, url, suite, _ in map(str.split, lines)]


@pytest.mark.parametrize(
    ("name", "machine", "mirror", "security"),
    [
        (
            *("a.sources", DEB822, "mirror+file:/etc/apt/mirrors/debian.list"),
            "https://mirror.example.org/security",
        ),
        (
            *("a.list", OTHERS + SID, "http://mirror.example.org/debian"),
            "http://mirror.example.org/debian-security",
        ),
    ],
)
def test_another_release_comes_from_the_mirror_of_the_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    machine: str,
    mirror: str,
    security: str,
) -> None:
    suites = ("bookworm", "bookworm-security")
    assert sources_of(tmp_path, monkeypatch, name, machine, *suites) == [
        (mirror, "bookworm"),
        (security, "bookworm-security"),
    ]


def test_a_suite_of_the_machine_comes_from_where_the_machine_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = SID + "deb http://other.example.org/debian trixie main\n"
    found = sources_of(tmp_path, monkeypatch, "a.list", machine, "trixie")
    assert found == [("http://other.example.org/debian", "trixie")]


def test_a_machine_without_a_mirror_of_debian_is_told_to_add_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AptError, match=r"name no mirror of Debian: add one that has bookworm$"):
        sources_of(tmp_path, monkeypatch, "a.list", OTHERS, "bookworm")


def test_what_apt_cannot_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources_of(tmp_path, monkeypatch, "a.list", f"deb file://{tmp_path}/empty trixie main\n")
    with pytest.raises(AptError, match=r"^apt-get: [^\n]*empty[^\n]*$"):
        Apt(tmp_path / "apt", ["trixie"]).update()
