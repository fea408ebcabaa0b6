"""The tree of an image's root, made of links to the contents, and its archive."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_tree import Entry, ImageTree
from link_contents import check_files, complete_root, entries_of, link_contents
from place_files import place_files
from run_commands import walk
from write_archive import write_archive


class TestLinks:
    """link_contents.py itself, on folders in place of store paths."""

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


class TestTree:
    EMPTY = ImageTree("nix/store")

    def test_archive_has_names_that_are_not_text_as_they_are(self, tmp_path):
        name = os.fsdecode(b"\xff \n")
        with open(tmp_path / "root.tar", "wb") as file:
            write_archive({name: Entry("link", f"/nix/store/{name}")}, file, 1)
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
        complete_root(tree, set(closure), self.EMPTY)
        assert tree["usr/bin/env"] == f"{tmp_path}/1-coreutils-9.1/bin/env"

    def test_env_of_the_contents_is_left_alone(self, tmp_path):
        tree = {"usr": None, "usr/bin": None, "usr/bin/env": "own"}
        (tmp_path / "c-coreutils" / "bin").mkdir(parents=True)
        (tmp_path / "c-coreutils" / "bin" / "env").write_text("")
        (tmp_path / "c-coreutils" / "bin" / "env").chmod(0o755)
        complete_root(tree, {str(tmp_path / "c-coreutils")}, self.EMPTY)
        assert tree["usr/bin/env"] == "own"

    @pytest.mark.parametrize("place", ["usr", "usr/bin"])
    def test_env_is_not_put_below_a_link(self, tmp_path, place):
        (tmp_path / "c-coreutils" / "bin").mkdir(parents=True)
        (tmp_path / "c-coreutils" / "bin" / "env").write_text("")
        (tmp_path / "c-coreutils" / "bin" / "env").chmod(0o755)
        tree = {"usr": None, place: "a link"}
        complete_root(tree, {str(tmp_path / "c-coreutils")}, self.EMPTY)
        assert "usr/bin/env" not in tree

    def test_folder_at_the_place_of_env_stays_one(self, tmp_path):
        (tmp_path / "c-coreutils" / "bin").mkdir(parents=True)
        (tmp_path / "c-coreutils" / "bin" / "env").write_text("")
        (tmp_path / "c-coreutils" / "bin" / "env").chmod(0o755)
        tree = {"usr": None, "usr/bin": None, "usr/bin/env": None, "usr/bin/env/x": "x"}
        complete_root(tree, {str(tmp_path / "c-coreutils")}, self.EMPTY)
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
            check_files(entries_of(tree), "contents", "nix/store", {"/nix/store/a"})

    def test_may_have_folders_above_the_store(self):
        tree = {"nix": None, "nix/var": None, "wh.x": "x"}
        check_files(entries_of(tree), "contents", "nix/store", {"/nix/store/a"})

    def test_without_any_env_there_is_no_usr(self, tmp_path):
        tree = {}
        complete_root(tree, set(), self.EMPTY)
        assert tree == {"tmp": None}

    def test_merges_folders_that_the_base_has_as_one(self, capsys):
        base = ImageTree("nix/store", {place: Entry("folder") for place in ("usr/bin", "usr/lib")})
        for link, target in (("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib")):
            base.put(link, Entry("link", target))
        tree = {
            "bin": None,
            "bin/a": "bin-a",
            "bin/both": "first",
            "bin/folder": "file",
            "usr": None,
            "usr/bin": None,
            "usr/bin/both": "second",
            "usr/bin/folder": None,
            "usr/bin/folder/x": "x",
        }
        placed = place_files(entries_of(tree), base, "contents", is_plain=True)
        assert {place: entry.target for place, entry in placed.items()} == {
            "": "",
            "bin": "usr/bin",
            "usr": "",
            "usr/bin": "",
            "usr/bin/a": "bin-a",
            "usr/bin/both": "first",
            "usr/bin/folder": "",
            "usr/bin/folder/x": "x",
        }
        assert placed["bin"].kind == "link" and placed["usr/bin/folder"].kind == "folder"
        assert capsys.readouterr().out == (
            "/usr/bin/both: first is there, not second\n"
            "/usr/bin/folder: a folder is there, not file\n"
        )


class TestRootArchive:
    def test_has_the_bytes_that_tar_makes_of_the_same_tree(self, tmp_path):
        """So that commands that do nothing change nothing, and names have one order."""
        places = ["b", "a", "a/x", "a-b", "a.b/\xe9", "a.b", "tmp", "a/\udcff", "a/\uffff", "a/~"]
        places += ["a/" + "long" * 40, "a/" + "n" * 98, "a/" + "n" * 99]
        folders = {"a", "a.b", "tmp"}
        tree = {
            place: None if place in folders else f"/nix/store/{place}" for place in sorted(places)
        }
        make_tree(tree, tmp_path / "tree")
        assert self.write(entries_of(tree)) == self.tar(tmp_path / "tree", "root:0")

    def write(self, entries: dict[str, Entry]) -> bytes:
        file = io.BytesIO()
        write_archive(entries, file, 86400)
        return file.getvalue()

    def test_of_commands_has_the_bytes_that_tar_makes(self, tmp_path):
        tree = tmp_path / "tree"
        make_tree({"a": None, "a/link": "x" * 150}, tree)
        (tree / "file").write_text("file")
        (tree / "block").write_bytes(bytes(512))
        (tree / "empty").write_text("")
        (tree / ("long" * 30)).write_text("long")
        os.link(tree / "file", tree / "a" / "hard")
        os.link(tree / "file", tree / "later")
        os.mkfifo(tree / "fifo", 0o640)
        (tree / "file").chmod(0o755)
        assert self.write(walk(str(tree), is_fake=False)) == self.tar(tree, "root:0")

    def tar(self, tree: Path, owner: str) -> bytes:
        command = ["tar", "--create", "--format=gnu", "--sort=name", "--mtime=@86400"]
        command += [f"--owner={owner}", f"--group={owner}"]
        command += ["--blocking-factor=1", f"--directory={tree}", "--file=-", "--no-recursion", "."]
        done = subprocess.run(
            [*command, "--recursion", "--", *sorted(os.listdir(tree), key=os.fsencode)],
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        return done.stdout

    @given(
        st.dictionaries(st.from_regex(r"(user|security)\.[a-z]{1,9}", fullmatch=True), st.binary()),
        st.integers(0, 2**40),
        st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1),
    )
    def test_holds_any_attribute_owner_and_name(self, xattrs, owner, name):
        given = {key: value.decode(errors="surrogateescape") for key, value in xattrs.items()}
        if name in (".", ".."):
            name = "x"
        file = io.BytesIO()
        write_archive({name: Entry("folder", uid=owner, gid=1, xattrs=given)}, file, 1)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            (member,) = archive.getmembers()
        assert (member.name, member.uid, member.gid) == (name, owner, 1)
        found = {
            key.removeprefix("SCHILY.xattr."): value
            for key, value in member.pax_headers.items()
            if key.startswith("SCHILY.xattr.")
        }
        assert found == given


def make_tree(tree: dict[str, str | None], folder: Path) -> None:
    """Make folders, where the target is None, and links."""
    folder.mkdir()
    for place, target in tree.items():
        if target is None:
            (folder / place).mkdir()
            (folder / place).chmod(0o1777 if place == "tmp" else 0o755)
        else:
            (folder / place).symlink_to(target)
