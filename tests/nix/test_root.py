"""The root of an image: links to the contents, and what commands add to them, in containers."""

from __future__ import annotations

import os

import pytest

import run_commands
from containers import Container
from nix import Image, Nix, attempt, packed_paths, root_layer

ONE = '(pkgs.writeTextDir "share/one" "one")'


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
        assert "which holds the store" in error

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

    @pytest.mark.parametrize("sandbox", ["true", "false"])
    @pytest.mark.parametrize("argument", ["extraCommands", "fakeRootCommands"])
    @pytest.mark.parametrize(
        ("command", "place"),
        [
            ("mkdir {}", "{}"),
            ("mkdir -p {}/deep", "{}"),
            ("echo x >{}", "{}"),
            ("cp ${{pkgs.hello}}/bin/hello {}/hello", "{}/hello"),
            ("install -D ${{pkgs.hello}}/bin/hello {}/hello", "{}"),
            ("ln -s x {}", "{}"),
        ],
    )
    def test_with_absolute_paths_fail_and_change_nothing(
        self, nix, sandbox, argument, command, place
    ):
        name = f"/made-by-a-test-{os.getpid()}"
        call = nix.image_call(f"{{ {argument} = ''{command.format(name)}''; }}")
        done = attempt("nix-build", "--no-out-link", "--option", "sandbox", sandbox, *call)
        (line,) = [
            line for line in done.stderr.splitlines() if line.startswith("error: " + argument)
        ]
        wanted = place.format(name)
        assert f"write {wanted[1:]}, not {wanted}" in line
        assert done.returncode != 0 and not os.path.exists(name)

    @pytest.mark.parametrize("folder", ["/tmp", "/var/tmp", "/etc"])
    def test_write_nowhere_else_on_the_machine(self, nix, folder):
        file = f"{folder}/made-by-a-test-{os.getpid()}"
        error = nix.image_error(f"{{ extraCommands = ''echo x >{file} || exit 3''; }}")
        assert "error: extraCommands failed with status 3" in error
        assert not os.path.exists(file)

    def test_that_write_beside_the_root_where_nothing_forbids_it_are_refused(self, monkeypatch):
        found = iter([["etc"], ["data", "etc"]])
        monkeypatch.setattr(run_commands.os, "listdir", lambda _: next(found))
        setting = run_commands.Setting([], os.environ["PATH"], "nix/store", is_isolated=False)
        with pytest.raises(SystemExit, match="made /data on the machine that builds: write data, "):
            run_commands.run("extraCommands", ["true"], "/", setting)

    @pytest.mark.parametrize(
        ("commands", "complaint"),
        [
            ("touch .wh.nix", ".wh.nix would remove a file from the image"),
            ("mkdir a; touch a/.wh..wh..opq", ".wh..wh..opq would remove a file from the image"),
            ("mkdir -p .wh.a/b", ".wh.a would remove a file from the image"),
            ("ln -s x .wh.y", "x would remove a file from the image"),
            (
                "${pkgs.python3}/bin/python3 -c"
                " 'import socket as s; s.socket(s.AF_UNIX).bind(\"s\")'",
                "/s is a socket, which an image can't have",
            ),
        ],
    )
    @pytest.mark.parametrize("argument", ["extraCommands", "fakeRootCommands"])
    def test_make_nothing_that_contents_may_not_have(self, nix, argument, commands, complaint):
        error = nix.image_error(f"{{ {argument} = ''{commands} ''; }}")
        (line,) = [line for line in error.splitlines() if line.startswith("error: the commands")]
        assert complaint in line

    def test_that_take_the_place_of_a_store_path_are_refused(self, nix):
        commands = "mkdir -p nix/store; echo >.${pkgs.hello}"
        error = nix.image_error(f"{{ contents = pkgs.hello; extraCommands = ''{commands}''; }}")
        assert "would take the place of the store path /nix/store/" in error

    @pytest.mark.parametrize("sandbox", ["true", "false"])
    def test_give_attributes_that_nobody_else_has(self, nix, sandbox):
        """A capability, as setcap gives it, and owners that are those of no builder."""
        python = "${pkgs.python3}/bin/python3 -c"
        value = "0100000200200000000000000000000000000000"
        set_them = "; ".join(
            [
                "import os",
                f'os.setxattr("file", "security.capability", bytes.fromhex("{value}"))',
                'os.setxattr("folder", "user.note", bytes([97, 10, 255]))',
            ]
        )
        commands = f"echo {sandbox} >file; touch other; mkdir folder; {python} '{set_them}'"
        call = nix.image_call(f"{{ fakeRootCommands = ''{commands} ''; }}")
        root = root_layer(Image(nix.build(*call, "--option", "sandbox", sandbox).path))
        found = {name: member.pax_headers for name, member in root.items() if member.pax_headers}
        assert set(found) == {"file", "folder"}
        capability = found["file"]["SCHILY.xattr.security.capability"]
        assert capability.encode(errors="surrogateescape").hex() == value
        assert found["folder"]["SCHILY.xattr.user.note"] == "a\n\udcff"
        assert {(member.uid, member.gid) for member in root.values()} == {(0, 0)}

    def test_capability_reaches_the_container(self, nix, tmp_path):
        set_it = "; ".join(
            [
                "import os",
                'value = bytes.fromhex("0100000200200000000000000000000000000000")',
                'os.setxattr("file", "security.capability", value)',
            ]
        )
        commands = f"echo x >file; ${{pkgs.python3}}/bin/python3 -c '{set_it}'"
        image = nix.image(f"{{ fakeRootCommands = ''{commands} ''; }}")
        container = Container.of(image, tmp_path / "bundle")
        assert os.listxattr(container.rootfs / "file") == ["security.capability"]

    def test_may_make_files_of_every_kind(self, nix, tmp_path):
        commands = """
          echo x >file; ln file hard; mkdir a; ln file a/hard; chmod 4755 file
          mkfifo -m 640 fifo; mknod -m 600 device c 5 300; mknod block b 7 1
          chown 4000000000:3000000000 a
        """
        root = root_layer(nix.image(f"{{ fakeRootCommands = ''{commands}''; }}"))
        # The first one in the archive is the file.
        assert root["a/hard"].isreg() and root["a/hard"].mode == 0o4755
        assert [root[name].linkname for name in ("file", "hard")] == ["a/hard"] * 2
        assert root["fifo"].isfifo() and root["fifo"].mode == 0o640
        assert (root["device"].devmajor, root["device"].devminor) == (5, 300)
        assert root["block"].isblk()
        assert (root["a"].uid, root["a"].gid) == (4000000000, 3000000000)

    @pytest.mark.parametrize("argument", ["extraCommands", "fakeRootCommands"])
    @pytest.mark.parametrize(
        ("commands", "status"),
        [("false; true", 1), ("echo x >etc/motd", 1), ("kill -KILL $$", 137)],
    )
    def test_that_fail_end_the_build(self, nix, argument, commands, status):
        error = nix.image_error(f'{{ {argument} = "{commands}"; }}')
        assert f"error: {argument} failed with status {status}\n" in error


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
        assert set(root_layer(image)) == {".", "etc", "users", "up", "tmp"}

    @pytest.mark.parametrize("more", ["", "contents = pkgs.hello;", 'extraCommands = "true";'])
    def test_root_itself_has_a_mode_that_all_may_enter(self, nix, more):
        """umoci gives it the mode of the folder that it unpacks to otherwise."""
        root = root_layer(nix.image(f"{{ {more} }}"))["."]
        assert (root.mode, root.uid, root.gid) == (0o755, 0, 0)

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
