"""Say what is in an image: a CycloneDX document, which scanners and policies read.

Each store path in the image is a component, the reference graph its dependencies. Names and
versions are those of the derivations in `contents` and, of all others, what the store path's name
says. The properties that begin with `nix:` are nixpkgs' (doc/interoperability/cyclonedx.md). The
same image always has the same document: it has no time, and its serial number is made from the
image's digest.

The attributes are those of write_sbom.nix. Follows CycloneDX 1.6 (JSON) and package-url 1.0.
"""

from __future__ import annotations

import os
import uuid
from typing import Any
from urllib.parse import quote

from attributes import read_attributes, read_json, write_json
from nar import in_base_16
from oci import digest_of
from store_names import parse_store_path


def package_url(kind: str, name: str, version: str = "", **qualifiers: str) -> str:
    """Return a package URL, without what is empty.

    >>> package_url("nix", "gtk+", "3.24", output="dev")
    'pkg:nix/gtk%2B@3.24?output=dev'
    """
    at = f"@{quote(version, safe=':')}" if version else ""
    given = [
        f"{key}={quote(value, safe='/:')}" for key, value in sorted(qualifiers.items()) if value
    ]
    return f"pkg:{kind}/{quote(name, safe='')}{at}{'?' if given else ''}{'&'.join(given)}"


def describe_licenses(given: Any) -> list[dict[str, Any]]:
    """Return the `meta.license` of a package, whatever form it has, as CycloneDX has licenses.

    >>> describe_licenses({"spdxId": "MIT", "fullName": "MIT License"})
    [{'expression': 'MIT'}]
    >>> describe_licenses([{"spdxId": "MIT"}, {"fullName": "Unfree"}, "own"])
    [{'license': {'id': 'MIT'}}, {'license': {'name': 'Unfree'}}, {'license': {'name': 'own'}}]
    """
    licenses: list[dict[str, Any]] = []
    for one in given if isinstance(given, list) else [given]:
        fields = one if isinstance(one, dict) else {"fullName": one}
        name = fields.get("fullName") or fields.get("shortName")
        if fields.get("spdxId"):
            licenses.append({"id": fields["spdxId"]})
        elif name:
            licenses.append({"name": name})
    # An expression may have identifiers that are newer than CycloneDX's list.
    if len(licenses) == 1 and "id" in licenses[0]:
        return [{"expression": licenses[0]["id"]}]
    return [{"license": license} for license in licenses]


def describe_package(package: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a component that the `meta` of its derivation says."""
    homepage = package["homepage"]
    homepages = homepage if isinstance(homepage, list) else [homepage]
    component = {
        "name": package["pname"],
        "version": package["version"],
        "description": package["description"],
        "licenses": describe_licenses(package["license"]),
        "cpe": package["cpe"],
        "purl": package["purl"],
        "externalReferences": [{"type": "website", "url": url} for url in homepages if url],
    }
    return {key: value for key, value in component.items() if value}


def describe_store_path(
    path: str, entry: dict[str, Any], package: dict[str, Any], layers: list[tuple[int, str]]
) -> dict[str, Any]:
    """Return the component of a store path.

    `entry` is its own of the reference graph, empty if it is known from the base image alone;
    `package` what is known of its derivation; `layers` the numbers and digests of its layers.
    """
    parsed = parse_store_path(path)
    given = describe_package(package) if package else {}
    name, version = given.get("name", parsed.name), given.get("version", parsed.version)
    properties = [("nix:store_path", path)]
    hashes = {}
    if entry:
        nar_hash = in_base_16(entry["narHash"])
        hashes = {"hashes": [{"alg": "SHA-256", "content": nar_hash.partition(":")[2]}]}
        properties += [
            ("nix:narinfo:nar_hash", nar_hash),
            ("nix:narinfo:nar_size", str(entry["narSize"])),
            ("nix:narinfo:references", " ".join(sorted(entry["references"]))),
        ]
    for number, digest in layers:
        properties += [("oci:layer:number", str(number)), ("oci:layer:digest", digest)]
    return {
        "type": "application" if package else "library",
        "bom-ref": path,
        "purl": package_url("nix", name, version, output=parsed.output),
        **hashes,
        **({"version": version} if version else {}),
        **given,
        "name": name,
        "properties": [{"name": key, "value": value} for key, value in properties if value],
    }


def describe_image(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the CycloneDX document of an image."""
    documents, base = attributes["documents"], attributes["baseImage"]
    with open(os.path.join(documents, "manifest.json"), "rb") as file:
        digest = digest_of(file.read())
    layers: dict[str, list[tuple[int, str]]] = {}  # by store path
    for number, layer in enumerate(read_json(os.path.join(documents, "layers.json")), 1):
        for path in layer["storePaths"]:
            layers.setdefault(path, []).append((number, layer["digest"]))
    entries = {entry["path"]: entry for entry in attributes["graph"]}
    packages = {
        path: package for package in attributes["packages"] for path in package["paths"] or ()
    }

    def needs(path: str) -> list[str]:
        references = entries[path]["references"] if path in entries else []
        return sorted(reference for reference in {*references} - {path} if reference in layers)

    components = [
        describe_store_path(path, entries.get(path, {}), packages.get(path, {}), layers[path])
        for path in sorted(layers)
    ]
    # What leads to store paths without being one in the image: the root's links, the configuration
    direct = {
        path
        for root in attributes["exportReferencesGraph"]["graph"]
        for path in ([root] if root in layers else needs(root))
    }
    dependencies = {digest: sorted(direct), **{path: needs(path) for path in sorted(layers)}}
    if base:
        described = read_json(base)
        # Archives of docker have no manifest, and docker knows their images by this digest.
        below = described["digest"] or described["id"]
        components.append(
            {
                "type": "container",
                "bom-ref": below,
                "name": "base image",
                "version": below,
                "hashes": [{"alg": "SHA-256", "content": below.partition(":")[2]}],
            }
        )
        dependencies[digest].append(below)
        dependencies[below] = [path for path in sorted(layers) if path not in entries]
    repository, tag = attributes["imageName"], attributes["tag"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": digest,
                "name": repository,
                "version": tag,
                "purl": package_url("oci", os.path.basename(repository), digest, tag=tag),
                "hashes": [{"alg": "SHA-256", "content": digest.partition(":")[2]}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": reference, "dependsOn": needed} for reference, needed in dependencies.items()
        ],
    }


def main() -> None:
    attributes = read_attributes()
    write_json(attributes["outputs"]["out"], describe_image(attributes))


if __name__ == "__main__":
    main()
