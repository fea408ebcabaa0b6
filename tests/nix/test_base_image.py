"""Base images: what is believed of an image that others made, and images upon one."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from containers import Container
from layouts import Layout, digest_of, make_tar
from nix import ROOT, Image, packed_paths, root_layer, run

LAYER = make_tar("etc/", "etc/file")
OUTPUTS = ("out", "description", "image", "tree")
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
        "variant": "",
        "storeDir": "/nix/store",
        "decompressors": {name: shutil.which(name) for name in ("bzip2", "gzip", "xz", "zstd")},
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
    "no diff ids": (config(rootfs={"type": "layers"}), "differ in the number of layers"),
    "no root file system": (config(rootfs=None), "rootfs is not an object"),
    "diff ids that are text": (config(rootfs={"diff_ids": "x"}), "diff_ids is not a list"),
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
    "a digest with a way out": (layers(digest="sha256:../../x"), "is no digest"),
    "a digest of another kind": (layers(digest="md5:" + "0" * 32), "is no digest"),
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
    assert re.match(f"error: fromImage {tmp_path}/archive is ", done.stderr.splitlines()[-1])


def test_file_that_is_no_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"FROM debian\n" * 100)
    done = read(tmp_path / "archive")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("archive is neither an OCI layout nor an image archive: it is no tar file")


def write_docker_archive(folder: Path, *images: tuple[str, ...], legacy: bool = False) -> Path:
    """Write an archive in the form of `docker save`, with images of one layer with these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        listed = []
        for number, files in enumerate(images):
            layer = make_tar(*files)
            described = {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
                "config": {"Cmd": [f"image {number}"]},
            }
            add(f"{number}/layer.tar", layer)
            add(f"{number}.json", json.dumps(described).encode())
            # docker before 1.13 wrote links for layers that it had written before.
            link = tarfile.TarInfo(f"again{number}/layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, f"../{number}/layer.tar"
            archive.addfile(link)
            layers = [f"again{number}/layer.tar"]
            listed.append({"Config": f"{number}.json", "RepoTags": None, "Layers": layers})
        add("repositories", b"{}")
        if not legacy:
            add("manifest.json", json.dumps(listed).encode())
    (folder / "archive").write_bytes(data.getvalue())
    return folder / "archive"


def test_archive_of_docker_is_read_with_its_links(tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path, ("etc/", "etc/file"))
    (layer,) = described(archive, "description")
    tar = make_tar("etc/", "etc/file")
    assert (layer["digest"], layer["diffId"], layer["size"]) == (*[digest_of(tar)] * 2, len(tar))
    assert (tmp_path / "build" / "out" / layer["file"]).read_bytes() == tar
    # Nothing else of the archive is kept.
    assert [file.name for file in (tmp_path / "build" / "out").iterdir()] == ["blobs"]


@pytest.mark.parametrize("program", ["gzip", "zstd", "xz", "bzip2"])
def test_archive_may_be_compressed_with_what_docker_reads(tmp_path: Path, program: str) -> None:
    archive = write_docker_archive(tmp_path, ("etc/",))
    done = subprocess.run([program, "-c", archive], stdout=subprocess.PIPE, check=True)
    archive.write_bytes(done.stdout)
    assert described(archive, "image")["config"] == {"Cmd": ["image 0"]}


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
        "is no image",
    ),
    "zstd that was cut": (
        lambda folder: write_file(folder, b"\x28\xb5\x2f\xfd" + bytes(50)),
        "zstd can't read",
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
    assert line.startswith(f"error: fromImage {tmp_path}/archive is ") and complaint in line
    assert len(line) < 300 and "Traceback" not in done.stderr


def test_layer_of_zeros_takes_little_memory(layout: Layout) -> None:
    """4.7 MB that say that a name has 1 GiB."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    layer = gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20), 1)
    layout.write_image(LAYER, manifest={"layers": [layout.write_blob(layer)]})
    done = read(layout.folder)
    assert "has a header of 1073741824 bytes" in done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 400_000  # KiB


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
    assert "it is for arm/v7, and this is for arm/v6" in done.stderr


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

    def test_store_path_of_the_base_with_other_contents_is_packed(self, nix, tmp_path):
        """An image can call a file whatever it likes."""
        hello = nix.package("hello")
        layout = Layout(tmp_path / "layout")
        layout.write_image(make_tar("nix/", "nix/store/", str(hello)[1:]))
        image = nix.image(f"{{ fromImage = {layout.folder}; contents = pkgs.hello; }}")
        assert str(hello) in packed_paths(image)[1:]
        container = Container.of(image, tmp_path / "bundle")
        assert container.bwrap("/bin/hello").returncode == 0

    def test_dependencies_that_the_base_lacks_are_packed(self, nix, tmp_path):
        """Where the base has the path that was asked for, but not what it refers to."""
        hello = nix.package("hello")
        archive = tmp_path / "hello.tar"
        run("tar", "--create", "--sort=name", "--file", archive, "--directory=/", str(hello)[1:])
        layout = Layout(tmp_path / "layout")
        layout.write_image(archive.read_bytes())
        image = nix.image(f"{{ fromImage = {layout.folder}; contents = pkgs.hello; }}")
        assert image.store_paths[0] == [str(hello)]
        packed = [path for layer in image.store_paths[1:] for path in layer]
        assert sorted(packed) == sorted(nix.closure(hello) - {str(hello)})
        container = Container.of(image, tmp_path / "bundle")
        assert container.bwrap("/bin/hello").returncode == 0

    def test_image_keeps_what_the_base_says_about_itself(self, nix, tmp_path):
        layout = Layout(tmp_path / "layout")
        about = {"author": "me", "os.version": "1", "created": "2020-01-01T00:00:00Z"}
        layout.write_image(LAYER, config=about)
        image = nix.image(f"{{ fromImage = {layout.folder}; }}")
        found = {key: image.config[key] for key in about}
        assert found == {**about, "created": "1970-01-01T00:00:01Z"}

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
        assert ", and at least 1 for its store paths: write at least 4\n" in error

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
