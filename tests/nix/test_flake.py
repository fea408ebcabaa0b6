"""flake.nix: what it has, for whom, and that evaluation is pure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import PODMAN_RUN, podman
from docker_registry import run_registry
from nix import ROOT, Image, Nix, run

NIX = ("nix", "--extra-experimental-features", "nix-command flakes")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a clone has it: without what other programs leave in its folder."""
    folder = tmp_path_factory.mktemp("project")
    for name in run("git", "-C", ROOT, "ls-files").stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def flake(*arguments: object, **options: object) -> str:
    return run(*NIX, *arguments, **options).stdout


def build(*arguments: object) -> list[Path]:
    """Build attributes of flakes; return the first output of each."""
    built = json.loads(flake("build", "--no-link", "--json", *arguments))
    return [Path(next(iter(each["outputs"].values()))) for each in built]


def inputs(nix: Nix, **folders: Path) -> list[object]:
    """Return the options that give a flake its inputs: the package set, and those in folders."""
    folders = {"nixpkgs": nix.package_set, **folders}
    paths = [("--override-input", name, f"path:{folder}") for name, folder in folders.items()]
    return [*(word for words in paths for word in words), "--no-write-lock-file"]


@pytest.fixture
def use(nix: Nix, checkout: Path, tmp_path: Path) -> Callable[..., str]:
    """A function that writes somebody else's flake, and returns the name of the image in it.

    It takes the image, and overlays for the `pkgs` that the image is made with.
    """

    def write(image: str, overlays: str = "") -> str:
        (tmp_path / "flake.nix").write_text(
            f"""{{
              inputs.nixpkgs.url = "path:{nix.package_set}";
              inputs.nixery.url = "path:{checkout}";
              inputs.nixery.inputs.nixpkgs.follows = "nixpkgs";
              outputs = {{ nixpkgs, nixery, ... }}:
                let
                  system = "x86_64-linux";
                  pkgs = import nixpkgs {{ inherit system; overlays = [ {overlays} ]; }};
                in {{ packages.${{system}}.image = {image}; }};
            }}"""
        )
        return f"path:{tmp_path}#image"

    return write


def test_every_output_can_be_shown_and_checked_with_a_set_that_has_no_developers_tools(
    nix, checkout, tmp_path
):
    shown = json.loads(flake("flake", "show", "--json", f"path:{checkout}", *inputs(nix)))
    programs = {"default", "group-layers", "nixery-build-image"}
    assert set(shown["packages"]["x86_64-linux"]) == programs
    overlay = {"type": "nixpkgs-overlay"}
    assert shown["overlays"] == {"default": overlay, "dockerTools": overlay}
    assert set(shown["templates"]) == {"default"}
    # That all unit tests pass is known without it: with some of them, it takes 10 s instead of 50.
    few = tmp_path / "few-tests"
    shutil.copytree(checkout, few)
    for file in (few / "tests" / "unit").iterdir():
        if file.name not in ("test_builders.py", "test_group_fleet.py"):
            file.unlink()
    flake("flake", "check", f"path:{few}", *inputs(nix))


def test_functions_are_those_of_the_default_nix(nix, checkout):
    command = ["eval", "--apply", "builtins.attrNames", "--json", *inputs(nix)]
    functions = json.loads(flake(*command, f"path:{checkout}#lib.x86_64-linux"))
    here = set(nix.evaluate("builtins.attrNames nixery"))
    absent = {"dockerTools", "group-layers", "nixery-build-image", "pkgs", "tests"}
    assert set(functions) == here - absent


def test_pure_evaluation_gives_the_wrapper_and_the_grouping_program(nix, checkout):
    for attribute, program in {
        "default": "nixery-build-image",
        "group-layers": "group-layers",
    }.items():
        (built,) = build(f"path:{checkout}#{attribute}", *inputs(nix))
        assert (built / "bin" / program).stat().st_mode & 0o111


def test_consumer_builds_and_pushes_an_image_in_pure_evaluation(nix, use, tmp_path):
    name = use(
        """nixery.lib.${system}.buildImage {
          name = "image";
          tag = "latest";
          maxLayers = 96;
          contents = [ pkgs.hello ];
        }"""
    )
    (built,) = build(name)
    image, other = Image(built), nix.image_of(["hello"])
    # The image's digest: neither purity nor the way in plays a part.
    assert image.descriptor == other.descriptor
    (explained,) = json.loads(flake("build", "--no-link", "--json", f"{name}.explain"))
    assert "layers, " in Path(explained["outputs"]["explain"]).read_text().splitlines()[-1]
    pushed = flake("run", f"{name}.copyTo", "--", f"oci:{tmp_path}/pushed:v1")
    assert pushed == image.descriptor["digest"] + "\n"


def test_overlay_has_the_programs_and_the_functions(use):
    image = """pkgs.nixery.buildImage {
      name = "image";
      contents = [ pkgs.hello pkgs.group-layers pkgs.nixery.binSh ];
    }"""
    (built,) = build(use(image, "nixery.overlays.default"))
    assert {"bin/hello", "bin/group-layers", "bin/sh"} <= set(Image(built).tree)


def test_overlay_gives_other_people_s_images_these_layers(nix, use, tmp_path):
    image = 'tag = "latest"; contents = [ pkgs.hello ]; config.Cmd = [ "hello" ];'
    refusing = """(_: _: { dockerTools.streamLayeredImage = throw "nixpkgs' own"; })"""
    (script,) = build(
        use(
            f'pkgs.dockerTools.streamLayeredImage {{ name = "hello"; {image} }}',
            f"{refusing} nixery.overlays.dockerTools",
        )
    )
    (tmp_path / "hello.tar").write_bytes(run(script, text=False).stdout)
    archive, layout = f"oci-archive:{tmp_path}/hello.tar", tmp_path / "layout"
    run("skopeo", "--insecure-policy", "copy", archive, f"oci:{layout}")
    (found,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert found["digest"] == nix.image(f"{{ {image} }}").descriptor["digest"]


def test_the_example_of_a_fleet(nix, checkout, tmp_path, short_folder):
    shutil.copytree(checkout / "examples" / "fleet", tmp_path / "fleet")
    fleet, given = f"path:{tmp_path}/fleet#", inputs(nix, nixery=checkout)
    names = ["api", "mailer", "nightly", "search", "worker"]
    attributes = [fleet + name for name in names]
    images = dict(zip(names, map(Image, build(*attributes, *given))))
    for name in "worker", "mailer":  # in Python and in Perl
        location = images[name].location
        done = podman(short_folder, "run", *PODMAN_RUN, "--quiet", location)
        assert done.stdout == f"{name}, revision dirty\n"
    assert set(images["worker"].digests) & set(images["nightly"].digests)
    (lock,) = build(f"{fleet}lock", *given)
    shutil.copy(lock, tmp_path / "fleet" / "layers.json")
    assert build(*attributes, *given) == [image.layout for image in images.values()]
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    pushed = flake("run", f"{fleet}copyTo", *given, "--", *(f"oci:{it}" for it in folders))
    digests = [line.split() for line in pushed.splitlines()]
    assert digests == [[name, images[name].descriptor["digest"]] for name in names for _ in folders]


def test_the_template_is_an_image_of_one_s_own_program_which_a_compose_file_names(
    nix, checkout, tmp_path, short_folder
):
    own = tmp_path / "own"
    own.mkdir()
    flake("flake", "init", "--template", f"path:{checkout}", cwd=own)
    given = inputs(nix, nixery=checkout)
    with run_registry(tmp_path) as registry:
        file = own / "flake.nix"
        file.write_text(file.read_text().replace("registry.example.org", registry.address))
        compose, image = build(f"path:{own}#compose", f"path:{own}#image", *given)
        destination = f"docker://{registry.address}/greet:latest"
        words = ["--", destination, "--dest-tls-verify=false"]
        pushed = flake("run", f"path:{own}#image.copyTo", *given, *words).strip()
        named = json.loads(compose.read_bytes())["services"]["greet"]["image"]
        assert named == f"{registry.address}/greet@{pushed}"
        podman(short_folder, "pull", "--quiet", "--tls-verify=false", named)
        done = podman(short_folder, "run", *PODMAN_RUN, "--pull=never", named)
    assert done.stdout == "hello, world\n"
    annotations = Image(image).manifest["annotations"]
    assert annotations["org.opencontainers.image.revision"] == "dirty"
