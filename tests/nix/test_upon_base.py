"""Images on top of layers of others: what lies below keeps its modes, owners and links.

Each case is built, unpacked by umoci, and compared with what a container would find.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from containers import PODMAN_RUN, Container, podman
from layouts import Layout
from nix import Image, Nix


def make_layer(*files: str) -> bytes:
    """Return a layer: of folders, whose names end in "/", links "name -> target", and files.

    After the name, a mode and an owner can stand, as in "home/app/ 0750 1000:100".
    """
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            name, _, target = file.partition(" -> ")
            name, *words = name.split(" ")
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755 if name.endswith("/") else 0o644
            for word in words:
                if ":" in word:
                    entry.uid, entry.gid = map(int, word.split(":"))
                elif "=" in word:
                    key, _, value = word.partition("=")
                    entry.pax_headers = {f"SCHILY.xattr.{key}": value}
                else:
                    entry.mode = int(word, 8)
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            elif target:
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry)
            else:
                content = f"base's {name}".encode()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


DEBIAN = (
    "./ 0755",
    "usr/",
    "usr/bin/",
    "usr/bin/sh",
    "usr/lib/",
    "bin -> usr/bin",
    "lib -> /usr/lib",
    "etc/",
    "etc/motd 0600",
    "etc/alternatives/",
    "etc/alternatives/vi -> /usr/bin/sh",
    "usr/bin/vi -> /etc/alternatives/vi",
    "root/ 0700",
    "home/",
    "home/app/ 0750 1000:1000",
    "home/app/.profile 0600 1000:1000",
    "data/ 0770 5:6",
    "data/kept",
    "srv -> data",
    "run/",
    "var/",
    "var/run -> ../run",
    "var/lock -> /run/lock",
    "var/tmp/ 1777",
    "var/mail/ 2775 0:8",
    "var/cache/",
    "var/cache/x/ 0711 7:7",
    "tmp/ 1777",
)


class Case(NamedTuple):
    """Arguments of buildImage, as Nix text, and what is at places of the image.

    A place has its mode and owner, the target of a link that the base has, "store" for a link into
    the store, the text of a file, or None if nothing is there.
    """

    arguments: str
    expected: dict[str, str | None]
    layers: tuple[tuple[str, ...], ...] = (DEBIAN,)


def text(*places: str) -> str:
    """Return Nix text of contents with files at these places."""
    return " ".join(f'(pkgs.writeTextDir "{place}" "own")' for place in places)


def contents(*places: str, **more: str) -> str:
    settings = "".join(f"{name} = {value};" for name, value in more.items())
    return f"{{ contents = [ {text(*places)} ]; {settings} }}"


def extra(commands: str) -> str:
    return f"{{ extraCommands = ''{commands}''; }}"


def fake(commands: str) -> str:
    return f"{{ fakeRootCommands = ''{commands}''; }}"


DATABASE = "contents = [ pkgs.hello ]; includeNixDB = true;"

CASES = {
    # Contents
    "contents in folders of others": Case(
        contents("root/.bashrc", "var/tmp/x/y", "home/app/d/x", "var/mail/x"),
        {
            "": "0755 0:0",
            "root": "0700 0:0",
            "root/.bashrc": "store",
            "var/tmp": "1777 0:0",
            "var/tmp/x": "0755 0:0",
            "home": "0755 0:0",
            "home/app": "0750 1000:1000",
            "home/app/d": "0755 0:0",
            "home/app/.profile": "base's home/app/.profile",
            "var/mail": "2775 0:8",
            "var/cache/x": "0711 7:7",
            "tmp": "1777 0:0",
        },
    ),
    "contents through links of the base": Case(
        contents("bin/x", "lib/x", "srv/web/x", "var/run/app/x", "var/lock/x"),
        {
            "bin": "usr/bin",
            "usr/bin/x": "store",
            "usr/bin/sh": "base's usr/bin/sh",
            "lib": "/usr/lib",
            "usr/lib/x": "store",
            "srv": "data",
            "data": "0770 5:6",
            "data/kept": "base's data/kept",
            "data/web/x": "store",
            "var/run": "../run",
            "run/app/x": "store",
            "var/lock": "/run/lock",
            "run/lock/x": "store",
        },
    ),
    "contents in place of files and links to files": Case(
        contents("etc/motd", "usr/bin/vi"),
        {"etc/motd": "store", "usr/bin/vi": "store", "usr/bin/sh": "base's usr/bin/sh"},
    ),
    "contents with a folder where the base has a file": Case(
        contents("etc/motd/x"), {"etc/motd": "0755 0:0", "etc/motd/x": "store"}
    ),
    "contents with a folder where the base has a link to a file": Case(
        contents("usr/bin/vi/x"),
        {"usr/bin/vi": "0755 0:0", "usr/bin/vi/x": "store", "usr/bin/sh": "base's usr/bin/sh"},
    ),
    "contents that link to a folder where the base has one": Case(
        """{
          contents = pkgs.runCommand "linked" { } ''
            mkdir -p $out/usr $out/other
            echo own >$out/other/x
            ln -s ../other $out/usr/lib
          '';
        }""",
        {"usr/lib": "0755 0:0", "usr/lib/x": "store", "lib": "/usr/lib"},
    ),
    "links through links": Case(
        contents("a/x", "d/e/y"),
        {"a": "b", "b": "/c", "c": "0700 1:1", "c/x": "store", "d/e": "../../a", "c/y": "store"},
        (("c/ 0700 1:1", "b -> /c", "a -> b", "d/", "d/e -> ../../a"),),
    ),
    "a link to a folder in a folder": Case(
        contents("l/x"),
        {"l": "/a/b", "a": "0711 3:4", "a/b": "0700 5:6", "a/b/x": "store"},
        (("a/ 0711 3:4", "a/b/ 0700 5:6", "l -> /a/b"),),
    ),
    "two files at one place through a link that leads nowhere yet": Case(
        contents("a/x", "d/b"),
        {"a": "d/b", "d/b": "0755 0:0", "d/b/x": "store"},
        (("a -> d/b",),),
    ),
    "a link out of the image": Case(
        contents("up/x", "etc/x"),
        {"up": "../../../../in", "in/x": "store", "etc": "/host/etc", "host/etc/x": "store"},
        (("up -> ../../../../in", "etc -> /host/etc"),),
    ),
    "links in a circle": Case(
        contents("a/x"), {"a": "0755 0:0", "a/x": "store"}, (("a -> b", "b -> a"),)
    ),
    "a link to the root": Case(
        contents("here/x"), {"here": ".", "x": "store"}, (("keep", "here -> ."),)
    ),
    "modes of the last layer below": Case(
        contents("a/x", "b/x"),
        {"a": "0710 2:2", "b": "0755 0:0", "b/gone": None},
        (("a/ 0700 1:1", "b/ 0700 1:1", "b/gone"), ("a/ 0710 2:2", ".wh.b")),
    ),
    "a folder that a later layer made a link": Case(
        contents("a/x"),
        {"a": "b", "b": "0700 3:3", "b/x": "store"},
        (("a/ 0711", "a/y", "b/ 0700 3:3"), ("a -> b",)),
    ),
    "a link that a later layer made a folder": Case(
        contents("a/x"),
        {"a": "0711 0:0", "a/x": "store", "b": "0700 3:3"},
        (("b/ 0700 3:3", "a -> b"), ("a/ 0711",)),
    ),
    "big owners": Case(
        contents("a/x"), {"a": "0750 4000000000:3000000"}, (("a/ 0750 4000000000:3000000",),)
    ),
    "long names": Case(
        contents(f"{'n' * 120}/{'m' * 120}/x"),
        {f"{'n' * 120}/{'m' * 120}": "0700 9:9"},
        ((f"{'n' * 120}/{'m' * 120}/ 0700 9:9",),),
    ),
    "a root of the base": Case(contents("a/x"), {"": "0711 3:4"}, (("./ 0711 3:4",),)),
    "no root of the base": Case(contents("a/x"), {"": "0755 0:0"}, (("keep",),)),
    "a tmp of the base": Case(contents("tmp/x"), {"tmp": "0700 1:1"}, (("tmp/ 0700 1:1",),)),
    "a tmp that is a link": Case(
        contents("tmp/x"),
        {"tmp": "var/tmp", "var/tmp": "1777 0:0", "var/tmp/x": "store"},
        (("var/", "tmp -> var/tmp"),),
    ),
    "an env of the base": Case(
        '{ contents = pkgs.writeTextDir "x" "${pkgs.coreutils}"; }',
        {"usr/bin/env": "base's usr/bin/env", "x": "store"},
        (("usr/bin/env", "bin -> usr/bin"),),
    ),
    "no layers in the base": Case(contents("a/x"), {"": "0755 0:0", "a/x": "store"}, ()),
    # Commands
    "extraCommands in folders of others": Case(
        extra("mkdir -p home/app/d var/tmp/x; echo -n own >root/.bashrc"),
        {
            "home": "0755 0:0",
            "home/app": "0750 1000:1000",
            "home/app/d": "0755 0:0",
            "var/tmp": "1777 0:0",
            "root": "0700 0:0",
            "root/.bashrc": "own",
            "home/app/.profile": "base's home/app/.profile",
            "var/cache/x": "0711 7:7",
        },
    ),
    "folders that are there and made again": Case(
        extra(
            """
            mkdir root
            mkdir home home/app
            touch root/x home/app/y
            mkdir --mode=711 --parents var/cache/x
            ln -sfn /usr/lib lib
            """
        ),
        {"root": "0700 0:0", "home/app": "0750 1000:1000", "var/cache/x": "0711 7:7"},
    ),
    "modes that commands give": Case(
        extra("chmod 755 root; chmod 700 home/app; chmod 777 var/tmp; mkdir -m 700 data"),
        {
            "root": "0755 0:0",
            "home/app": "0700 1000:1000",
            "var/tmp": "0777 0:0",
            "data": "0700 5:6",
            "data/kept": "base's data/kept",
        },
    ),
    "modes that the imitated root gives": Case(
        fake("chmod 755 root; chmod 700 home/app; chmod 2770 data; chmod g-s var/mail"),
        {
            "root": "0755 0:0",
            "home/app": "0700 1000:1000",
            "data": "2770 5:6",
            "var/mail": "0775 0:8",
        },
    ),
    "owners that the imitated root gives": Case(
        fake("chown 0:0 home/app; chown 7 var/tmp; chgrp 9 data; chown 1:2 root"),
        {
            "home/app": "0750 0:0",
            "var/tmp": "1777 7:0",
            "data": "0770 5:9",
            "root": "0700 1:2",
        },
    ),
    "files of the imitated root in folders of others": Case(
        fake(
            "echo -n own >home/app/x; chown 1000:1000 home/app/x; install -Dm600 /dev/null data/a/b"
        ),
        {
            "home/app": "0750 1000:1000",
            "home/app/x": "own",
            "data": "0770 5:6",
            "data/a": "0755 0:0",
            "data/a/b": "",
        },
    ),
    "both kinds of commands": Case(
        "{ extraCommands = ''chmod 711 data home/app''; fakeRootCommands = ''chown 3 data''; }",
        {"data": "0711 3:6", "home/app": "0711 1000:1000"},
    ),
    "commands through links of the base": Case(
        extra("mkdir -p var/run/app srv/web var/lock/z; echo -n own >bin/x; echo -n own >lib/y"),
        {
            "bin": "usr/bin",
            "usr/bin/x": "own",
            "lib": "/usr/lib",
            "usr/lib/y": "own",
            "var/run": "../run",
            "run/app": "0755 0:0",
            "srv": "data",
            "data": "0770 5:6",
            "data/web": "0755 0:0",
            "data/kept": "base's data/kept",
            "run/lock/z": "0755 0:0",
            "var/lock": "/run/lock",
        },
    ),
    "commands that write in place of files": Case(
        extra("echo -n own >etc/motd; ln -sf ../../etc/motd usr/bin/vi"),
        {"etc/motd": "own", "usr/bin/vi": "../../etc/motd", "usr/bin/sh": "base's usr/bin/sh"},
    ),
    "a copied folder": Case(
        extra(
            'cp -r ${pkgs.runCommand "tree" { } "mkdir -p $out/root; echo -n own >$out/root/x"}/. .'
        ),
        {"root": "0700 0:0", "root/x": "own"},
    ),
    "commands that change nothing": Case(
        extra("ls >/dev/null; touch -c root; chmod 700 root"),
        {"root": "0700 0:0", "data": "0770 5:6", "srv": "data"},
    ),
    # Our own layers
    "a store of the base": Case(
        "{ contents = [ pkgs.hello ]; }",
        {
            "nix": "0700 1:1",
            "nix/store": "1775 0:30000",
            "nix/store/other": "base's nix/store/other",
        },
        (("nix/ 0700 1:1", "nix/store/ 1775 0:30000", "nix/store/other"),),
    ),
    "a store of the base, with an owner": Case(
        "{ contents = [ pkgs.hello ]; uid = 1000; gid = 100; }",
        {"nix": "0755 0:0", "nix/store": "0755 0:0"},
        (("nix/", "nix/store/"),),
    ),
    "no store of the base, with an owner": Case(
        "{ contents = [ pkgs.hello ]; uid = 1000; gid = 100; }",
        {"nix": "0755 1000:100", "nix/store": "0755 1000:100"},
    ),
    "a Nix database with an owner": Case(
        f"""{{ {DATABASE} uid = 1000; gid = 1000;
          fakeRootCommands = ''
            mkdir -p nix/var/nix/profiles/per-user/u
            chown 1000:1000 nix/var/nix/profiles/per-user/u
          '';
        }}""",
        {
            "nix": "0755 1000:1000",
            "nix/store": "0755 1000:1000",
            "nix/var": "0755 1000:1000",
            "nix/var/nix": "0755 1000:1000",
            "nix/var/nix/db": "0755 1000:1000",
            "nix/var/nix/profiles": "0755 1000:1000",
            "nix/var/nix/profiles/per-user": "0755 0:0",
            "nix/var/nix/profiles/per-user/u": "0755 1000:1000",
        },
        (("keep",),),
    ),
    "a Nix database upon folders of the base": Case(
        f"{{ {DATABASE} }}",
        {
            "nix": "0711 1:1",
            "nix/var": "0710 2:2",
            "nix/var/nix": "0700 3:3",
            "nix/var/nix/gcroots": "1777 0:0",
            "nix/var/nix/gcroots/own": "base's nix/var/nix/gcroots/own",
            "nix/var/nix/profiles": "0755 0:0",
        },
        (
            (
                "nix/ 0711 1:1",
                "nix/var/ 0710 2:2",
                "nix/var/nix/ 0700 3:3",
                "nix/var/nix/gcroots/ 1777",
                "nix/var/nix/gcroots/own",
            ),
        ),
    ),
    "a Nix database upon a link of the base": Case(
        f"{{ {DATABASE} }}",
        {
            "nix/var": "/state",
            "state": "0750 1:1",
            "state/kept": "base's state/kept",
            "state/nix/db": "0755 0:0",
        },
        (("nix/", "nix/var -> /state", "state/ 0750 1:1", "state/kept"),),
    ),
    "a link into the store": Case(
        contents("lib/tool/own", "lib/tool/sub/own", "lib/tool/file"),
        {
            "lib/tool": "0755 0:0",
            "lib/tool/own": "store",
            "lib/tool/other": "/nix/store/1-tool/lib/tool/other",
            "lib/tool/sub": "0755 0:0",
            "lib/tool/sub/own": "store",
            "lib/tool/sub/deep": "/nix/store/1-tool/lib/tool/sub/deep",
            "nix/store/1-tool/lib/tool/own": None,
            "nix/store/1-tool/lib/tool/sub/own": None,
            "single": "/nix/store/1-tool",
        },
        (
            (
                "lib/",
                "lib/tool -> /nix/store/1-tool/lib/tool",
                "single -> /nix/store/1-tool",
                *("nix/", "nix/store/", "nix/store/1-tool/", "nix/store/1-tool/lib/"),
                *("nix/store/1-tool/lib/tool/", "nix/store/1-tool/lib/tool/file"),
                *("nix/store/1-tool/lib/tool/other", "nix/store/1-tool/lib/tool/sub/"),
                "nix/store/1-tool/lib/tool/sub/deep",
            ),
        ),
    ),
    "commands upon a link into the store": Case(
        extra("mkdir -p lib/tool; echo -n own >lib/tool/own"),
        {
            "lib/tool": "0755 0:0",
            "lib/tool/own": "own",
            "lib/tool/other": "/nix/store/1-tool/other",
            "nix/store/1-tool/own": None,
        },
        (
            (
                "lib/tool -> /nix/store/1-tool",
                *("nix/", "nix/store/", "nix/store/1-tool/", "nix/store/1-tool/other"),
            ),
        ),
    ),
    "groups": Case(
        "{ contents = [ pkgs.hello ]; layers = [ [ pkgs.hello ] ]; }",
        {"nix": "0711 1:1", "root": "0700 0:0"},
        (("nix/ 0711 1:1", "root/ 0700"),),
    ),
}


def show(path: Path) -> str | None:
    """Return what is at a path, in the words of Case."""
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        target = os.readlink(path)
        return "store" if re.match("/nix/store/[0-9a-z]{32}-", target) else target
    if path.is_dir():
        status = path.stat()
        return f"{stat.S_IMODE(status.st_mode):04o} {status.st_uid}:{status.st_gid}"
    return path.read_text()


@pytest.fixture(scope="module")
def images(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """The images of all cases, built at once."""
    calls = []
    for arguments, _, layers in CASES.values():
        layout = Layout(tmp_path_factory.mktemp("base") / "layout")
        layout.write_image(*(make_layer(*files) for files in layers))
        calls.append(
            f'(buildImage ({{ name = "image"; fromImage = {layout.folder}; }} // {arguments}))'
        )
    built = nix.build(*nix.expression(f"[ {' '.join(calls)} ]"))
    return dict(zip(CASES, map(Image, built.paths)))


@pytest.mark.parametrize("case", CASES)
def test_files_are_as_they_should_be(images: dict[str, Image], tmp_path: Path, case: str) -> None:
    container = Container.of(images[case], tmp_path / "bundle")
    found = {place: show(container.rootfs / place) for place in CASES[case].expected}
    assert found == CASES[case].expected


@pytest.mark.parametrize("case", CASES)
def test_layer_has_each_file_once_and_none_that_is_unchanged(
    images: dict[str, Image], case: str
) -> None:
    names = [member.name for member in images[case].members(images[case].manifest["layers"][-1])]
    assert len(names) == len(set(names))
    if case == "commands that change nothing":
        assert set(names) <= {".", "tmp"}


def test_folder_keeps_its_attributes(nix: Nix, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.write_image(make_layer("a/ 0700 1:1 user.note=kept", "b/ 0711 2:2 user.note=changed"))
    commands = (
        "touch b/x; ${pkgs.python3}/bin/python3 -c "
        '\'import os; os.setxattr("b", "user.more", b"new")\' '
    )
    image = nix.image(
        f"""{{
          fromImage = {layout.folder};
          contents = {text("a/x")};
          fakeRootCommands = ''{commands}'';
        }}"""
    )
    rootfs = Container.of(image, tmp_path / "bundle").rootfs
    assert (show(rootfs / "a"), show(rootfs / "b")) == ("0700 1:1", "0711 2:2")
    assert {name: os.getxattr(rootfs / "a", name) for name in os.listxattr(rootfs / "a")} == {
        "user.note": b"kept"
    }
    assert {name: os.getxattr(rootfs / "b", name) for name in os.listxattr(rootfs / "b")} == {
        "user.note": b"changed",
        "user.more": b"new",
    }


def test_images_of_a_fleet_keep_what_their_base_has(nix: Nix, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.write_image(make_layer(*DEBIAN), config={"config": {"Cmd": ["sh"], "User": "7"}})
    fleet = f"""(buildImages {{
      defaults.fromImage = {layout.folder};
      images.one = {{ contents = [ {text("root/x")} ]; config.Entrypoint = [ "x" ]; }};
      images.two.contents = [ {text("var/run/x")} ];
    }})"""
    one, two = map(Image, nix.build(*nix.expression(f"let f = {fleet}; in [ f.one f.two ]")).paths)
    rootfs = Container.of(one, tmp_path / "one").rootfs
    assert (show(rootfs / "root"), show(rootfs / "root/x")) == ("0700 0:0", "store")
    assert one.config["config"] == {"Entrypoint": ["x"], "User": "7"}
    rootfs = Container.of(two, tmp_path / "two").rootfs
    assert (show(rootfs / "var/run"), show(rootfs / "run/x")) == ("../run", "store")
    assert two.config["config"] == {"Cmd": ["sh"], "User": "7"}


def test_podman_runs_what_lies_upon_a_base(nix: Nix, tmp_path: Path, short_folder: Path) -> None:
    """Entrypoint without the base's Cmd, and a home that its user can write."""
    layout = Layout(tmp_path / "layout")
    layout.write_image(
        make_layer("home/app/ 0700 1000:1000", "sh -> usr/bin"),
        config={"config": {"Cmd": ["wrong"], "User": "1000", "WorkingDir": "/home/app"}},
    )
    said = "echo $#; echo x >y; cat y; stat -c %a . /tmp"
    image = nix.image(
        f"""{{
          fromImage = {layout.folder};
          contents = [ pkgs.coreutils {text("home/app/.profile")} ];
          config.Entrypoint = [ "${{pkgs.bash}}/bin/bash" "-c" "{said}" "bash" ];
          config.Env = [ "PATH=/bin" ];
        }}"""
    )
    done = podman(short_folder, "run", *PODMAN_RUN, "--cap-drop=all", "--quiet", image.location)
    assert done.stdout.split() == ["0", "x", "700", "1777"]


REFUSED = {
    "a file in place of a folder": (contents("root"), "would take the place of /root, a folder"),
    "a file in place of a link to a folder": (
        contents("bin"),
        "would take the place of /bin, a folder",
    ),
    "commands that remove a folder": (extra("rm -r root"), "removed or replaced /root, a folder"),
    "commands that replace a folder": (
        extra("rmdir root; ln -s home root"),
        "removed or replaced /root, a folder",
    ),
    "commands that remove a link": (extra("rm srv"), "removed or replaced /srv, a link"),
    "the imitated root that removes a folder": (
        fake("rm -r var/cache"),
        "removed or replaced /var/cache, a folder",
    ),
    "commands that remove a file": (extra("rm etc/motd"), "extraCommands failed with status 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_hide_files_of_the_base_is_one_line(nix: Nix, tmp_path: Path, case: str) -> None:
    arguments, complaint = REFUSED[case]
    layout = Layout(tmp_path / "layout")
    layout.write_image(make_layer(*DEBIAN))
    error = nix.image_error(f"({arguments} // {{ fromImage = {layout.folder}; }})")
    assert any(line.startswith("error: ") and complaint in line for line in error.splitlines())
    assert "Traceback" not in error
