"""Read and check a base image. Nothing in it is used unchecked.

A base image is an OCI image layout, whose blobs are used where they are, or an archive (of `docker
save`, or of a layout, compressed or not), which skopeo unpacks.

The attributes are those of read_base_image.nix. Writes

    out          a folder with the blobs, or links to them; and the base's Nix database, if it has
                 one, as db.sqlite
    description  its layers, as pack_layer.py describes layers, with their annotations
    image        {"config", "history", "layerCount", "digest"}: configuration of the container,
                 history with an entry for each layer, number of layers, digest of the manifest
    links        the links at the root that lead into /usr, such as {"bin": "usr/bin"}

`storePaths` of a layer are those that are in it as a whole, and that no other layer touches. They
are found in the archives alone, not in what the image says about itself, such as its history.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from posixpath import normpath
from typing import IO, Any, NamedTuple, TypeVar, cast

from attributes import fail, read_attributes, write_json
from oci import LAYER_TYPE, WHITEOUT, blob_path
from store import resolve
from tar import CHUNK, read_chunks

T = TypeVar("T")

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)

# By a layer's first two bytes: ending of the media type, program that decompresses. Docker has
# other names for the same types, and skopeo 1.9 calls gzip what it copied from a docker archive as
# plain tar.
_COMPRESSIONS = {b"\x1f\x8b": ("+gzip", "gzip"), b"\x28\xb5": ("+zstd", "zstd")}

# A link and its target, as distributions have them: lib64 and usr/lib64
_USR_LINK = re.compile(r"\w{1,64} usr(/[\w.-]{1,64}){1,4}", re.ASCII)

DATABASE = "/nix/var/nix/db/db.sqlite"
OPAQUE = ".wh..wh..opq"  # a whiteout of all that the layers below have in its folder


class ImageError(ValueError):
    """The file or folder is not a valid image."""


def field(value: object, name: str, kind: type[T], default: T | None = None) -> T:
    """Return `value[name]`, which must be of that kind, or `default` if it is null or missing.

    Raises ImageError.
    """
    found = value.get(name) if isinstance(value, dict) else None
    if found is None and default is not None:
        return default
    if not isinstance(found, kind) or isinstance(found, bool):
        wanted = {dict: "an object", list: "a list", str: "a string", int: "a number"}[kind]
        raise ImageError(f"{name} is not {wanted}")
    return found


class Layout:
    """An OCI image layout whose blobs may be links within `closure`, a set of store paths."""

    def __init__(self, folder: str, closure: set[str]) -> None:
        self.folder, self.closure = folder, closure

    def find_blob(self, descriptor: object) -> str:
        """Return the file of a blob, whose bytes have been compared with its descriptor."""
        digest, size = field(descriptor, "digest", str), field(descriptor, "size", int)
        if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
            raise ImageError(f"{digest} is no digest")
        file = resolve(blob_path(self.folder, digest), self.closure)
        if file is None or not os.path.isfile(file):
            raise ImageError(f"the blob {digest} is missing, or a link that leads elsewhere")
        sha256 = hashlib.sha256()
        if os.path.getsize(file) == size:
            for chunk in read_chunks(file):
                sha256.update(chunk)
        if digest != "sha256:" + sha256.hexdigest():
            raise ImageError(f"the blob {digest} has other bytes than its name says")
        return file

    def read_json(self, descriptor: object) -> Any:
        """Return what a JSON blob holds."""
        with open(self.find_blob(descriptor), "rb") as file:
            return json.load(file)

    def find_manifest(self, architecture: str) -> dict:
        """Return the descriptor of the image for an architecture."""
        index = resolve(os.path.join(self.folder, "index.json"), self.closure)
        if index is None:
            raise ImageError("it has no index.json")
        with open(index, "rb") as file:
            candidates = list(field(json.load(file), "manifests", list))
        seen: set[str] = set()  # an index can name the same one any number of times
        for descriptor in candidates:
            platform = field(descriptor, "platform", dict, {})
            given = [field(platform, "os", str, "linux")]
            given.append(field(platform, "architecture", str, architecture))
            if given != ["linux", architecture]:
                continue
            if field(descriptor, "mediaType", str, "") not in INDEX_TYPES:
                return descriptor
            if descriptor.get("digest") not in seen:
                candidates += field(self.read_json(descriptor), "manifests", list)
                seen.add(descriptor["digest"])
        raise ImageError(f"it has no image for {architecture}")


def check_config(config: Any, architecture: str, layer_count: int) -> list[str]:
    """Check the parts of an image's configuration that are used; return the layers' diff ids."""
    system = field(config, "os", str, "linux")
    if system != "linux":
        raise ImageError(f"it is for {system}, and this is for linux")
    if field(config, "architecture", str) != architecture:
        raise ImageError(f"it is for {config['architecture']}, and this is for {architecture}")
    diff_ids = field(field(config, "rootfs", dict), "diff_ids", list)
    if len(diff_ids) != layer_count:
        raise ImageError("its configuration and its manifest differ in the number of layers")
    if not all(isinstance(entry, dict) for entry in field(config, "history", list, [])):
        raise ImageError("history is not a list of objects")
    container = field(config, "config", dict, {})
    if not all(isinstance(variable, str) for variable in field(container, "Env", list, [])):
        raise ImageError("Env is not a list of strings")
    for name in ("Labels", "ExposedPorts", "Volumes"):
        field(container, name, dict, {})
    return diff_ids


def complete_history(history: list[dict], layer_count: int) -> list[dict]:
    """Return a history with an entry for each layer, or later entries would not match."""
    described = sum(not entry.get("empty_layer", False) for entry in history)
    if described > layer_count:
        history, described = [], 0
    filler = {"comment": "base image", "created": "1970-01-01T00:00:01Z"}
    return history + [filler] * (layer_count - described)


def decompress(blob: str, program: str | None) -> Iterator[bytes]:
    """Yield the bytes of a layer's archive. Raises ImageError if the program can't read it."""
    if program is None:
        yield from read_chunks(blob)
        return
    with open(blob, "rb") as file:
        command = [program, "--decompress", "--stdout"]
        process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        while chunk := process.stdout.read(CHUNK):
            yield chunk
    if process.returncode != 0:
        raise ImageError(f"{program} can't read the layer {blob}")


class Archive:
    """A file object from which tarfile reads a layer's archive; it hashes what is read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest, self.sha256 = chunks, b"", hashlib.sha256()

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (chunk := next(self.chunks, b"")):
            self.sha256.update(chunk)
            self.rest += chunk
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


class Member(NamedTuple):
    """A file in a layer."""

    name: str  # absolute
    is_folder: bool
    link: str  # the target of a symbolic link, "" for other files


def read_archive(chunks: Iterator[bytes], out: str) -> tuple[list[Member], str]:
    """Return the files in a tar archive, and the diff id.

    A Nix database among them is written into the folder `out`. Raises tarfile.TarError.
    """
    archive, names = Archive(chunks), []
    with tarfile.open(fileobj=cast(IO[bytes], archive), mode="r|", bufsize=CHUNK) as members:
        for member in members:
            link = member.linkname if member.issym() else ""
            names.append(Member(normpath("/" + member.name), member.isdir(), link))
            if names[-1].name == DATABASE and member.isreg():
                with open(os.path.join(out, "db.sqlite"), "wb") as database:
                    shutil.copyfileobj(cast(IO[bytes], members.extractfile(member)), database)
    while archive.read(CHUNK):
        pass
    return names, "sha256:" + archive.sha256.hexdigest()


def find_links(layers: list[list[Member]], store_dir: str) -> dict[str, str]:
    """Return the links at the root of an image with these layers that lead into /usr.

    One in place of the folder that holds the store is left out: the image has a folder there.

    >>> links = [Member("/bin", False, "usr/bin"), Member("/nix", False, "/usr/nix")]
    >>> find_links([links], "/nix/store")
    {'bin': 'usr/bin'}
    """
    root: dict[str, str] = {}
    for members in layers:
        added = {name[1:]: link for name, _, link in members if name.count("/") == 1}
        for name in added:
            if name == OPAQUE:
                root.clear()
            elif name.startswith(WHITEOUT):
                root.pop(name[len(WHITEOUT) :], None)
        root.update(added)
    links = {name: normpath("/./" + link)[1:] for name, link in root.items()}
    return {
        name: link
        for name, link in links.items()
        if _USR_LINK.fullmatch(f"{name} {link}") and not store_dir.startswith(f"/{name}/")
    }


def find_store_paths(layers: list[list[Member]], store_dir: str) -> list[list[str]]:
    """Return the store paths in each layer that no other one touches; sorted."""
    touched: list[set[str]] = []
    present: list[set[str]] = []
    for names in layers:
        touched.append(set())
        present.append(set())
        for name, is_folder, _ in names:
            folder, _, base = name.rpartition("/")
            is_whiteout = base.startswith(WHITEOUT)
            if is_whiteout:
                name = folder if base == OPAQUE else f"{folder}/{base[len(WHITEOUT) :]}"
            if f"{store_dir}/".startswith(name + "/") and (is_whiteout or not is_folder):
                return [[] for _ in layers]  # the store was removed, or is not a folder
            if name.startswith(store_dir + "/"):
                path = "/".join(name.split("/")[: store_dir.count("/") + 2])
                touched[-1].add(path)
                if name == path and not is_whiteout:
                    present[-1].add(path)
    times = Counter(path for paths in touched for path in paths)
    return [sorted(path for path in paths if times[path] == 1) for paths in present]


def read_layers(
    layout: Layout, manifest: dict, diff_ids: list[str], attributes: dict
) -> tuple[list[dict], dict[str, str]]:
    """Return the descriptions of an image's layers, whose digests are checked; and its links."""
    layers, names = [], []
    for descriptor, diff_id in zip(manifest["layers"], diff_ids):
        blob = layout.find_blob(descriptor)
        md5 = hashlib.md5(usedforsecurity=False)
        for chunk in read_chunks(blob):
            md5.update(chunk)
        with open(blob, "rb") as start:
            ending, program = _COMPRESSIONS.get(start.read(2), ("", None))
        chunks = decompress(blob, program and attributes[program])
        found, actual = read_archive(chunks, attributes["outputs"]["out"])
        if actual != diff_id:
            raise ImageError(f"the layer {descriptor['digest']} has another diff id: {actual}")
        names.append(found)
        file = blob_path("", descriptor["digest"])
        place = os.path.join(attributes["outputs"]["out"], file)
        if not os.path.lexists(place):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(blob, place)
        layers.append(
            {
                "digest": descriptor["digest"],
                "diffId": diff_id,
                "size": descriptor["size"],
                "mediaType": LAYER_TYPE + ending,
                "md5": md5.hexdigest(),
                "file": file,
                "annotations": field(descriptor, "annotations", dict, {}),
            }
        )
    for layer, paths in zip(layers, find_store_paths(names, attributes["storeDir"])):
        layer["storePaths"] = paths
        if not layer["annotations"]:
            del layer["annotations"]
    return layers, find_links(names, attributes["storeDir"])


def unpack_archive(archive: str, attributes: dict, layout: str) -> None:
    """Unpack an image archive into the new folder `layout`; its layers keep their bytes."""
    with open(archive, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if compressed:
        # skopeo 1.9 misreads docker archives that are compressed with gzip.
        with open("archive.tar", "wb") as plain:
            command = [attributes["gzip"], "--decompress", "--stdout", archive]
            subprocess.run(command, stdout=plain, check=True)
        archive = "archive.tar"
    with tarfile.open(archive) as members:
        names = {os.path.normpath(name) for name in members.getnames()}
    # docker's newer archives are also layouts, whose layers keep their bytes.
    kind = "oci-archive" if "oci-layout" in names else "docker-archive"
    # skopeo wants a place for temporary files that a build's sandbox does not have.
    environment = dict(os.environ, TMPDIR=os.getcwd(), HOME=os.getcwd())
    command = [attributes["skopeo"], "--insecure-policy", "--tmpdir", os.getcwd(), "copy"]
    command += ["--quiet", "--dest-oci-accept-uncompressed-layers"]
    command += [f"{kind}:{archive}", f"oci:{layout}:base"]
    subprocess.run(command, env=environment, check=True)


def read_image(layout: Layout, attributes: dict) -> None:
    """Check the image in `layout` and write the descriptions of it."""
    outputs, architecture = attributes["outputs"], attributes["architecture"]
    descriptor = layout.find_manifest(architecture)
    manifest = layout.read_json(descriptor)
    layer_count = len(field(manifest, "layers", list))
    config = layout.read_json(field(manifest, "config", dict))
    diff_ids = check_config(config, architecture, layer_count)
    os.makedirs(outputs["out"], exist_ok=True)
    layers, links = read_layers(layout, manifest, diff_ids, attributes)
    write_json(outputs["description"], layers)
    write_json(outputs["links"], links)
    image = {
        "config": field(config, "config", dict, {}),
        "history": complete_history(field(config, "history", list, []), layer_count),
        "layerCount": layer_count,
        "digest": descriptor["digest"],
    }
    write_json(outputs["image"], image)


def main() -> None:
    attributes = read_attributes()
    source, out = attributes["fromImage"], attributes["outputs"]["out"]
    try:
        if os.path.isdir(source):
            layout = Layout(source, {entry["path"] for entry in attributes["closure"]})
        else:
            unpack_archive(source, attributes, out)
            layout = Layout(out, {out})
        read_image(layout, attributes)
    except RecursionError:
        fail(f"fromImage {source} is no image that can be read: its JSON is nested too deeply")
    except (OSError, ValueError) as error:
        fail(f"fromImage {source} is no image that can be read: {error!s}")
    except (EOFError, tarfile.TarError, subprocess.CalledProcessError) as error:
        # When tarfile can't open a file, it has a line for each compression that it tried.
        reason = "it is no tar file" if "\n" in str(error) else error
        fail(f"fromImage {source} is neither an OCI layout nor an image archive: {reason}")


if __name__ == "__main__":
    main()
