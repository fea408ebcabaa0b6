"""The scripts of dev/: where something is missing they say so in one line, and install nothing."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path

import pytest

from nix import ROOT, attempt

# What dev/demo and dev/test run before they install anything.
PROGRAMS = "bash cat dirname getent grep id sed stat".split()

# An ordinary user, who reads the project even if it is root's.
USER = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
USER += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]


@pytest.fixture
def machine(short_folder: Path) -> Path:
    """A folder for PATH with few programs, in which apt-get and sudo leave a trace."""
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program
        (short_folder / name).symlink_to(program)
    (short_folder / "apt-get").write_text(f"#!/bin/sh\n: >{short_folder}/was-run\n")
    (short_folder / "apt-get").chmod(0o755)
    return short_folder


@pytest.mark.parametrize("script", ["check", "demo", "test"])
def test_help_installs_nothing(machine: Path, script: str) -> None:
    done = attempt(ROOT / "dev" / script, "--help", env={"PATH": str(machine)})
    assert done.returncode == 0 and f"  dev/{script} [" in done.stdout
    assert "CONTRIBUTING.md" in done.stdout
    assert not (machine / "was-run").exists()


def refusal(machine: Path, script: str, *folders: str) -> str:
    """Return the one line that a script says to an ordinary user of a machine with `folders`."""
    command: list[object] = ["bwrap", "--cap-add", "ALL", "--proc", "/proc", "--dev", "/dev"]
    for folder in ("/usr", "/bin", "/lib", "/lib64", "/etc", str(ROOT), str(machine), *folders):
        command += ["--ro-bind", folder, folder] if Path(folder).exists() else []
    command += ["--setenv", "PATH", machine, "--setenv", "HOME", "/nonexistent", "--"]
    setpriv = [shutil.which(USER[0]), *USER[1:]]
    done = attempt(*command, *setpriv, ROOT / "dev" / script)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert not (machine / "was-run").exists()
    (line,) = done.stderr.splitlines()
    return line


def test_the_tests_need_root(machine: Path) -> None:
    assert refusal(machine, "test").endswith("needs root, for containers and stores: sudo dev/test")


def test_who_cannot_install_is_told_what_to_ask_for(machine: Path) -> None:
    line = refusal(machine, "demo")
    assert line.startswith("demo: ask the administrator of this machine to run: apt-get ")
    assert line.endswith(" python3 nix-bin && install --directory --owner=nobody /nix")


def test_a_store_of_another_user_is_not_used(machine: Path) -> None:
    (machine / "nix-build").symlink_to("/bin/true")
    line = refusal(machine, "demo", "/nix")
    assert line.startswith("demo: /nix belongs to root, ") and "sudo dev/demo" in line


def test_where_nothing_can_be_mounted_the_tests_say_so(machine: Path) -> None:
    (machine / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (machine / "unshare").chmod(0o755)
    done = attempt(ROOT / "dev" / "test", env={"PATH": str(machine)})
    assert done.returncode == 2 and not (machine / "was-run").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "test: nothing can be mounted here, as in a chroot: bind its folder to it"
    )


def test_an_option_that_the_demo_does_not_have_is_one_line(machine: Path) -> None:
    done = attempt(ROOT / "dev" / "demo", "--pakage", "git", env={"PATH": str(machine)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("demo: unknown option --pakage: see dev/demo --help\n")


def test_a_cache_that_cannot_be_written_is_one_line() -> None:
    fetch = ROOT / "tests" / "packages" / "fetch"
    done = attempt(fetch, env={**os.environ, "XDG_CACHE_HOME": "/proc"})
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("fetch: ") and "/proc/nixery-packages" in line


def test_settings_of_the_demo_stay_for_nix_by_hand(tmp_path: Path) -> None:
    """Unless the user has a file of settings, which is left alone."""
    script = f"cd {ROOT}; . dev/prepare.sh; settings=('build-users-group ='); keep_settings"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}

    def keep() -> str:
        done = attempt("bash", "-euo", "pipefail", "-c", script, "demo", env=environment)
        assert done.returncode == 0
        return done.stderr

    file = tmp_path / ".config" / "nix" / "nix.conf"
    features = "experimental-features = nix-command flakes"
    assert keep().startswith(f"demo: wrote {file}, ")
    assert file.read_text() == f"build-users-group =\n{features}\n"
    assert keep() == ""
    file.write_text("cores = 1\n")
    lines = f"build-users-group =; {features}"
    assert keep() == f"demo: for Nix by hand, write these lines into {file}: {lines}\n"
    assert file.read_text() == "cores = 1\n"


@pytest.mark.parametrize(
    ("language", "text", "mutated"),
    [
        (
            "PYTHON",
            'run("a b", cwd=x)\n',
            ["pass\n", 'run("a b", )\n'],
        ),
        (
            "PYTHON",
            'return "c" if not x else y[0] < 2  # d > 3\n',
            [
                'return "cx" if not x else y[0] < 2  # d > 3\n',
                'return "c" if  x else y[0] < 2  # d > 3\n',
                'return "c" if not x else y[1] < 2  # d > 3\n',
                'return "c" if not x else y[0] <= 2  # d > 3\n',
                'return "c" if not x else y[0] < 3  # d > 3\n',
            ],
        ),
        (
            "NIX",
            "if a then [ b ''c ${d \"e\"}'' ] else f.g or \"h i\" # 1 && 2",
            [
                "if ! (a) then [ b ''c ${d \"e\"}'' ] else f.g or \"h i\" # 1 && 2",
                "if a then [  ''c ${d \"e\"}'' ] else f.g or \"h i\" # 1 && 2",
                'if a then [ b  ] else f.g or "h i" # 1 && 2',
                "if a then [ b ''c ${d \"ex\"}'' ] else f.g or \"h i\" # 1 && 2",
                "if a then [ b ''c ${d \"e\"}'' ] else f.g and \"h i\" # 1 && 2",
                "if a then [ b ''c ${d \"e\"}'' ] else f.g  # 1 && 2",
            ],
        ),
    ],
)
def test_mutations_change_one_place_of_code(language: str, text: str, mutated: list[str]) -> None:
    """And neither messages nor comments."""
    mutate = runpy.run_path(str(ROOT / "dev" / "mutate"))
    found = mutate["find_mutations"](text, mutate[language])
    assert [text[:start] + written + text[end:] for start, end, written in found] == mutated


def test_each_file_that_is_mutated_has_tests() -> None:
    for name, tests in runpy.run_path(str(ROOT / "dev" / "mutate"))["TESTS"].items():
        assert (ROOT / name).exists()
        for test in tests.split():
            module, _, group = test.partition("::")
            file = next(ROOT.glob(f"tests/*/test_{module}.py"))
            assert f"class {group}" in file.read_text() or not group
