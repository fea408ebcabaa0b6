"""Run Nix on the package set of the tests, and read the images that come out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD_IMAGE = ROOT / "build-image" / "build-image.nix"

# A build of the tests that takes longer than this many seconds hangs.
TIMEOUT = 600


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command that must succeed; its output is text unless `text=False` is given."""
    done = attempt(*command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


def attempt(*command: object, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command that may fail."""
    options = {"text": True, "capture_output": True, "timeout": TIMEOUT, **options}
    return subprocess.run([str(word) for word in command], check=False, **options)


@dataclass(frozen=True)
class Build:
    """What nix-build printed."""

    paths: list[Path]
    log: str

    @property
    def path(self) -> Path:
        """The one store path that was asked for."""
        assert len(self.paths) == 1
        return self.paths[0]

    @property
    def built(self) -> list[str]:
        """Names, without hash, of the derivations that were built rather than found."""
        lines = [line for line in self.log.splitlines() if line.startswith("building '")]
        return [line.split("'")[1].partition("-")[2].removesuffix(".drv") for line in lines]


@dataclass(frozen=True)
class Nix:
    """Real Nix with a package set: a folder that is loaded like nixpkgs."""

    package_set: Path

    def build(self, *arguments: object) -> Build:
        """Run nix-build, which must succeed."""
        done = run("nix-build", "--no-out-link", *arguments)
        return Build([Path(line) for line in done.stdout.splitlines()], done.stderr)

    def error(self, *arguments: object) -> str:
        """Run nix-build, which must fail; return what it wrote on standard error."""
        done = attempt("nix-build", "--no-out-link", *arguments)
        assert done.returncode != 0 and done.stdout == ""
        return done.stderr

    def call(self, packages: object = None, **arguments: object) -> list[object]:
        """Return the words that make nix-build call build-image.nix; for `build` and `error`.

        `packages` becomes JSON unless it is a string; other arguments are passed as strings.
        """
        if packages is not None:
            text = packages if isinstance(packages, str) else json.dumps(packages)
            arguments["packages"] = text
        arguments = {"srcType": "path", "srcArgs": self.package_set, **arguments}
        words: list[object] = [BUILD_IMAGE]
        for name, value in arguments.items():
            words += ["--argstr", name, value]
        return words

    def answer(self, packages: object = None, **arguments: object) -> dict[str, Any]:
        """Build the answer for package names and return it."""
        return json.loads(self.build(*self.call(packages, **arguments)).path.read_bytes())

    def image_of(self, packages: object = None, **arguments: object) -> Image:
        """Build the image for package names."""
        return Image(self.build(*self.call(packages, **arguments), "-A", "image").path)

    def expression(self, body: str) -> list[object]:
        """Return the words that make nix-build evaluate `body`.

        In scope are `pkgs`, the package set, and what the project's default.nix offers.
        """
        nixery = f'import "{ROOT}" {{ inherit pkgs; }}'
        start = f"let pkgs = import {self.package_set} {{ }}; nixery = {nixery}; in"
        return ["-E", f"{start} with nixery; {body}"]

    def build_image(self, arguments: str, attribute: str = "") -> Build:
        """Call buildImage with Nix text as arguments; build the result or an attribute of it."""
        return self.build(*self.image_call(arguments), *(["-A", attribute] if attribute else []))

    def image(self, arguments: str) -> Image:
        """Call buildImage with Nix text as arguments, and return the image."""
        return Image(self.build_image(arguments).path)

    def image_error(self, arguments: str) -> str:
        """Call buildImage, which must fail; return what Nix wrote on standard error."""
        return self.error(*self.image_call(arguments))

    def image_call(self, arguments: str) -> list[object]:
        """Return the words that make nix-build call buildImage."""
        return self.expression(f'buildImage ({{ name = "image"; tag = "latest"; }} // {arguments})')

    def evaluate(self, body: str) -> Any:
        """Return the value of a Nix expression in which the names of `expression` are in scope."""
        command = ["nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode"]
        return json.loads(run(*command, *self.expression(body)).stdout)

    def package(self, name: str) -> Path:
        """Build a package of the set."""
        return self.build(self.package_set, "-A", name).path

    def closure(self, *paths: object) -> set[str]:
        """Return the store paths that `paths` refer to, themselves included."""
        return set(run("nix-store", "--query", "--requisites", *paths).stdout.split())


@dataclass
class Image:
    """An OCI image layout with one image, read without the project's code."""

    layout: Path
    _members: dict[str, list[tarfile.TarInfo]] = field(default_factory=dict, repr=False)

    def blob(self, digest: str) -> Path:
        return self.layout / "blobs" / digest.replace(":", "/")

    def read(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        return json.loads(self.blob(descriptor["digest"]).read_bytes())

    @cached_property
    def descriptor(self) -> dict[str, Any]:
        index = json.loads((self.layout / "index.json").read_bytes())
        assert len(index["manifests"]) == 1
        return index["manifests"][0]

    @property
    def reference(self) -> str:
        return self.descriptor["annotations"]["org.opencontainers.image.ref.name"]

    @property
    def location(self) -> str:
        """The image as skopeo and podman name it."""
        return f"oci:{self.layout}:{self.reference}"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.read(self.descriptor)

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.read(self.manifest["config"])

    @property
    def digests(self) -> list[str]:
        """Digests of the layers, in order."""
        return [layer["digest"] for layer in self.manifest["layers"]]

    def uncompressed(self, layer: dict[str, Any]) -> bytes:
        """Return a layer's tar file."""
        programs = {"+gzip": ["gzip", "-dc"], "+zstd": ["zstd", "-dc"], ".gzip": ["gzip", "-dc"]}
        ending = layer["mediaType"].rpartition(".tar")[2]
        if not ending:
            return self.blob(layer["digest"]).read_bytes()
        return run(*programs[ending], self.blob(layer["digest"]), text=False).stdout

    def members(self, layer: dict[str, Any]) -> list[tarfile.TarInfo]:
        """Return the headers of a layer."""
        if layer["digest"] not in self._members:
            with tarfile.open(fileobj=io.BytesIO(self.uncompressed(layer)), mode="r:") as archive:
                self._members[layer["digest"]] = archive.getmembers()
        return self._members[layer["digest"]]

    def file(self, name: str) -> bytes:
        """Return the contents of a file, of the last layer that has it."""
        for layer in reversed(self.manifest["layers"]):
            if name in {member.name for member in self.members(layer)}:
                data = io.BytesIO(self.uncompressed(layer))
                with tarfile.open(fileobj=data, mode="r:") as archive:
                    content = archive.extractfile(name)
                    assert content, f"{name} is no file"
                    return content.read()
        raise KeyError(name)

    @cached_property
    def tree(self) -> dict[str, tarfile.TarInfo]:
        """The headers of all files, by name; those of later layers win."""
        layers = map(self.members, self.manifest["layers"])
        return {member.name: member for layer in layers for member in layer}

    @property
    def store_paths(self) -> list[list[str]]:
        """The store paths in each layer, by what is in its tar file."""
        return [
            sorted(
                "/" + member.name
                for member in self.members(layer)
                if member.name.count("/") == 2 and member.name.startswith("nix/store/")
            )
            for layer in self.manifest["layers"]
        ]


def file_hash(file: Path, algorithm: str = "sha256") -> str:
    """Return a file's hash in hexadecimal."""
    return hashlib.new(algorithm, file.read_bytes()).hexdigest()


def file_md5(file: Path) -> str:
    """Return a file's MD5 in base 64, as object stores have it."""
    return base64.b64encode(bytes.fromhex(file_hash(file, "md5"))).decode()


def write_set(folder: Path, package_set: Path, packages: str) -> Path:
    """Write a package set that adds `packages`, Nix text of a set over `pkgs`, to another one."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{{ ... }}@given: let pkgs = import {package_set} given; in pkgs // {packages}\n"
    (folder / "default.nix").write_text(text)
    return folder


def root_layer(image: Image) -> dict[str, tarfile.TarInfo]:
    """Return the headers of the last layer, by name."""
    return {member.name: member for member in image.members(image.manifest["layers"][-1])}


def packed_paths(image: Image) -> list[str]:
    """Return the store paths that are in the layers of an image."""
    return [path for layer in image.store_paths for path in layer]
