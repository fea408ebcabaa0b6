"""The example registry with real clients: what a server that uses nixery-build-image must stand."""

from __future__ import annotations

import email.policy
import hashlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from kill_loop import descendants, start_of

from built_images import Source
from docker_registry import run_registry
from nix import ROOT, Image, Nix, attempt, run
from pages import Page
from registry_process import Registry, digest_at, free_port
from served import Wrapper


@pytest.fixture(scope="module")
def registry(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry of the package set with the odd packages beside the others."""
    folder = tmp_path_factory.mktemp("registry")
    text = f'import "{ROOT}/tests/support/odd-packages.nix" {nix.package_set}\n'
    (folder / "default.nix").write_text(text)
    wrapper = Wrapper(Wrapper.of(nix).program, folder)
    with Registry(wrapper, folder, tag="some-*").running() as registry:
        yield registry


# ---------------------------------------------------------------------------------------- clients


@pytest.mark.parametrize("image", ["git", "jq/hello", "shell", "python3packages.six:some-tag"])
def test_skopeo_pulls(registry: Registry, image: str, tmp_path: Path) -> None:
    manifest = registry.pull(image, tmp_path / "image")
    name, _, tag = image.partition(":")
    answer = registry.wrapper.answer(name.split("/"), name=name, tag=tag or "latest")
    assert manifest == answer["manifest"]
    for layer in [manifest["config"], *manifest["layers"]]:
        blob = tmp_path / "image" / layer["digest"].partition(":")[2]
        assert blob.stat().st_size == layer["size"]
        assert "sha256:" + hashlib.sha256(blob.read_bytes()).hexdigest() == layer["digest"]


def test_copy_into_another_registry(registry: Registry, tmp_path: Path) -> None:
    with run_registry(tmp_path) as there:
        for name in ("jq", "jq/hello"):
            command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
            command += ["--dest-tls-verify=false", f"docker://localhost:{registry.port}/{name}"]
            run(*command, there.reference(name))
            assert digest_at(f"{there.address}/{name}") == digest_at(
                f"localhost:{registry.port}/{name}"
            )


def test_one_image_for_several_machines(nix: Nix, tmp_path: Path) -> None:
    options = "--argstr", "systems", '["x86_64-linux", "aarch64-linux"]'
    with Registry(Wrapper.of(nix), tmp_path, *options).running() as registry:
        # Data: the set can't compile programs for another machine.
        there = f"docker://localhost:{registry.port}/tzdata"
        for architecture in "arm64", "amd64":
            copy = ["skopeo", "--insecure-policy", f"--override-arch={architecture}", "copy"]
            run(*copy, "--src-tls-verify=false", there, f"oci:{tmp_path}/{architecture}:v1")
            assert Image(tmp_path / architecture).config["architecture"] == architecture
        run(*copy, "--all", "--src-tls-verify=false", there, f"oci:{tmp_path}/all:v1")


def test_eight_clients_at_once(registry: Registry, tmp_path: Path) -> None:
    images = ["jq", "jq/hello", "hello/jq/tree", "tree", "jq", "jq/hello", "tree/less", "less"]
    with ThreadPoolExecutor(len(images)) as clients:
        manifests = list(
            clients.map(
                lambda each: registry.pull(each[1], tmp_path / str(each[0])), enumerate(images)
            )
        )
    assert manifests[0] == manifests[4] and manifests[1] == manifests[5]


def test_requests_for_one_image_share_a_build(registry: Registry) -> None:
    with ThreadPoolExecutor(6) as clients:
        responses = list(clients.map(registry.error, ["/v2/slowlyfailing/manifests/latest"] * 6))
    assert len(set(responses)) == 1 and responses[0][0] == 500
    told = "slowlyfailing:latest: nixery-build-image: "
    assert registry.log.read_text().count(told) == 1


def test_a_client_that_hangs_up(registry: Registry) -> None:
    """It leaves while its image is built, and while a blob is sent; others are served."""
    with socket.create_connection(("127.0.0.1", registry.port)) as client:
        client.sendall(b"GET /v2/rsync/manifests/latest HTTP/1.1\r\n\r\n")
    _, manifest = registry.get("/v2/rsync/manifests/latest")
    layer = max(json.loads(manifest)["layers"], key=lambda layer: layer["size"])
    with socket.create_connection(("127.0.0.1", registry.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(f"GET /v2/rsync/blobs/{layer['digest']} HTTP/1.1\r\n\r\n".encode())
        client.recv(100)
    response, blob = registry.get(f"/v2/rsync/blobs/{layer['digest']}")
    assert response.status == 200
    assert "sha256:" + hashlib.sha256(blob).hexdigest() == layer["digest"]
    assert "Traceback" not in registry.log.read_text()


# ------------------------------------------------------------------------------------ the protocol


def test_version(registry: Registry) -> None:
    response, _ = registry.get("/v2/")
    assert response.status == 200
    assert response.headers["Docker-Distribution-API-Version"] == "registry/2.0"


def test_manifest_by_tag_and_by_digest(registry: Registry) -> None:
    by_tag, body = registry.get("/v2/hello/manifests/latest")
    digest = by_tag.headers["Docker-Content-Digest"]
    assert digest == "sha256:" + hashlib.sha256(body).hexdigest()
    assert by_tag.headers["Content-Type"] == json.loads(body)["mediaType"]
    by_digest, same = registry.get(f"/v2/hello/manifests/{digest}")
    assert by_digest.status == 200 and same == body
    head, nothing = registry.get(f"/v2/hello/manifests/{digest}", "HEAD")
    assert nothing == b"" and int(head.headers["Content-Length"]) == len(body)


@pytest.mark.parametrize(
    ("wanted", "status", "slice_of"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=-999999999999", 206, slice(None)),
        ("bytes=0-999999999999", 206, slice(None)),
        ("bytes=999999999999-", 416, slice(0)),
        ("bytes=5-4", 200, slice(None)),  # not a range, so there is no header
        ("bytes=0-3,5-4", 200, slice(None)),
        ("bytes=0-" + "9" * 17, 206, slice(None)),
        ("bytes=", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=0-9,", 200, slice(None)),
        ("bytes=9999999999-,8888888888-", 416, slice(0)),
        # More than there is
        ("bytes=0-,0-", 200, slice(None)),
        ("bytes=" + ",".join(["0-"] * 10_000), 200, slice(None)),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(2000)), 200, slice(None)),
        ("bytes=" + "9" * 5000 + "-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_ranges(registry: Registry, wanted: str, status: int, slice_of: slice) -> None:
    _, body = registry.get("/v2/hello/manifests/latest")
    address = f"/v2/hello/blobs/{json.loads(body)['layers'][0]['digest']}"
    _, whole = registry.get(address)
    response, part = registry.get(address, Range=wanted)
    assert response.status == status
    assert part == whole[slice_of]
    request = f"HEAD {address} HTTP/1.1\r\nRange: {wanted}\r\nConnection: close\r\n\r\n"
    head, _, nothing = registry.exchange(request.encode()).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(whole)}\r\n".encode() in head and nothing == b""
    assert head.startswith(b"HTTP/1.1 200 ")  # ranges are GET's
    if status == 416:
        assert response.headers["Content-Range"] == f"bytes */{len(whole)}"
    if status == 206:
        first, last, size = map(
            int, response.headers["Content-Range"][6:].replace("/", "-").split("-")
        )
        assert whole[first : last + 1] == part and size == len(whole)


def test_several_ranges(registry: Registry) -> None:
    """As those who keep layers in parts ask for them (zstd:chunked)."""
    _, body = registry.get("/v2/hello/manifests/latest")
    address = f"/v2/hello/blobs/{json.loads(body)['layers'][0]['digest']}"
    _, whole = registry.get(address)
    response, parts = registry.get(address, Range="bytes=3-9, 20-20,-5,99999999999-")
    assert response.status == 206
    # A message of the type is read as any other, by a program that is not ours.
    text = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode() + parts
    message = email.message_from_bytes(text, policy=email.policy.HTTP)
    found = [
        (part["Content-Range"], part.get_payload(decode=True)) for part in message.iter_parts()
    ]
    size = len(whole)
    assert found == [
        (f"bytes 3-9/{size}", whole[3:10]),
        (f"bytes 20-20/{size}", whole[20:21]),
        (f"bytes {size - 5}-{size - 1}/{size}", whole[-5:]),
    ]


def test_list_of_tags(registry: Registry) -> None:
    _, body = registry.get("/v2/hello/tags/list?n=100")
    assert json.loads(body) == {"name": "hello", "tags": ["latest"]}
    location = f"docker://localhost:{registry.port}/hello"
    inspected = json.loads(run("skopeo", "inspect", "--tls-verify=false", location).stdout)
    assert inspected["RepoTags"] == ["latest"] and inspected["Architecture"] == "amd64"


# ---------------------------------------------------------------------------------------- refusals


def test_unknown_packages(registry: Registry) -> None:
    status, code, message = registry.error("/v2/hello/gti/nothing/manifests/latest")
    assert (status, code) == (404, "MANIFEST_UNKNOWN")
    assert message == "gti was not found (did you mean git?); nothing was not found"


def test_unavailable_package(registry: Registry) -> None:
    message = "unfree is unfree"
    assert registry.error("/v2/unfree/manifests/latest") == (404, "MANIFEST_UNKNOWN", message)


def test_a_build_that_fails(registry: Registry) -> None:
    response, body = registry.get("/v2/noisy/failing/manifests/latest")
    (error,) = json.loads(body)["errors"]
    assert response.status == 500 and error["message"].endswith("exit code 3: last line")
    assert "-failing.drv" in error["message"] and error["detail"] is None  # the log has the rest


def test_a_build_that_times_out(registry: Registry, tmp_path: Path) -> None:
    with Registry(registry.wrapper, tmp_path, "--timeout", 2).running() as impatient:
        status, _, message = impatient.error("/v2/sleeping/manifests/latest")
    assert status == 500 and "timed out after 2 seconds" in message


@pytest.mark.parametrize("secret", ["someone:pass%2Fword@{}", "someone:pass/word@{}", "{}?pass"])
def test_what_the_server_knows_of_git_is_told_nobody(
    registry: Registry, tmp_path: Path, secret: str
) -> None:
    address = secret.format(f"localhost:{free_port()}/packages")
    source = f"git:http://{address}"
    with Registry(registry.wrapper, tmp_path, source=source).running() as other:
        response, body = other.get("/v2/hello/manifests/latest")
    assert response.status == 500 and b"/packages" in body
    for text in body.decode(), other.log.read_text():
        assert "someone" not in text and "pass" not in text.replace("packages", "")


def test_what_is_not_there(registry: Registry) -> None:
    digest = "sha256:" + "0" * 64
    assert registry.error(f"/v2/hello/manifests/{digest}")[:2] == (404, "MANIFEST_UNKNOWN")
    assert registry.error(f"/v2/hello/blobs/{digest}")[:2] == (404, "BLOB_UNKNOWN")
    assert registry.error("/")[0] == 400
    assert registry.error("/v2/hello/blobs/latest")[0] == 404
    assert registry.error(f"/v2/{'a' * 255}/manifests/latest")[:2] == (404, "MANIFEST_UNKNOWN")
    assert registry.error(f"/v2/{'a' * 256}/manifests/latest")[:2] == (400, "NAME_INVALID")
    assert registry.error("/v2/hello/manifests/sha256:0")[0] == 400
    assert registry.error("/v2/hello/tags/latest")[0] == 404
    assert registry.error(f"/v2/hello/referrers/{digest}")[0] == 404


def test_tag_that_is_not_allowed(registry: Registry) -> None:
    message = "allowed tags: latest, some-*"
    refused = (404, "MANIFEST_UNKNOWN", message)
    assert registry.error("/v2/hello/manifests/other") == refused
    assert registry.get("/v2/hello/manifests/some-tag")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_requests_that_would_change_something(registry: Registry, method: str) -> None:
    response, body = registry.get("/v2/hello/manifests/latest", method)
    (error,) = json.loads(body)["errors"]
    assert (response.status, error["code"]) == (405, "UNSUPPORTED")
    assert response.headers["Allow"] == "GET, HEAD"


def test_a_client_that_pushes_is_told_why_not(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("a layer that the registry does not have")
    run("tar", "--create", "--file", tmp_path / "archive", "--directory", tmp_path, "page")
    copy = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false"]
    for source in f"tarball:{tmp_path}/archive", f"docker://localhost:{registry.port}/hello":
        there = f"docker://localhost:{registry.port}/mine:1"
        done = attempt(*copy, "--src-tls-verify=false", source, there)
        assert done.returncode == 1
        assert "registry is read-only, it serves what it builds: push to another" in done.stderr


HELLO = b"GET /v2/hello/manifests/latest HTTP/1.1\r\n"
SMUGGLED = b"GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HELLO + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED, 400),
        (HELLO + b"Content-Length: 0\r\nContent-Length: 9\r\n\r\n" + SMUGGLED, 400),
        (HELLO + b"Content-Length: 00\r\n\r\n" + SMUGGLED, 400),
        (HELLO + b"Content-Length: -1\r\n\r\n" + SMUGGLED, 400),
        (HELLO + b"Content-Length : 9\r\n\r\n" + SMUGGLED, 400),
        (HELLO + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n" + SMUGGLED, 400),
        (HELLO + b"Transfer-Encoding: chunked\r\n\r\n2b\r\n" + SMUGGLED + b"\r\n0\r\n\r\n", 400),
        (HELLO + b"Transfer-Encoding: x\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400),
        (HELLO + b"\x00\xff\r\n\r\n" + SMUGGLED, 400),
        (b"POST /v2/hello/blobs/uploads/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n" + SMUGGLED, 405),
        (b"DELETE /v2/hello/manifests/latest HTTP/1.1\r\n\r\n" + SMUGGLED, 405),
        (b"BREW /v2/ HTTP/1.1\r\n\r\n" + SMUGGLED, 501),
        (b"GET /v2/hello/manifests/latest HTTP/9.9\r\n\r\n" + SMUGGLED, 505),
        (b"GET /v2/hello/manifests/latest twice HTTP/1.1\r\n\r\n" + SMUGGLED, 400),
        (b"GET /v2/" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (HELLO + b"A: " + b"a" * 70_000 + b"\r\n\r\n" + SMUGGLED, 431),
        (HELLO + b"A: a\r\n" * 200 + b"\r\n" + SMUGGLED, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS begins so
    ],
    ids=range(18),
)
def test_hostile_requests(registry: Registry, request_: bytes, status: int) -> None:
    """There is one answer, and what comes after is not taken for another request."""
    answers = registry.exchange(request_).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in answers if answer[:3] != b"100"] == [status]
    assert json.loads(answers[-1].partition(b"\r\n\r\n")[2])["errors"]
    assert registry.get("/v2/")[0].status == 200


NAMES = [
    "../../etc/passwd",
    "%2e%2e/%2e%2e/etc/passwd",
    "a;b",
    "$(touch${IFS}executed)",
    "`touch executed`".replace(" ", "%20"),
    "${builtins.exec}",
    "--option",
    "a" * 10_000,
    "a/" * 5_000 + "a",
    "%C3%A4",
    "\u00e4",
    "lib",
    "lib.id",
    "builtins",
    "pkgs.pkgs.pkgs",
    "a//b",
    "/",
    "",
    "a\\b",
    "a'b",
    'a"b',
    "a/latest/manifests",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_are_no_packages(registry: Registry, name: str) -> None:
    """Nothing is evaluated or executed; the server says what is wrong and serves the next."""
    with socket.create_connection(("127.0.0.1", registry.port)) as client:
        client.sendall(
            f"GET /v2/{name}/manifests/latest HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        )
        response = http.client.HTTPResponse(client)
        response.begin()
        (error,) = json.loads(response.read())["errors"]
    assert response.status in (400, 404)
    assert error["code"] in ("NAME_INVALID", "MANIFEST_UNKNOWN")
    assert not list(Path.cwd().glob("executed*"))
    assert registry.get("/v2/")[0].status == 200


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_the_same_names_past_the_server(registry: Registry, name: str) -> None:
    """A server that checks nothing is no more in danger."""
    answer = registry.wrapper.answer([name])
    assert (answer["error"], answer["pkgs"]) == ("not_found", [name])


@pytest.mark.parametrize("tag", ["..", "a b", "$(id)", "a" * 129, "\u00e4"])
def test_tags_that_are_none(registry: Registry, tag: str) -> None:
    with socket.create_connection(("127.0.0.1", registry.port)) as client:
        client.sendall(
            f"GET /v2/hello/manifests/{tag} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        )
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 400 and json.loads(response.read())["errors"]


# --------------------------------------------------------------------------------------- its state


def test_a_new_server_serves_what_the_last_one_built(registry: Registry, tmp_path: Path) -> None:
    first = Registry(registry.wrapper, tmp_path)
    with first.running():
        response, manifest = first.get("/v2/hello/manifests/latest")
        first.get("/v2/hello/manifests/latest")
        first.error("/v2/nothing/manifests/latest")
    roots = list((tmp_path / "state").glob("*-answer"))
    assert len(roots) == 1  # neither the same image twice nor errors
    needed = run("nix-store", "--query", "--roots", roots[0].resolve()).stdout
    assert str(roots[0]) in needed
    address = f"/v2/hello/manifests/{response.headers['Docker-Content-Digest']}"
    second = Registry(registry.wrapper, tmp_path)
    with second.running():
        assert second.get(address)[1] == manifest
        roots[0].unlink()
        assert second.error(address)[:2] == (404, "MANIFEST_UNKNOWN")
        assert second.get("/v2/hello/manifests/latest")[1] == manifest
        assert second.get(address)[1] == manifest


def test_a_blob_that_was_collected_is_not_there(registry: Registry, tmp_path: Path) -> None:
    digest = "0" * 64
    answer = {
        "manifest": {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"},
        "layerLocations": {digest: {"path": "/nix/store/collected", "size": 1, "md5": ""}},
    }
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x-answer").write_text(json.dumps(answer))
    with Registry(registry.wrapper, tmp_path).running() as other:
        assert other.error(f"/v2/hello/blobs/sha256:{digest}")[:2] == (404, "BLOB_UNKNOWN")


def test_a_second_server_leaves_the_state_of_the_first_alone(
    registry: Registry, tmp_path: Path
) -> None:
    with Registry(registry.wrapper, tmp_path).running() as first:
        done = attempt(*Registry(registry.wrapper, tmp_path).command, env=first.environment)
        sentence = f"another server uses {tmp_path}/state: give each its own --state\n"
        assert (done.returncode, done.stderr) == (1, f"registry.py: {sentence}")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_builds_end_with_the_server_however_it_ends(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    server = Registry(registry.wrapper, tmp_path)
    server.start()
    number = signal.Signals[name]
    with ThreadPoolExecutor() as clients:
        for image in "sleeping", "sleeping/jq":
            clients.submit(attempt, "curl", f"localhost:{server.port}/v2/{image}/manifests/latest")
        while "building '" not in server.log.read_text():
            time.sleep(0.1)
        below = {pid: start_of(pid) for pid in descendants(server.process.pid)}
        assert len(below) > 4  # wrappers, their guards, Nix, a builder
        server.process.send_signal(number)
        assert server.process.wait(10) == -number
    assert "Traceback" not in server.log.read_text()
    for _ in range(300):
        if not any(start and start_of(pid) == start for pid, start in below.items()):
            return
        time.sleep(0.1)
    raise AssertionError([Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below])


@pytest.mark.parametrize(
    ("source", "tag", "given", "is_pinned"),
    [
        ("nixpkgs", "latest", None, True),
        ("nixpkgs", "cbb5cf358f50aa6acc9efd6113b7bcfbc352cd73", "the tag", True),
        ("nixpkgs", "cbb5cf358f50", "the tag", False),
        ("nixpkgs", "nixos-25.05", "the tag", False),
        ("git:file:///x", "latest", '{"url": "file:///x", "ref": "HEAD"}', False),
        ("git:file:///x", "main", '{"url": "file:///x", "ref": "main"}', False),
        ("path:/nix/store/x", "any", "/nix/store/x", True),
        ("path:/nix/store/../../etc", "any", "/nix/store/../../etc", False),
    ],
)
def test_what_a_tag_stands_for(source: str, tag: str, given: str | None, is_pinned: bool) -> None:
    """Without the network there is no nixpkgs to pull from."""
    read = Source(source, ["latest"])
    assert read.arguments(tag).get("srcArgs") == (tag if given == "the tag" else given)
    assert read.is_pinned(tag) == is_pinned


def test_a_tag_is_a_branch_or_a_commit_of_a_repository(nix: Nix, tmp_path: Path) -> None:
    there = tmp_path / "packages"
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", there]
    there.mkdir()
    run(*git, "init", "--quiet", "--initial-branch", "main")
    for branch, package in ("main", "tree"), ("older", "less"):
        text = (
            f"it: let pkgs = import {nix.package_set} it; in pkgs // {{ hello = pkgs.{package}; }}"
        )
        (there / "default.nix").write_text(text)
        run(*git, "checkout", "--quiet", "-B", branch)
        run(*git, "add", ".")
        run(*git, "commit", "--quiet", "--message", package)
    commit = run(*git, "rev-parse", "older").stdout.strip()
    run(*git, "checkout", "--quiet", "main")
    registry = Registry(Wrapper.of(nix), tmp_path, tag="*", source=f"git:file://{there}")
    with registry.running():
        tags = ["latest", "main", "older", commit]
        answers = [registry.get(f"/v2/hello/manifests/{tag}") for tag in tags]
        assert [response.status for response, _ in answers] == [200] * 4
        latest, main, older, pinned = [manifest for _, manifest in answers]
        assert latest == main != older == pinned
        response, refusal = registry.get("/v2/hello/manifests/nowhere")
        assert response.status == 500 and b"nowhere" in refusal


def test_packages_that_cannot_change_are_evaluated_once(nix: Nix, tmp_path: Path) -> None:
    """Those of a store path, and those of a commit of nixpkgs."""
    (tmp_path / "default.nix").write_text(f'builtins.trace "evaluated" (import {nix.package_set})')
    stored = run("nix-store", "--add", tmp_path / "default.nix").stdout.strip()
    evaluations = {}
    for place in (stored, tmp_path):
        folder = tmp_path / Path(place).name
        folder.mkdir()
        registry = Registry(Wrapper(Wrapper.of(nix).program, Path(place)), folder)
        with registry.running():
            manifests = {registry.get("/v2/hello/manifests/latest")[1] for _ in range(3)}
            assert len(manifests) == 1
            evaluations[place] = registry.log.read_text().count("trace: evaluated")
            for root in (folder / "state").glob("*-answer"):
                root.unlink()
            registry.get("/v2/hello/manifests/latest")
            # The one who removes a root wants it gone.
            assert registry.log.read_text().count("trace: evaluated") == evaluations[place] + 1
    assert evaluations == {stored: 1, tmp_path: 3}


def test_one_command_builds_the_program_and_serves(nix: Nix, tmp_path: Path) -> None:
    """Without nixery-build-image in PATH, wherever the project is."""
    project = tmp_path / "the project"
    for name in "build-image", "examples":
        shutil.copytree(ROOT / name, project / name)
    for name in "default.nix", "group_layers.py", "VERSION":
        shutil.copy(ROOT / name, project)
    port = free_port()
    command = [project / "examples" / "registry.py", "--port", port, "--state", tmp_path]
    command += ["--source", f"path:{nix.package_set}"]
    assert shutil.which("nixery-build-image") is None
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        for line in process.stderr:
            if f"http://127.0.0.1:{port}" in line:
                break
        location = f"docker://localhost:{port}/hello"
        copy = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", location]
        run(*copy, f"oci:{tmp_path}/image")
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (
            "--source nixos",
            2,
            "--source: not nixpkgs, path:/a/package/set or git:https://...: nixos",
        ),
        (
            "--source git:https://me:pass\tword@example.org",
            2,
            "not nixpkgs, path:/a/package/set or git:https://...: git:https:",
        ),
        ("--source path:set", 2, ", path:/a/package/set or git:https://...: path:set"),
        ("--source path:/no/such/set", 2, "--source: there is no /no/such/set"),
        ("--state /dev/null", 1, "[Errno 17] File exists: '/dev/null'"),
        ("-- --timeout abc", 1, "nixery-build-image: "),
        ("-- --argstr maxLayer 7", 1, "there is no argument maxLayer (did you mean maxLayers?)"),
        ("-- --argstr systems x86_64-linux", 1, "systems is not JSON: Expecting value at line 1"),
    ],
)
def test_what_cannot_be_served_is_one_line_at_the_start(
    tmp_path: Path, words: str, status: int, sentence: str
) -> None:
    command = [ROOT / "examples" / "registry.py", "--port", free_port(), "--state", tmp_path]
    done = attempt(*command, *words.split(" "))
    assert done.returncode == status and "Traceback" not in done.stderr
    assert sentence in done.stderr.splitlines()[-1]


def test_without_nix_it_says_so(tmp_path: Path) -> None:
    command = [ROOT / "examples" / "registry.py", "--port", free_port(), "--state", tmp_path]
    done = attempt(sys.executable, *command, env={"PATH": "/nonexistent"})
    missing = "neither nix-build nor nixery-build-image is in PATH"
    assert (done.returncode, done.stderr) == (1, f"registry.py: Nix is missing: {missing}\n")


def test_a_port_that_is_taken_or_none_is_one_line(registry: Registry, tmp_path: Path) -> None:
    command = [*registry.command[: registry.command.index("--state")], "--state", tmp_path]
    done = attempt(*command, env=registry.environment)
    taken = f"registry.py: localhost:{registry.port}: [Errno 98] Address already in use\n"
    assert (done.returncode, done.stderr) == (2, taken)
    at = command.index("--port") + 1
    done = attempt(*command[:at], "99999", *command[at + 1 :], env=registry.environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("registry.py: localhost:99999: ") and "port must be 0-65535" in line


# ----------------------------------------------------------------------------------- behind nginx


@pytest.fixture
def nginx(nix: Nix, registry: Registry, short_folder: Path) -> Iterator[int]:
    """The port of nginx with the configuration that docs/registry.md has, without TLS."""
    (block,) = [it for it in Page(ROOT / "docs" / "registry.md").blocks if it.language == "nginx"]
    port = free_port()
    text = re.sub(r"^  ssl_.*\n", "", block.text, flags=re.MULTILINE)
    for written, meant in (
        ("443 ssl", f"127.0.0.1:{port}"),
        ("localhost:8080", f"127.0.0.1:{registry.port}"),
        ("/var/lib/nixery-registry", str(registry.folder / "state")),
    ):
        assert written in text
        text = text.replace(written, meant)
    paths = "".join(
        f"{kind}_temp_path {short_folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As root it may follow links into the tests' folder, which is root's.
    start = f"user root; daemon off; pid {short_folder}/pid; error_log stderr; events {{ }}\n"
    (short_folder / "conf").write_text(f"{start}http {{ access_log off; {paths}{text} }}\n")
    program = nix.package("nginx") / "bin" / "nginx"
    with (short_folder / "log").open("w") as log:
        process = subprocess.Popen([program, "-c", short_folder / "conf"], stderr=log)
    while True:
        assert process.poll() is None, (short_folder / "log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.05)
    yield port
    process.terminate()
    process.wait()


def test_nginx_sends_blobs_without_the_server(
    registry: Registry, nginx: int, tmp_path: Path
) -> None:
    location = f"docker://127.0.0.1:{nginx}/jq/tree"
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
    run(*copy, location, f"dir:{tmp_path}/image")
    manifest = json.loads((tmp_path / "image" / "manifest.json").read_bytes())
    blob = f"/v2/jq/tree/blobs/{manifest['layers'][0]['digest']}"
    assert blob not in registry.log.read_text()
    connection = http.client.HTTPConnection("127.0.0.1", nginx)
    connection.request("GET", blob, headers={"Range": "bytes=5-9"})
    response = connection.getresponse()
    assert (response.status, len(response.read())) == (206, 5)
    assert response.headers["Docker-Content-Digest"] == manifest["layers"][0]["digest"]
    missing = f"/v2/jq/tree/blobs/sha256:{'0' * 64}"
    connection.request("GET", missing)
    response = connection.getresponse()
    assert response.status == 404
    assert json.loads(response.read())["errors"][0]["code"] == "BLOB_UNKNOWN"
    connection.request("DELETE", blob)
    assert connection.getresponse().status == 403
