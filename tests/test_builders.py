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
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archives import tar_command
from attributes import encode_json
from describe_image import image_config, merge_environment
from link_contents import (
    check_tree,
    complete_root,
    follow_links,
    link_contents,
    make_tree,
    write_archive,
)
from make_database import registration
from nix import ROOT
from pack_layer import _parts
from plan_layers import assign_groups, select

MODULES = sorted(file.stem for file in (ROOT / "build-image" / "builders").glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_module_is_imported_without_doing_anything_and_its_examples_are_true(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


COMPRESSORS = {"none": "", "gz": "libdeflate-gzip", "zstd": "zstd"}


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> Path:
    """A folder of 20 MB: several parts for each compressor."""
    folder = tmp_path_factory.mktemp("content")
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
            "mtime": 1,
            "owner": "root:0",
            "group": "root:0",
        }
        (folder / ".attrs.json").write_text(json.dumps(attributes))
        return subprocess.run(
            [sys.executable, "-BEsS", ROOT / "build-image/builders/pack_layer.py"],
            cwd=folder,
            env={"NIX_BUILD_CORES": str(cores)},
            capture_output=True,
            text=True,
        )

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
        folder = tmp_path / "content"
        folder.mkdir()
        (folder / "a").write_text("that is no whiteout: /.wh.a")
        assert self.pack(tmp_path / "allowed", folder, "gz").returncode == 0
        (folder / ".wh.a").write_text("")
        done = self.pack(tmp_path / "refused", folder, "gz")
        assert done.returncode == 1
        assert f"error: {folder}/.wh.a would remove a file from the image" in done.stderr


class TestLinks:
    """The root's links to the contents, from folders in place of store paths."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    def link(self, *contents: Path) -> tuple[dict[str, str | None], list[str]]:
        """Return what is in the tree, with links' targets in the store, and what is contested."""
        store = contents[0].parent
        tree, contested = link_contents(
            [str(content) for content in contents], {str(path) for path in store.iterdir()}
        )
        found = {place: target and os.path.relpath(target, store) for place, target in tree.items()}
        return found, [place for place, *_ in contested]

    def package(self, store: Path, name: str, **files: str | None) -> Path:
        """Make a package: files by name, each with the target of its link or None for a file."""
        for file, target in files.items():
            path = store / name / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if target is None:
                path.write_text(name)
            else:
                path.symlink_to(target)
        return store / name

    def test_files_are_links_and_folders_are_real(self, store):
        package = self.package(store, "a", bin__run=None, share__doc__text=None)
        assert self.link(package) == (
            {
                "bin": None,
                "bin/run": "a/bin/run",
                "share": None,
                "share/doc": None,
                "share/doc/text": "a/share/doc/text",
            },
            [],
        )

    def test_folders_of_two_packages_become_one(self, store):
        one = self.package(store, "a", bin__one=None)
        two = self.package(store, "b", bin__two=None)
        found, contested = self.link(one, two)
        assert found == {"bin": None, "bin/one": "a/bin/one", "bin/two": "b/bin/two"}
        assert contested == []

    def test_first_named_wins_and_the_file_is_reported(self, store):
        one = self.package(store, "a", bin__run=None)
        two = self.package(store, "b", bin__run=None)
        assert self.link(two, one) == ({"bin": None, "bin/run": "b/bin/run"}, ["bin/run"])
        _, contested = link_contents([str(two), str(one)], {str(one), str(two)})
        assert contested == [("bin/run", f"{two}/bin/run", f"{one}/bin/run")]

    def test_file_and_folder_of_one_name_are_reported(self, store):
        file = self.package(store, "a", data=None)
        folder = self.package(store, "b", data__text=None)
        assert self.link(file, folder) == ({"data": "a/data"}, ["data"])

    def test_folder_before_a_file_of_its_name_stays_a_folder(self, store):
        file = self.package(store, "a", data=None)
        folder = self.package(store, "b", data__text=None)
        found, contested = self.link(folder, file)
        assert found == {"data": None, "data/text": "b/data/text"}
        assert contested == ["data"]

    def test_link_to_a_folder_at_the_root_is_a_folder(self, store):
        package = self.package(store, "a", bin__run=None, sbin="bin")
        found, _ = self.link(package)
        assert found["sbin"] is None
        assert found["sbin/run"] == "a/sbin/run"

    def test_bin_of_one_package_as_link_and_of_another_as_folder_become_one(self, store):
        self.package(store, "lib", run=None)
        one = self.package(store, "a", bin="../lib")
        two = self.package(store, "b", bin__two=None)
        for contents in [(one, two), (two, one)]:
            found, contested = self.link(*contents)
            assert set(found) == {"bin", "bin/run", "bin/two"}
            assert found["bin"] is None
            assert contested == []
            for path in sorted((store.parent / "tree").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def test_link_to_a_folder_deeper_down_stays_a_link(self, store):
        package = self.package(store, "a", lib__v1__x=None, lib__current="v1")
        found, _ = self.link(package)
        assert found["lib/current"] == "a/lib/current"

    def test_links_of_two_packages_to_one_file_are_not_contested(self, store):
        self.package(store, "c", file=None)
        one = self.package(store, "a", file="../c/file")
        two = self.package(store, "b", file="../c/file")
        assert self.link(one, two) == ({"file": "a/file"}, [])

    def test_link_that_leads_nowhere_stays_one(self, store):
        package = self.package(store, "a", lost="nowhere")
        assert self.link(package) == ({"lost": "a/lost"}, [])

    @pytest.mark.parametrize("depth", ["", "lib__"])
    def test_packages_whose_links_lead_into_each_other_come_to_an_end(self, store, depth):
        up = "../" * (1 + depth.count("__"))
        folder = depth.replace("__", "/")
        one = self.package(store, "a", **{f"{depth}loop": f"{up}b/{folder}", f"{depth}x": None})
        two = self.package(store, "b", **{f"{depth}loop": f"{up}a/{folder}", f"{depth}y": None})
        found, _ = self.link(one, two)
        # Each link is followed once; the second time it stays a link.
        names = {"x", "y", "loop", "loop/x", "loop/y", "loop/loop"}
        assert set(found) - {"lib"} == {f"{folder}{name}" for name in names}
        assert found[f"{folder}loop/loop"] is not None

    def test_links_among_many_packages_do_not_multiply(self, store):
        count = 12
        for number in range(count):
            links = {f"x{other}": f"../p{(number + other) % count}" for other in range(count)}
            self.package(store, f"p{number}", **links, file=None)
        tree, _ = link_contents(
            [f"{store}/p{number}" for number in range(count)],
            {str(path) for path in store.iterdir()},
        )
        assert len(tree) < 10_000

    @pytest.mark.parametrize(
        "target",
        [
            "/etc",
            "../../../../../../../../../etc",
            "../outside",  # in the store, but not in the closure
            "../a/../outside",
            "../b/through",  # by another package's link
            "../a/../../store/../../../../../../../../etc",
            "loop",  # in a circle
        ],
    )
    def test_link_that_leaves_the_closure_stays_one(self, store, target):
        self.package(store, "outside", secret=None)
        other = self.package(store, "b", through="../outside")
        package = self.package(store, "a", loop=target, bin__run=None)
        tree, _ = link_contents([str(package)], {str(package), str(other)})
        assert set(tree) == {"loop", "bin", "bin/run"}
        assert tree["loop"] == f"{package}/loop"

    def test_content_that_does_not_exist_is_one_line(self, store):
        package = self.package(store, "a", x=None)
        for content in [package / "y", package / "x" / "y"]:
            with pytest.raises(SystemExit, match=f"error: contents: there is no {content}"):
                link_contents([str(content)], {str(package)})

    trees = st.dictionaries(
        st.sampled_from(["a", "b", "lib", "lib/a", "lib/b", "lib/c", "lib/c/a"]),
        st.sampled_from([None, "a", "lib", "../p0", "../p1", "../p2/lib", "..", "../p1/a"]),
        max_size=6,
    )

    @given(st.lists(trees, min_size=1, max_size=3))
    def test_tree_is_one_whatever_packages_have(self, packages):
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder).resolve()
            for number, files in enumerate(packages):
                (store / f"p{number}").mkdir()
                for place, target in sorted(files.items()):
                    path = store / f"p{number}" / place
                    with suppress(OSError):  # what is above it is a file, or leads nowhere
                        path.parent.mkdir(parents=True, exist_ok=True)
                        if path.parent.resolve() == path.parent:
                            path.write_text(place) if target is None else path.symlink_to(target)
            paths = {str(path) for path in store.iterdir()}
            tree, _ = link_contents(sorted(paths), paths)
        seen = {""}
        for place, target in tree.items():
            assert os.path.dirname(place) in seen  # which is a folder, and came before
            seen |= {place} if target is None else set()

    def test_what_packages_have_for_building_with_them_is_left_out(self, store):
        package = self.package(store, "a", **{"nix-support__x": None, "share__nix-support": None})
        found, _ = self.link(package)
        assert found == {"share": None, "share/nix-support": "a/share/nix-support"}

    def test_package_that_is_a_file_has_nothing_to_link(self, store):
        package = self.package(store, "a", x=None)
        (store / "text").write_text("text")
        assert self.link(package, store / "text") == ({"x": "a/x"}, [])

    def test_names_that_are_not_text_are_linked(self, store):
        package = self.package(store, "a", x=None)
        name = os.fsdecode(b"\xff \n")
        (package / name).write_text("odd")
        found, _ = self.link(package)
        assert found[name] == f"a/{name}"


class TestRoot:
    def test_archive_has_names_that_are_not_text_as_they_are(self, tmp_path):
        name = os.fsdecode(b"\xff \n")
        write_archive({name: f"/nix/store/{name}"}, str(tmp_path / "root.tar"), 1)
        with tarfile.open(tmp_path / "root.tar", errors="surrogateescape") as archive:
            (member,) = archive.getmembers()
        assert (member.name, member.linkname) == (name, f"/nix/store/{name}")

    def test_env_is_that_of_coreutils_before_another(self, tmp_path):
        for name in ["0-a-toolbox", "1-coreutils-9.1"]:
            (tmp_path / name / "bin").mkdir(parents=True)
            (tmp_path / name / "bin" / "env").write_text("")
            (tmp_path / name / "bin" / "env").chmod(0o755)
        closure = [str(tmp_path / name) for name in ["0-a-toolbox", "1-coreutils-9.1"]]
        tree = {}
        complete_root(tree, set(closure))
        assert tree["usr/bin/env"] == f"{tmp_path}/1-coreutils-9.1/bin/env"

    def test_env_of_the_contents_is_left_alone(self, tmp_path):
        tree = {"usr": None, "usr/bin": None, "usr/bin/env": "own"}
        (tmp_path / "c-coreutils" / "bin").mkdir(parents=True)
        (tmp_path / "c-coreutils" / "bin" / "env").write_text("")
        (tmp_path / "c-coreutils" / "bin" / "env").chmod(0o755)
        complete_root(tree, {str(tmp_path / "c-coreutils")})
        assert tree["usr/bin/env"] == "own"

    @pytest.mark.parametrize("place", ["usr", "usr/bin"])
    def test_env_is_not_put_below_a_link(self, tmp_path, place):
        (tmp_path / "c-coreutils" / "bin").mkdir(parents=True)
        (tmp_path / "c-coreutils" / "bin" / "env").write_text("")
        (tmp_path / "c-coreutils" / "bin" / "env").chmod(0o755)
        tree = {"usr": None, place: "a link"}
        complete_root(tree, {str(tmp_path / "c-coreutils")})
        assert "usr/bin/env" not in tree

    def test_folder_at_the_place_of_env_stays_one(self, tmp_path):
        (tmp_path / "c-coreutils" / "bin").mkdir(parents=True)
        (tmp_path / "c-coreutils" / "bin" / "env").write_text("")
        (tmp_path / "c-coreutils" / "bin" / "env").chmod(0o755)
        tree = {"usr": None, "usr/bin": None, "usr/bin/env": None, "usr/bin/env/x": "x"}
        complete_root(tree, {str(tmp_path / "c-coreutils")})
        assert tree["usr/bin/env"] is None

    @pytest.mark.parametrize(
        ("tree", "complaint"),
        [
            ({"nix": "/nix/store/a/nix"}, "would take the place of /nix, which holds the store"),
            ({"nix": None, "nix/store": "x"}, "would take the place of /nix/store"),
            (
                {"nix": None, "nix/store": None, "nix/store/a": "x"},
                "of the store path /nix/store/a",
            ),
            ({"nix": None, "nix/store": None, "nix/store/a": None}, "of the store path /nix/store"),
            ({".wh.bin": "x"}, "x would remove a file"),
            ({".wh..wh..opq": "x"}, "x would remove a file"),
            ({"a": None, "a/.wh.b": None}, "the folder a/.wh.b would remove a file"),
        ],
    )
    def test_that_would_remove_files_of_other_layers_is_one_line(self, tree, complaint):
        with pytest.raises(SystemExit, match=f"error: contents: .*{complaint}"):
            check_tree(tree, "/nix/store", {"/nix/store/a"})

    def test_may_have_folders_above_the_store(self):
        check_tree({"nix": None, "nix/var": None, "wh.x": "x"}, "/nix/store", {"/nix/store/a"})

    def test_without_any_env_there_is_no_usr(self, tmp_path):
        tree = {}
        complete_root(tree, set())
        assert tree == {"tmp": None}

    def test_merges_folders_that_the_base_has_as_one(self):
        links = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib"}
        tree = {
            "bin": None,
            "bin/a": "bin-a",
            "bin/both": "first",
            "bin/folder": "file",
            "lib": "file",
            "usr": None,
            "usr/bin": None,
            "usr/bin/both": "second",
            "usr/bin/folder": None,
            "usr/bin/folder/x": "x",
        }
        assert follow_links(tree, links, is_for_commands=True) == {
            "bin": "usr/bin",
            "lib": "file",
            "sbin": "usr/bin",
            "usr": None,
            "usr/bin": None,
            "usr/bin/a": "bin-a",
            "usr/bin/both": "first",
            "usr/bin/folder": None,
            "usr/bin/folder/x": "x",
        }
        assert "sbin" not in follow_links(tree, links, is_for_commands=False)

    def test_has_no_links_of_the_base_that_are_not_needed(self):
        tree = {"share": None, "share/x": "x"}
        assert follow_links(tree, {"bin": "usr/bin"}, is_for_commands=False) == tree


class TestRootArchive:
    def test_has_the_bytes_that_tar_makes_of_the_same_tree(self, tmp_path):
        """So that commands that do nothing change nothing, and names have one order."""
        places = ["b", "a", "a/x", "a-b", "a.b/\xe9", "a.b", "tmp", "a/\udcff", "a/\uffff", "a/~"]
        folders = {"a", "a.b", "tmp"}
        tree = {
            place: None if place in folders else f"/nix/store/{place}" for place in sorted(places)
        }
        write_archive(tree, str(tmp_path / "written"), 86400)
        make_tree(tree, str(tmp_path / "tree"))
        command = tar_command("tar", 86400, "root:0", "root:0")
        command += ["--blocking-factor=1", f"--directory={tmp_path}/tree", "--file=-", "--"]
        done = subprocess.run(
            [*command, *sorted(os.listdir(tmp_path / "tree"), key=os.fsencode)],
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert (tmp_path / "written").read_bytes() == done.stdout


class TestJSON:
    HASH = "0123456789abcdfghijklmnpqrsvwxyz"

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
        text = f"{before}/nix/store/{self.HASH}-git-2.39{after}"
        data = encode_json([text])
        assert json.loads(data) == [text]
        assert self.HASH.encode() not in data


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
        layers = [
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


class TestRegistration:
    def test_has_the_lines_that_load_db_reads_and_omits_what_is_left_out(self):
        entries = [
            {"path": "/s/a", "narHash": "sha256:1", "narSize": 5, "references": ["/s/b", "/s/x"]},
            {"path": "/s/b", "narHash": "sha256:2", "narSize": 6, "references": []},
            {"path": "/s/x", "narHash": "sha256:3", "narSize": 7, "references": []},
        ]
        assert registration(entries, ["/s/x"]) == (
            "/s/a\nsha256:1\n5\n\n1\n/s/b\n"  # path, hash, size, no deriver, one reference
            "/s/b\nsha256:2\n6\n\n0\n"
        )

    def test_failing_nix_store_ends_the_build_in_one_line(self, tmp_path):
        attributes = {
            "outputs": {"out": str(tmp_path / "out")},
            **{"closure": [], "leftOut": [], "base": None, "storeDir": "/nix/store"},
            **{"nixStore": shutil.which("false"), "tar": shutil.which("tar")},
            **{"mtime": 1, "owner": "root:0", "group": "root:0"},
        }
        (tmp_path / ".attrs.json").write_text(json.dumps(attributes))
        command = [sys.executable, "-BEsS", ROOT / "build-image/builders/make_database.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: nix-store --load-db failed with status 1\n"
