"""The contract of the wrapper that registry servers call."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from kill_loop import descendants, start_of

from group_layers import format_bytes
from nix import ROOT, Nix, attempt, run
from served import Wrapper, settings


@pytest.fixture(scope="module")
def wrapper(nix: Nix) -> Wrapper:
    """The wrapper, with the package set and beside it what cannot be had."""
    return Wrapper.of(nix)


@pytest.fixture(scope="module")
def odd(wrapper: Wrapper, tmp_path_factory: pytest.TempPathFactory) -> Wrapper:
    """The wrapper with the odd packages beside the others."""
    folder = tmp_path_factory.mktemp("odd")
    text = f'import "{ROOT}/tests/support/odd-packages.nix" {wrapper.package_set}\n'
    (folder / "default.nix").write_text(text)
    return Wrapper(wrapper.program, folder)


# ---------------------------------------------------------------------------------------- answers


def test_prints_one_store_path_and_nothing_else(wrapper: Wrapper, tmp_path: Path) -> None:
    done = wrapper.call(["hello"], name="a/b", tag="c", maxLayers="7", system="x86_64-linux")
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.splitlines()
    answer = json.loads(Path(path).read_bytes())
    assert set(answer) == {"manifest", "layerLocations"}
    assert len(answer["manifest"]["layers"]) <= 7


@pytest.mark.parametrize(("arguments", "vendor"), [({}, "docker"), ({"mediaTypes": "oci"}, "oci")])
def test_media_types(wrapper: Wrapper, arguments: dict[str, str], vendor: str) -> None:
    manifest = wrapper.answer(["hello"], **arguments)["manifest"]
    each = [manifest, manifest["config"], *manifest["layers"]]
    assert {part["mediaType"].split(".")[1] for part in each} == {vendor}


def test_popularity_url_and_other_options_of_nix_build(wrapper: Wrapper, tmp_path: Path) -> None:
    (tmp_path / "popularity.json").write_text("{}")
    link = tmp_path / "answer"
    answer = wrapper.answer(
        ["hello"],
        *("--out-link", link, "--timeout", "100", "-j", "2", "--option", "cores", "1"),
        popularityUrl=f"file://{tmp_path}/popularity.json",
    )
    assert json.loads((tmp_path / "answer-answer").read_bytes()) == answer


def test_unknown_and_unavailable_packages_are_an_answer(odd: Wrapper) -> None:
    # `hello` exists, and is not named.
    names = ["nothing", "broken", "hello", "lib", "number", "function", "unfree", "lib.id"]
    assert odd.answer(names) == {
        "error": "not_found",
        "pkgs": ["nothing", "broken", "lib", "number", "function", "unfree", "lib.id"],
        "unavailable": [
            {"name": "broken", "reason": "is marked as broken"},
            {"name": "unfree", "reason": "is unfree"},
        ],
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "is marked as broken"),
        ("unfree", "is unfree"),
        ("partlyUnfree", "is unfree"),
        ("insecure", "is insecure"),
        ("elsewhere", "is not available for x86_64-linux"),
        ("removed", "cannot be evaluated (-A image says why)"),
        ("asserting", "cannot be evaluated (-A image says why)"),
        ("nameless", "cannot be evaluated (-A image says why)"),
    ],
)
def test_why_a_package_is_unavailable(odd: Wrapper, name: str, reason: str) -> None:
    assert odd.answer(["hello", name], system="x86_64-linux") == {
        "error": "not_found",
        "pkgs": [name],
        "unavailable": [{"name": name, "reason": reason}],
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aborting", "everything stops"),
        ("illTyped", "cannot add"),
        ("infinite", "infinite recursion"),
        ("deep", "stack overflow"),
        ("missing", "attribute 'nothing' missing"),
    ],
)
def test_what_cannot_be_caught_names_the_package(odd: Wrapper, name: str, reason: str) -> None:
    last = odd.failure([name])
    assert reason in last and name in last


def test_last_line_has_the_last_line_of_the_log(odd: Wrapper) -> None:
    last = odd.failure(["hello", "failing"])
    assert "-failing.drv" in last and last.endswith("exit code 3: last line")


def test_timeout(odd: Wrapper) -> None:
    last = odd.failure(["sleeping"], "--timeout", "1")
    assert "-sleeping.drv" in last and "timed out after 1 seconds" in last


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--no-such-option", "no-such-option"),
        ("--argstr maxLayers", "'--argstr' requires "),
        ("--argstr srcType wrong", "srcType must be 'nixpkgs', 'git' or 'path', not \"wrong\""),
        (
            "--argstr packages git",
            "packages is not JSON: Expecting value at line 1, column 1: wr",
        ),
        ("--argstr packages []", "packages is empty"),
        ("--argstr packages [1]", "packages must be a JSON array of strings such as '["),
        ('--argstr packages ["git"]]', "packages is not JSON: Extra data at line 1, column 8"),
        ('--argstr packages ["hello\\u0000"]', "packages is not JSON: a string has \\u0000"),
        ("--argstr maxLayers 0", "maxLayers must be"),
        ("--argstr mediaTypes podman", 'mediaTypes must be "docker" or "oci", not "podman"'),
        ("--argstr importArgs notjson", "importArgs is not JSON: "),
        ("--argstr importArgs []", "importArgs must be a set, or a JSON object such as '{"),
        (
            '--argstr importArgs {"a":}',
            "importArgs is not JSON: Expecting value at line 1, col",
        ),
        ("--argstr popularity a.json", "popularity must be an absolute path or a derivation, not"),
        ("--argstr srcArgs here", "srcArgs for srcType 'path' must be the absolute path of a pack"),
        (
            "--argstr pkgSource path!/set",
            "there is no argument pkgSource; the arguments are contents, impo",
        ),
        ("--argstr maxLayerz 7", "there is no argument maxLayerz (did you mean maxLayers?)"),
        ("--arg package []", "there is no argument package (did you mean packages?)"),
        ("--argstr srcArgs /no/such/set", "'/no/such/set'"),
    ],
)
def test_wrong_arguments(wrapper: Wrapper, words: str, reason: str) -> None:
    assert reason in wrapper.failure(["hello"], *words.split(" "))


def test_json_that_is_none_never_reaches_nix(wrapper: Wrapper) -> None:
    done = wrapper.call(["hello"], "--argstr", "packages", "[git]")
    sentence = "packages is not JSON: Expecting value at line 1, column 2: write it as in"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'nixery-build-image: {sentence} ["git", "curl"]\n'


@pytest.mark.parametrize(
    "name", ["a\nnixery-build-image: 3 blobs", "a\x1b[2J\x07", "a\u2028b", "a\rb", "a\x9b2J"]
)
def test_names_forge_no_line_and_reach_no_terminal(wrapper: Wrapper, name: str) -> None:
    done = wrapper.call([name])
    assert json.loads(Path(done.stdout.strip()).read_bytes())["pkgs"] == [name]
    lines = done.stderr.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("nixery-build-image: ")] == lines[-1:]
    assert lines[-1].startswith("nixery-build-image: no image, not_found: a")


def test_git_revision_that_does_not_exist_is_no_packages_fault(
    wrapper: Wrapper, tmp_path: Path
) -> None:
    run("git", "init", "--quiet", tmp_path)
    arguments = json.dumps({"url": f"file://{tmp_path}", "ref": "nowhere"})
    with_git = {"env": {**settings(), "PATH": os.environ["PATH"]}}
    last = wrapper.failure(["hello"], srcType="git", srcArgs=arguments, options=with_git)
    assert last.startswith("package set: ") and "nowhere" in last and "hello" not in last


def test_builder_that_misses_a_store_path_fails_once(odd: Wrapper) -> None:
    """Nix itself misses what is collected as it looks; then the wrapper tries again."""
    done = odd.call(["missingStorePath"])
    assert done.stderr.splitlines()[-1].endswith("-gone: No such file or directory")
    assert sum("building '" in line for line in done.stderr.splitlines()) == 1


@pytest.mark.parametrize("packages", [["noisy"], ["noisy", "failing"]])
def test_progress_that_nobody_reads_holds_nothing_up(odd: Wrapper, packages: list[str]) -> None:
    """Nixery's server of 2019 reads the answer first. Nix says more here than fits into a pipe."""
    process = subprocess.Popen(
        odd.command(packages),
        env=settings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    answers = process.stdout.read().splitlines()
    assert len(process.stderr.read()) > 100_000
    if "failing" in packages:
        assert answers == [] and process.wait() == 100
    else:
        assert len(answers) == 1 and process.wait() == 0


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")],
)
def test_answer_that_cannot_be_written_is_a_failure(
    wrapper: Wrapper, redirection: str, reason: str
) -> None:
    script = f'exec "$@" {redirection}'
    done = attempt("sh", "-c", script, "sh", *wrapper.command(["hello"]), env=settings())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"nixery-build-image: cannot write the answer to standard output: {reason}"
    )


def test_closed_standard_error_does_not_matter(wrapper: Wrapper) -> None:
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *wrapper.command(["hello"])]
    assert run(*command, env=settings()).stdout == wrapper.call(["hello"]).stdout


def test_help_names_the_arguments(wrapper: Wrapper) -> None:
    assert run(wrapper.program, "--help").stdout.startswith("Build the image of some packages")


def test_version_is_the_project_s(wrapper: Wrapper) -> None:
    version = (ROOT / "VERSION").read_text().strip()
    assert run(wrapper.program, "--version").stdout == f"nixery-build-image {version}\n"
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_last_line_says_how_much_of_the_image_is_new(wrapper: Wrapper, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "default.nix").write_text(
        f"""arguments: let pkgs = import {wrapper.package_set} arguments; in pkgs // {{
          fresh = pkgs.runCommand "fresh" {{ }} "mkdir $out; echo {time.time_ns()} >$out/file";
        }}"""
    )
    for new in (2, 0):  # the package's layer and the root's
        done = wrapper.call(["fresh"], srcArgs=tmp_path / "set")
        answer = json.loads(Path(done.stdout.strip()).read_bytes())
        size = sum(blob["size"] for blob in answer["layerLocations"].values())
        assert done.stderr.splitlines()[-1] == (
            f"nixery-build-image: {len(answer['layerLocations'])} blobs, {format_bytes(size)}; "
            f"layers that are new in this store: {new}"
        )


def test_store_paths_of_an_answer_stay_while_it_is_held(wrapper: Wrapper, tmp_path: Path) -> None:
    link = tmp_path / "link"
    answer = wrapper.answer(["hello"], "--out-link", link)
    needed = run("nix-store", "--query", "--requisites", f"{link}-answer").stdout.split()
    for location in answer["layerLocations"].values():
        assert any(location["path"].startswith(path) for path in needed)


# --------------------------------------------------------------------------------- where it runs


def test_is_the_same_program_whatever_else_lies_in_the_folder(nix: Nix, tmp_path: Path) -> None:
    tracked = run("git", "-C", ROOT, "ls-files", "*.nix", "*.py").stdout.splitlines()
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    words = ("-A", "nixery-build-image", "--arg", "pkgs", f"import {nix.package_set} {{ }}")
    derivation = run("nix-instantiate", tmp_path, *words).stdout
    for name in ("build-image/__pycache__/x.pyc", "build-image-2/x", "x", "result/build-image/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert run("nix-instantiate", tmp_path, *words).stdout == derivation


def copy_of_set(wrapper: Wrapper, folder: Path) -> Path:
    """Make `folder` a copy of the package set, with hard links where that can be."""

    def copy(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy(source, target)

    return shutil.copytree(wrapper.package_set, folder, copy_function=copy)


def test_from_a_folder_that_is_gone(wrapper: Wrapper, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f'cd {tmp_path}/gone; rmdir ../gone; exec "$@"'
    run("sh", "-c", script, "sh", *wrapper.command(["hello"]), env=settings())


def test_with_a_read_only_home(wrapper: Wrapper, tmp_path: Path) -> None:
    """Nix keeps what it downloads in the home, if it can."""
    (tmp_path / "popularity.json").write_text('{"no-such-name": 1}')
    (tmp_path / "home").mkdir()
    url = f"file://{tmp_path}/popularity.json"
    script = f'mount -t tmpfs -o ro tmpfs {tmp_path}/home && exec "$@"'
    command = wrapper.command(["hello"], popularityUrl=url)
    environment = {**settings(), "HOME": f"{tmp_path}/home", "PATH": os.environ["PATH"]}
    run("unshare", "--mount", "sh", "-c", script, "sh", *command, env=environment)
    assert list((tmp_path / "home").iterdir()) == []


def test_restricted_evaluation(wrapper: Wrapper, tmp_path: Path) -> None:
    """The wrapper names its files and those of its arguments, and nothing else can be read."""
    restricted = ("--option", "restrict-eval", "true")
    folder = copy_of_set(wrapper, tmp_path / "a=b c")
    files = {"popularity": tmp_path / "popularity.json", "known": tmp_path / "known.json"}
    for file in files.values():
        file.write_text("{}")
    assert "manifest" in wrapper.answer(["hello"], *restricted, srcArgs=folder, **files)
    (tmp_path / "outside.nix").write_text(f"import {wrapper.package_set}")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "default.nix").write_text("import ../outside.nix")
    assert "outside.nix" in wrapper.failure(["hello"], *restricted, srcArgs=tmp_path / "set")


@pytest.fixture(scope="module")
def daemon() -> Iterator[dict[str, str]]:
    """A Nix daemon; the environment in which a client finds it."""
    # Not pytest's folder, which only root may enter; short, as a socket's path has to be.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        socket = f"{folder}/socket"
        environment = {"NIX_DAEMON_SOCKET_PATH": socket, "NIX_REMOTE": "daemon"}
        server = subprocess.Popen(
            ["nix-daemon"],
            # By any other name for its own store a daemon that may not write there asks the one
            # at the socket: itself, and so on for ever.
            env={**os.environ, **environment, "NIX_REMOTE": "local"},
            stderr=subprocess.DEVNULL,
        )
        while not os.path.exists(socket):
            assert server.poll() is None
            time.sleep(0.1)
        yield environment
        server.terminate()
        server.wait()


def test_a_stranger_under_the_daemon(wrapper: Wrapper, daemon: dict[str, str]) -> None:
    """A user whom the machine does not know, with no home, in a folder that is root's."""
    # It may read what lies in root's home, as the tests' package set does here.
    reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    command = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *reading]
    command += wrapper.command(["hello", "jq"])
    environment = {**daemon, "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    done = run(*command, env=environment, cwd="/")
    assert json.loads(Path(done.stdout.strip()).read_bytes()) == wrapper.answer(["hello", "jq"])


def test_failures_under_the_daemon(odd: Wrapper, daemon: dict[str, str]) -> None:
    done = odd.call(["failing"], options={"env": daemon})
    assert done.stderr.splitlines()[-1].endswith("exit code 3: last line")


# --------------------------------------------------------------------------------------- signals


def sleeping(pids: Iterable[int]) -> list[int]:
    """Return those of the processes that are the builder of `sleeping`."""
    found = []
    for pid in pids:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"sleep") and words[1:2] == [b"600"]:
            found.append(pid)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_the_builds(odd: Wrapper, number: signal.Signals) -> None:
    process = subprocess.Popen(
        odd.command(["sleeping"]),
        env=settings(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    for line in process.stderr:
        if "-sleeping.drv" in line and line.startswith("building"):
            break
    while not (builders := sleeping(descendants(process.pid))):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    rest = process.stderr.read()
    output = process.stdout.read()
    status = process.wait()
    assert output == ""
    if number == signal.SIGKILL:
        assert status == -number
    else:
        assert status == 128 + number
        assert rest.splitlines()[-1] == f"nixery-build-image: ended by {number.name}"
    for _ in range(600):
        if not sleeping(builders):
            return
        time.sleep(0.1)
    raise AssertionError("the builder is still there")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_a_git_that_waits_for_its_server(
    wrapper: Wrapper, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        arguments = json.dumps({"url": f"git://127.0.0.1:{port}/packages", "ref": "main"})
        process = subprocess.Popen(
            wrapper.command(["hello"], srcType="git", srcArgs=arguments),
            env={**settings(), "PATH": os.environ["PATH"]},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        connection, _ = silent.accept()
        below = {pid: start_of(pid) for pid in descendants(process.pid)}
        process.send_signal(number)
        process.wait()
        connection.settimeout(60)
        while connection.recv(1000):  # until git has gone
            pass
    wait_for_ends(below)


def wait_for_ends(processes: dict[int, str]) -> None:
    """Wait until processes have ended, given with when they began."""
    for _ in range(600):
        alive = [pid for pid, start in processes.items() if start and start_of(pid) == start]
        if not alive:
            return
        time.sleep(0.1)
    commands = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in alive]
    raise AssertionError(f"still there: {commands}")


def adopt_orphans(yes: bool) -> None:
    """Become the parent of orphans in process 1's place, one that waits for none of them."""
    PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) == 0


def test_killed_program_goes_on_ending_nix(tmp_path: Path) -> None:
    """Nix can miss a signal, as this one misses two; and nobody waits for it when it has ended."""
    nix = tmp_path / "nix-build"
    nix.write_text(
        "#!/bin/bash\n"
        "trap 'let heard+=1; ((heard < 3)) || exit' TERM\n"
        "echo $$ >&2\n"
        "while :; do sleep 0.1; done\n"
    )
    nix.chmod(0o755)
    command = [
        sys.executable,
        str(ROOT / "build-image" / "programs" / "nixery_build_image.py"),
        str(nix),
        str(tmp_path),
    ]
    adopt_orphans(True)
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    process.stderr.readline()
    below = {pid: start_of(pid) for pid in descendants(process.pid)}
    process.kill()
    process.communicate()
    try:
        wait_for_ends(below)
    finally:
        adopt_orphans(False)
