"""The image from package names, read and run by the tools that people use."""

from __future__ import annotations

import json
import ssl
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from containers import Container
from nix import Image, Nix, run

PACKAGES = ["bash", "coreutils", "git", "python3"]


@pytest.fixture(scope="module")
def image(nix: Nix) -> Image:
    return nix.image_of(PACKAGES)


@pytest.fixture(scope="module")
def container(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Container:
    return Container.of(image, tmp_path_factory.mktemp("unpacked") / "bundle")


@pytest.fixture(scope="module")
def closure(nix: Nix) -> list[str]:
    return sorted(nix.closure(*map(nix.package, PACKAGES)))


class TestSkopeo:
    def test_inspects_the_image(self, image):
        seen = json.loads(run("skopeo", "inspect", image.location).stdout)
        assert seen["Digest"] == image.descriptor["digest"]
        assert seen["Layers"] == image.digests
        assert (seen["Architecture"], seen["Os"]) == ("amd64", "linux")

    @pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive", "dir"])
    def test_copies_the_image_there_and_back(self, nix, tmp_path, transport):
        image = nix.image_of(["hello"])
        there = f"{transport}:{tmp_path}/there" + ("" if transport == "dir" else ":image:there")
        copy = ["skopeo", "--insecure-policy", "copy"]
        run(*copy, image.location, there)
        run(*copy, there, f"oci:{tmp_path}/back:latest")
        back = Image(tmp_path / "back")
        # Archives of docker have uncompressed layers; what is in them is the same everywhere.
        assert back.config["rootfs"] == image.config["rootfs"]
        if transport != "docker-archive":
            assert back.digests == image.digests


class TestUnpackedByUmoci:
    def test_store_has_every_path_of_the_closure_and_no_other(self, container, closure):
        found = sorted(f"/nix/store/{path.name}" for path in container.rootfs.glob("nix/store/*"))
        assert found == closure

    def test_store_paths_are_as_nix_has_them(self, container, closure):
        unpacked = [f"{container.rootfs}{path}" for path in closure]
        hashes = run("nix-hash", "--type", "sha256", "--base32", *unpacked).stdout.split()
        wanted = run("nix-store", "--query", "--hash", *closure).stdout.split()
        assert [f"sha256:{hash}" for hash in hashes] == wanted

    def test_links_of_the_root_lead_to_files_of_the_image(self, container):
        links = [path for path in container.rootfs.glob("bin/*") if path.is_symlink()]
        assert len(links) > 100
        assert all(Path(f"{container.rootfs}{link.readlink()}").exists() for link in links)

    def test_everybody_may_write_into_tmp(self, container):
        assert stat.S_IMODE((container.rootfs / "tmp").stat().st_mode) == 0o1777


class TestInAnEmptyEnvironment:
    """Programs find all they need in the image: no variable is set, no file of the host there."""

    def test_env_starts_programs(self, container):
        done = container.bwrap("/usr/bin/env", "PATH=/bin", "bash", "-c", "type -p git ls python3")
        assert done.stdout.split() == ["/bin/git", "/bin/ls", "/bin/python3"]

    def test_git_makes_a_repository_commits_and_clones_it(self, container):
        commands = """
            set -e
            cd /tmp
            git init --quiet first
            cd first
            echo hello > file
            git add file
            git -c user.name=x -c user.email=x@example.org commit --quiet --message=first
            cd ..
            git clone --quiet first second
            git -C second log --format=%s
            cat second/file
        """
        done = container.bwrap("/bin/bash", "-c", commands, PATH="/bin", HOME="/tmp")
        assert done.stdout.split() == ["first", "hello"], done.stderr

    def test_python_has_its_libraries(self, container):
        program = "import ssl, sqlite3, lzma, ctypes; print(ssl.create_default_context())"
        done = container.bwrap("/bin/python3", "-B", "-c", program)
        assert done.returncode == 0, done.stderr

    def test_runc_runs_the_bundle_that_umoci_made(self, container):
        done = container.runc("/bin/git", "--version")
        assert done.stdout.startswith("git version "), done.stderr


class TestTLS:
    """git speaks TLS with the libraries in the image."""

    @pytest.fixture(scope="class")
    @classmethod
    def certificate(cls, nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A key and its self-signed certificate for localhost, in one file."""
        folder = tmp_path_factory.mktemp("certificate")
        request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        names = ["-addext", "subjectAltName=DNS:localhost", "-config", folder / "empty"]
        files = ["-keyout", folder / "key", "-out", folder / "certificate"]
        (folder / "empty").write_text("[req]\ndistinguished_name = name\n[name]\n")
        run(nix.package("openssl") / "bin" / "openssl", *request.split(), *names, *files)
        both = folder / "both"
        both.write_text((folder / "key").read_text() + (folder / "certificate").read_text())
        return both

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, certificate: Path) -> Iterator[tuple[int, list[str]]]:
        """A web server; yields its port and the list of the paths that it was asked for."""
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        class Server(HTTPServer):
            def get_request(self):
                connection, address = super().get_request()
                # A client that refuses the certificate must not stop the server.
                return context.wrap_socket(connection, server_side=True), address

        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield server.server_port, asked
            server.shutdown()
            thread.join()

    def test_certificate_that_nobody_signed_is_refused(self, container, server):
        port, asked = server
        url = f"https://localhost:{port}/refused"
        done = container.bwrap("/bin/git", "ls-remote", url, network=True)
        assert done.returncode != 0
        assert "certificate" in done.stderr
        assert asked == []

    def test_trusted_certificate_lets_git_ask_for_the_repository(
        self, container, server, certificate
    ):
        port, asked = server
        (container.rootfs / "tmp" / "trusted").write_bytes(certificate.read_bytes())
        done = container.bwrap(
            "/bin/git",
            "ls-remote",
            f"https://localhost:{port}/trusted",
            network=True,
            GIT_SSL_CAINFO="/tmp/trusted",
        )
        assert "not found" in done.stderr
        assert asked == ["/trusted/info/refs?service=git-upload-pack"]
