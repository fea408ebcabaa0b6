"""The Python programs that build layers and images, by themselves."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attributes import encode_json
from describe_image import container_config, image_config, merge_environment
from layer import LayerDescription
from nix import ROOT
from pack_layer import _parts, encode_description
from plan_layers import assign_groups, select

MODULES = sorted(file.stem for file in (ROOT / "build-image" / "builders").glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_module_is_imported_without_doing_anything_and_its_examples_are_true(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


HASH = "0123456789abcdfghijklmnpqrsvwxyz"
STORE_NAME = f"{HASH}-git-2.39"
COMPRESSORS = {"none": "", "gz": "libdeflate-gzip", "zstd": "zstd"}


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> Path:
    """A folder of 20 MB: several parts for each compressor."""
    folder = tmp_path_factory.mktemp("store") / STORE_NAME
    folder.mkdir()
    (folder / "file").write_bytes(random.Random(1).randbytes(20 << 20))
    return folder


class TestPack:
    """pack_layer.py as Nix runs it, on folders in place of store paths, with the tools here."""

    def pack(
        self,
        folder: Path,
        content: Path,
        compressor: str,
        program: str | None = None,
        cores: int = 2,
        tar: str | None = None,
    ) -> subprocess.CompletedProcess:
        folder.mkdir()
        attributes = {
            "outputs": {name: str(folder / name) for name in ("out", "description")},
            "contents": [str(content)],
            "tar": tar or shutil.which("tar"),
            "compressor": compressor,
            "compressorProgram": shutil.which(program or COMPRESSORS[compressor]),
            "storeDir": "/nix/store",
            "archive": None,
            "unsafeDiscardReferences": {"out": True, "description": False},
            "mtime": 1,
            "owner": "root:0",
            "group": "root:0",
        }
        (folder / ".attrs.json").write_text(json.dumps(attributes))
        return self.run(folder, cores)

    def run(self, folder: Path, cores: int = 2) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-BEsS", ROOT / "build-image/builders/pack_layer.py"],
            cwd=folder,
            env={"NIX_BUILD_CORES": str(cores)},
            capture_output=True,
            text=True,
        )

    @pytest.mark.parametrize("compressor", ["none", "gz", "zstd"])
    def test_full_disk_is_one_line(self, tmp_path, content, compressor):
        folder = tmp_path / "full"
        assert self.pack(folder, content, compressor).returncode == 0
        (folder / "out").unlink()
        (folder / "out").symlink_to("/dev/full")
        done = self.run(folder)
        assert done.returncode != 0
        assert "No space left on device" in done.stderr and "Traceback" not in done.stderr

    @pytest.mark.parametrize("compressor", ["gz", "zstd"])
    def test_bytes_are_the_same_with_any_number_of_cores(self, tmp_path, content, compressor):
        assert self.pack(tmp_path / "plain", content, "none").returncode == 0
        for cores in 1, 2, 9:
            done = self.pack(tmp_path / str(cores), content, compressor, cores=cores)
            assert (done.returncode, done.stderr) == (0, "")
        files = {cores: (tmp_path / cores / "out").read_bytes() for cores in "129"}
        assert files["1"] == files["2"] == files["9"]
        unpacked = subprocess.run(
            [COMPRESSORS[compressor], "-dc"],
            input=files["1"],
            stdout=subprocess.PIPE,
            check=True,
        )
        assert unpacked.stdout == (tmp_path / "plain/out").read_bytes()

    @given(chunks=st.lists(st.binary(max_size=20)), size=st.integers(1, 9))
    def test_parts_are_cut_at_the_same_places_however_the_bytes_come(self, chunks, size):
        whole = b"".join(chunks)
        expected = [whole[start : start + size] for start in range(0, len(whole), size)]
        parts = []
        for part in _parts(iter(chunks), size):
            os.lseek(part, 0, os.SEEK_SET)
            with open(part, "rb") as file:
                parts.append(file.read())
        assert parts == expected

    @pytest.mark.parametrize("cores", [1, 9])
    def test_failing_compressor_has_the_last_word(self, tmp_path, content, cores):
        done = self.pack(tmp_path / "build", content, "gz", "false", cores)
        assert done.returncode == 1
        assert done.stderr == f"error: {shutil.which('false')} failed with status 1\n"

    def script(self, folder: Path, text: str) -> str:
        """Write a shell script; return its name."""
        (folder / "script").write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{text}\n")
        (folder / "script").chmod(0o755)
        return str(folder / "script")

    def test_files_whose_links_change_meanwhile_are_packed(self, tmp_path, content):
        """tar then ends with status 1; `auto-optimise-store` does that."""
        tar = self.script(tmp_path, 'tar "$@"; exit 1')
        assert self.pack(tmp_path / "build", content, "none", tar=tar).returncode == 0
        assert self.pack(tmp_path / "plain", content, "none").returncode == 0
        for name in "out", "description":
            assert (tmp_path / "build" / name).read_bytes() == (
                (tmp_path / "plain" / name).read_bytes()
            )

    def test_no_more_compressors_run_at_once_than_there_are_cores(self, tmp_path, content):
        (tmp_path / "running").mkdir()
        program = self.script(
            tmp_path,
            f"cd {tmp_path}; touch running/$$; ls running | wc -l >>counts\n"
            "sleep .1; rm running/$$",
        )
        assert self.pack(tmp_path / "build", content, "gz", program, cores=3).returncode == 0
        counts = list(map(int, (tmp_path / "counts").read_text().split()))
        assert len(counts) > 9 and max(counts) <= 3

    def test_failing_tar_ends_the_build(self, tmp_path):
        done = self.pack(tmp_path / "build", tmp_path / "nothing", "gz")
        assert done.returncode == 1
        *_, last = done.stderr.splitlines()
        assert last == f"error: {shutil.which('tar')} failed with status 2"

    def test_file_that_would_remove_another_one_ends_the_build(self, tmp_path):
        folder = tmp_path / STORE_NAME
        folder.mkdir()
        (folder / "a").write_text("that is no whiteout: /.wh.a")
        assert self.pack(tmp_path / "allowed", folder, "gz").returncode == 0
        (folder / ".wh.a").write_text("")
        done = self.pack(tmp_path / "refused", folder, "gz")
        assert done.returncode == 1
        assert f"error: {folder}/.wh.a would remove a file from the image" in done.stderr


class TestJSON:
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        )
    )
    def test_reads_as_what_was_written(self, value):
        assert json.loads(encode_json(value)) == value

    @given(st.text(), st.text())
    def test_names_store_paths_and_hides_their_hashes_from_nix(self, before, after):
        text = f"{before}/nix/store/{STORE_NAME}{after}"
        data = encode_json([text])
        assert json.loads(data) == [text]
        assert HASH.encode() not in data

    @given(st.lists(st.from_regex(r"/[a-z+/]*/[0-9a-z]{32}-[0-9a-zA-Z+._?=-]+", fullmatch=True)))
    def test_description_is_in_the_same_form(self, store_paths):
        description = {"digest": "sha256:0", "size": 7, "storePaths": store_paths, "file": ""}
        assert encode_description(description).encode() == encode_json([description])


class TestEnvironment:
    names = st.sampled_from(["A", "B", "PATH"])
    variables = st.lists(st.builds("{}={}".format, names, st.text("=x", max_size=2)))

    @given(variables, variables)
    def test_has_each_variable_once_with_its_last_value(self, first, second):
        merged = merge_environment(first, second)
        last = dict(variable.split("=", 1) for variable in first + second)
        assert dict(variable.split("=", 1) for variable in merged) == last
        assert len(merged) == len(last)


class TestConfiguration:
    """What the image's configuration takes from that of a base image, and what it replaces."""

    BASE: ClassVar[dict] = {
        "config": {
            "Env": ["A=base", "B=base"],
            "Volumes": {"/base": {}},
            "ExposedPorts": {"1/tcp": {}},
            "Labels": {"a": "base", "b": "base"},
            "User": "base",
            "WorkingDir": "/base",
        },
        "history": [{"comment": "of the base"}],
        "layerCount": 1,
    }

    def configure(self, **given: object) -> dict:
        attributes = {
            "created": 1,
            "architecture": "arm",
            "variant": "v7",
            "environment": ["A=ready-made", "C=ready-made"],
            "config": given,
        }
        layers: list[LayerDescription] = [
            {"diffId": "1", "storePaths": []},
            {"diffId": "2", "storePaths": ["/nix/store/x"]},
            {"diffId": "3", "storePaths": []},
        ]
        return image_config(attributes, layers, self.BASE)

    def test_of_the_base_gives_way_and_ready_made_contents_to_both(self):
        config = self.configure(Env=["B=own"], User="own")["config"]
        assert config["Env"] == ["A=base", "C=ready-made", "B=own"]
        assert (config["User"], config["WorkingDir"]) == ("own", "/base")

    def test_sets_are_merged(self):
        given = {
            "Volumes": {"/own": {}},
            "ExposedPorts": {"2/tcp": {}},
            "Labels": {"b": "own"},
        }
        config = self.configure(**given)["config"]
        assert config["Volumes"] == {"/base": {}, "/own": {}}
        assert config["ExposedPorts"] == {"1/tcp": {}, "2/tcp": {}}
        assert config["Labels"] == {"a": "base", "b": "own"}

    @pytest.mark.parametrize(
        ("inherited", "given", "expected"),
        [
            # Entrypoint and Cmd of the base, those given, and those of the image
            ((None, ["sh"]), (["jq"], None), (["jq"], None)),
            ((None, ["sh"]), ([], None), ([], None)),
            ((["e"], ["c"]), (["jq"], None), (["jq"], None)),
            ((["e"], ["c"]), (["jq"], ["x"]), (["jq"], ["x"])),
            ((["e"], ["c"]), ([], ["x"]), ([], ["x"])),
            ((["e"], ["c"]), (None, ["x"]), (["e"], ["x"])),
            ((["e"], ["c"]), (None, []), (["e"], [])),
            ((["e"], ["c"]), (["e"], None), (["e"], None)),
            ((["e"], ["c"]), (None, None), (["e"], ["c"])),
            ((None, ["c"]), (None, None), (None, ["c"])),
        ],
    )
    def test_entrypoint_drops_the_inherited_command(self, inherited, given, expected):
        """As in a Dockerfile (buildkit, dockerfile2llb; moby#35027)."""

        def keys(values: tuple) -> dict:
            named = zip(("Entrypoint", "Cmd"), values)
            return {key: value for key, value in named if value is not None}

        assert container_config(keys(inherited), keys(given), []) == keys(expected)

    def test_history_says_what_is_in_each_layer(self):
        found = self.configure()
        assert found["history"] == [
            {"comment": "of the base"},
            {"comment": "/nix/store/x", "created": "1970-01-01T00:00:01Z"},
            {
                "comment": "symlinks and files of the root",
                "created": "1970-01-01T00:00:01Z",
                "created_by": "nixery-build-image",
            },
        ]
        assert found["rootfs"]["diff_ids"] == ["1", "2", "3"]
        assert (found["architecture"], found["variant"], found["os"]) == ("arm", "v7", "linux")


class TestPlan:
    def test_path_in_two_groups_is_in_the_first(self):
        entries = [{"path": path} for path in "abc"]
        assert assign_groups([["a"], ["b", "a"]], entries) == [["a"], ["b"]]

    def test_group_has_no_path_that_is_not_packed_and_is_left_out_without_any(self):
        assert assign_groups([["a", "b"], ["b"]], [{"path": "a"}]) == [["a"]]

    def test_archive_leaves_the_graph_and_what_it_refers_to_becomes_a_root(self):
        entries = [
            {"path": "root.tar", "references": ["a", "root.tar"]},
            {"path": "a", "references": ["b"]},
            {"path": "b", "references": []},
        ]
        attributes = {
            "exportReferencesGraph": {"graph": ["root.tar", "b"]},
            "graph": entries,
            "archives": ["root.tar"],
            "references": [],
            "includeStorePaths": True,
        }
        left = select(attributes, set())
        assert left["exportReferencesGraph"]["graph"] == ["a", "b"]
        assert [entry["path"] for entry in left["graph"]] == ["a", "b"]
