"""The Python programs that build layers and images, by themselves."""

from __future__ import annotations

import doctest
import importlib
import json
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
from pack_layer import encode_description
from plan_layers import assign_groups, select_graph

MODULES = sorted(file.stem for file in (ROOT / "build-image").glob("**/*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_module_is_imported_without_doing_anything_and_its_examples_are_true(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


HASH = "0123456789abcdfghijklmnpqrsvwxyz"
STORE_NAME = f"{HASH}-git-2.39"


def test_packaged_program_is_interrupted_without_a_traceback(tmp_path: Path) -> None:
    """Also while it imports its modules."""
    module = tmp_path / f"{HASH}-interrupted.py"
    module.write_text("import os\nos.kill(os.getpid(), 2)\nmain = None\n")
    package = f"{ROOT}/build-image/programs/package.py"
    out = tmp_path / "out"
    subprocess.run([sys.executable, package, out, "program", "interrupted", module], check=True)
    done = subprocess.run([out / "bin/program"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


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
        left = select_graph(attributes, set())
        assert left["exportReferencesGraph"]["graph"] == ["a", "b"]
        assert [entry["path"] for entry in left["graph"]] == ["a", "b"]
