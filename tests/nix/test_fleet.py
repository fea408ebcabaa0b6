"""Images that are built together, and share layers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from containers import PODMAN_RUN, podman
from docker_registry import run_registry
from nix import Image, Nix, attempt, run
from served import with_store

# Calls of buildImage; in the small package set, python3 comes with Debian's shared libraries.
IMAGES = """
  web = { contents = [ pkgs.python3 pkgs.bash ]; config.Cmd = [ "python3" "--version" ]; };
  job = { contents = [ pkgs.python3 pkgs.git ]; maxLayers = 20; };
  shell = { contents = [ pkgs.bash pkgs.coreutils ]; layers = [ [ pkgs.bash ] ]; };
  packed = { contents = [ pkgs.git ]; compressor = "zstd"; };
"""
NAMES = ["web", "job", "shell", "packed"]
DEFAULTS = 'defaults = { tag = "v1"; maxLayers = 6; };'


def fleet(images: str = IMAGES, more: str = "") -> str:
    """Return a call of buildImages as Nix text."""
    return f"(buildImages {{ {DEFAULTS} images = {{ {images} }}; {more} }})"


def derivations(nix: Nix, call: str) -> dict[str, str]:
    """Return the derivation of each of the images that `IMAGES` has."""
    names = " ".join(f'"{name}"' for name in NAMES)
    return nix.evaluate(f"pkgs.lib.genAttrs [ {names} ] (name: {call}.${{name}}.drvPath)")


def layers_of(images: dict[str, Image]) -> dict[str, int]:
    """Return the bytes of all different layers by digest."""
    manifests = [image.manifest for image in images.values()]
    return {layer["digest"]: layer["size"] for m in manifests for layer in m["layers"]}


def in_lock(lock: Path, image: Image) -> list[list[str]]:
    """Return the layers of an image, as store paths, that are in a lock."""
    plans = json.loads(lock.read_text()).values()
    locked = [layer["contents"] for plan in plans for layer in plan]
    return [paths for paths in image.store_paths if paths in locked]


@pytest.fixture(scope="module")
def images(nix: Nix) -> dict[str, Image]:
    built = nix.build(*nix.expression(fleet()), *(w for name in NAMES for w in ("-A", name)))
    return dict(zip(NAMES, map(Image, built.paths)))


@pytest.fixture(scope="module")
def lock(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lock, committed to a repository."""
    file = tmp_path_factory.mktemp("repository") / "layers.json"
    file.write_bytes(nix.build(*nix.expression(fleet()), "-A", "lock").path.read_bytes())
    return file


class TestFleet:
    def test_images_keep_their_own_arguments(self, images):
        types = {name: image.manifest["layers"][0]["mediaType"] for name, image in images.items()}
        assert types["packed"].endswith("zstd") and types["web"].endswith("gzip")
        assert len(images["web"].manifest["layers"]) <= 6
        assert 6 < len(images["job"].manifest["layers"]) <= 20

    def test_images_have_the_closures_of_their_contents(self, nix, images):
        held = {path for layer in images["job"].store_paths for path in layer}
        assert held == nix.closure(nix.package("python3"), nix.package("git"))

    def test_a_group_has_a_layer_of_its_own(self, nix, images):
        assert [str(nix.package("bash"))] in images["shell"].store_paths

    def test_an_image_runs(self, images, short_folder):
        done = podman(short_folder, "run", *PODMAN_RUN, "--quiet", images["web"].location)
        assert done.stdout.startswith("Python 3")

    def test_fewer_bytes_than_of_the_same_images_planned_alone(self, nix, images):
        planned_alone = """map (call: buildImage ({ tag = "v1"; maxLayers = 6; } // call)) [
          { name = "web"; contents = [ pkgs.python3 pkgs.bash ]; }
          { name = "job"; contents = [ pkgs.python3 pkgs.git ]; maxLayers = 20; }
        ]"""
        alone = dict(zip("ab", map(Image, nix.build(*nix.expression(planned_alone)).paths)))
        together = {name: images[name] for name in ("web", "job")}
        assert sum(layers_of(together).values()) < sum(layers_of(alone).values())

    def test_explain_says_which_layers_are_shared(self, nix):
        text = nix.build(*nix.expression(fleet()), "-A", "explain").path.read_text()
        of_one = [line.split() for line in text.splitlines() if " 1 of 4 " in line]
        assert {words[-1] for words in of_one} <= set(NAMES)
        assert " 3 of 4 " in text
        assert "different paths" in text.splitlines()[-1]
        numbers = [line.split()[0] for line in text.splitlines()[1:-1]]
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]

    def test_layers_that_most_images_share_are_explained_first(self, nix):
        explanation = nix.build(*nix.expression(fleet()), "-A", "lock.explanation").path
        layers = json.loads(explanation.read_text())["layers"]
        order = [(-len(layer["images"]), -layer["size"], layer["contents"]) for layer in layers]
        assert order == sorted(order)

    def test_the_picture_has_all_layers(self, nix, lock):
        picture = nix.build(*nix.expression(fleet()), "-A", "picture").path.read_text()
        plans = json.loads(lock.read_text())
        layers = {tuple(layer["contents"]) for plan in plans.values() for layer in plan}
        assert picture.count("<title>layer ") == len(layers)

    def test_all_images_are_pushed(self, nix, images, tmp_path):
        program = nix.build(*nix.expression(fleet()), "-A", "copyTo").path / "bin" / "copy-to"
        assert "Pushes job, packed, shell, web." in run(program, "--help").stdout
        with run_registry(tmp_path) as registry:
            done = run(program, f"docker://{registry.address}/team", "--dest-tls-verify=false")
            digests = {name: image.descriptor["digest"] for name, image in images.items()}
            assert dict(line.split() for line in done.stdout.splitlines()) == digests
            for name, image in images.items():
                there = registry.reference(f"team/{name}:v1")
                done = run("skopeo", "inspect", "--raw", "--tls-verify=false", there)
                assert json.loads(done.stdout) == image.manifest

    def test_an_image_that_is_not_pushed_does_not_keep_the_others_back(self, nix, images, tmp_path):
        program = nix.build(*nix.expression(fleet()), "-A", "copyTo").path / "bin" / "copy-to"
        (tmp_path / "job:v1").write_text("no folder")
        done = attempt(program, f"dir:{tmp_path}")
        assert done.returncode == 1
        assert f"copy-to: dir:{tmp_path}/job:v1: not pushed: " in done.stderr
        pushed = {name: image.descriptor["digest"] for name, image in images.items()}
        del pushed["job"]
        assert dict(line.split() for line in done.stdout.splitlines()) == pushed

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], "no destination: name one, as in copy-to docker://registry.example.org/team"),
            (["example.org/team"], "example.org/team is not a destination: write docker://"),
        ],
    )
    def test_its_program_says_what_to_write(self, nix, words, told):
        program = nix.build(*nix.expression(fleet()), "-A", "copyTo").path / "bin" / "copy-to"
        done = attempt(program, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"copy-to: {told}")

    def test_the_cache_has_what_another_machine_needs_to_push(self, nix, tmp_path):
        """It evaluates, and builds nothing."""
        call = nix.expression(fleet())
        cache, program = nix.build(*call, "-A", "cache", "-A", "copyTo").paths
        copy = ["nix", "--extra-experimental-features", "nix-command", "copy"]
        run(*copy, "--to", f"file://{tmp_path}/cache?compression=none", cache)
        (tmp_path / "nix").mkdir()
        settings = f"substituters = file://{tmp_path}/cache\nrequire-sigs = false\nmax-jobs = 0"
        environment = {**os.environ, "NIX_CONFIG": f"{os.environ['NIX_CONFIG']}\n{settings}"}
        build = ["nix-build", "--no-out-link", *call, "-A", "copyTo"]
        done = run(*with_store(tmp_path, *build), env=environment)
        assert done.stdout == f"{program}\n"


class TestLock:
    def test_one_more_image_leaves_the_others_as_they_are(self, nix, lock):
        more = IMAGES + "more = { contents = [ pkgs.git pkgs.gnutar pkgs.bash ]; };"
        assert derivations(nix, fleet(more, f"known = {lock};")) == derivations(nix, fleet())

    def test_a_new_image_has_layers_of_the_lock(self, nix, lock):
        arguments = f"{{ maxLayers = 6; contents = [ pkgs.git ]; known = {lock}; }}"
        image = nix.image(arguments)
        assert len(in_lock(lock, image)) > 1

    def test_packages_by_name_have_layers_of_the_lock_too(self, nix, lock):
        image = nix.image_of(["git"], known=lock, maxLayers="6")
        assert len(in_lock(lock, image)) > 1

    def test_what_is_no_plan_is_refused(self, nix, tmp_path):
        (tmp_path / "layers.json").write_text('{"web": [["/nix/store"]]}')
        error = nix.error(*nix.expression(fleet("", f"known = {tmp_path}/layers.json;")))
        assert "images must be a set of calls" in error
        error = nix.error(
            *nix.expression(fleet(IMAGES, f"known = {tmp_path}/layers.json;")), "-A", "lock"
        )
        assert "known, layers.json: a layer: expected an object, got a list" in error


class TestCalls:
    def test_an_image_cannot_have_the_name_of_an_attribute(self, nix):
        error = nix.error(
            *nix.expression(fleet("lock = { contents = [ pkgs.bash ]; };")), "-A", "lock"
        )
        assert "an image cannot be called lock" in error

    def test_two_images_cannot_have_one_name_and_tag(self, nix):
        images = 'a = { name = "x"; }; b = { name = "X"; }; c = { name = "x"; tag = "2"; };'
        error = nix.error(*nix.expression(fleet(images)), "-A", "c")
        assert "buildImages: a and b are called x:v1: give each its own name or tag" in error

    def test_two_images_can_have_one_name_if_their_tags_are_hashes(self, nix):
        images = 'a.name = "x"; b = { name = "x"; contents = [ pkgs.hello ]; };'
        built = f"(buildImages {{ images = {{ {images} }}; }})"
        tags = nix.evaluate(f"let fleet = {built}; in [ fleet.a.imageTag fleet.b.imageTag ]")
        assert len(set(tags)) == 2

    def test_a_package_is_no_call(self, nix):
        error = nix.error(*nix.expression(fleet("web = pkgs.hello;")), "-A", "web")
        assert "images.web must be the arguments of a call of buildImage" in error
