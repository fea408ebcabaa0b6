"""Pushes to docker and podman, here and through ssh: what is sent, and what is said."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import container_home, podman_command
from daemons import Docker, run_docker, run_ssh_server
from nix import Image, Nix, attempt, run
from revisions import delete_layers, with_new_page


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="test-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def docker(folder: Path) -> Iterator[Docker]:
    with run_docker(folder / "docker") as docker:
        yield docker


def revision(nix: Nix) -> tuple[Path, Image]:
    """Return copy-to for an image of which no daemon has the page, and the image."""
    call = nix.image_call(with_new_page())
    image, program = nix.build(*call, "-A", "out", "-A", "copyTo").paths
    return program / "bin" / "copy-to", Image(image)


def sent(log: str) -> list[str]:
    """Return the names of layers that were sent, but for their versions."""
    return sorted(re.findall(r"^copy-to: sending (\S+),", log, re.MULTILINE))


CHANGED = ["layer-image-root.tar", "layer-page"]


class TestDocker:
    def test_is_sent_the_layers_that_it_lacks_and_has_the_image_by_its_name(self, nix, docker):
        copy_to, _ = revision(nix)
        run(copy_to, "docker-daemon:team/page:v1", env=docker.environment)
        copy_to, image = revision(nix)
        done = run(copy_to, "docker-daemon:team/page:v1", env=docker.environment)
        assert sent(done.stderr) == CHANGED
        assert done.stdout == image.descriptor["digest"] + "\n"
        there = docker.inspect("team/page:v1")
        assert there["Id"] == image.manifest["config"]["digest"]
        assert there["RootFS"]["Layers"] == image.config["rootfs"]["diff_ids"]
        assert docker.names == {"team/page:v1@<none>"}
        done = run(copy_to, "docker-daemon:team/page:v1", env=docker.environment)
        assert sent(done.stderr) == []

    @pytest.mark.parametrize("way", ["tcp", "option", "DOCKER_CONTEXT", "docker context use"])
    def test_is_found_where_docker_finds_it(self, nix, docker, tmp_path, way):
        copy_to, image = revision(nix)
        environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
        words = ["docker-daemon:found"]
        if way == "tcp":
            environment["DOCKER_HOST"] = docker.tcp
        elif way == "option":
            words += ["--dest-daemon-host", docker.url]
        else:
            create = ["docker", "context", "create", "here", "--docker", f"host={docker.url}"]
            run(*create, env=environment)
            if way == "DOCKER_CONTEXT":
                environment[way] = "here"
            else:
                run(*way.split(), "here", env=environment)
        run(copy_to, *words, env=environment)
        assert docker.inspect("found:latest")["Id"] == image.manifest["config"]["digest"]

    def test_is_found_by_tls(self, nix, folder, tmp_path):
        """The daemon knows its clients by the certificate that is its own, too."""
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config"
        (tmp_path / "config").write_text(
            "[req]\ndistinguished_name = name\nx509_extensions = all\n[name]\n"
            "[all]\nbasicConstraints = CA:true\nsubjectAltName = IP:127.0.0.1\n"
        )
        files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
        run("openssl", *request.split(), tmp_path / "config", "-subj", "/CN=docker", *files)
        shutil.copy(tmp_path / "cert.pem", tmp_path / "ca.pem")
        copy_to, image = revision(nix)
        with run_docker(folder / "tls", certificates=tmp_path) as docker:
            environment = {**os.environ, "DOCKER_HOST": docker.tcp, "DOCKER_TLS_VERIFY": "1"}
            environment["DOCKER_CERT_PATH"] = str(tmp_path)
            run(copy_to, "docker-daemon:tls:v1", env=environment)
            assert docker.inspect("tls:v1")["Id"] == image.manifest["config"]["digest"]
            del environment["DOCKER_TLS_VERIFY"]
            refused = attempt(copy_to, "docker-daemon:tls:v2", env=environment)
            (line,) = refused.stderr.splitlines()
            assert refused.returncode == 1 and "an HTTP request to an HTTPS server" in line

    def test_where_it_cannot_pull_it_is_sent_all_and_that_is_said(self, nix, folder):
        """As in a virtual machine, it has another loopback interface."""
        copy_to, image = revision(nix)
        with run_docker(folder / "apart", "unshare", "--net") as docker:
            done = run(copy_to, "docker-daemon:page:v1", env=docker.environment)
            assert f"docker at {docker.url} cannot pull from this machine" in done.stderr
            assert len(sent(done.stderr)) == len(image.digests)
            layers = docker.inspect("page:v1")["RootFS"]["Layers"]
            assert layers == image.config["rootfs"]["diff_ids"]

    def test_it_takes_its_own_image_of_an_index(self, nix, docker):
        image = '(buildImage { name = "a"; contents = [ pkgs.hello ]; })'
        other = '(buildImage { name = "a"; architecture = "arm64"; contents = [ pkgs.cacert ]; })'
        body = f'buildIndex {{ name = "index"; images = [ {other} {image} ]; }}'
        program = nix.build(*nix.expression(f"({body}).copyTo")).path
        run(program / "bin" / "copy-to", "docker-daemon:index:v1", env=docker.environment)
        assert docker.inspect("index:v1")["Architecture"] == "amd64"

    def test_gets_all_images_of_a_fleet(self, nix, docker):
        body = """(buildImages {
          defaults.tag = "v1";
          images.one.contents = [ pkgs.hello ];
          images.other.contents = [ pkgs.tzdata ];
        }).copyTo"""
        program = nix.build(*nix.expression(body)).path
        run(program / "bin" / "copy-to", "docker-daemon:", env=docker.environment)
        assert {"one:v1@<none>", "other:v1@<none>"} <= docker.names

    def test_a_layer_that_cannot_be_had_is_named_at_once(self, nix, docker, tmp_path):
        """docker itself would try it again and again."""
        arguments = with_new_page()
        copy_to = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        delete_layers(nix, arguments)
        environment = {**docker.environment, "NIX_REMOTE": f"local?root={tmp_path}/elsewhere"}
        done = attempt(copy_to, "docker-daemon:page:lost", env=environment, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        # What Nix says of another layer that it is asked for may follow.
        start = "^copy-to: docker-daemon:page:lost: not pushed: "
        told = re.compile(rf"{start}/nix/store/\w{{32}}-layer-\S+ is missing: ", re.MULTILINE)
        assert told.search(done.stderr), done.stderr

    def test_what_it_cannot_unpack_is_answered_with_what_to_write(self, nix, docker):
        arguments = with_new_page().replace("{", '{ compressor = "zstd";', 1)
        copy_to = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        done = attempt(copy_to, "docker-daemon:zstd", env=docker.environment)
        assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith(
            '(this docker cannot read zstd: build the image with `compressor = "gz"`)'
        )

    @pytest.mark.parametrize(
        ("variable", "value", "told"),
        [
            (
                "DOCKER_HOST",
                "unix:///nowhere",
                "docker does not answer at unix:///nowhere: No ",
            ),
            ("DOCKER_HOST", "tcp://127.0.0.1:1", "at tcp://127.0.0.1:1: Connection refused (start"),
            ("DOCKER_HOST", "npipe://x", "docker is at npipe://x: copy-to knows unix://, tcp://"),
            ("DOCKER_CONTEXT", "none", "docker's context 'none' does not exist: "),
        ],
    )
    def test_where_there_is_none_one_line_says_so(self, nix, tmp_path, variable, value, told):
        copy_to = nix.build_image("{ contents = [ pkgs.hello ]; }", "copyTo").path / "bin/copy-to"
        environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path), variable: value}
        done = attempt(copy_to, "docker-daemon:x", env=environment)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("copy-to: docker-daemon:x:") and told in line


class TestSsh:
    def test_docker_there_is_sent_the_layers_that_it_lacks(self, nix, docker, tmp_path):
        there = {"PATH": os.environ["PATH"], "DOCKER_HOST": docker.url}
        with run_ssh_server(tmp_path, **there) as server:
            environment = server.environment()
            name = f"root@{server.address}/team/far:v1"
            run(revision(nix)[0], f"ssh://{name}", env=environment)
            copy_to, image = revision(nix)
            done = run(copy_to, f"ssh://{name}", env=environment)
            assert "docker on 127.0.0.1 pulls" in done.stderr and sent(done.stderr) == CHANGED
            assert done.stdout == image.descriptor["digest"] + "\n"
            assert docker.inspect("team/far:v1")["Id"] == image.manifest["config"]["digest"]
            assert not any(name.startswith("127.0.0.1") for name in docker.names)
            # The same machine, named as docker does
            copy_to, image = revision(nix)
            environment["DOCKER_HOST"] = f"ssh://root@{server.address}"
            done = run(copy_to, "docker-daemon:team/far:v2", env=environment)
            assert sent(done.stderr) == CHANGED
            assert docker.inspect("team/far:v2")["Id"] == image.manifest["config"]["digest"]

    def test_podman_there_is_sent_the_layers_that_it_lacks(self, nix, short_folder, tmp_path):
        words = " ".join(map(str, podman_command(short_folder))).partition(" ")
        program = tmp_path / "podman"
        home = container_home(tmp_path)
        program.write_text(
            f'#!/bin/sh\nHOME={home} exec {shutil.which("podman")} {words[2]} "$@"\n'
        )
        program.chmod(0o755)
        folders = os.environ["PATH"].split(":")
        without_docker = ":".join(it for it in folders if not Path(it, "docker").exists())
        with run_ssh_server(tmp_path, PATH=f"{tmp_path}:{without_docker}") as server:
            environment = server.environment()
            run(revision(nix)[0], f"ssh://{server.address}/far:v1", env=environment)
            copy_to, image = revision(nix)
            done = run(copy_to, f"ssh://{server.address}/far:v1", env=environment)
        assert "podman on 127.0.0.1 pulls" in done.stderr and sent(done.stderr) == CHANGED
        (there,) = json.loads(run(program, "image", "inspect", "far:v1").stdout)
        assert "sha256:" + there["Id"] == image.manifest["config"]["digest"]
        assert there["RepoTags"] == ["localhost/far:v1"]

    @pytest.mark.parametrize(
        ("settings", "programs", "key", "told"),
        [
            ([], [], "user", "no docker and no podman there: install one (`ssh 127"),
            ([], ["docker"], "user", "Cannot connect to the Docker daemon at unix:///nowhere"),
            ([], [], "stranger", "Permission denied (publickey"),
            (["AllowTcpForwarding no"], [], "user", "(the server must allow it: AllowTcpForward"),
        ],
    )
    def test_what_stands_in_the_way_is_said_in_one_line(
        self, nix, tmp_path, settings, programs, key, told
    ):
        copy_to = nix.build_image("{ contents = [ pkgs.hello ]; }", "copyTo").path / "bin/copy-to"
        for name in "sh", *programs:
            (tmp_path / name).symlink_to(shutil.which(name))
        there = {"PATH": str(tmp_path), "DOCKER_HOST": "unix:///nowhere"}
        with run_ssh_server(tmp_path, *settings, **there) as server:
            environment = server.environment(key)
            done = attempt(copy_to, f"ssh://{server.address}/x", env=environment)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"copy-to: ssh://{server.address}/x: not pushed: ") and told in line

    def test_a_connection_that_is_lost_is_said_in_one_line(self, nix, tmp_path):
        copy_to = nix.build_image("{ contents = [ pkgs.hello ]; }", "copyTo").path / "bin/copy-to"
        program = tmp_path / "docker"
        # The shell's parent is the server's process for this connection.
        program.write_text(
            '#!/bin/sh\n[ "$1" != pull ] || kill -KILL "$(cut -d " " -f 4 /proc/$PPID/stat)"\n'
        )
        program.chmod(0o755)
        with run_ssh_server(tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin") as server:
            done = attempt(copy_to, f"ssh://{server.address}/x", env=server.environment())
        assert (done.returncode, done.stdout) == (1, "")
        last = done.stderr.splitlines()[-1]
        assert "not pushed: the connection to 127.0.0.1 was lost: " in last
