"""What copy-to makes of its words, prints, and serves while it pushes."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from children import LONGEST_LINE, Failure, printable
from destinations import TAKE_VALUE, Destination, UsageError, option_value, read_words
from docker import Docker
from group_layers import format_bytes
from loopback_registry import Image, Push, Registry
from skopeo import explain

EXAMPLE = "docker://registry.example.org/name:tag"


class TestWords:
    @pytest.mark.parametrize("option", sorted(TAKE_VALUE))
    def test_the_value_of_an_option_is_no_destination(self, option):
        words = [option, "dir:secret", "docker://a/b", f"{option}=oci:other"]
        destinations, options = read_words(words, EXAMPLE)
        assert destinations == [Destination("docker://", "a/b")]
        assert options == [option, "dir:secret", f"{option}=oci:other"]

    def test_an_option_without_its_value_is_refused(self):
        assert option_value(["--digestfile"], "--digestfile") is None
        with pytest.raises(UsageError, match="--digestfile needs a value"):
            read_words(["docker://a/b", "--digestfile"], EXAMPLE)

    @given(st.text(min_size=8).filter(lambda word: not word.startswith("-")))
    def test_a_stray_word_is_repeated_only_if_it_names_an_image(self, word):
        try:
            read_words(["docker://a/b", "--dest-creds", "user:first", word], EXAMPLE)
        except UsageError as error:
            if word in str(error):
                assert "/" in word and "@" not in word

    @pytest.mark.parametrize(
        ("word", "told"),
        [
            ("registry.example.org/x:1", "write docker://registry.example.org/x:1"),
            ("https://example.org/a/b/", "write docker://example.org/a/b"),
            ("localhost:5000/app", "write docker://localhost:5000/app"),
            ("https://user:secret@example.org/app", "word 1 is neither a destination"),
            ("second-half-of-a-password", "word 1 is neither a destination"),
            ("docker://", "docker://: write docker://REGISTRY/NAME:TAG"),
            ("dir:", "dir:: write dir:FOLDER"),
            ("oci:", "oci:: write oci:FOLDER:TAG"),
            ("oci-archive:", "oci-archive:: write oci-archive:FILE:TAG"),
            ("docker-archive:", "docker-archive:: write docker-archive:FILE:NAME:TAG"),
            ("containers-storage:", "containers-storage:: write containers-storage:NAME:TAG"),
            ("docker://example.org:5000", "docker://example.org:5000: write docker://REGISTRY/NAM"),
            ("docker://https://a.example/b:1", "docker://https://a.example/b:1: write docker://a."),
            ("docker://user:secret@example.org/app", "docker://... has a user or a password in it"),
            ("docker://user:secret/2@example.org/app", "docker://... has a user or a password in"),
            ("docker://secret@example.org/app", "docker://... has a user or a password in it"),
            ("docker://example.org/app@secret", "docker://... has a user or a password in it"),
            ("ssh://user:secret/2@example.org/app", "ssh://... has a password in it"),
            ("ssh://user:secret@example.org/app", "ssh://... has a password in it"),
            ("ssh://example.org", "write ssh://[USER@]HOST[:PORT]/NAME:TAG"),
            ("ssh://-oProxyCommand=x/app", "write ssh://[USER@]HOST[:PORT]/NAME:TAG"),
            ("docker-daemon:App:1", "docker-daemon:App:1: write docker-daemon:NAME:TAG"),
        ],
    )
    def test_a_word_that_makes_no_sense_is_answered_with_what_to_write(self, word, told):
        with pytest.raises(UsageError) as error:
            for destination in read_words([word], EXAMPLE)[0]:
                destination.check()
        assert told in str(error.value) and "secret" not in str(error.value)

    @pytest.mark.parametrize(
        ("word", "image"),
        [
            ("docker-daemon:app", ("app", "latest")),
            ("docker-daemon:localhost:5000/team/app", ("localhost:5000/team/app", "latest")),
            ("ssh://me@host:22/team/app:1.4", ("team/app", "1.4")),
            ("ssh://[::1]:22/example.org:5000/app:A_b", ("example.org:5000/app", "A_b")),
        ],
    )
    def test_an_image_of_a_daemon_is_latest_without_a_tag(self, word, image):
        ((destination,), _) = read_words([word], EXAMPLE)
        destination.check()
        assert destination.image == image

    @pytest.mark.parametrize(
        ("word", "below"),
        [
            ("docker://localhost:5000/team", "docker://localhost:5000/team/web:v1"),
            ("docker-daemon:", "docker-daemon:web:v1"),
            ("docker-daemon:team", "docker-daemon:team/web:v1"),
            ("ssh://host", "ssh://host/web:v1"),
            ("ssh://host/", "ssh://host/web:v1"),
            ("oci:folder", "oci:folder/web:v1"),
        ],
    )
    def test_an_image_of_a_fleet_is_below_its_destination(self, word, below):
        ((destination,), _) = read_words([word], EXAMPLE)
        destination.below("web:v1").check()
        assert str(destination.below("web:v1")) == below


class TestMessages:
    @given(st.text())
    def test_a_line_for_the_terminal_has_no_control_characters(self, text):
        assert all(map(str.isprintable, printable(text)))

    def test_a_long_line_is_cut(self):
        assert len(printable("x" * 10**6)) < LONGEST_LINE + 10

    @given(st.integers(0, 10**12) | st.sampled_from([999, 1000, 99_950, 999_499, 999_500]))
    def test_sizes_are_written_with_three_digits_in_a_unit_that_fits(self, size):
        number, unit = format_bytes(size).split()
        of_unit = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
        assert float(number) < 1000 and (unit == "B" or float(number) >= 1)
        assert float(number) * of_unit == pytest.approx(size, rel=0.05)

    def test_errors_that_skopeo_collects_are_one_line(self):
        reason = r"getting username: 1 error occurred:\n\t* illegal base64 data\n\n"
        assert explain(reason) == "getting username: illegal base64 data"

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            ("http://127.0.0.1:x", "docker is at http://127.0.0.1:x: Port could not be cast"),
            ("tcp://127.0.0.1:1", "docker's certificates in {}: No such file or directory"),
        ],
    )
    def test_settings_of_docker_that_cannot_be_used_are_named(self, tmp_path, url, told):
        with pytest.raises(Failure, match=re.escape(told.format(tmp_path))):
            certificates = None if url.startswith("http:") else str(tmp_path)
            Docker(url, certificates).describe("name", "tag")

    def test_the_address_of_an_upload_ends_where_its_secret_begins(self):
        reason = 'writing blob: Patch "https://r.example/v2/a/blobs/uploads/1?_state=abc": EOF'
        assert explain(reason).endswith('"https://r.example/v2/a/blobs/uploads/1?...": EOF')


@pytest.fixture
def push(tmp_path: Path) -> Iterator[Push]:
    """An image of one layer that is being served."""
    documents, layer = tmp_path / "documents", tmp_path / f"{'0' * 32}-layer"
    documents.mkdir()
    layer.write_bytes(b"a layer")
    digest = "sha256:" + hashlib.sha256(b"a layer").hexdigest()
    (documents / "manifest.json").write_text('{"mediaType": "application/example"}')
    (documents / "layers.json").write_text(json.dumps([{"digest": digest, "path": str(layer)}]))
    with Registry().serving(Image(str(documents), {})) as push:
        yield push


def get(push: Push, path: str, host: str = "", method: str = "GET") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", push.port, timeout=60)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class TestLoopbackRegistry:
    def test_whoever_knows_the_name_gets_the_image(self, push):
        manifest = b'{"mediaType": "application/example"}'
        assert get(push, "/v2/") == (200, b"")
        assert get(push, f"/v2/{push.name}/manifests/latest") == (200, manifest)
        assert get(push, f"/v2/{push.name}/manifests/latest", method="HEAD") == (200, b"")
        (digest,) = push.image.layers
        assert get(push, f"/v2/{push.name}/blobs/{digest}") == (200, b"a layer")
        assert push.sent == {digest: 7}

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:{}", "localhost.evil:{}"])
    def test_the_host_of_another_site_is_refused(self, push, host):
        """A name that a page's server lets lead to 127.0.0.1 is none of ours."""
        host = host.format(push.port)
        assert get(push, f"/v2/{push.name}/manifests/latest", host) == (403, b"")
        assert get(push, "/v2/", host) == (403, b"")

    @pytest.mark.parametrize("name", ["image", "", "../image", "{}/x", "{}x"])
    def test_no_other_name_is_known(self, push, name):
        (digest,) = push.image.layers
        path = f"/v2/{name.format(push.name)}/blobs/{digest}"
        assert get(push, path) == (404, b"")
        assert not push.sent and not push.reached

    def test_each_push_has_another_name(self, push):
        assert Push(push.image, push.port).name != push.name

    def test_a_client_that_tries_tls_is_told_at_once(self, push):
        with socket.create_connection(("127.0.0.1", push.port), timeout=60) as client:
            client.sendall(b"\x16\x03\x01")
            assert client.recv(4096).startswith(b"HTTP/1.0 400 ")
