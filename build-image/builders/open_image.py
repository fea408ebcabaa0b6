"""Find an image in the forms in which images are handed on. Nothing in them is used unchecked.

They are the OCI image layout (image-layout.md of the OCI image specification 1.1), a folder or an
archive of one, and the archive of `docker save`. Archives may be compressed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from chunks import CHUNK, read_chunks
from oci import INDEX_TYPE, blob_path
from read_layer import CheckedHeader, ImageError, decompress, find_compressor, place_of
from store import MAXIMUM_LINKS, resolve

INDEX_TYPES = (INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json")

# The variants that a machine has of which only the architecture is known, and that images of which
# only the architecture is said are made for: as containerd has them (platforms, database.go).
_DEFAULT_VARIANTS = {"amd64": "v1", "arm": "v7", "arm64": "v8"}


class FormatError(ImageError):
    """The file is in none of the forms of an image."""


# Finds a file of an image by its name; None if it is not there
Find = Callable[[str], "str | None"]


def field(value: object, name: str, kind: type, default: object = None) -> Any:
    """Return `value[name]`, which must be of that kind, or `default` if it is null or missing.

    Raises ImageError.
    """
    found = value.get(name) if isinstance(value, dict) else None
    if found is None and default is not None:
        return default
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        wanted = {
            dict: "an object",
            list: "a list",
            str: "a string",
            int: "a number",
            bool: "true or false",
        }[kind]
        raise ImageError(f"{name} is not {wanted}")
    return found


def read_document(file: str, name: str) -> Any:
    """Return what a JSON file of an image holds. Raises ImageError with its name there."""
    with open(file, "rb") as stream:
        try:
            return json.load(stream)
        except ValueError as error:
            raise ImageError(f"{name} is not JSON: {error}") from None


def hash_file(file: str) -> str:
    """Return the digest of a file."""
    sha256 = hashlib.sha256()
    for chunk in read_chunks(file):
        sha256.update(chunk)
    return "sha256:" + sha256.hexdigest()


class Image(NamedTuple):
    """An image, and the files that hold its layers."""

    manifest: dict
    config: Any
    digest: str  # of the manifest, "" if there is none
    id: str  # the digest of the configuration
    find_blob: Callable[[Any], str]  # the file of a descriptor's blob


class Layout:
    """An OCI image layout."""

    def __init__(self, find: Find) -> None:
        self.find = find

    def find_blob(self, descriptor: Any) -> str:
        """Return the file of a blob, whose bytes have been compared with its descriptor."""
        digest, size = field(descriptor, "digest", str), field(descriptor, "size", int)
        if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
            raise ImageError(f"{digest} is not a digest")
        file = self.find(blob_path("", digest))
        if file is None or not os.path.isfile(file):
            hint = ", which is fetched from elsewhere" if descriptor.get("urls") else ""
            raise ImageError(f"the blob {digest}{hint} is missing, or a link that leads elsewhere")
        if os.path.getsize(file) != size or hash_file(file) != digest:
            raise ImageError(f"the blob {digest} has other bytes than its name says")
        return file

    def read_json(self, descriptor: Any) -> Any:
        """Return what a JSON blob holds."""
        return read_document(self.find_blob(descriptor), f"the blob {descriptor['digest']}")

    def find_image(self, architecture: str, variant: str) -> Image:
        """Return the image for a machine."""
        index = self.find("index.json")
        if index is None:
            raise ImageError("it has no index.json")
        candidates = list(field(read_document(index, "index.json"), "manifests", list))
        direct, images = len(candidates), []
        seen: set[str] = set()  # an index can name the same one any number of times
        for number, descriptor in enumerate(candidates):
            field(descriptor, "platform", dict, {})
            if field(descriptor, "mediaType", str, "") not in INDEX_TYPES:
                images.append((descriptor, number < direct))
            elif descriptor.get("digest") not in seen:
                candidates += field(self.read_json(descriptor), "manifests", list)
                seen.add(descriptor["digest"])
        if len(images) > 1:
            images = self.choose(images, architecture, variant)
        if not images:
            raise ImageError(f"it has no image for {architecture}")
        digests = {
            field(descriptor, "digest", str) for descriptor, is_direct in images if is_direct
        }
        if len(digests) > 1:
            raise ImageError(f"it holds {len(digests)} images for {architecture}: copy one of them")
        descriptor = images[0][0]
        manifest = self.read_json(descriptor)
        config = self.read_json(field(manifest, "config", dict))
        system, machine, of_image = self.platform(descriptor, config)
        if (system, machine) == ("linux", architecture) and rank(
            machine, of_image, variant
        ) is None:
            here = f"{machine}/{variant}" if variant else machine
            raise ImageError(f"it is for {machine}/{of_image}, and this is for {here}")
        image_id = manifest["config"]["digest"]
        return Image(manifest, config, descriptor["digest"], image_id, self.find_blob)

    def platform(self, descriptor: object, config: object = None) -> tuple[str, str, str]:
        """Return an image's system, architecture and variant: as said, or of its configuration."""
        given = field(descriptor, "platform", dict, {})
        if not given and config is None:
            try:
                given = self.read_json(field(self.read_json(descriptor), "config", dict))
            except ImageError:
                given = {}
        given = given or config
        system = field(given, "os", str, "linux")
        return system, field(given, "architecture", str, ""), field(given, "variant", str, "")

    def choose(self, images: list, architecture: str, variant: str) -> list:
        """Return those of the images that fit a machine best."""
        found, others = [], []
        for descriptor, is_direct in images:
            system, machine, of_image = self.platform(descriptor)
            if (system, machine) == ("linux", architecture):
                fits = rank(machine, of_image, variant)
                if fits is None:
                    others.append(f"{machine}/{of_image}")
                else:
                    found.append((fits, (descriptor, is_direct)))
        if others and not found:
            wanted = f"{architecture}/{variant}" if variant else architecture
            raise ImageError(f"it has no image for {wanted}, only for {', '.join(others)}")
        best = min((fits for fits, _ in found), default=0)
        return [image for fits, image in found if fits == best]


def rank(architecture: str, of_image: str, of_machine: str) -> float | None:
    """Return how well an image's variant fits that of a machine: less is better, None not at all.

    The same is best, then the nearest lower one, then none.

    >>> [rank("arm", variant, "v7") for variant in ("v7", "v6", "v5", "", "v8")]
    [0, 1, 2, inf, None]
    >>> rank("arm64", "v8", ""), rank("amd64", "", ""), rank("amd64", "v3", "")
    (0, 0, None)
    """
    default = _DEFAULT_VARIANTS.get(architecture, "")
    if architecture == "arm":  # where those without a variant are of any
        image, machine = of_image, of_machine or default
    else:
        image, machine = of_image or default, of_machine or default
    if image == machine:
        return 0
    if not image:
        return float("inf")
    higher, lower = re.fullmatch(r"v(\d+)", machine), re.fullmatch(r"v(\d+)", image)
    if higher is None or lower is None:
        return None
    distance = int(higher[1]) - int(lower[1])
    return distance if distance > 0 else None


def read_docker_archive(find: Find) -> Image:
    """Return the one image of an archive of `docker save`: manifest.json names the files."""

    def find_file(name: str) -> str:
        file = find(place_of(name))
        if file is None:
            raise ImageError(f"{name} is missing")
        return file

    images = read_document(find_file("manifest.json"), "manifest.json")
    if not isinstance(images, list) or not images:
        raise ImageError("its manifest.json is not a list of images")
    if len(images) > 1:
        raise ImageError(f"it holds {len(images)} images: save one")
    (image,) = images
    config_file = find_file(field(image, "Config", str))
    files = {}  # of layers, by digest
    descriptors = []
    for name in field(image, "Layers", list, []):
        if not isinstance(name, str):
            raise ImageError("Layers is not a list of strings")
        file = find_file(name)
        digest = hash_file(file)
        files[digest] = file
        descriptors.append({"digest": digest, "size": os.path.getsize(file)})
    return Image(
        {"layers": descriptors},
        read_document(config_file, image["Config"]),
        "",
        hash_file(config_file),
        lambda descriptor: files[descriptor["digest"]],
    )


class _Members:
    """The files of an archive, which are unpacked into a folder when they are asked for."""

    def __init__(self, archive: tarfile.TarFile, folder: str) -> None:
        self.archive, self.folder = archive, folder
        self.members = {place_of(member.name): member for member in archive}
        self.files: dict[str, str] = {}  # those that are unpacked, by name

    def open(self, name: str) -> IO[bytes] | None:
        for _ in range(MAXIMUM_LINKS):
            member = self.members.get(name)
            if member is None:
                return None
            if member.issym():
                name = place_of(os.path.join(os.path.dirname(name), member.linkname))
            elif member.islnk():
                name = place_of(member.linkname)
            else:
                return self.archive.extractfile(member)
        return None

    def find(self, name: str) -> str | None:
        if name not in self.files:
            stream = self.open(name)
            if stream is None:
                return None
            file = os.path.join(self.folder, str(len(self.files)))
            with open(file, "wb") as copy:
                while chunk := stream.read(CHUNK):
                    copy.write(chunk)
            self.files[name] = file
        return self.files[name]


def open_folder(folder: str, closure: set[str], architecture: str, variant: str) -> Image:
    """Return the image in a folder; links in it may lead to the store paths of `closure`."""
    names = set(os.listdir(folder))
    if "index.json" not in names and {"manifest.json", "version"} <= names:
        raise ImageError("it is a folder of skopeo's transport dir: copy the image to oci: instead")
    layout = Layout(lambda name: resolve(os.path.join(folder, name), closure))
    return layout.find_image(architecture, variant)


def open_archive(
    file: str, folder: str, programs: dict[str, str], architecture: str, variant: str
) -> Image:
    """Return the image in an archive; what is unpacked of it comes into `folder`.

    `programs` are those that decompress, by the names that find_compressor has for them.
    """
    compressor = find_compressor(file)
    if compressor is not None:
        plain = os.path.join(folder, "archive.tar")
        with open(plain, "wb") as stream:
            for chunk in decompress(file, programs[compressor]):
                stream.write(chunk)
        file = plain
    if os.path.getsize(file) == 0:
        raise FormatError("it is empty")
    try:
        # Open until the builder ends: its files are unpacked when they are asked for.
        archive = tarfile.open(  # noqa: SIM115
            file, "r:", tarinfo=CheckedHeader, errors="surrogateescape"
        )
    except tarfile.TarError:
        with open(file, "rb") as stream:
            is_script = stream.read(2) == b"#!"
        hint = ", but a script: pass what it writes" if is_script else ""
        raise FormatError(f"it is not a tar file{hint}") from None
    members = _Members(archive, folder)
    names = members.members
    if "index.json" in names and "oci-layout" in names:
        # docker's newer archives are also layouts.
        return Layout(members.find).find_image(architecture, variant)
    if "manifest.json" in names:
        return read_docker_archive(members.find)
    if "repositories" in names:
        raise FormatError("docker before 1.10 wrote it: load it with docker and save it again")
    if not names:
        raise FormatError("it is an archive without files")
    raise FormatError(
        "it has neither index.json nor manifest.json: write it with docker save, not with docker "
        "export"
    )
