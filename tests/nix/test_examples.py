"""Each example is built, and run by runc or podman as its first lines say that it runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import PODMAN_RUN, Container, podman
from docker_registry import run_registry
from nix import ROOT, Image, Nix, run

EXAMPLES = sorted(file.stem for file in (ROOT / "examples").glob("*.nix"))

# What docker lets root do in a container; umoci's default is less.
CAPABILITIES = """
    CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP
    SETUID SYS_CHROOT AUDIT_WRITE
""".split()


@pytest.fixture(scope="module")
def project(nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, with the package set of the tests in place of nixpkgs."""
    folder = tmp_path_factory.mktemp("project")
    for name in ["build-image", "examples", "default.nix", "group_layers.py"]:
        run("cp", "--recursive", ROOT / name, folder)
    (folder / "build-image" / "names" / "load-pkgs.nix").write_text(
        f"_: import {nix.package_set} {{ }}\n"
    )
    return folder


@pytest.fixture
def build(nix: Nix, project: Path) -> Callable[..., Path]:
    """Build an example, without a channel; further words go to nix-build."""

    def build(name: str, *arguments: object) -> Path:
        return nix.build(project / "examples" / f"{name}.nix", *arguments).path

    return build


@pytest.fixture
def unpack(build: Callable[..., Path], tmp_path: Path) -> Callable[..., Container]:
    """Build an example and unpack it for runc."""

    def unpack(name: str) -> Container:
        container = Container.of(Image(build(name)), tmp_path / "bundle")
        file = container.bundle / "config.json"
        config = json.loads(file.read_bytes())
        config["process"]["terminal"] = False
        allowed = [f"CAP_{name}" for name in CAPABILITIES]
        config["process"]["capabilities"] = dict.fromkeys(
            ["bounding", "effective", "permitted"], allowed
        )
        file.write_text(json.dumps(config))
        return container

    return unpack


def output(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a program wrote that must have succeeded."""
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_bash(container: Container, script: str) -> str:
    """Run a script by the image's bash; return what it writes."""
    return output(container.runc("bash", "-e", "-c", script))


def test_every_example_is_tested() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {name.replace("-", "_") for name in EXAMPLES} <= tested
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("name", EXAMPLES)
def test_first_lines_have_commands_that_build_it(
    name: str, project: Path, build: Callable[..., Path]
) -> None:
    text = (ROOT / "examples" / f"{name}.nix").read_text()
    comment = text.partition("\n{\n")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert f'name = "{name}";' in text
    commands = re.findall(r"nix-build examples/[^)]+", comment)
    assert commands and all(f"examples/{name}.nix -A " in command for command in commands)
    if name in ("cross", "index"):
        return  # the package set can't compile for another machine
    if name == "base-image":  # what the command above it writes, from another image
        shutil.copy(build("environment", "-A", "archive"), project / "debian.tar")
    for command in commands:
        run(*shlex.split(command), cwd=project)


def test_shell(unpack: Callable[..., Container]) -> None:
    script = """
        printf '#!/usr/bin/env bash\necho "ran by $BASH"' >/tmp/script
        chmod +x /tmp/script
        /tmp/script
        /bin/sh -c 'echo "and by $0"'
        id -un; stat -c %U /etc; id -u nobody
        [[ $(<"$SSL_CERT_FILE") == *'BEGIN CERTIFICATE'* ]] && echo trusted
    """
    lines = in_bash(unpack("shell"), script).splitlines()
    assert lines[0].startswith("ran by /") and lines[0].endswith("bash")
    assert lines[1:] == ["and by /bin/sh", "root", "root", "65534", "trusted"]


def test_python(unpack: Callable[..., Container]) -> None:
    assert output(unpack("python").runc()) == "greeting: good morning\n"


# Waits for the server to start.
FETCH = """
import time, urllib.request
for attempt in range(600):
    try:
        with urllib.request.urlopen("http://127.0.0.1:80/", timeout=5) as response:
            print(response.headers["Server"], response.read().decode())
        break
    except ConnectionError:
        time.sleep(0.1)
"""


def test_nginx(unpack: Callable[..., Container], tmp_path: Path) -> None:
    nginx = unpack("nginx")
    name, pid = f"nginx-{os.getpid()}", tmp_path / "pid"
    start = ["runc", "run", "--detach", "--pid-file", pid, "--bundle", nginx.bundle, name]
    subprocess.run(
        list(map(str, start)), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        network = f"--net=/proc/{pid.read_text()}/ns/net"
        answer = run("nsenter", network, sys.executable, "-c", FETCH).stdout
    finally:
        run("runc", "delete", "--force", name)
    assert answer.startswith("nginx/")
    assert "<h1>Hello from nginx</h1>" in answer


def test_user(unpack: Callable[..., Container]) -> None:
    user = unpack("user")
    script = "id -un; id -u; id -g; pwd; stat -c %U:%G ~; touch note; stat -c %U note /etc"
    found = in_bash(user, script).split()
    assert found == ["ada", "1000", "1000", "/home/ada", "ada:ada", "ada", "UNKNOWN"]
    refused = user.runc("touch", "/etc/passwd")
    assert refused.returncode != 0 and "Permission denied" in refused.stderr


def test_extra_commands(unpack: Callable[..., Container]) -> None:
    extra = unpack("extra-commands")
    assert output(extra.runc()) == "Hello, world!\n"
    assert in_bash(extra, "stat -c %a /var/lib/private") == "700\n"
    assert not list(extra.rootfs.glob("nix/store/*-hello-*"))


def test_base_image(unpack: Callable[..., Container], build: Callable[..., Path]) -> None:
    image, base = Image(build("base-image")), Image(build("environment"))
    assert image.digests[: len(base.digests)] == base.digests
    assert image.config["config"]["Labels"] == base.config["config"]["Labels"]
    archived = Image(build("base-image", "--arg", "base", build("environment", "-A", "archive")))
    assert archived.config == image.config

    container = unpack("base-image")
    variables = output(container.runc()).splitlines()
    assert "GREETING=good evening" in variables and "TZ=Asia/Tokyo" in variables
    assert output(container.runc("pwd")) == "/srv\n"


def test_nix(unpack: Callable[..., Container], nix: Nix) -> None:
    bash, package = nix.package("bash"), nix.package("nix")
    script = f"""
        nix-store --verify --check-contents
        nix-store --query --requisites {package} | wc -l
        # What is not in the database, or not kept by a root: nothing.
        nix-store --gc --print-dead
        # Debian's Nix looks for a part of itself where Debian has it.
        export NIX_LIBEXEC_DIR={package}/libexec
        cat $(nix-build --no-out-link --option substituters '' --expr '
          derivation {{
            name = "greeting";
            system = builtins.currentSystem;
            builder = builtins.storePath {bash} + "/bin/bash";
            args = [ "-c" "echo built inside >$out" ];
          }}
        ')
    """
    lines = in_bash(unpack("nix"), script).splitlines()
    assert lines == [str(len(nix.closure(package))), "built inside"]


def test_environment(unpack: Callable[..., Container], build: Callable[..., Path]) -> None:
    assert output(unpack("environment").runc()) == "good morning from /srv, 09:00 JST\n"
    labels = Image(build("environment")).config["config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "environment"


def test_zstd(build: Callable[..., Path], short_folder: Path) -> None:
    image = Image(build("zstd"))
    types = {layer["mediaType"] for layer in image.manifest["layers"]}
    assert types == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    # Not by umoci and runc: Debian's umoci does not read zstd.
    command = ["lua", "-e", "print(6 * 7)"]
    assert podman(short_folder, "run", *PODMAN_RUN, image.location, *command).stdout == "42\n"


def test_layers(unpack: Callable[..., Container], build: Callable[..., Path]) -> None:
    assert output(unpack("layers").runc()) == "released as one\n"
    layers = [
        {path.partition("-")[2] for path in layer} for layer in Image(build("layers")).store_paths
    ]
    assert [layer for layer in layers if {"program", "words"} & layer] == [{"program", "words"}]
    lines = build("layers", "-A", "explain").read_text().splitlines()
    (given,) = [line.split() for line in lines if " given " in line]
    assert given[3:5] == ["2", "given"]


@pytest.fixture
def with_scripts(nix: Nix) -> tuple[str, str, str]:
    """Words with which an example builds for another machine, for which nothing can be compiled.

    A script stands for the program.
    """
    system = "prev.stdenv.hostPlatform.system"
    script = f'prev.writeShellScriptBin "hello" "echo ${{{system}}}"'
    overlay = f"(_: prev: {{ hello = {script}; }})"
    return "--arg", "pkgs", f"import {nix.package_set} {{ overlays = [ {overlay} ]; }}"


def test_kubernetes(build: Callable[..., Path], tmp_path: Path, short_folder: Path) -> None:
    with run_registry(tmp_path) as registry:
        manifest = json.loads(
            build(
                "kubernetes", "-A", "manifest", "--argstr", "registry", registry.address
            ).read_bytes()
        )
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        # Nothing has been pushed when the manifest is there, and what is pushed is what it names.
        name, _, digest = container["image"].partition("@")
        program = build("kubernetes", "-A", "image.copyTo") / "bin" / "copy-to"
        pushed = run(program, f"docker://{name}:latest", "--dest-tls-verify=false")
        assert pushed.stdout == f"{digest}\n"
        podman(short_folder, "pull", "--quiet", "--tls-verify=false", container["image"])


def test_compose(build: Callable[..., Path], tmp_path: Path) -> None:
    with run_registry(tmp_path) as registry:
        file = build("compose", "-A", "file", "--argstr", "registry", registry.address)
        services = json.loads(file.read_bytes())["services"]
        program = build("compose", "-A", "images.copyTo") / "bin" / "copy-to"
        pushed = run(program, f"docker://{registry.address}", "--dest-tls-verify=false").stdout
    expected = dict(line.split() for line in pushed.splitlines())
    assert {name: service["image"] for name, service in services.items()} == {
        name: f"{registry.address}/{name}@{digest}" for name, digest in expected.items()
    }


def test_index(
    build: Callable[..., Path], with_scripts: tuple[str, str, str], short_folder: Path
) -> None:
    location = f"oci:{build('index', *with_scripts)}:latest"
    digests = {}
    for architecture in "amd64", "arm64":
        copy = f"oci:{short_folder}/{architecture}:v1"
        choose = f"--override-arch={architecture}"
        run("skopeo", "--insecure-policy", choose, "copy", location, copy)
        image = Image(short_folder / architecture)
        assert image.config["architecture"] == architecture
        digests[architecture] = dict(zip(image.digests, image.store_paths))
    shared = set(digests["amd64"]).intersection(digests["arm64"])
    assert any("-tzdata-" in path for digest in shared for path in digests["arm64"][digest])
    done = podman(short_folder, "run", *PODMAN_RUN, f"oci:{short_folder}/amd64:v1")
    assert done.stdout == "x86_64-linux\n"


def test_cross(build: Callable[..., Path], with_scripts: tuple[str, str, str]) -> None:
    image = Image(build("cross", *with_scripts))
    assert image.descriptor["platform"] == {"os": "linux", "architecture": "arm64"}
    assert (image.config["os"], image.config["architecture"]) == ("linux", "arm64")
    assert image.tree["bin/hello"].issym()
