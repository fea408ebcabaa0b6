"""What read_base_image.py believes of an image that others made."""

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

from layouts import Layout, digest_of, make_tar
from nix import ROOT

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
    command = [sys.executable, "-BEsS", ROOT / "build-image/builders/read_base_image.py"]
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
    return lambda layout: (layout.folder / "index.json").write_text(text) and None


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
