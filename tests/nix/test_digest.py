"""The digest as a value: evaluation names exactly what will be pushed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from docker_registry import DockerRegistry, run_registry
from nix import Nix, run

PLAIN = "--dest-tls-verify=false"
IMAGE = 'buildImage { name = "hello"; contents = [ pkgs.hello ]; }'
INDEX = f"""buildIndex {{
  name = "both";
  images = [
    ({IMAGE})
    (buildImage {{ name = "arm"; architecture = "arm64"; contents = [ pkgs.tzdata ]; }})
  ];
}}"""
FLEET = """buildImages {
  images.web.contents = [ pkgs.hello ];
  images.worker.contents = [ pkgs.tree ];
}"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def evaluate(nix: Nix, expression: str, repository: str) -> object:
    return nix.evaluate(f'({expression}).reference "{repository}"')


def push(nix: Nix, expression: str, destination: str) -> str:
    program = nix.build(*nix.expression(f"({expression}).copyTo")).path
    return run(program / "bin" / "copy-to", destination, PLAIN).stdout


@pytest.mark.parametrize("expression", [IMAGE, INDEX], ids=["image", "index"])
def test_reference_is_what_a_push_prints(nix, registry, expression):
    repository = f"{registry.address}/team/app"
    reference = evaluate(nix, expression, repository)
    assert f"{repository}@{push(nix, expression, f'docker://{repository}:1')}" == f"{reference}\n"
    inspect = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Name}}@{{.Digest}}"]
    assert run(*inspect, f"docker://{repository}:1").stdout == f"{reference}\n"


def test_references_of_a_fleet_are_what_a_push_prints(nix, registry):
    found = evaluate(nix, FLEET, f"{registry.address}/fleet")
    lines = push(nix, FLEET, f"docker://{registry.address}/fleet").splitlines()
    pushed = dict(line.split() for line in lines)
    assert found == {
        name: f"{registry.address}/fleet/{name}@{digest}" for name, digest in pushed.items()
    }
    assert set(found) == {"web", "worker"}


def test_reference_needs_descriptions_of_layers_but_no_layer(nix):
    page = f'pkgs.writeTextDir "page" "{uuid.uuid4()}"'
    image = f'buildImage {{ name = "page"; contents = [ ({page}) ]; }}'
    reference = evaluate(nix, image, "registry.example.org/page")
    documents = nix.build(*nix.expression(f"({image}).documents")).path
    layers = nix.build(*nix.expression(f"({image}).layers")).paths
    run("nix-store", "--delete", documents, *layers)
    assert evaluate(nix, image, "registry.example.org/page") == reference
    assert documents.exists() and not any(layer.exists() for layer in layers)


@pytest.mark.parametrize(
    "given", ['"docker://example.org/app"', '"app:1"', '"Team/App"', '"app@sha256:0"', '""', "[ ]"]
)
def test_what_is_no_repository_is_named_in_one_sentence(nix, given):
    error = nix.error(*nix.expression(f'pkgs.writeText "x" (({IMAGE}).reference {given})'))
    (line,) = [line for line in error.splitlines() if line.lstrip().startswith("error: ")]
    sentence = 'reference takes a name in a registry without a tag, such as "registry.example.org'
    assert sentence in line and line.endswith(f"not {given}")
