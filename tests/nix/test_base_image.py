"""Base images: what is believed of an image that others made, and images upon one."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from containers import Container
from layouts import Layout, digest_of, make_tar
from nix import ROOT, Image, packed_paths, root_layer, run

LAYER = make_tar("etc/", "etc/file")
OUTPUTS = ("out", "description", "image", "links")
STORE = ("nix/", "nix/store/")


def read(layout: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the program on an image as Nix does, in a new folder beside it."""
    folder = layout.parent / "build"
    folder.mkdir()
    attributes = {
        "outputs": {name: str(folder / name) for name in OUTPUTS},
        "fromImage": str(layout),
        "closure": [{"path": str(layout)}],
        "architecture": "amd64",
        "storeDir": "/nix/store",
        **{program: shutil.which(program) for program in ("gzip", "skopeo", "zstd")},
        **more,
    }
    (folder / ".attrs.json").write_text(json.dumps(attributes))
    command = [sys.executable, "-BEsS", f"{ROOT}/build-image/builders/read_base_image.py"]
    return subprocess.run(
        command, cwd=folder, env={}, capture_output=True, text=True, timeout=60, check=False
    )


def described(layout: Path, name: str, **more: Any) -> Any:
    """Return one of the outputs for an image that must be accepted."""
    done = read(layout, **more)
    assert done.returncode == 0, done.stderr
    return json.loads((layout.parent / "build" / name).read_bytes())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def write_nested_indexes(layout: Layout) -> None:
    descriptor = layout.write_blob({"manifests": []})
    for _ in range(200):
        descriptor["mediaType"] = "application/vnd.oci.image.index.v1+json"
        descriptor = layout.write_blob({"manifests": [descriptor] * 5})
    layout.write_index({**descriptor, "mediaType": "application/vnd.oci.image.index.v1+json"})


def write_deep_config(layout: Layout) -> None:
    config = layout.write_blob(b'{"history": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    layout.write_image(LAYER, manifest={"config": config})


def write_linked_blob(target: str) -> Callable[[Layout], None]:
    def write(layout: Layout) -> None:
        layout.write_image(LAYER)
        outside = layout.folder.parent / "outside"
        blob = layout.folder / "blobs" / digest_of(gzip.compress(LAYER, mtime=0)).replace(":", "/")
        blob.rename(outside)
        blob.symlink_to(target.format(outside=outside))

    return write


def write_linked_index(layout: Layout) -> None:
    layout.write_image(LAYER)
    (layout.folder / "index.json").rename(layout.folder.parent / "outside")
    (layout.folder / "index.json").symlink_to("../outside")


def write_index(text: str) -> Callable[[Layout], None]:
    def write(layout: Layout) -> None:
        (layout.folder / "index.json").write_text(text)

    return write


def image(*layers: bytes, **documents: Any) -> Callable[[Layout], None]:
    return lambda layout: layout.write_image(*(layers or [LAYER]), **documents)


def config(**changes: Any) -> Callable[[Layout], None]:
    return image(config=changes)


def layers(**changes: Any) -> Callable[[Layout], None]:
    """A manifest whose one layer has another descriptor."""

    def write(layout: Layout) -> None:
        descriptor = layout.write_blob(gzip.compress(LAYER, mtime=0))
        layout.write_image(LAYER, manifest={"layers": [{**descriptor, **changes}]})

    return write


HOSTILE = {
    "indexes that name each other": (write_nested_indexes, "it has no image for amd64"),
    "an index that is no JSON": (write_index("{"), "Expecting"),
    "an index that is a list": (write_index("[]"), "manifests is not a list"),
    "an index of numbers": (write_index('{"manifests": [1]}'), "digest is not a string"),
    "a link as index": (write_linked_index, "it has no index.json"),
    "a platform that is text": (
        write_index('{"manifests": [{"platform": "amd64"}]}'),
        "platform is not an object",
    ),
    "deep JSON": (write_deep_config, "nested too deeply"),
    "a blob that is a link out": (
        write_linked_blob("{outside}"),
        "is missing, or a link that leads elsewhere",
    ),
    "a blob that is a relative link out": (
        write_linked_blob("../../../outside"),
        "is missing, or a link that leads elsewhere",
    ),
    "windows": (config(os="windows"), "it is for windows, and this is for linux"),
    "another machine": (config(architecture="arm64"), "it is for arm64, and this is for amd64"),
    "no machine": (config(architecture=None), "architecture is not a string"),
    "another diff id": (
        config(rootfs={"diff_ids": [digest_of(b"")]}),
        f"has another diff id: {digest_of(LAYER)}",
    ),
    "a diff id too many": (
        config(rootfs={"diff_ids": [digest_of(LAYER)] * 2}),
        "differ in the number of layers",
    ),
    "no diff ids": (config(rootfs=None), "rootfs is not an object"),
    "diff ids that are text": (config(rootfs={"diff_ids": "x"}), "diff_ids is not a list"),
    "a history of null": (config(history=[None]), "history is not a list of objects"),
    "a history that is text": (config(history="x"), "history is not a list"),
    "variables that are numbers": (config(config={"Env": [1]}), "Env is not a list of strings"),
    "variables in an object": (config(config={"Env": {"A": "1"}}), "Env is not a list"),
    "labels in a list": (config(config={"Labels": []}), "Labels is not an object"),
    "ports in a list": (config(config={"ExposedPorts": []}), "ExposedPorts is not an object"),
    "volumes in a list": (config(config={"Volumes": [1]}), "Volumes is not an object"),
    "a configuration of text": (config(config="x"), "config is not an object"),
    "layers that are text": (image(manifest={"layers": "x"}), "layers is not a list"),
    "no configuration": (image(manifest={"config": None}), "config is not an object"),
    "a digest with a way out": (layers(digest="sha256:../../x"), "is no digest"),
    "a digest of another kind": (layers(digest="md5:" + "0" * 32), "is no digest"),
    "a digest of nothing": (layers(digest="sha256:" + "0" * 64), "is missing, or a link"),
    "another size": (layers(size=1), "has other bytes than its name says"),
    "a size that is true": (layers(size=True), "size is not a number"),
    "annotations of text": (layers(annotations="x"), "annotations is not an object"),
    "a layer that is no archive": (image(b"x" * 5000), "fromImage"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_image_is_refused_in_one_line(layout: Layout, case: str) -> None:
    write, complaint = HOSTILE[case]
    write(layout)
    done = read(layout.folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: fromImage {layout.folder} is ")
    assert complaint in line
    assert not (layout.folder.parent / "build" / "image").exists()


def test_layer_that_was_cut_is_refused(layout: Layout) -> None:
    data = gzip.compress(os.urandom(100_000))
    layout.write_image(LAYER, manifest={"layers": [layout.write_blob(data[:50_000])]})
    done = read(layout.folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: fromImage {layout.folder} is ")


def test_right_one_of_several_images_is_taken(layout: Layout) -> None:
    layout.write_image(LAYER)
    (wanted,) = json.loads((layout.folder / "index.json").read_bytes())["manifests"]
    index = "application/vnd.oci.image.index.v1+json"
    others = [
        {**wanted, "platform": {"os": "windows", "architecture": "amd64"}, "digest": "windows"},
        {**wanted, "platform": {"os": "linux", "architecture": "arm64"}, "digest": "arm64"},
        {**wanted, "platform": {"os": "linux", "architecture": "amd64"}},
    ]
    nested = layout.write_blob({"manifests": others}, mediaType=index)
    layout.write_index(*others[:2], nested)
    assert described(layout.folder, "image")["digest"] == wanted["digest"]


def test_history_has_an_entry_for_each_layer(tmp_path: Path) -> None:
    filler = {"comment": "base image", "created": "1970-01-01T00:00:01Z"}
    given: dict[str, tuple[list | None, list]] = {
        "none": (None, [filler] * 2),
        "too few": ([{"comment": "a"}], [{"comment": "a"}, filler]),
        "right": ([{"comment": "a"}, {"comment": "b"}], [{"comment": "a"}, {"comment": "b"}]),
        "too many": ([{"comment": "a"}] * 3, [filler] * 2),
        "with empty layers": (
            [{"comment": "a"}, {"empty_layer": True}, {"comment": "b"}],
            [{"comment": "a"}, {"empty_layer": True}, {"comment": "b"}],
        ),
    }
    for case, (history, expected) in given.items():
        layout = Layout(tmp_path / case / "layout")
        layout.write_image(LAYER, make_tar("b"), config={"history": history})
        assert described(layout.folder, "image")["history"] == expected, case


def test_layers_are_described_as_they_are(layout: Layout) -> None:
    """Whatever their media types say; their annotations stay."""
    plain, packed = make_tar("plain"), gzip.compress(LAYER, mtime=0)
    zstd = subprocess.run(["zstd", "-c"], input=LAYER, stdout=subprocess.PIPE, check=True).stdout
    media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    blobs = [
        layout.write_blob(plain, mediaType=media_type),
        layout.write_blob(packed, mediaType=media_type, annotations={"a": "b"}),
        layout.write_blob(zstd, mediaType=media_type),
    ]
    diff_ids = [digest_of(plain), digest_of(LAYER), digest_of(LAYER)]
    layout.write_image(manifest={"layers": blobs}, config={"rootfs": {"diff_ids": diff_ids}})
    found = described(layout.folder, "description")
    assert [layer["mediaType"].partition(".tar")[2] for layer in found] == ["", "+gzip", "+zstd"]
    assert [layer.get("annotations") for layer in found] == [None, {"a": "b"}, None]
    assert [layer["diffId"] for layer in found] == diff_ids
    assert [layer["digest"] for layer in found] == [blob["digest"] for blob in blobs]
    for layer in found:
        blob = layout.folder.parent / "build" / "out" / layer["file"]
        assert digest_of(blob.read_bytes()) == layer["digest"]
        assert blob.resolve().is_relative_to(layout.folder.resolve())  # linked, not copied


ONE, TWO = "nix/store/1-one", "nix/store/2-two"

# The store paths that are found, by the names in the layers.
FOUND: dict[str, tuple[list[tuple[str, ...]], list[list[str]]]] = {
    "in two layers": (
        [(*STORE, ONE + "/", ONE + "/x"), (*STORE, TWO)],
        [["/" + ONE], ["/" + TWO]],
    ),
    "with names that begin with ./": ([("./", "./" + ONE + "/")], [["/" + ONE]]),
    "of which a later layer changes one": (
        [(ONE + "/", TWO + "/"), (ONE + "/x",)],
        [["/" + TWO], []],
    ),
    "of which a later layer removes one": (
        [(ONE + "/", TWO + "/"), ("nix/store/.wh.1-one",)],
        [["/" + TWO], []],
    ),
    "of which a later layer removes a part": (
        [(ONE + "/", ONE + "/x"), (ONE + "/.wh.x",)],
        [[], []],
    ),
    "hidden by a whiteout of the store": ([(ONE + "/",), ("nix/.wh.store",)], [[], []]),
    "hidden by an opaque folder": ([(ONE + "/",), ("nix/store/.wh..wh..opq",)], [[], []]),
    "hidden by an opaque root": ([(ONE + "/",), (".wh..wh..opq",)], [[], []]),
    "hidden by an opaque folder beside": ([(ONE + "/",), ("etc/.wh..wh..opq",)], [["/" + ONE], []]),
    "behind a link": ([("nix -> srv", ONE + "/")], [[]]),
    "without a folder of their own": ([(ONE + "/x",)], [[]]),
}


@pytest.mark.parametrize("case", FOUND)
def test_store_paths_are_those_that_are_there_as_a_whole(layout: Layout, case: str) -> None:
    names, expected = FOUND[case]
    history = [{"created_by": "nixery-build-image", "comment": "store paths: /nix/store/3-three"}]
    layout.write_image(
        *(make_tar(*each) for each in names), config={"history": history * len(names)}
    )
    found = described(layout.folder, "description")
    assert [layer["storePaths"] for layer in found] == expected


def test_archive_of_another_kind_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(make_tar("a", "b"))
    done = read(tmp_path / "archive")
    assert done.returncode == 1
    assert re.match(f"error: fromImage {tmp_path}/archive is ", done.stderr.splitlines()[-1])


def test_file_that_is_no_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"FROM debian\n" * 100)
    done = read(tmp_path / "archive")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("archive is neither an OCI layout nor an image archive: it is no tar file")


LINKS: dict[str, tuple[list[tuple[str, ...]], dict[str, str]]] = {
    "relative and absolute": (
        [("./bin -> usr/bin", "lib -> /usr/lib/", "lib64 -> ./x/../usr/lib64")],
        {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"},
    ),
    "with names that no distribution has": (
        [
            (
                "\udcff -> usr/bin",
                "a\n -> usr/a",
                "a -> usr/\udcff",
                ".wh.a -> usr/a",
                "b c -> usr/c",
                f"d -> usr/{'d' * 300}",
            )
        ],
        {},
    ),
    "to other folders": ([("a -> b", "etc -> /private/etc", "x -> usr", "y -> usr/..")], {}),
    "out of the image": ([("bin -> ../../usr/bin",)], {"bin": "usr/bin"}),
    "deeper down": ([("usr/", "usr/tmp -> ../var/tmp", "var/run -> /usr/run")], {}),
    "replaced by a folder": ([("bin -> usr/bin",), ("bin/",)], {}),
    "replaced by another link": ([("bin -> usr/bin",), ("bin -> usr/sbin",)], {"bin": "usr/sbin"}),
    "in place of a folder": ([("bin/",), ("bin -> usr/bin",)], {"bin": "usr/bin"}),
    "removed": ([("bin -> usr/bin", "lib -> usr/lib"), (".wh.bin",)], {"lib": "usr/lib"}),
    "removed with the root": (
        [("bin -> usr/bin",), (".wh..wh..opq", "lib -> usr/lib")],
        {"lib": "usr/lib"},
    ),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_into_usr_are_those_of_the_whole_image(layout: Layout, case: str) -> None:
    layers, expected = LINKS[case]
    layout.write_image(*(make_tar(*names) for names in layers))
    assert described(layout.folder, "links") == expected


TEXT = '(pkgs.writeTextDir "share/one" "one")'
OTHER = '(pkgs.writeTextDir "share/two" "two")'


class TestBaseImage:
    """An image made elsewhere, here by umoci, from nothing, in two layers."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("base")
        layout, image = folder / "layout", f"{folder}/layout:base"
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", image)
        for number in "12":
            bundle = folder / f"bundle{number}"
            run("umoci", "unpack", "--image", image, bundle)
            (bundle / "rootfs" / f"from-base-{number}").write_text("base")
            run("umoci", "repack", "--image", image, bundle)
        settings = ["A=base", "BASE=yes", "PATH=/base"]
        words = [word for setting in settings for word in ("--config.env", setting)]
        words += ["--config.label", "base.label=1", "--config.user", "7", "--config.cmd", "/base"]
        words += ["--config.exposedports", "1/tcp", "--config.volume", "/base"]
        run("umoci", "config", "--image", image, *words)
        return layout

    @pytest.fixture(scope="class")
    @classmethod
    def archives(cls, base: Path) -> dict[str, Path]:
        """The base in the other forms in which images are handed on."""
        found = {"layout": base}
        for kind in ["docker-archive", "oci-archive"]:
            found[kind] = base.parent / f"{kind}.tar"
            copy = ["skopeo", "--insecure-policy", "copy"]
            run(*copy, f"oci:{base}:base", f"{kind}:{found[kind]}:base:base")
        compressed = base.parent / "docker-archive.tar.gz"
        run("gzip", "--keep", found["docker-archive"])
        return {**found, "compressed": compressed}

    ARGUMENTS = f'contents = {TEXT}; config.Env = [ "A=top" "TOP=yes" ]; config.Labels.top = "2";'

    @pytest.mark.parametrize("form", ["layout", "docker-archive", "oci-archive", "compressed"])
    def test_is_below_the_image_in_whatever_form_it_comes(self, nix, archives, form):
        image = nix.image(f"{{ fromImage = {archives[form]}; {self.ARGUMENTS} }}")
        assert {"from-base-1", "from-base-2", "share/one"} <= set(image.tree)
        assert [bool(paths) for paths in image.store_paths] == [False, False, True, False]
        assert len(image.config["rootfs"]["diff_ids"]) == 4
        history = [entry for entry in image.config["history"] if not entry.get("empty_layer")]
        assert len(history) == 4
        if "docker" in archives[form].name:
            # Its layers are plain, and stay so: compressed anew they would have other digests.
            assert image.digests[:2] == image.config["rootfs"]["diff_ids"][:2]

    @pytest.mark.parametrize("commands", ["", "echo x >bin/made; mkdir lib/made"])
    def test_links_of_a_distribution_stay(self, nix, tmp_path, commands):
        """Where /bin is a link to /usr/bin: as a folder, it would hide the shell."""
        below = Layout(tmp_path / "below")
        names = ["usr/", "usr/bin/", "usr/bin/sh", "usr/lib/", "bin -> usr/bin", "lib -> usr/lib"]
        below.write_image(make_tar(*names))
        image = nix.image(
            f"""{{
              fromImage = {below.folder};
              contents = pkgs.hello;
              extraCommands = "{commands}";
            }}"""
        )
        root = root_layer(image)
        assert root["bin"].linkname == "usr/bin" and root["usr/bin"].isdir()
        assert root["usr/bin/hello"].linkname == f"{nix.package('hello')}/bin/hello"
        if commands:
            assert root["lib"].linkname == "usr/lib"
            assert root["usr/bin/made"].isfile() and root["usr/lib/made"].isdir()

    def test_configuration_of_the_base_gives_way(self, nix, base):
        more = 'config.ExposedPorts."2/tcp" = { }; config.Volumes."/top" = { };'
        config = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} {more} }}").config["config"]
        assert config["Env"] == ["A=top", "BASE=yes", "PATH=/base", "TOP=yes"]
        assert config["Labels"] == {"base.label": "1", "top": "2"}
        assert config["ExposedPorts"] == {"1/tcp": {}, "2/tcp": {}}
        assert config["Volumes"] == {"/base": {}, "/top": {}}
        assert config["User"] == "7"
        assert config["Cmd"] == ["/base"]
        replaced = nix.image(f'{{ fromImage = {base}; config.User = "8"; config.Cmd = [ "/x" ]; }}')
        assert replaced.config["config"]["User"] == "8"
        assert replaced.config["config"]["Cmd"] == ["/x"]

    def test_layers_of_the_base_keep_their_digests(self, nix, base):
        image = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} }}")
        assert image.digests[:2] == Image(base).digests

    def test_tools_accept_the_image_upon_it(self, nix, base, tmp_path):
        image = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} }}")
        run("skopeo", "--insecure-policy", "copy", image.location, f"dir:{tmp_path}/copy")
        container = Container.of(image, tmp_path / "bundle")
        names = {path.name for path in container.rootfs.iterdir()}
        assert {"from-base-1", "from-base-2", "share", "nix", "tmp"} <= names

    @pytest.mark.parametrize("form", ["", ".archive"])
    def test_can_be_an_image_of_our_own_whose_store_paths_are_not_packed_again(self, nix, form):
        below = f'(buildImage {{ name = "below"; contents = pkgs.hello; }}){form}'
        image = nix.image(f"{{ fromImage = {below}; contents = [ pkgs.hello {TEXT} ]; }}")
        paths = packed_paths(image)
        assert len(paths) == len(set(paths))
        assert nix.closure(nix.package("hello")) < set(paths)
        assert image.digests[: len(image.digests) - 2] == (
            nix.image("{ contents = pkgs.hello; }").digests
        )

    def test_groups_pack_no_store_path_that_the_base_has(self, nix):
        below = 'buildImage { name = "below"; contents = pkgs.hello; }'
        group = f"layers = [ [ pkgs.hello {TEXT} ] ];"
        image = nix.image(f"{{ fromImage = {below}; {group} }}")
        paths = packed_paths(image)
        assert len(paths) == len(set(paths))
        assert [[path.partition("-")[2] for path in layer] for layer in image.store_paths[-2:]] == [
            ["one"],
            [],
        ]

    def test_layers_of_the_base_count_for_the_limit(self, nix, base):
        contents = f"contents = [ {TEXT} {OTHER} pkgs.hello ];"
        image = nix.image(f"{{ fromImage = {base}; {contents} maxLayers = 4; }}")
        assert len(image.digests) == 4
        error = nix.image_error(f"{{ fromImage = {base}; {contents} maxLayers = 2; }}")
        assert "error: maxLayers = 2 is too few: the image needs 2 for its base image" in error

    def test_for_another_machine_is_refused(self, nix, base):
        error = nix.image_error(f'{{ fromImage = {base}; architecture = "arm64"; }}')
        assert "fromImage" in error and "arm64" in error

    def test_that_is_missing_is_a_clear_error(self, nix, tmp_path):
        assert f"{tmp_path}/gone" in nix.image_error(f"{{ fromImage = {tmp_path}/gone; }}")

    @pytest.mark.parametrize(
        "damage",
        ["text", "empty", "folder", "cut", "cut gzip", "configuration", "layer", "lost layer"],
    )
    def test_that_is_broken_is_a_clear_error(self, nix, base, archives, tmp_path, damage):
        broken = tmp_path / "broken"
        if damage in ("text", "empty"):
            broken.write_text("I am no image\n" if damage == "text" else "")
        elif damage == "folder":
            broken.mkdir()
        elif damage in ("cut", "cut gzip"):
            form = "docker-archive" if damage == "cut" else "compressed"
            data = archives[form].read_bytes()
            broken.write_bytes(data[: len(data) // 2])
        else:
            shutil.copytree(base, broken)
            image = Image(broken)
            configuration, layer = image.manifest["config"]["digest"], image.digests[0]
            blob = image.blob(configuration if damage == "configuration" else layer)
            data = blob.read_bytes()
            if damage == "lost layer":
                blob.unlink()
            else:
                middle = len(data) // 2
                blob.write_bytes(data[:middle] + b"!" + data[middle + 1 :])
        error = nix.image_error(f"{{ fromImage = {broken}; }}")
        assert re.search(r"error: fromImage \S+-broken is ", error)
        assert "Traceback" not in error
