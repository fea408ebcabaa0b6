"""flake.nix: what it offers, to whom, and that evaluation is pure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from containers import PODMAN_RUN, podman
from docker_registry import run_registry
from nix import ROOT, Image, run

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


def test_every_output_can_be_shown_and_checked_with_a_set_that_has_no_developers_tools(
    nix, checkout
):
    given = ["--override-input", "nixpkgs", f"path:{nix.package_set}", "--no-write-lock-file"]
    shown = json.loads(flake("flake", "show", "--json", f"path:{checkout}", *given))
    programs = {"default", "group-layers", "nixery-build-image"}
    assert set(shown["packages"]["x86_64-linux"]) == programs
    overlay = {"type": "nixpkgs-overlay"}
    assert shown["overlays"] == {"default": overlay, "dockerTools": overlay}
    assert set(shown["templates"]) == {"default"}
    flake("flake", "check", f"path:{checkout}", *given)


def test_functions_are_those_of_the_default_nix(nix, checkout):
    given = ["--override-input", "nixpkgs", f"path:{nix.package_set}", "--no-write-lock-file"]
    names = ["--apply", "builtins.attrNames", "--json"]
    offered = json.loads(flake("eval", f"path:{checkout}#lib.x86_64-linux", *names, *given))
    here = set(nix.evaluate("builtins.attrNames nixery"))
    absent = {"dockerTools", "group-layers", "nixery-build-image", "pkgs", "tests"}
    assert set(offered) == here - absent


def test_pure_evaluation_gives_the_wrapper_and_the_grouping_program(nix, checkout):
    given = ["--override-input", "nixpkgs", f"path:{nix.package_set}", "--no-write-lock-file"]
    for attribute, program in [
        ("default", "nixery-build-image"),
        ("group-layers", "group-layers"),
    ]:
        command = ["build", "--no-link", "--json", f"path:{checkout}#{attribute}", *given]
        (built,) = json.loads(flake(*command))
        assert (Path(built["outputs"]["out"]) / "bin" / program).stat().st_mode & 0o111


def test_consumer_builds_and_pushes_an_image_in_pure_evaluation(nix, checkout, tmp_path):
    (tmp_path / "flake.nix").write_text(
        f"""{{
          inputs.nixpkgs.url = "path:{nix.package_set}";
          inputs.nixery.url = "path:{checkout}";
          inputs.nixery.inputs.nixpkgs.follows = "nixpkgs";
          outputs = {{ nixpkgs, nixery, ... }}: {{
            packages.x86_64-linux.image = nixery.lib.x86_64-linux.buildImage {{
              name = "image";
              tag = "latest";
              maxLayers = 96;
              contents = [ nixpkgs.legacyPackages.x86_64-linux.hello ];
            }};
          }};
        }}"""
    )
    command = ["build", "--no-link", "--json", f"path:{tmp_path}#image"]
    (built,) = json.loads(flake(*command))
    image, other = Image(Path(built["outputs"]["out"])), nix.image_of(["hello"])
    # The image's digest: neither purity nor the way in plays a part.
    assert image.descriptor == other.descriptor
    (explained,) = json.loads(flake(*command[:-1], f"{command[-1]}.explain"))
    assert "layers, " in Path(explained["outputs"]["explain"]).read_text().splitlines()[-1]
    pushed = flake("run", f"path:{tmp_path}#image.copyTo", "--", f"oci:{tmp_path}/pushed:v1")
    assert pushed == image.descriptor["digest"] + "\n"


def test_overlay_offers_the_programs_and_the_functions(nix, checkout, tmp_path):
    (tmp_path / "flake.nix").write_text(
        f"""{{
          inputs.nixpkgs.url = "path:{nix.package_set}";
          inputs.nixery.url = "path:{checkout}";
          inputs.nixery.inputs.nixpkgs.follows = "nixpkgs";
          outputs = {{ nixpkgs, nixery, ... }}:
            let
              pkgs = import nixpkgs {{
                system = "x86_64-linux";
                overlays = [ nixery.overlays.default ];
              }};
            in {{
              packages.x86_64-linux.image = pkgs.nixery.buildImage {{
                name = "image";
                tag = "latest";
                contents = [ pkgs.hello pkgs.group-layers pkgs.nixery.binSh ];
              }};
            }};
        }}"""
    )
    command = ["build", "--no-link", "--json", f"path:{tmp_path}#image"]
    (built,) = json.loads(flake(*command))
    tree = Image(Path(built["outputs"]["out"])).tree
    assert {"bin/hello", "bin/group-layers", "bin/sh"} <= set(tree)


def test_overlay_gives_other_people_s_images_these_layers(nix, checkout, tmp_path):
    (tmp_path / "flake.nix").write_text(
        f"""{{
          inputs.nixpkgs.url = "path:{nix.package_set}";
          inputs.nixery.url = "path:{checkout}";
          inputs.nixery.inputs.nixpkgs.follows = "nixpkgs";
          outputs = {{ nixpkgs, nixery, ... }}:
            let
              pkgs = import nixpkgs {{
                system = "x86_64-linux";
                overlays = [
                  (_: _: {{ dockerTools.streamLayeredImage = throw "nixpkgs' own"; }})
                  nixery.overlays.dockerTools
                ];
              }};
            in {{
              packages.x86_64-linux.image = pkgs.dockerTools.streamLayeredImage {{
                name = "hello";
                tag = "latest";
                contents = [ pkgs.hello ];
                config.Cmd = [ "hello" ];
              }};
            }};
        }}"""
    )
    (built,) = json.loads(flake("build", "--no-link", "--json", f"path:{tmp_path}#image"))
    (tmp_path / "hello.tar").write_bytes(run(built["outputs"]["out"], text=False).stdout)
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        f"oci-archive:{tmp_path}/hello.tar",
        f"oci:{tmp_path}/o",
    )
    expected = nix.image('{ tag = "latest"; contents = [ pkgs.hello ]; config.Cmd = [ "hello" ]; }')
    found = json.loads((tmp_path / "o" / "index.json").read_bytes())["manifests"][0]
    assert found["digest"] == expected.descriptor["digest"]


def test_the_example_of_a_fleet(nix, checkout, tmp_path, short_folder):
    shutil.copytree(checkout / "examples" / "fleet", tmp_path / "fleet")
    given = [
        *("--override-input", "nixpkgs", f"path:{nix.package_set}"),
        *("--override-input", "nixery", f"path:{checkout}", "--no-write-lock-file"),
    ]
    fleet = f"path:{tmp_path}/fleet#"

    def build(*attributes: str) -> list[Path]:
        names = [fleet + attribute for attribute in attributes]
        built = json.loads(flake("build", "--no-link", "--json", *names, *given))
        return [Path(one["outputs"]["out"]) for one in built]

    names = ["api", "mailer", "nightly", "search", "worker"]
    images = dict(zip(names, map(Image, build(*names))))
    for name, image in images.items():
        done = podman(short_folder, "run", *PODMAN_RUN, "--quiet", image.location)
        assert done.stdout == f"{name}, revision dirty\n"
    assert set(images["worker"].digests) & set(images["nightly"].digests)
    shutil.copy(*build("lock"), tmp_path / "fleet" / "layers.json")
    assert build(*names) == [image.layout for image in images.values()]
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
    given = [
        *("--override-input", "nixpkgs", f"path:{nix.package_set}"),
        *("--override-input", "nixery", f"path:{checkout}", "--no-write-lock-file"),
    ]
    with run_registry(tmp_path) as registry:
        file = own / "flake.nix"
        file.write_text(file.read_text().replace("registry.example.org", registry.address))

        def build(attribute: str) -> Path:
            command = ["build", "--no-link", "--json", f"path:{own}#{attribute}", *given]
            (built,) = json.loads(flake(*command))
            return Path(built["outputs"]["out"])

        compose = json.loads(build("compose").read_bytes())
        destination = f"docker://{registry.address}/greet:latest"
        words = ["--", destination, "--dest-tls-verify=false"]
        pushed = flake("run", f"path:{own}#image.copyTo", *given, *words).strip()
        named = compose["services"]["greet"]["image"]
        assert named == f"{registry.address}/greet@{pushed}"
        podman(short_folder, "pull", "--quiet", "--tls-verify=false", named)
        done = podman(short_folder, "run", *PODMAN_RUN, "--pull=never", named)
    assert done.stdout == "hello, world\n"
    annotations = Image(build("image")).manifest["annotations"]
    assert annotations["org.opencontainers.image.revision"] == "dirty"
