"""What is in an image: a CycloneDX document, valid and complete."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st

from nar import _DIGITS, in_base_16
from nix import Image, Nix, run
from write_sbom import package_url

# Packages whose `meta` has all forms that nixpkgs has
PACKAGES = """(let
  describe = name: meta: pkgs.writeTextDir "share/${name}" "x" // {
    inherit meta;
    name = "${name}-1.2";
    pname = name;
    version = "1.2";
  };
in [
  pkgs.hello
  (describe "one" {
    description = "The first";
    homepage = "https://example.org/one";
    license = { spdxId = "GPL-3.0-or-later"; fullName = "GNU GPL"; };
    identifiers.cpe = "cpe:2.3:a:example:one:1.2:*:*:*:*:*:*:*";
    identifiers.purl = "pkg:github/example/one@1.2";
  })
  (describe "two" {
    homepage = [ "https://example.org/two" "https://example.com/two" ];
    license = [ { spdxId = "MIT"; } { fullName = "Unfree"; free = false; } "own" ];
  })
  (describe "three" { license = null; homepage = null; description = throw "unknown"; })
  (pkgs.writeTextDir "share/four" "without meta")
])"""
ARGUMENTS = f'{{ name = "Team/Notes"; tag = "1"; contents = {PACKAGES}; }}'


def is_valid(text: str) -> bool:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    return True


def build(nix: Nix, arguments: str) -> dict[str, Any]:
    text = nix.build_image(arguments, "sbom").path.read_text()
    assert is_valid(text)
    return json.loads(text)


def property_of(component: dict[str, Any], name: str) -> str:
    (value,) = [entry["value"] for entry in component["properties"] if entry["name"] == name]
    return value


@pytest.fixture(scope="module")
def sbom(nix: Nix) -> dict[str, Any]:
    return build(nix, ARGUMENTS)


@pytest.fixture(scope="module")
def by_name(sbom: dict[str, Any]) -> dict[str, Any]:
    return {component["name"]: component for component in sbom["components"]}


def test_every_store_path_is_a_component_with_its_layer_hash_and_size(nix, sbom):
    image = nix.image(ARGUMENTS)
    found = {component["bom-ref"]: component for component in sbom["components"]}
    packed = {
        "/" + member.name.rstrip("/"): layer["digest"]
        for layer in image.manifest["layers"]
        for member in image.members(layer)
        if member.name.count("/") == 2 and member.name.startswith("nix/store/")
    }
    layers = {path: property_of(found[path], "oci:layer:digest") for path in found}
    assert layers == packed
    for path, component in found.items():
        archive = run("nix-store", "--dump", path, text=False).stdout
        digest = hashlib.sha256(archive).hexdigest()
        assert component["hashes"] == [{"alg": "SHA-256", "content": digest}]
        assert property_of(component, "nix:store_path") == path
        assert property_of(component, "nix:narinfo:nar_size") == str(len(archive))


def test_dependencies_are_the_reference_graph(nix, sbom):
    needed = {entry["ref"]: entry["dependsOn"] for entry in sbom["dependencies"]}
    image = sbom["metadata"]["component"]["bom-ref"]
    paths = {component["bom-ref"] for component in sbom["components"]}
    assert set(needed) == paths | {image}
    for path in paths:
        references = run("nix-store", "--query", "--references", path).stdout.split()
        assert set(needed[path]) == set(references) - {path}
    reached, found = [image], {image}
    while reached:
        new = set(needed[reached.pop()]) - found
        found |= new
        reached += new
    assert found == set(needed)


def test_packages_have_what_their_meta_says(by_name):
    one, two, three, four = (by_name[name] for name in ("one", "two", "three", "four"))
    assert (one["version"], one["purl"]) == ("1.2", "pkg:github/example/one@1.2")
    assert one["description"] == "The first"
    assert one["cpe"] == "cpe:2.3:a:example:one:1.2:*:*:*:*:*:*:*"
    assert one["licenses"] == [{"expression": "GPL-3.0-or-later"}]
    assert one["externalReferences"] == [{"type": "website", "url": "https://example.org/one"}]
    assert [list(entry["license"].values()) for entry in two["licenses"]] == [
        ["MIT"],
        ["Unfree"],
        ["own"],
    ]
    assert len(two["externalReferences"]) == 2
    assert three["purl"] == "pkg:nix/three@1.2" and "licenses" not in three
    assert "version" not in four
    # What they need is known by its store paths' names.
    assert by_name["hello"]["type"] == "application" and by_name["libc6"]["type"] == "library"
    assert by_name["libc6"]["purl"] == f"pkg:nix/libc6@{by_name['libc6']['version']}"


def test_image_is_named_by_its_digest(nix, sbom):
    digest = nix.image(ARGUMENTS).descriptor["digest"]
    component = sbom["metadata"]["component"]
    assert (component["name"], component["version"]) == ("team/notes", "1")
    assert component["hashes"] == [{"alg": "SHA-256", "content": digest.partition(":")[2]}]
    assert component["purl"] == f"pkg:oci/notes@{digest}?tag=1"


def test_document_is_reproducible_and_keeps_nothing_alive(nix):
    path = nix.build_image(ARGUMENTS, "sbom").path
    run("nix-build", "--no-out-link", "--check", *nix.image_call(ARGUMENTS), "-A", "sbom")
    assert nix.closure(path) == {str(path)}
    changed = build(nix, ARGUMENTS.replace('"1"', '"2"'))
    assert changed["serialNumber"] == json.loads(path.read_text())["serialNumber"]


def test_base_image_is_a_component(nix):
    base = '(buildImage { name = "base"; contents = [ pkgs.hello ]; })'
    arguments = f"{{ fromImage = {base}; contents = [ pkgs.tree ]; }}"
    sbom = build(nix, arguments)
    digest = Image(nix.build(*nix.expression(base)).path).descriptor["digest"]
    (component,) = [one for one in sbom["components"] if one["type"] == "container"]
    assert component["hashes"][0]["content"] == digest.partition(":")[2]
    needed = {entry["ref"]: entry["dependsOn"] for entry in sbom["dependencies"]}
    image = sbom["metadata"]["component"]["bom-ref"]
    assert digest in needed[image]
    # Store paths that are in the base image alone
    assert any("-hello-" in path for path in needed[digest])
    assert {path for path in needed if "-hello-" in path} <= {
        component["bom-ref"] for component in sbom["components"]
    }


@pytest.mark.parametrize(
    "arguments",
    [
        "{ }",
        "{ contents = [ pkgs.hello ]; includeStorePaths = false; }",
        "{ contents = [ pkgs.hello ]; importFromDerivation = false; includeNixDB = true; }",
        "{ contents = [ pkgs.hello ]; layers = [ [ pkgs.tree ] ]; maxLayers = 4; }",
    ],
)
def test_document_is_valid_for_every_image(nix, arguments):
    sbom = build(nix, arguments)
    image = nix.image(arguments)
    assert len(sbom["components"]) == sum(map(len, image.store_paths))


def test_fleet_and_index_have_one_for_each_image(nix):
    fleet = """buildImages {
      images.web.contents = [ pkgs.hello ];
      images."team/worker".contents = [ pkgs.tree ];
    }"""
    folder = nix.build(*nix.expression(f"({fleet}).sbom")).path
    assert names_of(folder) == {"web.cdx.json": "web", "team-worker.cdx.json": "team/worker"}
    index = """buildIndex {
      name = "both";
      images = [
        (buildImage { name = "here"; contents = [ pkgs.hello ]; })
        (buildImage { name = "arm"; architecture = "arm64"; })
      ];
    }"""
    folder = nix.build(*nix.expression(f"({index}).sbom")).path
    assert names_of(folder) == {"linux-amd64.cdx.json": "here", "linux-arm64.cdx.json": "arm"}


def names_of(folder: Path) -> dict[str, str]:
    """Return the images' names by the files of their documents, which are valid."""
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    assert all(map(is_valid, texts.values()))
    return {name: json.loads(text)["metadata"]["component"]["name"] for name, text in texts.items()}


@given(st.binary(min_size=32, max_size=32))
def test_hashes_of_nix_are_read(digest):
    number = int.from_bytes(digest, "little")
    base32 = "".join(_DIGITS[number >> 5 * place & 31] for place in reversed(range(52)))
    assert in_base_16(f"sha256:{base32}") == f"sha256:{digest.hex()}"


@given(st.text(min_size=1), st.text())
def test_package_urls_have_no_characters_that_mean_something_else(name, version):
    url = package_url("nix", name, version, output="a&b=c")
    assert url.startswith("pkg:nix/") and url.endswith("?output=a%26b%3Dc")
    assert url.count("?") == 1 and "#" not in url
    assert url.partition("?")[0].count("@") == (1 if version else 0)


class TestAnnotations:
    META = """{
      name = "notes-1.2";
      description = "Notes";
      homepage = "https://example.org";
      license.spdxId = "MIT";
    }"""

    def annotations(self, nix: Nix, arguments: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return annotations and labels, without what the names of the specification begin with."""
        image = nix.image(arguments)
        found = image.manifest.get("annotations", {}), image.config["config"].get("Labels", {})
        short = [
            {key.replace("org.opencontainers.image.", ""): value for key, value in of.items()}
            for of in found
        ]
        return short[0], short[1]

    def test_meta_and_a_time_become_annotations_and_labels(self, nix):
        found = self.annotations(nix, f'{{ meta = {self.META}; created = "2024-05-06"; }}')
        expected = {
            "title": "notes",
            "version": "1.2",
            "description": "Notes",
            "licenses": "MIT",
            "url": "https://example.org",
            "created": "2024-05-06T00:00:00Z",
        }
        assert found == (expected, expected)

    def test_those_given_win_over_meta_and_labels_of_the_configuration_over_both(self, nix):
        given, labels = self.annotations(
            nix,
            f"""{{
              meta = {self.META};
              annotations."org.opencontainers.image.url" = "https://given.example.org";
              annotations."org.opencontainers.image.revision" = "abc";
              config.Labels."org.opencontainers.image.url" = "https://label.example.org";
              config.Labels.mine = "1";
            }}""",
        )
        assert given["url"] == "https://given.example.org"
        assert labels["url"] == "https://label.example.org"
        assert (given["revision"], labels["revision"]) == ("abc", "abc")
        assert labels["mine"] == "1" and "mine" not in given

    def test_nothing_changes_an_image_unless_it_is_asked_for(self, nix):
        assert self.annotations(nix, "{ contents = [ pkgs.hello ]; }") == ({}, {})

    def test_base_image_is_still_named(self, nix):
        base = '(buildImage { name = "base"; })'
        given, _ = self.annotations(nix, f'{{ fromImage = {base}; annotations.a = "b"; }}')
        assert set(given) == {"a", "base.digest"}

    @pytest.mark.parametrize("value", ["[ ]", '"a"', "{ a = 1; }"])
    def test_what_is_no_set_of_strings_is_refused(self, nix, value):
        error = nix.image_error(f"{{ annotations = {value}; }}")
        assert "annotations must be a set of strings, as in annotations." in error
