"""The program that pushes: what it sends, what it says, and what a machine needs for it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from destinations import TAKE_VALUE
from docker_registry import DockerRegistry, run_registry
from nix import ROOT, Image, Nix, attempt, run
from revisions import delete_layers, with_new_page
from served import with_store

PLAIN = "--dest-tls-verify=false"
TWO = '{ name = "two"; contents = [ pkgs.hello pkgs.tzdata ]; }'


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def image(nix: Nix) -> Image:
    return nix.image(TWO)


@pytest.fixture(scope="module")
def copy_to(nix: Nix) -> Path:
    """The program that pushes `image`."""
    return nix.build_image(TWO, "copyTo").path / "bin" / "copy-to"


class TestSending:
    def test_has_the_image_with_equal_digests_and_is_sent_nothing_twice(
        self, image, copy_to, registry, tmp_path
    ):
        there = registry.reference("two:v1")
        done = run(copy_to, there, PLAIN)
        assert done.stdout == image.descriptor["digest"] + "\n"
        assert registry.uploads == len(set(image.digests)) + 1
        copy = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"]
        run(*copy, there, f"oci:{tmp_path}/back:v1")
        assert Image(tmp_path / "back").descriptor["digest"] == image.descriptor["digest"]

        before = registry.uploads
        done = run(copy_to, there, PLAIN)
        assert done.stdout == image.descriptor["digest"] + "\n"
        assert registry.uploads == before
        assert f"sent 0 of {len(image.digests)} layers" in done.stderr

    def test_is_sent_only_the_layers_that_it_lacks(self, nix, registry):
        there = registry.reference("grows")
        small = nix.build_image("{ contents = [ pkgs.git ]; }", "copyTo").path
        run(small / "bin" / "copy-to", f"{there}:1", PLAIN)
        before = registry.uploads
        large = nix.build_image("{ contents = [ pkgs.git pkgs.tree ]; }", "copyTo").path
        done = run(large / "bin" / "copy-to", f"{there}:2", PLAIN)
        # The new package, the root's links and the configuration.
        assert registry.uploads == before + 3
        sent = [line.split()[2] for line in done.stderr.splitlines() if ": sending " in line]
        assert len(sent) == 2 and any(name.startswith("layer-tree-") for name in sent)

    def test_gets_the_layers_as_they_are_compressed_though_it_has_the_files(self, nix, registry):
        for compressor in "gz", "zstd", "none":
            arguments = f'{{ contents = [ pkgs.hello ]; compressor = "{compressor}"; }}'
            program = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
            done = run(program, registry.reference(compressor), PLAIN)
            assert done.stdout == nix.image(arguments).descriptor["digest"] + "\n"

    @pytest.mark.parametrize("kind", ["oci", "docker-archive"])
    def test_other_destinations_of_skopeo_get_the_whole_image(self, image, copy_to, tmp_path, kind):
        run(copy_to, f"{kind}:{tmp_path}/there:name:v1")
        copy = ["skopeo", "--insecure-policy", "copy"]
        run(*copy, f"{kind}:{tmp_path}/there:name:v1", f"oci:{tmp_path}/back:v1")
        assert Image(tmp_path / "back").config["rootfs"] == image.config["rootfs"]

    def test_several_destinations_get_a_digest_each(self, image, copy_to, registry, tmp_path):
        there = registry.reference("several"), f"oci:{tmp_path}/layout:v1"
        done = run(copy_to, *there, PLAIN)
        assert done.stdout.splitlines() == [image.descriptor["digest"]] * 2

    @pytest.mark.parametrize("format", [["--format", "v2s2"], ["-fv2s2"]])
    def test_options_go_to_skopeo(self, copy_to, registry, format):
        there = registry.reference("converted")
        run(copy_to, *format, there, PLAIN)
        manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", there).stdout)
        assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"

    @pytest.mark.parametrize("form", ["--digestfile={}", "--digestfile {}"])
    def test_a_digest_file_has_the_digest_as_well(self, image, copy_to, registry, tmp_path, form):
        words = form.format(tmp_path / "digest").split()
        done = run(copy_to, registry.reference("digest"), PLAIN, *words)
        assert done.stdout == image.descriptor["digest"] + "\n"
        assert (tmp_path / "digest").read_text() == image.descriptor["digest"]

    def test_credentials_are_given_as_to_skopeo(self, copy_to, tmp_path, image):
        # As `htpasswd -B` writes it
        hashed = "user:$2b$05$.VzdPS/aqJ9rwnTZfX8VMOh1FmUo7wBsp3JHyFKeftCZHlSsyCrzC"
        (tmp_path / "htpasswd").write_text(hashed + "\n")
        wanted = f"auth: {{htpasswd: {{realm: here, path: {tmp_path}/htpasswd}}}}\n"
        with run_registry(tmp_path, wanted) as registry:
            there = registry.reference("private")
            refused = attempt(copy_to, there, PLAIN)
            assert refused.returncode == 1 and refused.stdout == ""
            (line,) = refused.stderr.splitlines()
            assert line.startswith(f"copy-to: {there}: not pushed: unauthorized: ")
            assert "(log in with `skopeo login`, or pass --dest-creds" in line
            done = run(copy_to, there, PLAIN, "--dest-creds", "user:pass")
            assert done.stdout == image.descriptor["digest"] + "\n"


class CacheHandler(SimpleHTTPRequestHandler):
    """Serves a binary cache, or hangs up in the middle of a file as long as `fails` is set."""

    fails = False

    def copyfile(self, source, outputfile) -> None:
        size = os.fstat(source.fileno()).st_size
        outputfile.write(source.read(size // 2 if self.fails and "/nar/" in self.path else size))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a binary cache; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(CacheHandler, directory=folder)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class TestLayersThatAreNotThere:
    def test_the_program_keeps_no_layer_alive(self, nix, image, copy_to):
        layers = set(map(str, nix.build_image(TWO, "layers").paths))
        assert layers and not nix.closure(copy_to.parent.parent) & layers

    def test_what_the_destination_has_is_not_realised(self, nix, registry):
        arguments, there = with_new_page(), registry.reference("page")
        program = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        digest = run(program, there, PLAIN).stdout
        layers = delete_layers(nix, arguments)
        assert run(program, there, PLAIN).stdout == digest
        assert not any(layer.exists() for layer in layers)

    @pytest.mark.parametrize("importing", ["true", "false"])
    def test_what_the_destination_lacks_is_built(self, nix, tmp_path, importing):
        more = f"// {{ importFromDerivation = {importing}; }}"
        arguments = f"{with_new_page()} {more}"
        program = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        layers = delete_layers(nix, arguments)
        run(program, f"oci:{tmp_path}/layout:v1")
        assert all(layer.exists() for layer in layers)
        image = nix.image(arguments)
        assert Image(tmp_path / "layout").config["rootfs"] == image.config["rootfs"]

    def test_what_cannot_be_had_is_named(self, nix, tmp_path):
        arguments = with_new_page()
        program = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        lost = set(map(str, nix.build_image(arguments, "layers").paths))
        delete_layers(nix, arguments)
        # Its store has none of them.
        environment = {**os.environ, "NIX_REMOTE": f"local?root={tmp_path}/elsewhere"}
        done = attempt(program, f"oci:{tmp_path}/layout:v1", env=environment)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        before = f"copy-to: oci:{tmp_path}/layout:v1: not pushed:"
        assert any(last.startswith(f"{before} {path} is missing") for path in lost), done.stderr

    def test_what_nix_has_not_written_to_its_end_is_not_sent(self, nix, tmp_path):
        arguments = with_new_page()
        program = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        for layer in delete_layers(nix, arguments):
            layer.write_bytes(b"the first bytes of a layer")
        run(program, f"oci:{tmp_path}/layout:v1")
        image = nix.image(arguments)
        assert Image(tmp_path / "layout").config["rootfs"] == image.config["rootfs"]

    def test_without_nix_what_is_there_is_sent(self, image, copy_to, tmp_path):
        done = run(copy_to, f"oci:{tmp_path}/layout:v1", env={**os.environ, "PATH": "/nowhere"})
        assert done.stdout == image.descriptor["digest"] + "\n"

    def test_a_machine_that_knows_the_program_pulls_the_missing_layers_only(
        self, nix, registry, tmp_path
    ):
        """It has a binary cache; it neither evaluates nor builds."""
        there = registry.reference("cached")
        former = nix.build_image(with_new_page(), "copyTo").path
        run(former / "bin" / "copy-to", there, PLAIN)
        arguments = with_new_page()
        forms = nix.build(*nix.image_call(arguments), "-A", "cache", "-A", "copyTo").paths
        copy = ["nix", "--extra-experimental-features", "nix-command", "copy"]
        run(*copy, "--to", f"file://{tmp_path}/cache?compression=zstd", forms[0])

        (tmp_path / "nix").mkdir()
        settings = f"substituters = file://{tmp_path}/cache\nrequire-sigs = false"
        environment = {**os.environ, "NIX_CONFIG": f"{os.environ['NIX_CONFIG']}\n{settings}"}
        for words in ["nix-store", "--realise", forms[1]], [forms[1] / "bin/copy-to", there, PLAIN]:
            done = run(*with_store(tmp_path, *words), env=environment)
        layers = nix.build_image(arguments, "layers").paths
        pulled = [path for path in layers if (tmp_path / str(path)[1:]).exists()]
        assert len(layers) > 2
        assert [path.name[33:] for path in pulled] == ["layer-page", "layer-image-root.tar"]
        assert done.stdout == nix.image(arguments).descriptor["digest"] + "\n"

    @pytest.mark.parametrize(
        ("address", "told"),
        [
            ("{}", "curl error: Transferred a partial file"),
            ("http://127.0.0.1:1", "connect to server"),
        ],
    )
    def test_a_binary_cache_that_fails_is_named_in_the_last_line(
        self, nix, registry, tmp_path, monkeypatch, address, told
    ):
        there = registry.reference("failing")
        forms = nix.build(*nix.image_call(with_new_page()), "-A", "cache", "-A", "copyTo").paths
        copy = ["nix", "--extra-experimental-features", "nix-command", "copy"]
        run(*copy, "--to", f"file://{tmp_path}/cache?compression=zstd", forms[0])
        (tmp_path / "nix").mkdir()
        with serving(tmp_path / "cache") as served:
            settings = f"{os.environ['NIX_CONFIG']}\nrequire-sigs = false\ndownload-attempts = 2"
            settings += "\nsubstituters = "
            environment = {**os.environ, "NIX_CONFIG": settings + served}
            run(*with_store(tmp_path, "nix-store", "--realise", forms[1]), env=environment)
            monkeypatch.setattr(CacheHandler, "fails", True)
            address = address.format(served)
            environment["NIX_CONFIG"] = settings + address
            push = with_store(tmp_path, forms[1] / "bin" / "copy-to", there, PLAIN)
            done = attempt(*push, env=environment)
        assert (done.returncode, done.stdout) == (1, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"copy-to: {there}: not pushed: /nix/store/")
        assert f" is missing: unable to download '{address}" in last and told in last
        assert "retrying" not in last
        assert last.endswith("(push again if a binary cache has it, or else build the image again)")


class TestUsage:
    def test_help_tells_how_it_is_called(self, copy_to):
        done = run(copy_to, "--help")
        assert "copy-to DESTINATION ... [OPTION ...]" in done.stdout
        assert done.stderr == ""

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], "no destination: name one, as in copy-to docker://registry.example.org/name:tag"),
            (["dir:x", "--retry-times"], "--retry-times needs a value"),
            (["docker://registry.example.org:5000"], "docker://registry.example.org:5000: write"),
            ([PLAIN], "no destination: name one, as in copy-to docker://"),
            (["--dest-creds", "docker://user:secret"], "no destination: name one"),
            (["localhost:5000/app"], "localhost:5000/app is not a destination: write docker://"),
            (["oci:folder", "docker://"], "docker://: write docker://REGISTRY/NAME:TAG"),
        ],
    )
    def test_words_that_make_no_sense_push_nothing(self, copy_to, words, told, tmp_path):
        done = attempt(copy_to, *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"copy-to: {told}") and "secret" not in line
        assert not os.listdir(tmp_path)

    def test_a_password_is_never_taken_for_a_destination(self, copy_to, tmp_path):
        words = ["--dest-creds", "dir:secret", "docker://127.0.0.1:1/app", PLAIN]
        done = attempt(copy_to, *words, cwd=tmp_path)
        assert done.returncode == 1 and "secret" not in done.stderr + done.stdout
        assert not os.listdir(tmp_path)

    def test_the_options_that_take_a_value_are_those_of_skopeo(self):
        shown = run("skopeo", "copy", "--help").stdout
        options = re.findall(r"^ +(?:-(\w), )?--([\w.-]+)( \S+)?  +", shown, re.MULTILINE)
        with_value = {f"--{name}" for _, name, value in options if value}
        without = {f"--{name}" for _, name, value in options if not value}
        assert len(options) > 30 and with_value <= TAKE_VALUE and not without & TAKE_VALUE

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["docker://127.0.0.1:1/app", PLAIN], "connection refused"),
            (["docker://{}/App", PLAIN], "repository name must be lowercase"),
            (["docker://{}/app"], "(a registry without TLS needs --dest-tls-verify=false)"),
            (["docker://{}/app", PLAIN, "--unknown"], "unknown flag: --unknown"),
        ],
    )
    def test_failure_is_one_line_with_the_destination(self, copy_to, registry, words, told):
        words = [word.format(registry.address) for word in words]
        done = attempt(copy_to, *words)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"copy-to: {words[0]}: not pushed: ") and told in line
        assert "sha256:" not in line

    def test_what_was_pushed_before_a_failure_has_its_digest(self, copy_to, registry, image):
        done = attempt(copy_to, registry.reference("first"), "docker://127.0.0.1:1/app", PLAIN)
        assert (done.returncode, done.stdout) == (1, image.descriptor["digest"] + "\n")

    def test_a_digest_file_that_cannot_be_written_is_said(self, copy_to, image, tmp_path):
        file = f"{tmp_path}/none/digest"
        done = attempt(copy_to, f"dir:{tmp_path}/copy", "--digestfile", file)
        assert (done.returncode, done.stdout) == (1, image.descriptor["digest"] + "\n")
        assert done.stderr.splitlines()[-1] == (
            f"copy-to: --digestfile {file}: No such file or directory"
        )

    def test_attempts_of_skopeo_are_told(self, copy_to):
        done = attempt(copy_to, "docker://127.0.0.1:1/app", PLAIN, "--retry-times", "1")
        first, last = done.stderr.splitlines()
        assert first.startswith("copy-to: Failed, retrying in ") and "not pushed" in last

    def test_every_destination_is_tried(self, copy_to, registry, image):
        there = ["docker://127.0.0.1:1/app", registry.reference("second")]
        done = attempt(copy_to, *there, PLAIN)
        assert (done.returncode, done.stdout) == (1, image.descriptor["digest"] + "\n")
        assert f"copy-to: {there[0]}: not pushed: " in done.stderr

    def test_a_user_without_a_runtime_folder_pushes(self, copy_to, registry, image):
        """Where /run/containers is root's, as after a root's podman."""
        folder = "mount -t tmpfs none /run && mkdir -m 700 /run/containers"
        as_user = "setpriv --reuid 12345 --regid 12345 --clear-groups"
        command = ["unshare", "--mount", "sh", "-c", f'{folder} && exec {as_user} "$@"', "sh"]
        environment = {**os.environ, "HOME": "/", "PATH": "/usr/bin:/bin"}
        environment.pop("XDG_RUNTIME_DIR", None)
        there = registry.reference("user")
        done = run(*command, copy_to, there, PLAIN, env=environment)
        assert done.stdout == image.descriptor["digest"] + "\n"

    def test_a_registry_writes_nothing_to_the_terminal_but_printable_lines(self, copy_to):
        with hostile_registry() as address:
            done = attempt(copy_to, f"docker://{address}/app", PLAIN)
        assert (done.returncode, done.stdout) == (1, "")
        lines = done.stderr.splitlines()
        assert "owned" in done.stderr and all(map(str.isprintable, lines))
        assert max(map(len, lines)) < 2000

    def test_an_image_of_thousands_of_layers_can_be_pushed(self, nix, image, tmp_path):
        """As an index of many platforms: its layers' names are more than a command line takes."""
        documents = nix.build_image(TWO, "documents").path
        name = "0123456789abcdfghijklmnpqrsvwxyz-" + "layer" * 40
        body = f"""import "{ROOT}/build-image/image/copy-to.nix" {{ tools = pkgs; }} {{
          images.two = {{
            place = "two:latest";
            documents = {documents};
            sbom = pkgs.hello;
            blobs = builtins.genList (number: {{
              outPath = "/nix/store/{name}${{toString number}}";
              drvPath = "/nix/store/{name}${{toString number}}.drv";
            }}) 2000;
          }};
        }}"""
        program = nix.build(*nix.expression(body)).path / "bin" / "copy-to"
        done = run(program, f"oci:{tmp_path}/layout:v1")
        assert done.stdout == image.descriptor["digest"] + "\n"


class HostileHandler(BaseHTTPRequestHandler):
    """Answers with an error that sets the terminal's title, and is long."""

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        message = "\x1b]0;owned\x07\x9b31m\u202e" + "x" * 10**4
        body = json.dumps({"errors": [{"code": "UNKNOWN", "message": message}]}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hostile_registry() -> Iterator[str]:
    """Run a registry that attacks the terminal; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), HostileHandler) as server:
        Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def processes_with(text: str) -> list[str]:
    """Return the command lines of running processes that have `text` in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().decode(errors="replace").split("\0")
            found += [" ".join(words)] if text in " ".join(words) else []
    return found


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS)
class TestSignals:
    """What copy-to has started ends with it."""

    def start(self, *command: object, **options: Any) -> subprocess.Popen[Any]:
        """Start it as a shell does in the foreground."""

        def listen() -> None:
            for number in SIGNALS[:3]:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        return subprocess.Popen([str(word) for word in command], preexec_fn=listen, **options)

    def end(self, process: subprocess.Popen[Any], number: signal.Signals) -> None:
        process.send_signal(number)
        expected = -number if number == signal.SIGKILL else 128 + number
        assert process.wait(60) == expected

    def test_ends_skopeo(self, copy_to, number):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            there = f"docker://127.0.0.1:{silent.getsockname()[1]}/app"
            process = self.start(copy_to, there, PLAIN)
            connection, _ = silent.accept()
            self.end(process, number)
            connection.settimeout(60)
            while connection.recv(4096):
                pass  # its request, then the end of the connection

    def test_ends_ssh(self, copy_to, number):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            process = self.start(copy_to, f"ssh://127.0.0.1:{silent.getsockname()[1]}/app")
            connection, _ = silent.accept()
            self.end(process, number)
            connection.settimeout(60)
            while connection.recv(4096):
                pass  # what it says first, then the end of the connection

    def test_ends_nix_and_its_build(self, nix, copy_to, number, tmp_path):
        """A layer is missing, and takes long to build."""
        mark = f"{uuid.uuid4()}"
        arguments = with_new_page()
        program = nix.build_image(arguments, "copyTo").path / "bin" / "copy-to"
        layers = map(str, delete_layers(nix, arguments))
        body = f"""derivation {{
          name = "slow";
          inherit (pkgs.stdenv) system;
          builder = "${{pkgs.bash}}/bin/bash";
          args = [ "-c" "(exec -a {mark} ${{pkgs.coreutils}}/bin/sleep 1000); exit" ];
        }}"""
        slow = nix.evaluate(f"({body}).drvPath")
        settings = json.loads(re.findall(r"^{.*}$", program.read_text(), re.MULTILINE)[0])
        (image,) = settings["images"].values()
        image["derivations"] = dict.fromkeys(layers, slow)
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        pusher = re.findall(r"exec (\S+)", program.read_text())[0]
        process = self.start(pusher, tmp_path / "settings.json", f"oci:{tmp_path}/layout:v1")
        while not processes_with(mark):
            assert process.poll() is None
            time.sleep(0.05)
        self.end(process, number)
        deadline = time.monotonic() + 60
        while processes_with(mark) or processes_with(slow):
            assert time.monotonic() < deadline, processes_with(mark) + processes_with(slow)
            time.sleep(0.05)
