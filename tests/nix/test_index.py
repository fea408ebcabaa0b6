"""One image for several machines: an OCI image index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containers import PODMAN_RUN, podman
from docker_registry import DockerRegistry, run_registry
from nix import ROOT, Image, Nix, run

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
COPY = ("skopeo", "--insecure-policy", "copy")

# The set can't compile for arm64: scripts stand for programs. Data is the same for both.
IMAGES = f"""
  let
    arm = pkgs.pkgsCross.aarch64-multiplatform;
    greet = functions: architecture: functions.buildImage {{
      name = "greet";
      contents = [
        pkgs.tzdata
        (pkgs.writeShellScriptBin "greet" "echo ${{architecture}}")
      ];
      config.Cmd = [ "greet" ];
    }};
    forArm = greet (import "{ROOT}" {{ pkgs = arm; }}) "arm64";
    forAmd = greet nixery "amd64";
  in
"""


def index_call(nix: Nix, images: str) -> list[object]:
    """Return the words that make nix-build call buildIndex with Nix text of a list of images."""
    call = f'buildIndex {{ name = "Team/Greet"; tag = "v1"; images = {images}; }}'
    return nix.expression(f"{IMAGES} {call}")


@pytest.fixture(scope="module")
def forms(nix: Nix) -> dict[str, Path]:
    """The index in all its forms, by attribute; the layout itself is "out"."""
    call = index_call(nix, "[ forArm forAmd ]")
    names = "archive", "stream", "copyTo", "answer"
    attributes = [word for name in names for word in ("-A", name)]
    paths = dict(zip(names, nix.build(*call, *attributes).paths))
    return {**paths, "out": nix.build(*call).path}


@pytest.fixture(scope="module")
def index(forms: dict[str, Path]) -> dict[str, Any]:
    """The image index, read from the layout."""
    (descriptor,) = json.loads((forms["out"] / "index.json").read_bytes())["manifests"]
    assert descriptor["mediaType"] == INDEX_TYPE
    assert descriptor["annotations"]["org.opencontainers.image.ref.name"] == "v1"
    return Image(forms["out"]).read(descriptor)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def architecture_at(location: str, folder: Path, *options: str) -> str:
    """Return the architecture of the image that skopeo copies from there."""
    run("skopeo", "--insecure-policy", *options, "copy", location, f"oci:{folder}:v1")
    return Image(folder).config["architecture"]


class TestIndex:
    def test_names_each_image_with_its_platform(self, nix, index):
        assert index["schemaVersion"] == 2 and index["mediaType"] == INDEX_TYPE
        platforms = [manifest["platform"] for manifest in index["manifests"]]
        assert platforms == [
            {"os": "linux", "architecture": "arm64"},
            {"os": "linux", "architecture": "amd64"},
        ]
        alone = [
            Image(nix.build(*nix.expression(f"{IMAGES} {name}")).path)
            for name in ("forArm", "forAmd")
        ]
        digests = [manifest["digest"] for manifest in index["manifests"]]
        assert digests == [image.descriptor["digest"] for image in alone]

    def test_layers_that_both_have_are_there_once(self, forms, index):
        layout = Image(forms["out"])
        manifests = [layout.read(manifest) for manifest in index["manifests"]]
        layers = [{layer["digest"] for layer in manifest["layers"]} for manifest in manifests]
        assert layers[0] & layers[1] and layers[0] != layers[1]
        # Their layers, a manifest and a configuration each, and the index
        assert len(list((forms["out"] / "blobs/sha256").iterdir())) == len(set.union(*layers)) + 5

    @pytest.mark.parametrize("architecture", ["amd64", "arm64"])
    @pytest.mark.parametrize("kind", ["oci", "oci-archive"])
    def test_skopeo_takes_the_image_for_its_machine(self, forms, tmp_path, kind, architecture):
        location = f"{kind}:{forms['archive' if kind == 'oci-archive' else 'out']}:v1"
        option = f"--override-arch={architecture}"
        assert architecture_at(location, tmp_path / "copy", option) == architecture

    def test_podman_loads_the_image_for_this_machine(self, forms, short_folder):
        podman(short_folder, "load", "--quiet", "--input", forms["archive"])
        done = podman(short_folder, "run", *PODMAN_RUN, "team/greet:v1")
        assert done.stdout == "amd64\n"

    def test_a_docker_archive_is_of_the_image_for_this_machine(self, forms, tmp_path):
        """What `docker load` reads where it does not know image indexes."""
        location = f"docker-archive:{forms['archive']}:team/greet:v1"
        assert architecture_at(location, tmp_path / "copy") == "amd64"

    def test_without_an_image_for_this_machine_it_is_of_the_first(self, nix, tmp_path):
        archive = nix.build(*index_call(nix, "[ forArm ]"), "-A", "archive").path
        location = f"docker-archive:{archive}:team/greet:v1"
        assert architecture_at(location, tmp_path / "copy") == "arm64"

    def test_on_a_mac_it_is_of_the_image_for_its_processor(self, nix):
        mac = 'pkgs.buildPackages // { stdenv.buildPlatform.system = "aarch64-darwin"; }'
        call = f'import "{ROOT}/build-image/image/index.nix" {{ tools = {mac}; }}'
        text = f'{call} {{ name = "greet"; images = [ forAmd forArm ]; }}'
        assert nix.evaluate(f"{IMAGES} ({text}).architecture") == "arm64"

    def test_stream_writes_the_bytes_of_the_archive(self, forms):
        streamed = run(forms["stream"], text=False).stdout
        assert streamed == forms["archive"].read_bytes()

    def test_is_reproducible_and_tagged_by_its_contents_if_no_tag_is_given(self, nix):
        text = 'buildIndex { name = "greet"; images = [ forArm forAmd ]; }'
        tag = nix.evaluate(f"{IMAGES} ({text}).imageTag")
        other = nix.evaluate(f"{IMAGES} ({text.replace('forArm', '')}).imageTag")
        assert len(tag) == len(other) == 32 and tag != other
        for name in ("documents", "out"):
            path = nix.build(*nix.expression(f"{IMAGES} ({text}).{name}")).path
            (derivation,) = run("nix-store", "--query", "--deriver", path).stdout.split()
            run("nix-store", "--realise", "--check", derivation)

    def test_a_cache_gets_all_its_forms_and_what_plans_each_image(self, nix, forms):
        cache = nix.build(*index_call(nix, "[ forArm forAmd ]"), "-A", "cache").path
        plans = [
            nix.build(*nix.expression(f"{IMAGES} {name}"), "-A", "groupedLayers").path
            for name in ("forArm", "forAmd")
        ]
        wanted = [forms["out"], forms["copyTo"], forms["answer"], *plans]
        assert set(map(str, wanted)) <= nix.closure(cache)


class TestPushing:
    @pytest.fixture(scope="class")
    @classmethod
    def pushed(cls, forms: dict[str, Path], registry: DockerRegistry) -> str:
        """A reference that copy-to has pushed to."""
        there = registry.reference("greet")
        done = run(forms["copyTo"] / "bin" / "copy-to", there, "--dest-tls-verify=false")
        assert done.stdout.startswith("sha256:")
        return there

    def test_a_registry_has_all_images(self, pushed, index):
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", pushed).stdout
        assert json.loads(raw) == index

    @pytest.mark.parametrize("architecture", ["amd64", "arm64"])
    def test_and_each_machine_gets_its_own(self, pushed, architecture, tmp_path):
        option = f"--override-arch={architecture}"
        run(
            "skopeo",
            "--insecure-policy",
            option,
            "copy",
            "--src-tls-verify=false",
            pushed,
            f"oci:{tmp_path}:v1",
        )
        assert Image(tmp_path).config["architecture"] == architecture

    def test_a_destination_for_one_image_gets_the_one_for_this_machine(self, forms, tmp_path):
        there = f"docker-archive:{tmp_path}/archive:greet:v1"
        run(forms["copyTo"] / "bin" / "copy-to", there)
        assert architecture_at(there, tmp_path / "copy") == "amd64"


class TestNames:
    """The same for package names: `systems` of build-image.nix."""

    SYSTEMS = json.dumps(["x86_64-linux", "aarch64-linux"])

    def test_answer_has_the_index_and_all_blobs(self, nix):
        # Data packages are the same for both.
        answer = nix.answer(["tzdata", "cacert"], systems=self.SYSTEMS)
        assert answer["manifest"]["mediaType"] == INDEX_TYPE
        locations = answer["layerLocations"]
        platforms = set()
        for descriptor in answer["manifest"]["manifests"]:
            location = locations[descriptor["digest"].partition(":")[2]]
            assert location["size"] == descriptor["size"]
            manifest = json.loads(Path(location["path"]).read_bytes())
            for blob in [manifest["config"], *manifest["layers"]]:
                path = Path(locations[blob["digest"].partition(":")[2]]["path"])
                assert path.stat().st_size == blob["size"]
            platforms.add(descriptor["platform"]["architecture"])
        assert platforms == {"amd64", "arm64"}

    def test_what_one_of_them_lacks_is_not_found(self, nix):
        answer = nix.answer(["tzdata", "no-such-package"], systems=self.SYSTEMS)
        assert answer == {"error": "not_found", "pkgs": ["no-such-package"]}

    @pytest.mark.parametrize(
        ("systems", "told"),
        [
            ("x86_64-linux", "systems must be a JSON array of strings such as"),
            ("[]", "systems must be a JSON array of strings such as"),
            ('["x86_64-linux", "x86_64-linux"]', "two images are for linux/amd64"),
        ],
    )
    def test_other_systems_are_refused_in_a_sentence(self, nix, systems, told):
        error = nix.error(*nix.call(["tzdata"], systems=systems))
        assert told in error


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ("[ ]", "images is empty: give one image for each platform"),
        ("[ forAmd forArm forAmd ]", "two images are for linux/amd64: give one image for each"),
        ("[ pkgs.hello ]", "images must be a list of what buildImage returns"),
        ("forAmd", "images must be a list of what buildImage returns"),
    ],
)
def test_other_images_are_refused_in_a_sentence(nix: Nix, images: str, told: str) -> None:
    error = nix.error(*index_call(nix, images))
    assert f"error: buildIndex: {told}" in error
