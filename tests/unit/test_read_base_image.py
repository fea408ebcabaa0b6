"""Reading a base image: what is believed of an image that others made."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from base_images import described, read, write_docker_archive
from layouts import Layout, digest_of, make_tar

LAYER = make_tar("etc/", "etc/file")
STORE = ("nix/", "nix/store/")


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


def write_two_images(layout: Layout) -> None:
    layout.write_image(LAYER)
    first = json.loads((layout.folder / "index.json").read_bytes())["manifests"]
    layout.write_image(make_tar("other"))
    second = json.loads((layout.folder / "index.json").read_bytes())["manifests"]
    layout.write_index(*first, *second)


def write_skopeo_folder(layout: Layout) -> None:
    (layout.folder / "manifest.json").write_text("{}")
    (layout.folder / "version").write_text("Directory Transport Version: 1.1\n")


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
    "an index that is no JSON": (write_index("{"), "image: index.json is not JSON: Expecting"),
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
    "no diff ids": (config(rootfs={"type": "layers"}), "differ in the number of layers"),
    "no root file system": (config(rootfs=None), "rootfs is not an object"),
    "diff ids that are text": (config(rootfs={"diff_ids": "x"}), "diff_ids is not a list"),
    "a layer of text": (
        image(b"text " * 200),
        f"the layer {digest_of(gzip.compress(b'text ' * 200, mtime=0))} is not a tar file: ",
    ),
    "a time that is a number": (config(history=[{"created": 5}]), "created is not a string"),
    "a time that is none": (
        config(history=[{"created": "5"}]),
        "created is not a time of RFC 3339",
    ),
    "an empty layer that is text": (
        config(history=[{"empty_layer": "yes"}]),
        "empty_layer is not true or false",
    ),
    "a history of null": (config(history=[None]), "history is not a list of objects"),
    "a history that is text": (config(history="x"), "history is not a list"),
    "variables that are numbers": (config(config={"Env": [1]}), "Env is not a list of strings"),
    "variables in an object": (config(config={"Env": {"A": "1"}}), "Env is not a list"),
    "a command that is a number": (config(config={"Cmd": 5}), "Cmd is not a list"),
    "a command of numbers": (config(config={"Cmd": [5]}), "Cmd is not a list of strings"),
    "a user that is a number": (config(config={"User": 5}), "User is not a string"),
    "a folder in a list": (config(config={"WorkingDir": ["/"]}), "WorkingDir is not a string"),
    "an entrypoint that is text": (config(config={"Entrypoint": "x"}), "Entrypoint is not a list"),
    "a shell that is text": (config(config={"Shell": "sh"}), "Shell is not a list"),
    "a signal that is a number": (config(config={"StopSignal": 9}), "StopSignal is not a string"),
    "triggers that are text": (config(config={"OnBuild": "RUN x"}), "OnBuild is not a list"),
    "a check that is text": (config(config={"Healthcheck": "x"}), "Healthcheck is not an object"),
    "a check of numbers": (
        config(config={"Healthcheck": {"Test": [1]}}),
        "Test is not a list of strings",
    ),
    "a pause that is text": (
        config(config={"Healthcheck": {"Interval": "1s"}}),
        "Interval is not a number",
    ),
    "labels that are numbers": (
        config(config={"Labels": {"a": 1}}),
        "Labels is not an object of strings",
    ),
    "ports with text": (
        config(config={"ExposedPorts": {"1/tcp": "x"}}),
        "ExposedPorts is not an object of empty objects",
    ),
    "an author in a list": (config(author=["me"]), "author is not a string"),
    "a variant that is a number": (config(variant=7), "variant is not a string"),
    "labels in a list": (config(config={"Labels": []}), "Labels is not an object"),
    "ports in a list": (config(config={"ExposedPorts": []}), "ExposedPorts is not an object"),
    "volumes in a list": (config(config={"Volumes": [1]}), "Volumes is not an object"),
    "a configuration of text": (config(config="x"), "config is not an object"),
    "layers that are text": (image(manifest={"layers": "x"}), "layers is not a list"),
    "no configuration": (image(manifest={"config": None}), "config is not an object"),
    "a digest with a way out": (layers(digest="sha256:../../x"), "is not a digest"),
    "a digest of another kind": (layers(digest="md5:" + "0" * 32), "is not a digest"),
    "a digest of nothing": (layers(digest="sha256:" + "0" * 64), "is missing, or a link"),
    "another size": (layers(size=1), "has other bytes than its name says"),
    "a size that is true": (layers(size=True), "size is not a number"),
    "annotations of text": (layers(annotations="x"), "annotations is not an object"),
    "a layer that is no archive": (image(b"x" * 5000), "fromImage"),
    "a name of 1 MB": (image(make_tar("x" * 1_000_000)), "has a name of 1000000 characters"),
    "a header of 2 MB": (image(make_tar("x" * 2_000_000)), "has a header of 20000"),
    "a layer from elsewhere": (
        layers(digest="sha256:" + "0" * 64, urls=["https://example.org/layer"]),
        ", which is fetched from elsewhere is missing",
    ),
    "two images": (write_two_images, "it holds 2 images for amd64: copy one of them"),
    "a folder of skopeo's": (write_skopeo_folder, "copy the image to oci: instead"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_image_is_refused_in_one_line(layout: Layout, case: str) -> None:
    write, complaint = HOSTILE[case]
    write(layout)
    done = read(layout.folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: fromImage {layout.folder} ")
    assert complaint in line
    assert not (layout.folder.parent / "build" / "image").exists()


def test_layer_that_was_cut_is_refused(layout: Layout) -> None:
    data = gzip.compress(os.urandom(100_000))
    layout.write_image(LAYER, manifest={"layers": [layout.write_blob(data[:50_000])]})
    done = read(layout.folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: fromImage {layout.folder} ")


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
    media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    blobs = [
        layout.write_blob(plain, mediaType=media_type),
        layout.write_blob(packed, mediaType=media_type, annotations={"a": "b"}),
    ]
    diff_ids = [digest_of(plain), digest_of(LAYER)]
    layout.write_image(manifest={"layers": blobs}, config={"rootfs": {"diff_ids": diff_ids}})
    found = described(layout.folder, "description")
    assert [layer["mediaType"].partition(".tar")[2] for layer in found] == ["", "+gzip"]
    assert [layer.get("annotations") for layer in found] == [None, {"a": "b"}]
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
    "beside Nix's own folders": ([(*STORE, "nix/store/.links/", ONE + "/")], [["/" + ONE]]),
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
    assert re.match(f"error: fromImage {tmp_path}/archive ", done.stderr.splitlines()[-1])


def test_script_that_writes_an_image_is_none(tmp_path: Path) -> None:
    (tmp_path / "stream").write_text("#!/bin/sh\n" + "exit\n" * 200)
    assert "it is not a tar file, but a script: pass what it writes\n" in (
        read(tmp_path / "stream").stderr
    )


def test_file_that_is_no_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"FROM debian\n" * 100)
    done = read(tmp_path / "archive")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "archive is neither an OCI layout nor an image archive: it is not a tar file"
    )


def test_archive_of_docker_is_read_with_its_links(tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path, ("etc/", "etc/file"))
    (layer,) = described(archive, "description")
    tar = make_tar("etc/", "etc/file")
    assert (layer["digest"], layer["diffId"], layer["size"]) == (*[digest_of(tar)] * 2, len(tar))
    assert (tmp_path / "build" / "out" / layer["file"]).read_bytes() == tar
    # Nothing else of the archive is kept.
    assert [file.name for file in (tmp_path / "build" / "out").iterdir()] == ["blobs"]


ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "two images": (
        lambda folder: write_docker_archive(folder, ("a",), ("b",)),
        "it holds 2 images: save one",
    ),
    "no image": (write_docker_archive, "its manifest.json is not a list of images"),
    "docker before 1.10": (
        lambda folder: write_docker_archive(folder, ("a",), legacy=True),
        "load it with docker and save it again",
    ),
    "docker export": (
        lambda folder: write_file(folder, make_tar("bin/", "bin/sh")),
        "write it with docker save, not with docker export",
    ),
    "an empty tar": (
        lambda folder: write_file(folder, make_tar()),
        "it is an archive without files",
    ),
    "an empty file": (lambda folder: write_file(folder, b""), "it is empty"),
    "a cut archive": (
        lambda folder: write_file(folder, write_docker_archive(folder, ("a",)).read_bytes()[:1500]),
        "cannot be read as an image",
    ),
    "a missing layer": (
        lambda folder: write_file(
            folder,
            write_docker_archive(folder, ("a",))
            .read_bytes()
            .replace(b'again0/layer.tar"', b'again9/layer.tar"'),
        ),
        "again9/layer.tar is missing",
    ),
}


def write_file(folder: Path, data: bytes) -> Path:
    (folder / "archive").write_bytes(data)
    return folder / "archive"


@pytest.mark.parametrize("case", ARCHIVES)
def test_archive_that_is_no_image_is_one_line_that_says_what_to_do(
    tmp_path: Path, case: str
) -> None:
    write, complaint = ARCHIVES[case]
    done = read(write(tmp_path))
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: fromImage {tmp_path}/archive ") and complaint in line
    assert len(line) < 300 and "Traceback" not in done.stderr


def test_layer_of_zeros_takes_little_memory(layout: Layout) -> None:
    """4.7 MB that say that a name has 1 GiB."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    layer = gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20), 1)
    layout.write_image(LAYER, manifest={"layers": [layout.write_blob(layer)]})
    done = read(layout.folder, memory=400_000_000)
    assert "has a header of 1073741824 bytes" in done.stderr


# The variants of images, that of the machine, and which one is taken; None if none is.
VARIANTS = [
    (["v7", "v6"], "v6", "v6"),
    (["v6", "v7"], "v7", "v7"),
    (["v5", "v6", "v8"], "v7", "v6"),
    (["", "v6"], "v7", "v6"),
    (["", "v8"], "v7", ""),
    (["v7", "v8"], "v6", None),
    (["v7"], "v6", None),
    (["v6"], "v7", "v6"),
    ([""], "v6", ""),
    (["v6", "v7"], "", "v7"),
]


@pytest.mark.parametrize("is_said", [True, False])
@pytest.mark.parametrize(("variants", "machine", "expected"), VARIANTS)
def test_image_of_the_nearest_variant_is_taken(
    layout: Layout, variants: list[str], machine: str, expected: str | None, is_said: bool
) -> None:
    descriptors, digests = [], {}
    for variant in variants:
        said = {"variant": variant} if variant else {}
        layout.write_image(LAYER, config={"architecture": "arm", "author": variant, **said})
        (descriptor,) = json.loads((layout.folder / "index.json").read_bytes())["manifests"]
        digests[descriptor["digest"]] = variant
        if is_said:
            descriptor["platform"] = {"os": "linux", "architecture": "arm", **said}
        descriptors.append(descriptor)
    # What buildkit adds to an index, and what cosign adds to a layout
    unknown = {"os": "unknown", "architecture": "unknown"}
    descriptors.append({**layout.write_blob({"layers": []}), "platform": unknown})
    descriptors.append(layout.write_blob({"config": layout.write_blob({}), "layers": []}))
    index = "application/vnd.oci.image.index.v1+json"
    layout.write_index(layout.write_blob({"manifests": descriptors}, mediaType=index))
    if expected is not None:
        found = described(layout.folder, "image", architecture="arm", variant=machine)
        assert digests[found["digest"]] == expected
    else:
        done = read(layout.folder, architecture="arm", variant=machine)
        assert f"it has no image for arm/{machine}, only for arm/v7" in done.stderr


def test_one_image_of_a_higher_variant_is_refused(layout: Layout) -> None:
    layout.write_image(LAYER, config={"architecture": "arm", "variant": "v7"})
    done = read(layout.folder, architecture="arm", variant="v6")
    assert "it is for arm/v7, and this is for arm/v6\n" in done.stderr


def test_one_image_of_a_higher_variant_than_that_of_all_machines_is_refused(layout: Layout) -> None:
    layout.write_image(LAYER, config={"variant": "v3"})
    assert "it is for amd64/v3, and this is for amd64\n" in read(layout.folder).stderr


def test_layer_without_a_byte_is_an_archive_without_files(layout: Layout) -> None:
    layout.write_image(b"", LAYER)
    assert set(described(layout.folder, "tree")) == {"", "etc", "etc/file"}


def test_layer_of_zstd_may_begin_with_what_is_skipped(layout: Layout) -> None:
    frame = subprocess.run(["zstd", "-c"], input=LAYER, stdout=subprocess.PIPE, check=True).stdout
    blob = layout.write_blob(b"\x50\x2a\x4d\x18\x04\0\0\0size" + frame)
    layout.write_image(
        manifest={"layers": [blob]}, config={"rootfs": {"diff_ids": [digest_of(LAYER)]}}
    )
    (layer,) = described(layout.folder, "description")
    assert layer["mediaType"].endswith("+zstd")


def test_only_what_a_dockerfile_keeps_is_kept(layout: Layout) -> None:
    kept = {
        "ArgsEscaped": True,
        "Cmd": ["c"],
        "Entrypoint": ["e"],
        "Env": ["A=1"],
        "ExposedPorts": {"1/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 2},
        "Labels": {"a": "b"},
        "Shell": ["sh", "-c"],
        "StopSignal": "SIGINT",
        "User": "u",
        "Volumes": {"/v": {}},
        "WorkingDir": "/w",
    }
    dropped = {
        "OnBuild": ["RUN x"],
        "Hostname": "h",
        "Domainname": "",
        "Image": "sha256:1",
        "Tty": True,
        "AttachStdout": True,
        "StopTimeout": 3,
        "Memory": 0,
        "MacAddress": None,
    }
    about = {"author": "me", "os.version": "1", "os.features": ["f"], "variant": "v1"}
    more = {"created": "2020-01-01T00:00:00Z", "docker_version": "20", "container": "x"}
    layout.write_image(LAYER, config={"config": {**kept, **dropped}, **about, **more})
    found = described(layout.folder, "image")
    assert found["config"] == kept
    assert found["about"] == about


def test_null_counts_as_missing(layout: Layout) -> None:
    keys = "Cmd Entrypoint Env ExposedPorts Healthcheck Labels OnBuild Shell User Volumes".split()
    config = {"config": dict.fromkeys(keys), "history": None, "author": None}
    layout.write_image(LAYER, config=config)
    found = described(layout.folder, "image")
    assert (found["config"], found["about"]) == ({}, {})


def test_base_without_layers_is_one(layout: Layout) -> None:
    layout.write_image(manifest={"layers": None}, config={"rootfs": {"type": "layers"}})
    assert described(layout.folder, "description") == []


def test_nix_database_is_kept_with_what_is_not_yet_in_it(layout: Layout) -> None:
    database = "nix/var/nix/db/db.sqlite"
    layout.write_image(make_tar(database, f"{database}-wal"))
    described(layout.folder, "image")
    found = set(os.listdir(layout.folder.parent / "build" / "out"))
    assert found == {"blobs", "db.sqlite", "db.sqlite-wal"}


def test_hard_link_is_what_it_leads_to(layout: Layout) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "folder"
        archive.addfile(link)
        for name, target in (("one", "file"), ("./two", "./link"), ("three", "/nothing")):
            hard = tarfile.TarInfo(name)
            hard.type, hard.linkname = tarfile.LNKTYPE, target
            archive.addfile(hard)
    layout.write_image(data.getvalue())
    tree = described(layout.folder, "tree")
    assert [tree[place][0] for place in ("one", "two", "three")] == ["file", "link", "file"]
    assert tree["two"][1] == "folder"


# What is at places of an image with these layers: a folder, the target of a link, "file", or None.
PLACES: dict[str, tuple[list[tuple[str, ...]], dict[str, str | None]]] = {
    "links, absolute and relative": (
        [("./bin -> usr/bin", "lib -> /usr/lib/", "lib64 -> ./x/../usr/lib64")],
        {"bin": "usr/bin", "lib": "/usr/lib/", "lib64": "./x/../usr/lib64"},
    ),
    "names with odd characters": (
        [("\udcff -> usr/bin", "a\n", "b c/", "ü/")],
        {"\udcff": "usr/bin", "a\n": "file", "b c": "folder", "ü": "folder"},
    ),
    "names of more than 100 characters": ([("n" * 300 + "/",)], {"n" * 300: "folder"}),
    "names that lead out": (
        [("../../etc/x", "/abs/", "a/../b/")],
        {"etc/x": "file", "b": "folder"},
    ),
    "a link replaced by a folder": ([("bin -> usr/bin",), ("bin/",)], {"bin": "folder"}),
    "a link replaced by another": ([("a -> b",), ("a -> c",)], {"a": "c"}),
    "a folder replaced by a link": ([("a/", "a/x"), ("a -> b",)], {"a": "b", "a/x": None}),
    "a folder replaced by a file": ([("a/", "a/x"), ("a",)], {"a": "file", "a/x": None}),
    "a file replaced by a folder": ([("a",), ("a/", "a/x")], {"a": "folder", "a/x": "file"}),
    "the same twice in a layer": ([("a", "a/", "a/x")], {"a": "folder", "a/x": "file"}),
    "a file removed": ([("a/", "a/x"), ("a/.wh.x",)], {"a": "folder", "a/x": None}),
    "a folder removed": ([("a/", "a/x"), (".wh.a",)], {"a": None, "a/x": None}),
    "removed and added again": ([("a/", "a/x"), (".wh.a",), ("a/",)], {"a": "folder", "a/x": None}),
    "removed and added at once": (
        [("a/", "a/x"), ("a/", "a/y", ".wh.a")],
        {"a/y": "file", "a/x": None},
    ),
    "an opaque folder": (
        [("a/", "a/x", "b"), ("a/", "a/y", "a/.wh..wh..opq")],
        {"a/x": None, "a/y": "file", "b": "file"},
    ),
    "an opaque folder, said first": (
        [("a/", "a/x"), ("a/", "a/.wh..wh..opq", "a/y")],
        {"a/x": None, "a/y": "file"},
    ),
    "an opaque root": (
        [("a/", "b -> a"), (".wh..wh..opq", "c/")],
        {"a": None, "b": None, "c": "folder"},
    ),
    "whiteouts of what is not there": ([(".wh.a", "b/.wh.c", ".wh.")], {"a": None}),
    "what aufs leaves behind": ([("a",), (".wh..wh.plnk/", ".wh..wh.aufs")], {"a": "file"}),
    "files without their folders": (
        [("a/b/c",)],
        {"a": "folder", "a/b": "folder", "a/b/c": "file"},
    ),
    "a file through a link": (
        [("usr/", "usr/bin/", "bin -> usr/bin"), ("bin/x",)],
        {"bin": "usr/bin", "usr/bin/x": "file"},
    ),
    "a file removed through a link": (
        [("usr/bin/", "usr/bin/x", "bin -> usr/bin"), ("bin/.wh.x",)],
        {"usr/bin/x": None, "bin": "usr/bin"},
    ),
    "what is in store paths, unless a link leads there": (
        [("l -> /nix/store/2-b", "nix/store/1-a/x", "nix/store/2-b/x")],
        {
            "nix/store/1-a": "folder",
            "nix/store/1-a/x": None,
            "nix/store/2-b": "folder",
            "nix/store/2-b/x": "file",
        },
    ),
    "a file through a circle of links": ([("a -> b", "b -> a"), ("a/x",)], {"a/x": "file"}),
}


@pytest.mark.parametrize("case", PLACES)
def test_files_of_the_layers_are_those_of_the_whole_image(layout: Layout, case: str) -> None:
    layers, expected = PLACES[case]
    layout.write_image(*(make_tar(*names) for names in layers))
    tree = described(layout.folder, "tree")
    found = {place: (entry[1] if entry[0] == "link" else entry[0]) for place, entry in tree.items()}
    assert {place: found.get(place) for place in expected} == expected
    assert not any(".wh." in place for place in found)
