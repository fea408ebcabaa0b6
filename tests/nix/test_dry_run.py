"""What changes: `copy-to --dry-run` beside the push that follows, and `changesFrom`."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containers import container_home
from daemons import run_docker
from docker_registry import DockerRegistry, run_registry
from group_layers import format_bytes
from nix import Nix, attempt, run
from revisions import delete_layers, with_new_page

PLAIN = "--dest-tls-verify=false"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A registry that skopeo has no memory of."""
    (tmp_path / "registry").mkdir()
    with run_registry(tmp_path / "registry") as registry:
        yield registry


def revision(version: str) -> str:
    """Return Nix text: an image with an application that needs a library of that version."""
    return f"""(let
      named = name: text: derivation {{
        inherit name text;
        system = builtins.currentSystem;
        builder = "${{pkgs.bash}}/bin/bash";
        args = [ "-c" "echo $text >$out" ];
      }};
      words = named "words-{version}" "{version}";
      app = named "app-1.0" "${{words}}";
      site = named "site" "${{app}}";
    in buildImage {{
      name = "app";
      tag = "latest";
      contents = [ pkgs.hello app site {"pkgs.tree" if version == "1.1" else ""} ];
      layers = [ [ words ] [ app ] ];
    }})"""


def program(nix: Nix, expression: str) -> Path:
    return nix.build(*nix.expression(f"({expression}).copyTo")).path / "bin" / "copy-to"


def ask(program: Path, *words: object) -> list[dict[str, Any]]:
    """Run a dry run; return its report for each image."""
    lines = run(program, *words, PLAIN, "--dry-run", "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def sent(stderr: str) -> list[tuple[int, str]]:
    """Return what pushes said that they sent: layers, and bytes for people."""
    found = re.findall(r": sent (\d+) of \d+ layers, (.*)$", stderr, re.MULTILINE)
    return [(int(layers), size) for layers, size in found]


def predicted(reports: list[dict[str, Any]]) -> list[tuple[int, str]]:
    sends = [report["send"] for report in reports]
    return [(send["layers"], format_bytes(send["bytes"])) for send in sends]


class TestDryRun:
    def test_predicts_what_the_push_then_sends_and_sends_nothing(self, nix, registry):
        there = registry.reference("app:latest")
        for version in "1.0", "1.1":
            copy_to = program(nix, revision(version))
            before = registry.uploads
            (report,) = ask(copy_to, there)
            assert registry.uploads == before
            layers = {layer["digest"]: layer for layer in report["layers"]}
            missing = [layer["size"] for layer in layers.values() if not layer["there"]]
            assert report["send"] == {"layers": len(missing), "bytes": sum(missing)}
            pushed = run(copy_to, there, PLAIN)
            assert sent(pushed.stderr) == predicted([report])
            assert registry.uploads == before + len(missing) + 1
            assert ask(copy_to, there)[0]["send"] == {"layers": 0, "bytes": 0}

    def test_names_what_differs_from_the_image_under_the_tag_and_why(self, nix, registry):
        there = registry.reference("app:latest")
        run(program(nix, revision("1.0")), there, PLAIN)
        copy_to = program(nix, revision("1.1"))
        (report,) = ask(copy_to, there)
        packages = report["packages"]
        (changed,) = packages["changed"]
        assert (changed["name"], changed["old"], changed["new"]) == ("words", ["1.0"], ["1.1"])
        assert {path.partition("-")[2] for path in changed["rebuilt"]} == {"app-1.0", "site"}
        assert [entry["name"] for entry in packages["new"]] == ["tree"]
        text = run(copy_to, there, PLAIN, "--dry-run").stdout
        assert "- words 1.0 -> 1.1, and 2 paths rebuilt for it\n" in text
        assert "- tree 2" in text and " is new\n" in text
        assert re.search(r"^\| \d+ \| .* \| words 1\.1 \|$", text, re.MULTILINE)
        # All layers above the first that differs, for a host that keeps chains of them
        first = next(row["number"] for row in report["layers"] if not row["there"])
        above = [row["size"] for row in report["layers"] if row["number"] >= first]
        pulled = report["pullByPrefix"]["linux/amd64"]
        assert pulled == {"layers": len(above), "bytes": sum(above)}

    def test_leaves_no_trace_in_a_registry_that_has_the_layers_under_another_name(
        self, nix, registry
    ):
        copy_to = program(nix, revision("1.0"))
        run(copy_to, registry.reference("app:latest"), PLAIN)
        (report,) = ask(copy_to, registry.reference("other:latest"))
        assert report["packages"] is None
        assert report["send"]["layers"] == len(report["layers"])
        with urllib.request.urlopen(f"http://{registry.address}/v2/_catalog") as response:
            assert json.load(response) == {"repositories": ["app"]}
        text = run(copy_to, registry.reference("other:latest"), PLAIN, "--dry-run").stdout
        assert "There is no older image." in text

    def test_needs_no_layer_on_this_machine(self, nix, registry):
        arguments = with_new_page()
        copy_to = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        layers = delete_layers(nix, arguments)
        (report,) = ask(copy_to, registry.reference("page:1"))
        assert report["send"]["layers"] > 0
        assert not any(layer.exists() for layer in layers)

    def test_of_a_fleet_has_a_report_for_each_image(self, nix, registry):
        fleet = """buildImages {
          images.web.contents = [ pkgs.hello ];
          images.worker.contents = [ pkgs.hello pkgs.tree ];
        }"""
        copy_to = program(nix, fleet)
        there = registry.reference("team")
        reports = ask(copy_to, there)
        assert [report["image"] for report in reports] == ["web", "worker"]
        assert sent(run(copy_to, there, PLAIN).stderr) == predicted(reports)

    def test_of_an_index_has_all_platforms(self, nix, registry):
        def index(contents: str) -> str:
            return f"""buildIndex {{
              name = "both";
              images = [
                (buildImage {{ name = "a"; contents = [ pkgs.hello ]; }})
                (buildImage {{ name = "b"; architecture = "arm64"; contents = [ {contents} ]; }})
              ];
            }}"""

        there = registry.reference("both:1")
        for contents in "pkgs.tzdata", "pkgs.tzdata pkgs.hello", "pkgs.tree":
            copy_to = program(nix, index(contents))
            (report,) = ask(copy_to, there)
            assert set(report["pull"]) == {"linux/amd64", "linux/arm64"}
            assert sent(run(copy_to, there, PLAIN).stderr) == predicted([report])
        assert [entry["name"] for entry in report["packages"]["gone"]] == ["tzdata"]
        assert report["pull"]["linux/amd64"]["layers"] == 0

    def test_logs_in_as_a_push_does(self, nix, tmp_path):
        # As `htpasswd -B` writes it
        hashed = "user:$2b$05$.VzdPS/aqJ9rwnTZfX8VMOh1FmUo7wBsp3JHyFKeftCZHlSsyCrzC"
        (tmp_path / "htpasswd").write_text(hashed + "\n")
        wanted = f"auth: {{htpasswd: {{realm: here, path: {tmp_path}/htpasswd}}}}\n"
        copy_to = program(nix, revision("1.0"))
        with run_registry(tmp_path, wanted) as registry:
            there = registry.reference("private:1")
            refused = attempt(copy_to, there, PLAIN, "--dry-run")
            assert (refused.returncode, refused.stdout) == (1, "")
            (line,) = refused.stderr.splitlines()
            assert line.startswith(f"copy-to: {there}: not compared: ") and "unauthorized" in line
            credentials = ["--dest-creds", "user:pass"]
            run(copy_to, there, PLAIN, *credentials)
            (report,) = ask(copy_to, there, *credentials)
            assert not any(report["packages"].values()) and report["send"]["layers"] == 0

    def test_an_image_of_other_builders_is_compared_with(self, nix, registry, tmp_path):
        # Without a history, and in Docker's form
        run("umoci", "init", "--layout", tmp_path / "layout")
        run("umoci", "new", "--image", f"{tmp_path}/layout:1")
        there = registry.reference("app:latest")
        copy = ["skopeo", "--insecure-policy", "copy", PLAIN, "--format=v2s2"]
        run(*copy, f"oci:{tmp_path}/layout:1", there)
        (report,) = ask(program(nix, revision("1.0")), there)
        assert {"hello", "app"} <= {entry["name"] for entry in report["packages"]["new"]}

    def test_of_docker_predicts_what_it_pulls(self, nix, short_folder, monkeypatch):
        with run_docker(short_folder / "docker") as docker:
            monkeypatch.setenv("DOCKER_HOST", docker.url)
            for version in "1.0", "1.1":
                copy_to = program(nix, revision(version))
                (report,) = [
                    json.loads(line)
                    for line in run(
                        copy_to, "docker-daemon:app:latest", "--dry-run", "--json"
                    ).stdout.splitlines()
                ]
                pushed = run(copy_to, "docker-daemon:app:latest")
                assert sent(pushed.stderr) == predicted([report])
            # Its store keeps chains of layers.
            assert report["send"] == report["pullByPrefix"]["linux/amd64"]
            assert [entry["name"] for entry in report["packages"]["changed"]] == ["words"]

    def test_of_podman_predicts_what_it_is_sent_and_leaves_nothing(
        self, nix, short_folder, monkeypatch
    ):
        monkeypatch.setenv("HOME", str(container_home(short_folder)))
        store = f"[vfs@{short_folder}/root+{short_folder}/run]app:latest"
        there = f"containers-storage:{store}"
        for version in "1.0", "1.1":
            copy_to = program(nix, revision(version))
            (report,) = ask(copy_to, there)
            assert ask(copy_to, there) == [report]
            assert sent(run(copy_to, there).stderr) == predicted([report])
        assert [entry["name"] for entry in report["packages"]["changed"]] == ["words"]
        assert report["send"]["layers"] < len(report["layers"])

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["oci:/tmp/x:1", "--dry-run"], "oci:/tmp/x:1: --dry-run asks docker://, "),
            (["docker://127.0.0.1:1/app", "--json"], "--json is for --dry-run"),
        ],
    )
    def test_what_makes_no_sense_is_said_in_one_line(self, nix, words, told):
        done = attempt(program(nix, revision("1.0")), *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"copy-to: {told}") and done.stderr.count("\n") == 1

    def test_a_registry_that_does_not_answer_is_named(self, nix):
        done = attempt(program(nix, revision("1.0")), "docker://127.0.0.1:1/app:1", "--dry-run")
        assert (done.returncode, done.stdout) == (1, "")
        assert "docker://127.0.0.1:1/app:1: not compared: " in done.stderr


class TestChangesFrom:
    def report(self, nix: Nix, new: str, old: str) -> tuple[str, dict[str, Any]]:
        both = f"let changes = ({new}).changesFrom ({old}); in [ changes changes.json ]"
        text, document = nix.build(*nix.expression(both)).paths
        return text.read_text(), json.loads(document.read_bytes())

    def test_another_image_is_what_a_registry_would_have(self, nix, registry):
        there = registry.reference("app:latest")
        run(program(nix, revision("1.0")), there, PLAIN)
        (asked,) = ask(program(nix, revision("1.1")), there)
        text, report = self.report(nix, revision("1.1"), revision("1.0"))
        assert {**asked, **report} == asked
        assert text.startswith("**app:latest**: ")
        assert "- words 1.0 -> 1.1, and 2 paths rebuilt for it\n" in text

    @pytest.mark.parametrize("plan", ["{}.groupedLayers", '"${{{}.groupedLayers}}"'])
    def test_a_plan_is_enough(self, nix, plan):
        text, report = self.report(nix, revision("1.1"), plan.format(revision("1.0")))
        assert "- words 1.0 -> 1.1, and 2 paths rebuilt for it\n" in text
        assert {row["there"] for row in report["layers"]} == {True, False}

    def test_a_file_of_a_plan_and_a_lock_are_enough(self, nix, tmp_path):
        plan = nix.build(*nix.expression(f"{revision('1.0')}.groupedLayers")).path.read_text()
        (tmp_path / "a plan.json").write_text(plan)
        lock = {"app": json.loads(plan), "other": []}
        (tmp_path / "lock.json").write_text(json.dumps(lock))
        for file in f'(/. + "{tmp_path}/a plan.json")', f'"{tmp_path}/lock.json"':
            _, report = self.report(nix, revision("1.1"), file)
            assert [entry["name"] for entry in report["packages"]["changed"]] == ["words"]
        del lock["app"]
        (tmp_path / "lock.json").write_text(json.dumps(lock))
        text = f'{revision("1.1")}.changesFrom "{tmp_path}/lock.json"'
        error = nix.error(*nix.expression(text))
        assert "older-plan.json has plans of other, and none of app" in error

    @pytest.mark.parametrize(
        ("older", "told"),
        [
            ("5", "changesFrom takes an image, or a file with a plan (groupedLayers)"),
            ("{ }", "changesFrom takes an image, or a file with a plan (groupedLayers)"),
            ('pkgs.writeText "x" "[5]"', "is not a plan: expected"),
            ('pkgs.writeText "x" "[[5]"', "is not a plan: expected"),
        ],
    )
    def test_what_is_no_older_image_is_said_in_one_sentence(self, nix, older, told):
        error = nix.error(*nix.expression(f"{revision('1.0')}.changesFrom ({older})"))
        assert told in error and "Traceback" not in error
