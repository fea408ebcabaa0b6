"""The root of an image: links to the contents, and what commands add to them."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import Container
from link_contents import (
    check_tree,
    complete_root,
    follow_links,
    link_contents,
    make_tree,
    write_archive,
)
from nix import Image, Nix, attempt, packed_paths, root_layer
from tar import tar_command

ONE = '(pkgs.writeTextDir "share/one" "one")'


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


class TestCommands:
    def test_extra_commands_write_beside_the_links(self, nix):
        image = nix.image(
            f"""{{
              contents = {ONE};
              extraCommands = ''
                mkdir -p var/lib etc
                echo hello | sed s/hello/bye/ > etc/greeting
                echo more > share/more
                chmod 700 var/lib
                ln -s ${{pkgs.hello}}/bin/hello greet
                rm -r tmp
              '';
            }}"""
        )
        root = root_layer(image)
        assert image.file("etc/greeting") == b"bye\n"
        assert image.file("share/more") == b"more\n"
        assert root["var/lib"].mode == 0o700
        assert root["share/one"].issym() and root["share"].isdir()
        assert "tmp" not in root
        # What they name is in the image as well.
        assert str(nix.package("hello")) in packed_paths(image)

    def test_fake_root_commands_give_files_away(self, nix):
        image = nix.image(
            f"""{{
              contents = {ONE};
              extraCommands = "mkdir home; echo mine > home/file";
              fakeRootCommands = ''
                chown 1000:100 home
                chown 1000:100 home/file
                chmod 600 home/file
                chown -h 7:7 share/one
              '';
            }}"""
        )
        root = root_layer(image)
        assert (root["home"].uid, root["home"].gid) == (1000, 100)
        assert (root["home/file"].uid, root["home/file"].gid) == (1000, 100)
        assert root["home/file"].mode == 0o600
        assert (root["share/one"].uid, root["share/one"].gid) == (7, 7)
        assert (root["tmp"].uid, root["tmp"].gid) == (0, 0)

    def test_find_the_programs_of_stdenv(self, nix):
        programs = "ls find cmp sed grep awk tar gzip bzip2 make bash patch xz file"
        assert nix.image(f'{{ extraCommands = "type {programs}"; }}').digests

    def test_may_leave_nothing(self, nix):
        assert set(nix.image('{ extraCommands = "rmdir tmp"; }').tree) == {"."}

    def test_mode_and_owner_of_the_root_itself_are_kept(self, nix):
        image = nix.image('{ fakeRootCommands = "chown 1000:100 .; chmod 1777 ."; }')
        root = root_layer(image)["."]
        assert (root.uid, root.gid, root.mode) == (1000, 100, 0o1777)
        plain = root_layer(nix.image('{ extraCommands = "true"; }'))["."]
        assert (plain.uid, plain.gid, plain.mode) == (0, 0, 0o755)

    @pytest.mark.parametrize("name", [r"\101", "-x", "a b", "./-n", "*"])
    def test_may_give_files_any_name(self, nix, name):
        image = nix.image(f"{{ extraCommands = ''echo x > '{name}' ''; }}")
        assert image.file(os.path.normpath(name)) == b"x\n"

    @pytest.mark.parametrize("commands", ["echo >nix", "ln -s / nix", "mkdir nix; echo >nix/store"])
    def test_that_would_hide_the_store_are_refused(self, nix, commands):
        error = nix.image_error(f'{{ contents = {ONE}; extraCommands = "{commands}"; }}')
        assert "it would take the place of the store" in error

    def test_may_write_beside_the_store(self, nix):
        image = nix.image('{ extraCommands = "mkdir -p nix/store/x nix/var"; }')
        assert image.tree["nix/store/x"].isdir() and image.tree["nix/var"].isdir()

    def test_may_make_what_nobody_but_root_reads(self, nix):
        commands = "mkdir etc; echo x >etc/shadow; chmod 000 etc/shadow; chmod 311 etc"
        root = root_layer(nix.image(f'{{ fakeRootCommands = "{commands}"; }}'))
        assert (root["etc/shadow"].mode, root["etc"].mode) == (0, 0o311)

    @pytest.mark.parametrize(
        ("commands", "file"),
        [
            ("mkdir etc; echo x >etc/shadow; chmod 000 etc/shadow", "/etc/shadow"),
            ("mkdir etc; echo x >etc/shadow; chmod 311 etc", "/etc"),
            ("mkdir etc; echo x >etc/shadow; chmod 644 etc", "/etc"),
            ("chmod 311 .", "/"),
        ],
    )
    def test_that_make_what_ordinary_users_cannot_read_are_refused(self, nix, commands, file):
        # Without these, root is an ordinary user.
        user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        call = nix.image_call(f'{{ extraCommands = "{commands}"; }}')
        error = attempt(*user, "nix-build", "--no-out-link", *call).stderr
        (line,) = [line for line in error.splitlines() if line.startswith("error: extraCommands ")]
        assert f" gave {file} a mode with which" in line and "do that in fakeRootCommands" in line
        assert "tar: " not in error

    @pytest.mark.parametrize("argument", ["extraCommands", "fakeRootCommands"])
    def test_that_fail_end_the_build(self, nix, argument):
        error = nix.image_error(f'{{ {argument} = "false; true"; }}')
        assert f"error: {argument} failed with status 1" in error


class TestRoot:
    """The links to the contents, as users of buildEnv know them."""

    def test_first_of_two_packages_with_the_same_file_wins_and_it_is_said(self, nix):
        other = '(pkgs.writeTextDir "share/one" "the other")'
        built = nix.build_image(f"{{ contents = [ {ONE} {other} ]; }}")
        link = root_layer(Image(built.path))["share/one"]
        assert link.linkname == f"{nix.build(*nix.expression(ONE)).path}/share/one"
        if "image-root.tar" in built.built:
            other_path = nix.build(*nix.expression(other)).path
            told = f"/share/one: {link.linkname} is linked, not {other_path}/share/one"
            assert told in built.log

    @pytest.mark.parametrize(
        ("commands", "complaint"),
        [
            ("echo x > nix", "would take the place of /nix, which holds the store"),
            ("ln -s / nix", "would take the place of /nix, which holds the store"),
            ("mkdir nix; echo x > nix/store", "would take the place of /nix/store"),
            ("echo x > .wh.bin", "would remove a file from the image"),
            ("mkdir -p a; echo x > a/.wh..wh..opq", "would remove a file from the image"),
        ],
    )
    def test_package_that_would_remove_files_of_other_layers_is_refused(
        self, nix, commands, complaint
    ):
        package = f'(pkgs.runCommand "hostile" {{ }} "mkdir $out; cd $out; {commands}")'
        assert complaint in nix.image_error(f"{{ contents = {package}; }}")

    @pytest.mark.parametrize("sandbox", ["true", "false"])
    def test_link_to_the_building_machine_stays_a_link(self, nix, sandbox):
        links = "ln -s /etc etc; ln -s /etc/passwd users; ln -s ../../../etc up"
        package = f'(pkgs.runCommand "hostile-{sandbox}" {{ }} "mkdir $out; cd $out; {links}")'
        call = nix.image_call(f"{{ contents = {package}; }}")
        image = Image(nix.build(*call, "--option", "sandbox", sandbox).path)
        assert set(root_layer(image)) == {"etc", "users", "up", "tmp"}

    def test_folder_of_one_package_takes_files_of_commands(self, nix):
        image = nix.image(f'{{ contents = {ONE}; extraCommands = "echo x > share/own"; }}')
        assert image.file("share/own") == b"x\n"

    def test_env_is_where_scripts_expect_it(self, nix):
        image = nix.image("{ contents = pkgs.coreutils; }")
        assert image.tree["usr/bin/env"].linkname == f"{nix.package('coreutils')}/bin/env"


class TestEssentials:
    @pytest.fixture(scope="class")
    @classmethod
    def image(cls, nix: Nix) -> Image:
        contents = "[ binSh usrBinEnv caCertificates fakeNss pkgs.coreutils ]"
        return nix.image(f'{{ contents = {contents}; config.Env = [ "A=1" ]; }}')

    @pytest.fixture(scope="class")
    @classmethod
    def container(cls, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Container:
        return Container.of(image, tmp_path_factory.mktemp("essentials") / "bundle")

    def test_shell_and_env_are_where_scripts_expect_them(self, container):
        (container.rootfs / "tmp" / "script").write_text("#!/usr/bin/env sh\necho works\n")
        (container.rootfs / "tmp" / "script").chmod(0o755)
        done = container.bwrap("/bin/sh", "-c", "/tmp/script", PATH="/bin")
        assert done.stdout == "works\n", done.stderr

    def test_users_have_names(self, container):
        done = container.bwrap("/bin/sh", "-c", "id -un; id -un nobody; id -gn nobody", PATH="/bin")
        assert done.stdout.split() == ["root", "nobody", "nobody"], done.stderr

    def test_certificates_are_there_and_named_in_the_environment(self, image, container):
        assert image.config["config"]["Env"] == [
            "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt",
            "A=1",
        ]
        for place in ["ssl/certs/ca-bundle.crt", "ssl/certs/ca-certificates.crt"]:
            done = container.bwrap("/bin/head", "-n1", f"/etc/{place}")
            assert done.stdout == "-----BEGIN CERTIFICATE-----\n"
