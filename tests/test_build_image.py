"""buildImage, for people who write Nix: each argument, each form of the result, other tools."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

import pytest

from containers import PODMAN_RUN, Container, podman
from layouts import Layout, make_tar
from nix import ROOT, Image, Nix, attempt, run

# Two small packages that refer to nothing, as Nix text.
ONE = '(pkgs.writeTextDir "share/one" "one")'
TWO = '(pkgs.writeTextDir "share/two" "two")'


def nix_version() -> tuple[int, ...]:
    text = run("nix-build", "--version").stdout
    return tuple(int(part) for part in re.search(r"(\d+)\.(\d+)", text).groups())


def root_layer(image: Image) -> dict[str, tarfile.TarInfo]:
    """Return the headers of the last layer, by name."""
    return {member.name: member for member in image.members(image.manifest["layers"][-1])}


def packed_paths(image: Image) -> list[str]:
    """Return the store paths that are in the layers of an image."""
    return [path for layer in image.store_paths for path in layer]


def store_members(image: Image) -> list[tarfile.TarInfo]:
    """Return the headers of store paths and what is in them."""
    return [member for name, member in image.tree.items() if name.startswith("nix/store/")]


class TestContents:
    def test_one_derivation_is_a_list_of_one(self, nix):
        assert nix.image(f"{{ contents = {ONE}; }}").descriptor == (
            nix.image(f"{{ contents = [ {ONE} ]; }}").descriptor
        )

    def test_same_content_twice_is_there_once(self, nix):
        assert nix.image(f"{{ contents = [ {ONE} {ONE} ]; }}").descriptor == (
            nix.image(f"{{ contents = [ {ONE} ]; }}").descriptor
        )

    def test_no_contents_make_an_image_with_its_root_only(self, nix):
        image = nix.image("{ }")
        assert len(image.digests) == 1
        assert set(image.tree) == {"tmp"}

    def test_order_of_contents_changes_no_store_layer(self, nix):
        one = nix.image(f"{{ contents = [ {ONE} {TWO} ]; }}")
        other = nix.image(f"{{ contents = [ {TWO} {ONE} ]; }}")
        assert one.digests == other.digests

    def test_folder_of_a_store_path_is_linked_and_the_store_path_packed(self, nix):
        image = nix.image('{ contents = "${pkgs.hello}/bin"; }')
        assert image.tree["hello"].linkname == f"{nix.package('hello')}/bin/hello"
        assert set(packed_paths(image)) == nix.closure(nix.package("hello"))


class TestConfig:
    def test_is_in_the_image_as_given(self, nix):
        config = {
            "Cmd": ["/bin/x", "a b", 'quo"te', "$HOME", "ünïcode"],
            "Entrypoint": ["/bin/y"],
            "Env": ["A=1", "EMPTY=", "EQUALS=a=b"],
            "ExposedPorts": {"80/tcp": {}},
            "Labels": {"org.example.label": "text"},
            "StopSignal": "SIGINT",
            "User": "1000:1000",
            "Volumes": {"/data": {}},
            "WorkingDir": "/work",
        }
        image = nix.image(f"{{ config = builtins.fromJSON {nix_string(json.dumps(config))}; }}")
        assert image.config["config"] == config

    def test_without_any_it_is_empty_and_not_null(self, nix):
        assert nix.image("{ }").config["config"] == {}

    def test_what_it_names_is_in_the_image(self, nix):
        image = nix.image('{ config.Cmd = [ "${pkgs.hello}/bin/hello" "-t" ]; }')
        closure = nix.closure(nix.package("hello"))
        assert sorted(packed_paths(image)) == sorted(closure)
        assert image.config["config"]["Cmd"][0] == f"{nix.package('hello')}/bin/hello"
        assert "bin/hello" not in image.tree

    def test_package_stands_for_its_path(self, nix):
        image = nix.image("{ config.WorkingDir = pkgs.hello; config.Cmd = [ pkgs.hello ]; }")
        assert image.config["config"]["WorkingDir"] == str(nix.package("hello"))
        assert image.config["config"]["Cmd"] == [str(nix.package("hello"))]
        assert str(nix.package("hello")) in packed_paths(image)

    def test_key_that_is_null_is_left_out(self, nix):
        assert "User" not in nix.image("{ config.User = null; }").config["config"]

    @pytest.mark.parametrize(
        ("config", "complaints"),
        [
            ("{ cmd = [ ]; }", ["there is no key cmd"]),
            ("{ Cmd = 1; }", ["Cmd must be a list of strings"]),
            ('{ Cmd = "sh"; Usr = ""; }', ["Cmd must be a list of strings", "no key Usr"]),
            ('{ Env = [ "NOVALUE" ]; }', ["Env must be a list of strings NAME=VALUE"]),
            ("{ Env = { A = 1; }; }", ["Env must be a list of strings NAME=VALUE"]),
            ("{ Entrypoint = [ 1 ]; }", ["Entrypoint must be a list of strings"]),
            ('{ ExposedPorts = [ "80/tcp" ]; }', ["ExposedPorts must be a set of ports"]),
            ('{ ExposedPorts."80/tcp" = true; }', ["ExposedPorts must be a set of ports"]),
            ("{ ExposedPorts.http = { }; }", ['ports, such as { "80/tcp" = { }; }']),
            ('{ Volumes."/data" = "x"; }', ["Volumes must be a set of absolute paths"]),
            ("{ Volumes.data = { }; }", ['absolute paths, such as { "/data" = { }; }']),
            ("{ Labels.a = 1; }", ["Labels must be a set of strings"]),
            ("{ User = 1000; }", ["User must be a string"]),
            ("{ WorkingDir = [ ]; }", ["WorkingDir must be an absolute path"]),
            ('{ WorkingDir = "app"; }', ["WorkingDir must be an absolute path"]),
            ('{ StopTimeout = "1"; }', ["StopTimeout must be a number"]),
            ('{ Tty = "yes"; }', ["Tty must be true or false"]),
            ("[ ]", ["config of image image must be a set"]),
        ],
    )
    def test_mistakes_are_named_in_one_sentence(self, nix, config, complaints):
        error = nix.image_error(f"{{ config = {config}; }}")
        (sentence,) = [line for line in error.splitlines() if "config of image" in line]
        assert all(complaint in sentence for complaint in complaints)

    def test_ports_and_paths_may_have_each_form_that_containers_take(self, nix):
        config = {
            "ExposedPorts": {"53/udp": {}, "80": {}, "8000-8010/tcp": {}},
            "Volumes": {"/data": {}, "/srv/app": {}},
            "WorkingDir": "/srv/app",
        }
        text = f"builtins.fromJSON ''{json.dumps(config)}''"
        assert nix.image(f"{{ config = {text}; }}").config["config"] == config


def nix_string(text: str) -> str:
    """Return `text` as a Nix string literal."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")


class TestTag:
    def test_null_is_a_hash_of_configuration_and_layers(self, nix):
        def tag(arguments: str) -> str:
            return nix.evaluate(f'(buildImage ({{ name = "image"; }} // {arguments})).imageTag')

        one = tag(f"{{ contents = {ONE}; }}")
        assert re.fullmatch("[0-9a-z]{32}", one)
        assert tag(f'{{ contents = {ONE}; name = "other"; }}') == one
        assert tag(f"{{ contents = {TWO}; }}") != one
        assert tag(f'{{ contents = {ONE}; config.User = "1"; }}') != one
        assert tag(f'{{ contents = {ONE}; created = "2000-01-01"; }}') != one

    def test_name_and_tag_are_where_tools_look_for_them(self, nix):
        built = nix.build_image('{ name = "a/b"; tag = "v1.2-x"; }').path
        docker = json.loads((built / "manifest.json").read_bytes())
        assert docker[0]["RepoTags"] == ["a/b:v1.2-x"]
        assert Image(built).reference == "v1.2-x"
        names = "[ image.imageName image.imageTag image.meta image.passthru.x image.x ]"
        image = 'buildImage { name = "a/b"; tag = "v1"; meta.license = "l"; passthru.x = 1; }'
        assert nix.evaluate(f"let image = {image}; in {names}") == [
            "a/b",
            "v1",
            {"license": "l"},
            1,
            1,
        ]

    def test_meta_becomes_labels_that_the_configuration_can_replace(self, nix):
        meta = '{ description = "d"; homepage = "h"; license.spdxId = "MIT"; }'
        labels = '{ "org.opencontainers.image.url" = "other"; }'
        image = nix.image(f"{{ meta = {meta}; config.Labels = {labels}; }}")
        assert image.config["config"]["Labels"] == {
            "org.opencontainers.image.description": "d",
            "org.opencontainers.image.licenses": "MIT",
            "org.opencontainers.image.url": "other",
        }
        plain = nix.image("{ meta.description = pkgs.hello.name; }").config["config"]
        assert list(plain["Labels"]) == ["org.opencontainers.image.description"]


class TestTimes:
    def test_are_the_first_second_by_default(self, nix):
        image = nix.image(f"{{ contents = {ONE}; }}")
        assert image.config["created"] == "1970-01-01T00:00:01Z"
        assert {member.mtime for member in image.tree.values()} == {1}

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
            ("2024-05-06T07:08:09+02:00", "2024-05-06T05:08:09Z"),
            ("20240506", "2024-05-06T00:00:00Z"),
        ],
    )
    def test_created_is_in_the_configuration_and_never_in_files(self, nix, given, shown):
        image = nix.image(f'{{ contents = {ONE}; created = "{given}"; }}')
        assert image.config["created"] == shown
        assert {member.mtime for member in image.tree.values()} == {1}
        assert image.digests == nix.image(f"{{ contents = {ONE}; }}").digests

    def test_created_now_is_now(self, nix):
        image = nix.image(f'{{ contents = {ONE}; created = "now"; }}')
        made = datetime.strptime(image.config["created"], "%Y-%m-%dT%H:%M:%SZ")
        age = datetime.now(timezone.utc) - made.replace(tzinfo=timezone.utc)
        assert 0 <= age.total_seconds() < 600
        assert {member.mtime for member in image.tree.values()} == {1}

    def test_mtime_is_the_time_of_all_files(self, nix):
        image = nix.image(f'{{ contents = {ONE}; mtime = "2024-05-06T07:08:09Z"; }}')
        moment = datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone.utc).timestamp()
        assert {member.mtime for member in image.tree.values()} == {moment}
        assert image.config["created"] == "1970-01-01T00:00:01Z"

    def test_now_is_refused_in_pure_evaluation(self, nix, tmp_path):
        (tmp_path / "flake.nix").write_text(
            f"""{{
              inputs.nixpkgs.url = "path:{nix.package_set}";
              outputs = {{ nixpkgs, ... }}: {{
                image = import ./project/build-image/image.nix {{
                  tools = nixpkgs.legacyPackages.x86_64-linux;
                }} {{ name = "image"; created = "now"; }};
              }};
            }}"""
        )
        shutil.copytree(ROOT / "build-image", tmp_path / "project" / "build-image")
        shutil.copy(ROOT / "group_layers.py", tmp_path / "project")
        command = ["nix", "--extra-experimental-features", "nix-command flakes", "build"]
        error = attempt(*command, "--no-link", f"path:{tmp_path}#image").stderr
        assert 'created = "now" is impure, and this evaluation is pure' in error


class TestOwner:
    def test_is_given_to_the_store_paths(self, nix):
        owner = 'uid = 1000; gid = 2000; uname = "builder"; gname = "builders";'
        image = nix.image(f"{{ contents = {ONE}; {owner} }}")
        for member in store_members(image):
            assert (member.uid, member.gid) == (1000, 2000)
            assert (member.uname, member.gname) == ("builder", "builders")
        assert {(m.uid, m.gid, m.uname) for m in root_layer(image).values()} == {(0, 0, "root")}


class TestLayers:
    @pytest.mark.parametrize("limit", ["0", "126", "-1", '"5"', "1.5", "null"])
    def test_limit_that_cannot_be_kept_is_one_sentence(self, nix, limit):
        error = nix.image_error(f"{{ maxLayers = {limit}; }}")
        assert "maxLayers must be a number from 1 to 125, not" in error

    @pytest.mark.parametrize("limit", [1, 125])
    def test_limit_may_be_one_and_what_runtimes_take(self, nix, limit):
        assert len(nix.image(f"{{ maxLayers = {limit}; }}").digests) == 1

    def test_limit_that_leaves_no_layer_for_store_paths_says_what_takes_them(self, nix):
        arguments = f"contents = {ONE}; includeNixDB = true;"
        error = nix.image_error(f"{{ {arguments} maxLayers = 2; }}")
        assert "error: maxLayers = 2 is too few: " in error
        assert len(nix.image(f"{{ {arguments} maxLayers = 3; }}").digests) == 3

    def test_default_limit_is_a_hundred(self, nix):
        text = nix.build_image("{ contents = pkgs.hello; }", "explain").path.read_text()
        used, more = re.search(r"(\d+) layers, (\d+) more were allowed", text).groups()
        assert int(used) + int(more) == 100

    def test_files_of_any_kind_are_packed_as_they_are_in_the_order_of_their_names(self, nix):
        package = nix.build(
            *nix.expression(
                r"""pkgs.runCommand "odd" { } ''
                  mkdir -p $out/empty $out/B $out/a
                  cd $out
                  echo 1 > "with space"
                  echo 2 > $'with\nnewline'
                  echo 3 > $'not text \xff'
                  echo 4 > -dash
                  mkdir -p ${builtins.concatStringsSep "/" (pkgs.lib.genList (_: "deeper") 30)}
                  echo 5 > $(printf 'long%.0s' {1..60})
                  echo 6 > a/run; chmod +x a/run
                  echo 7 > B/one; ln B/one B/another
                  ln -s nowhere link
                ''"""
            )
        ).path
        image = nix.image(f"{{ contents = builtins.storePath {package}; }}")
        (paths, _), (layer, _) = image.store_paths, image.manifest["layers"]
        assert paths == [str(package)]
        members = image.members(layer)[2:]
        names = [f"/{member.name}" for member in members]
        assert names == sorted(names, key=lambda name: os.fsencode(name).split(b"/"))
        assert set(names) == {str(path) for path in [package, *package.rglob("*")]}
        for member in members:
            file = Path(f"/{member.name}")
            # A hard link would be one only where the store has not been optimised.
            assert not member.islnk()
            assert member.issym() == file.is_symlink()
            assert member.isdir() == (file.is_dir() and not file.is_symlink())
            assert member.issym() or member.mode == stat.S_IMODE(file.lstat().st_mode)

    def test_history_names_the_store_paths_of_each_layer(self, nix):
        image = nix.image("{ contents = pkgs.hello; }")
        history = image.config["history"]
        assert len(history) == len(image.digests)
        for paths, entry in zip(image.store_paths, history):
            assert entry["comment"].split() == paths or not paths

    def test_group_has_a_layer_of_its_own(self, nix):
        image = nix.image(
            f"""{{
              contents = [ {ONE} {TWO} pkgs.hello ];
              layers = [ [ {ONE} {TWO} ] ];
            }}"""
        )
        groups = [{path.partition("-")[2] for path in layer} for layer in image.store_paths]
        assert {"one", "two"} in groups

    def test_derivation_itself_can_be_in_a_layer(self, nix):
        """What `pkgs.hello.drvPath` names without the outputs; alone in its layer."""
        derivation = "builtins.unsafeDiscardOutputDependency pkgs.hello.drvPath"
        image = nix.image(f"{{ contents = {ONE}; layers = [ [ ({derivation}) ] ]; }}")
        assert any(path.endswith(".drv") for path in packed_paths(image))

    def test_group_brings_what_it_names_into_the_image_without_links(self, nix):
        image = nix.image(f"{{ contents = [ {ONE} ]; layers = [ [ pkgs.hello ] ]; }}")
        closure = nix.closure(nix.package("hello"))
        assert closure <= set(packed_paths(image))
        assert [str(nix.package("hello"))] in image.store_paths
        assert "bin/hello" not in image.tree

    def test_groups_count_for_the_limit(self, nix):
        groups = "layers = [ [ pkgs.hello ] [ pkgs.busybox ] ];"
        image = nix.image(f"{{ contents = {ONE}; {groups} maxLayers = 4; }}")
        assert len(image.digests) <= 4
        error = nix.image_error(f"{{ contents = {ONE}; {groups} maxLayers = 2; }}")
        assert "error: maxLayers = 2 is too few: the image needs 2 for the layers given" in error

    def test_popularity_is_a_file_with_any_name(self, nix, tmp_path):
        closure = sorted(nix.closure(nix.package("curl")))
        counts = {path.partition("-")[2]: n % 2 * 10**18 for n, path in enumerate(closure)}
        plans = []
        for name in ["popularity.json", "the table~.json", "no table"]:
            if name == "no table":
                popularity = "null"
            else:
                (tmp_path / name).write_text(json.dumps(counts))
                popularity = f"/. + {nix_string(str(tmp_path / name))}"
            arguments = f"contents = pkgs.curl; maxLayers = 12; popularity = {popularity};"
            plans.append(nix.build_image(f"{{ {arguments} }}", "groupedLayers").path.read_bytes())
        assert plans[0] == plans[1] != plans[2]

    def test_without_store_paths_only_links_are_in_the_image(self, nix):
        image = nix.image("{ contents = pkgs.hello; includeStorePaths = false; }")
        assert not store_members(image)
        assert image.tree["bin/hello"].linkname == f"{nix.package('hello')}/bin/hello"
        assert len(image.digests) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            "{ }",
            "{ maxLayers = 3; }",
            "{ maxLayers = 4; includeNixDB = true; }",
            f"{{ layers = [ [ {ONE} ] ]; }}",
            '{ fromImage = buildImage { name = "b"; importFromDerivation = false; }; }',
            '{ compressor = "zstd"; includeStorePaths = false; uid = 7; }',
        ],
    )
    def test_without_import_from_derivation_the_image_is_the_same(self, nix, arguments):
        given = f"({{ contents = [ pkgs.hello {ONE} ]; }} // {arguments})"
        call = nix.image_call(f"({given} // {{ importFromDerivation = false; }})")
        forbidden = ["--option", "allow-import-from-derivation", "false"]
        other = Image(nix.build(*call, *forbidden).path)
        assert other.descriptor == nix.image(given).descriptor


class TestExplanation:
    ARGUMENTS = f"""{{
      fromImage = buildImage {{ name = "below"; contents = {TWO}; includeNixDB = true; }};
      contents = [ pkgs.hello {ONE} ];
      layers = [ [ {ONE} ] ];
      includeNixDB = true;
      maxLayers = 20;
    }}"""

    def test_has_each_layer_of_the_image_in_its_order(self, nix):
        image = nix.image(self.ARGUMENTS)
        text = nix.build_image(self.ARGUMENTS, "explain").path.read_text()
        *rows, last = text.splitlines()[1:]
        assert [row.split()[0] for row in rows] == [str(n + 1) for n in range(len(image.digests))]
        words = {word for row in rows for word in row.split()}
        assert {"base", "given", "archive", "nix-database.tar", "image-root.tar"} <= words
        assert last.startswith(f"{len(rows)} layers, {20 - len(rows)} more were allowed; ")

    def test_picture_has_each_layer(self, nix):
        picture = nix.build_image(self.ARGUMENTS, "picture").path
        texts = [element.text for element in ElementTree.parse(picture).iter() if element.text]
        layers = [text.split()[1] for text in texts if text.startswith("layer ")]
        assert sorted(map(int, layers)) == [n + 1 for n in range(len(layers))]
        assert len(layers) == len(nix.image(self.ARGUMENTS).digests)
        assert any(text.startswith("layer ") and "image-root.tar" in text for text in texts)

    def test_keeps_no_store_path_alive(self, nix):
        for attribute in ("explain", "picture", "groupedLayers.explanation"):
            path = nix.build_image(self.ARGUMENTS, attribute).path
            assert nix.closure(path) == {str(path)}


class TestAnswer:
    def answer(self, nix: Nix, arguments: str) -> dict:
        return json.loads(nix.build_image(arguments, "answer").path.read_bytes())

    @pytest.mark.parametrize("compressor", ["gz", "none", "zstd"])
    def test_has_the_manifest_of_the_image_in_canonical_json_when_asked_for_oci(
        self, nix, compressor
    ):
        """As all of the answer is, so that a machine's order of files changes nothing."""
        arguments = f'{{ contents = {ONE}; mediaTypes = "oci"; compressor = "{compressor}"; }}'
        image = nix.image(arguments)
        text = nix.build_image(arguments, "answer").path.read_text()
        answer = json.loads(text)
        assert text == json.dumps(answer, sort_keys=True, separators=(",", ":"))
        canonical = json.dumps(answer["manifest"], sort_keys=True, separators=(",", ":")).encode()
        assert image.blob(image.descriptor["digest"]).read_bytes() == canonical

    def test_has_media_types_of_docker_for_plain_layers(self, nix):
        answer = self.answer(nix, f'{{ contents = {ONE}; compressor = "none"; }}')
        types = {layer["mediaType"] for layer in answer["manifest"]["layers"]}
        assert types == {"application/vnd.docker.image.rootfs.diff.tar"}

    def test_with_zstd_layers_needs_media_types_of_oci(self, nix):
        arguments = f'{{ contents = {ONE}; compressor = "zstd"; }}'
        types = {layer["mediaType"] for layer in self.answer(nix, arguments)["manifest"]["layers"]}
        assert types == {"application/vnd.oci.image.layer.v1.tar+zstd"}
        call = nix.image_call(f'({arguments} // {{ mediaTypes = "docker"; }})')
        assert 'zstd layers needs mediaTypes = "oci"' in nix.error(*call, "-A", "answer")

    def test_with_other_media_types_is_refused_in_one_sentence(self, nix):
        call = nix.image_call('{ mediaTypes = "podman"; }')
        sentence = 'mediaTypes must be "docker" or "oci", not "podman"'
        assert sentence in nix.error(*call, "-A", "answer")


class TestCompressor:
    @pytest.mark.parametrize(
        ("compressor", "program"), [("none", None), ("gz", "gzip"), ("zstd", "zstd")]
    )
    def test_layers_have_its_format(self, nix, compressor, program):
        image = nix.image(f'{{ contents = [ pkgs.python3 ]; compressor = "{compressor}"; }}')
        ending = f"+{program}" if program else ""
        sizes = []
        for layer, diff_id in zip(image.manifest["layers"], image.config["rootfs"]["diff_ids"]):
            assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar" + ending
            archive = image.blob(layer["digest"]).read_bytes()
            if program:
                archive = run(program, "-dc", input=archive, text=False).stdout
            assert diff_id == f"sha256:{hashlib.sha256(archive).hexdigest()}"
            sizes.append(len(archive))
        assert max(sizes) > 2 * (8 << 20)  # so many bytes are compressed in several parts
        assert image.config["rootfs"] == nix.image("{ contents = pkgs.python3; }").config["rootfs"]

    def test_none_packs_the_same_bytes_in_every_release(self, nix, tmp_path):
        """What a registry has from an older release is not sent again."""
        folder = tmp_path / "content"
        (folder / "share" / "ä").mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "bin/run").write_text("#!/bin/sh\n")
        (folder / "bin/run").chmod(0o755)
        (folder / "share" / "ä" / ("long" * 30)).write_bytes(bytes(range(256)) * 100)
        (folder / "share" / "link").symlink_to("../bin/run")
        contents = f'builtins.path {{ name = "content"; path = {folder}; }}'
        image = nix.image(f'{{ contents = [ ({contents}) ]; compressor = "none"; }}')
        assert image.digests == [
            "sha256:2da3e38cf37bd742e12f606a8afdf8d234995e370e9beabf9a8124af52cae878",
            "sha256:d03d9913182b5edcf841e5735f2c5f5c10b141933e2de2d688eb3ffca0def3f8",
        ]

    @pytest.mark.parametrize("compressor", ["none", "gz", "zstd"])
    def test_image_refers_to_nothing_that_is_packed_in_it(self, nix, compressor):
        arguments = f'{{ contents = pkgs.hello; compressor = "{compressor}"; }}'
        kept = nix.closure(nix.build_image(arguments).path) & nix.closure(nix.package("hello"))
        # Nix before 2.18 can't be told to ignore hashes in an output; in a plain tar it finds them
        # all, and in zstd's format the one or other.
        if compressor == "gz" or nix_version() >= (2, 18):
            assert kept == set()
        elif compressor == "none":
            assert str(nix.package("hello")) in kept

    def test_that_does_not_exist_is_one_sentence(self, nix):
        error = nix.image_error(f'{{ contents = {ONE}; compressor = "xz"; }}')
        assert 'compressor must be "gz", "zstd" or "none", not "xz"' in error


class TestCommands:
    def test_extra_commands_write_beside_the_links(self, nix):
        image = nix.image(
            f"""{{
              contents = {ONE};
              extraCommands = ''
                mkdir -p var/lib etc
                echo hello | sed s/hello/bye/ > etc/greeting
                echo more > share/more
                chmod 700 var/lib
                ln -s ${{pkgs.hello}}/bin/hello greet
                rm -r tmp
              '';
            }}"""
        )
        root = root_layer(image)
        assert image.file("etc/greeting") == b"bye\n"
        assert image.file("share/more") == b"more\n"
        assert root["var/lib"].mode == 0o700
        assert root["share/one"].issym() and root["share"].isdir()
        assert "tmp" not in root
        # What they name is in the image as well.
        assert str(nix.package("hello")) in packed_paths(image)

    def test_fake_root_commands_give_files_away(self, nix):
        image = nix.image(
            f"""{{
              contents = {ONE};
              extraCommands = "mkdir home; echo mine > home/file";
              fakeRootCommands = ''
                chown 1000:100 home
                chown 1000:100 home/file
                chmod 600 home/file
                chown -h 7:7 share/one
              '';
            }}"""
        )
        root = root_layer(image)
        assert (root["home"].uid, root["home"].gid) == (1000, 100)
        assert (root["home/file"].uid, root["home/file"].gid) == (1000, 100)
        assert root["home/file"].mode == 0o600
        assert (root["share/one"].uid, root["share/one"].gid) == (7, 7)
        assert (root["tmp"].uid, root["tmp"].gid) == (0, 0)

    def test_find_the_programs_of_stdenv(self, nix):
        programs = "ls find cmp sed grep awk tar gzip bzip2 make bash patch xz file"
        assert nix.image(f'{{ extraCommands = "type {programs}"; }}').digests

    def test_may_leave_nothing(self, nix):
        assert set(nix.image('{ extraCommands = "rmdir tmp"; }').tree) == {"."}

    def test_mode_and_owner_of_the_root_itself_are_kept(self, nix):
        image = nix.image('{ fakeRootCommands = "chown 1000:100 .; chmod 1777 ."; }')
        root = root_layer(image)["."]
        assert (root.uid, root.gid, root.mode) == (1000, 100, 0o1777)
        plain = root_layer(nix.image('{ extraCommands = "true"; }'))["."]
        assert (plain.uid, plain.gid, plain.mode) == (0, 0, 0o755)

    @pytest.mark.parametrize("name", [r"\101", "-x", "a b", "./-n", "*"])
    def test_may_give_files_any_name(self, nix, name):
        image = nix.image(f"{{ extraCommands = ''echo x > '{name}' ''; }}")
        assert image.file(os.path.normpath(name)) == b"x\n"

    @pytest.mark.parametrize("commands", ["echo >nix", "ln -s / nix", "mkdir nix; echo >nix/store"])
    def test_that_would_hide_the_store_are_refused(self, nix, commands):
        error = nix.image_error(f'{{ contents = {ONE}; extraCommands = "{commands}"; }}')
        assert "it would take the place of the store" in error

    def test_may_write_beside_the_store(self, nix):
        image = nix.image('{ extraCommands = "mkdir -p nix/store/x nix/var"; }')
        assert image.tree["nix/store/x"].isdir() and image.tree["nix/var"].isdir()

    @pytest.mark.parametrize("argument", ["extraCommands", "fakeRootCommands"])
    def test_that_fail_end_the_build(self, nix, argument):
        error = nix.image_error(f'{{ {argument} = "false; true"; }}')
        assert f"error: {argument} failed with status 1" in error


class TestRoot:
    """The links to the contents, as users of buildEnv know them."""

    def test_first_of_two_packages_with_the_same_file_wins_and_it_is_said(self, nix):
        other = '(pkgs.writeTextDir "share/one" "the other")'
        built = nix.build_image(f"{{ contents = [ {ONE} {other} ]; }}")
        link = root_layer(Image(built.path))["share/one"]
        assert link.linkname == f"{nix.build(*nix.expression(ONE)).path}/share/one"
        if "image-root.tar" in built.built:
            other_path = nix.build(*nix.expression(other)).path
            told = f"/share/one: {link.linkname} is linked, not {other_path}/share/one"
            assert told in built.log

    @pytest.mark.parametrize(
        ("commands", "complaint"),
        [
            ("echo x > nix", "would take the place of /nix, which holds the store"),
            ("ln -s / nix", "would take the place of /nix, which holds the store"),
            ("mkdir nix; echo x > nix/store", "would take the place of /nix/store"),
            ("echo x > .wh.bin", "would remove a file from the image"),
            ("mkdir -p a; echo x > a/.wh..wh..opq", "would remove a file from the image"),
        ],
    )
    def test_package_that_would_remove_files_of_other_layers_is_refused(
        self, nix, commands, complaint
    ):
        package = f'(pkgs.runCommand "hostile" {{ }} "mkdir $out; cd $out; {commands}")'
        assert complaint in nix.image_error(f"{{ contents = {package}; }}")

    @pytest.mark.parametrize("sandbox", ["true", "false"])
    def test_link_to_the_building_machine_stays_a_link(self, nix, sandbox):
        links = "ln -s /etc etc; ln -s /etc/passwd users; ln -s ../../../etc up"
        package = f'(pkgs.runCommand "hostile-{sandbox}" {{ }} "mkdir $out; cd $out; {links}")'
        call = nix.image_call(f"{{ contents = {package}; }}")
        image = Image(nix.build(*call, "--option", "sandbox", sandbox).path)
        assert set(root_layer(image)) == {"etc", "users", "up", "tmp"}

    def test_folder_of_one_package_takes_files_of_commands(self, nix):
        image = nix.image(f'{{ contents = {ONE}; extraCommands = "echo x > share/own"; }}')
        assert image.file("share/own") == b"x\n"

    def test_env_is_where_scripts_expect_it(self, nix):
        image = nix.image("{ contents = pkgs.coreutils; }")
        assert image.tree["usr/bin/env"].linkname == f"{nix.package('coreutils')}/bin/env"


class TestEssentials:
    @pytest.fixture(scope="class")
    @classmethod
    def image(cls, nix: Nix) -> Image:
        contents = "[ binSh usrBinEnv caCertificates fakeNss pkgs.coreutils ]"
        return nix.image(f'{{ contents = {contents}; config.Env = [ "A=1" ]; }}')

    @pytest.fixture(scope="class")
    @classmethod
    def container(cls, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Container:
        return Container.of(image, tmp_path_factory.mktemp("essentials") / "bundle")

    def test_shell_and_env_are_where_scripts_expect_them(self, container):
        (container.rootfs / "tmp" / "script").write_text("#!/usr/bin/env sh\necho works\n")
        (container.rootfs / "tmp" / "script").chmod(0o755)
        done = container.bwrap("/bin/sh", "-c", "/tmp/script", PATH="/bin")
        assert done.stdout == "works\n", done.stderr

    def test_users_have_names(self, container):
        done = container.bwrap("/bin/sh", "-c", "id -un; id -un nobody; id -gn nobody", PATH="/bin")
        assert done.stdout.split() == ["root", "nobody", "nobody"], done.stderr

    def test_certificates_are_there_and_named_in_the_environment(self, image, container):
        assert image.config["config"]["Env"] == [
            "SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt",
            "A=1",
        ]
        for place in ["ssl/certs/ca-bundle.crt", "ssl/certs/ca-certificates.crt"]:
            done = container.bwrap("/bin/head", "-n1", f"/etc/{place}")
            assert done.stdout == "-----BEGIN CERTIFICATE-----\n"


class TestDatabase:
    @pytest.fixture(scope="class")
    @classmethod
    def container(cls, nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Container:
        contents = "[ pkgs.nix pkgs.coreutils binSh fakeNss ]"
        image = nix.image(f"{{ contents = {contents}; includeNixDB = true; }}")
        return Container.of(image, tmp_path_factory.mktemp("database") / "bundle")

    def test_knows_all_store_paths_of_the_image_and_their_contents(self, container):
        environment = {"PATH": "/bin", "HOME": "/tmp", "NIX_REMOTE": ""}
        nix_store = ["/bin/nix-store", "--option", "build-users-group", ""]
        done = container.bwrap(*nix_store, "--verify", "--check-contents", **environment)
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr and "warning" not in done.stderr
        known = container.bwrap(*nix_store, "--query", "--requisites", "/bin/nix", **environment)
        assert "-nix-bin-" in known.stdout or "-nix-" in known.stdout

    def test_has_a_layer_below_that_of_the_root(self, nix):
        commands = 'extraCommands = "mkdir -p nix/var/own etc";'
        image = nix.image(f"{{ contents = {ONE}; {commands} includeNixDB = true; }}")
        *_, database, root = map(image.members, image.manifest["layers"])
        assert "nix/var/nix/db/db.sqlite" in {member.name for member in database}
        assert "nix/var/own" in {member.name for member in root}
        comments = [entry["comment"] for entry in image.config["history"]]
        assert comments[-2:] == ["Nix database", "symlinks and files of the root"]

    def test_garbage_collection_in_a_container_leaves_the_image_as_it_is(self, container):
        environment = {"PATH": "/bin", "HOME": "/tmp", "NIX_REMOTE": ""}
        store = container.rootfs / "nix" / "store"
        before = {path.name for path in store.iterdir()} - {".links"}
        done = container.bwrap("/bin/nix-collect-garbage", **environment)
        assert done.returncode == 0, done.stderr
        assert {path.name for path in store.iterdir()} - {".links"} == before


class TestDatabaseUponABase:
    BASE = 'buildImage {{ name = "below"; contents = [ pkgs.jq ]; includeNixDB = {}; }}'

    def test_garbage_collection_leaves_the_store_paths_of_the_base(self, nix, tmp_path):
        base = self.BASE.format("true")
        contents = "[ pkgs.nix pkgs.coreutils binSh fakeNss ]"
        image = nix.image(f"{{ fromImage = {base}; contents = {contents}; includeNixDB = true; }}")
        container = Container.of(image, tmp_path / "bundle")
        environment = {"PATH": "/bin", "HOME": "/tmp", "NIX_REMOTE": ""}
        done = container.bwrap("/bin/nix-collect-garbage", **environment)
        assert done.returncode == 0, done.stderr
        store = container.rootfs / "nix" / "store"
        wanted = nix.closure(nix.package("jq"), nix.package("nix"))
        assert {os.path.basename(path) for path in wanted} <= {
            path.name for path in store.iterdir()
        }
        done = container.bwrap("/bin/nix-store", "--verify", "--check-contents", **environment)
        assert done.returncode == 0 and "error" not in done.stderr, done.stderr
        query = container.bwrap(
            "/bin/nix-store", "--query", "--requisites", nix.package("jq"), **environment
        )
        assert set(query.stdout.split()) == nix.closure(nix.package("jq"))
        assert container.bwrap("/bin/jq", "--version").returncode == 0

    def test_without_a_database_in_the_base_is_one_line(self, nix):
        base = self.BASE.format("false")
        error = nix.image_error(f"{{ fromImage = {base}; includeNixDB = true; }}")
        assert re.search("error: includeNixDB: fromImage has no Nix database that knows /", error)
        # Where the image has the same store paths itself, nothing is unknown.
        known = f"{{ fromImage = {base}; includeNixDB = true; contents = pkgs.jq; }}"
        assert nix.image(known).digests

    def test_of_no_database_is_one_line(self, nix, tmp_path):
        layout = Layout(tmp_path / "layout")
        folders = ["nix/", "nix/store/", f"nix/store/{'0' * 32}-x", "nix/var/nix/db/db.sqlite"]
        layout.write_image(make_tar(*folders))
        error = nix.image_error(f"{{ fromImage = {layout.folder}; includeNixDB = true; }}")
        assert "error: fromImage has a Nix database that can't be read: " in error


class TestBaseImage:
    """An image made elsewhere, here by umoci, from nothing, in two layers."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("base")
        layout, image = folder / "layout", f"{folder}/layout:base"
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", image)
        for number in "12":
            bundle = folder / f"bundle{number}"
            run("umoci", "unpack", "--image", image, bundle)
            (bundle / "rootfs" / f"from-base-{number}").write_text("base")
            run("umoci", "repack", "--image", image, bundle)
        settings = ["A=base", "BASE=yes", "PATH=/base"]
        words = [word for setting in settings for word in ("--config.env", setting)]
        words += ["--config.label", "base.label=1", "--config.user", "7", "--config.cmd", "/base"]
        words += ["--config.exposedports", "1/tcp", "--config.volume", "/base"]
        run("umoci", "config", "--image", image, *words)
        return layout

    @pytest.fixture(scope="class")
    @classmethod
    def archives(cls, base: Path) -> dict[str, Path]:
        """The base in the other forms in which images are handed on."""
        found = {"layout": base}
        for kind in ["docker-archive", "oci-archive"]:
            found[kind] = base.parent / f"{kind}.tar"
            copy = ["skopeo", "--insecure-policy", "copy"]
            run(*copy, f"oci:{base}:base", f"{kind}:{found[kind]}:base:base")
        compressed = base.parent / "docker-archive.tar.gz"
        run("gzip", "--keep", found["docker-archive"])
        return {**found, "compressed": compressed}

    ARGUMENTS = f'contents = {ONE}; config.Env = [ "A=top" "TOP=yes" ]; config.Labels.top = "2";'

    @pytest.mark.parametrize("form", ["layout", "docker-archive", "oci-archive", "compressed"])
    def test_is_below_the_image_in_whatever_form_it_comes(self, nix, archives, form):
        image = nix.image(f"{{ fromImage = {archives[form]}; {self.ARGUMENTS} }}")
        assert {"from-base-1", "from-base-2", "share/one"} <= set(image.tree)
        assert [bool(paths) for paths in image.store_paths] == [False, False, True, False]
        assert len(image.config["rootfs"]["diff_ids"]) == 4
        history = [entry for entry in image.config["history"] if not entry.get("empty_layer")]
        assert len(history) == 4
        if "docker" in archives[form].name:
            # Its layers are plain, and stay so: compressed anew they would have other digests.
            assert image.digests[:2] == image.config["rootfs"]["diff_ids"][:2]

    @pytest.mark.parametrize("commands", ["", "echo x >bin/made; mkdir lib/made"])
    def test_links_of_a_distribution_stay(self, nix, tmp_path, commands):
        """Where /bin is a link to /usr/bin: as a folder, it would hide the shell."""
        below = Layout(tmp_path / "below")
        names = ["usr/", "usr/bin/", "usr/bin/sh", "usr/lib/", "bin -> usr/bin", "lib -> usr/lib"]
        below.write_image(make_tar(*names))
        image = nix.image(
            f"""{{
              fromImage = {below.folder};
              contents = pkgs.hello;
              extraCommands = "{commands}";
            }}"""
        )
        root = root_layer(image)
        assert root["bin"].linkname == "usr/bin" and root["usr/bin"].isdir()
        assert root["usr/bin/hello"].linkname == f"{nix.package('hello')}/bin/hello"
        if commands:
            assert root["lib"].linkname == "usr/lib"
            assert root["usr/bin/made"].isfile() and root["usr/lib/made"].isdir()

    def test_configuration_of_the_base_gives_way(self, nix, base):
        more = 'config.ExposedPorts."2/tcp" = { }; config.Volumes."/top" = { };'
        config = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} {more} }}").config["config"]
        assert config["Env"] == ["A=top", "BASE=yes", "PATH=/base", "TOP=yes"]
        assert config["Labels"] == {"base.label": "1", "top": "2"}
        assert config["ExposedPorts"] == {"1/tcp": {}, "2/tcp": {}}
        assert config["Volumes"] == {"/base": {}, "/top": {}}
        assert config["User"] == "7"
        assert config["Cmd"] == ["/base"]
        replaced = nix.image(f'{{ fromImage = {base}; config.User = "8"; config.Cmd = [ "/x" ]; }}')
        assert replaced.config["config"]["User"] == "8"
        assert replaced.config["config"]["Cmd"] == ["/x"]

    def test_layers_of_the_base_keep_their_digests(self, nix, base):
        image = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} }}")
        assert image.digests[:2] == Image(base).digests

    def test_tools_accept_the_image_upon_it(self, nix, base, tmp_path):
        image = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} }}")
        run("skopeo", "--insecure-policy", "copy", image.location, f"dir:{tmp_path}/copy")
        container = Container.of(image, tmp_path / "bundle")
        names = {path.name for path in container.rootfs.iterdir()}
        assert {"from-base-1", "from-base-2", "share", "nix", "tmp"} <= names

    @pytest.mark.parametrize("form", ["", ".archive"])
    def test_can_be_an_image_of_our_own_whose_store_paths_are_not_packed_again(self, nix, form):
        below = f'(buildImage {{ name = "below"; contents = pkgs.hello; }}){form}'
        image = nix.image(f"{{ fromImage = {below}; contents = [ pkgs.hello {ONE} ]; }}")
        paths = packed_paths(image)
        assert len(paths) == len(set(paths))
        assert nix.closure(nix.package("hello")) < set(paths)
        assert image.digests[: len(image.digests) - 2] == (
            nix.image("{ contents = pkgs.hello; }").digests
        )

    def test_groups_pack_no_store_path_that_the_base_has(self, nix):
        below = 'buildImage { name = "below"; contents = pkgs.hello; }'
        group = f"layers = [ [ pkgs.hello {ONE} ] ];"
        image = nix.image(f"{{ fromImage = {below}; {group} }}")
        paths = packed_paths(image)
        assert len(paths) == len(set(paths))
        assert [[path.partition("-")[2] for path in layer] for layer in image.store_paths[-2:]] == [
            ["one"],
            [],
        ]

    def test_layers_of_the_base_count_for_the_limit(self, nix, base):
        contents = f"contents = [ {ONE} {TWO} pkgs.hello ];"
        image = nix.image(f"{{ fromImage = {base}; {contents} maxLayers = 4; }}")
        assert len(image.digests) == 4
        error = nix.image_error(f"{{ fromImage = {base}; {contents} maxLayers = 2; }}")
        assert "error: maxLayers = 2 is too few: the image needs 2 for its base image" in error

    def test_for_another_machine_is_refused(self, nix, base):
        error = nix.image_error(f'{{ fromImage = {base}; architecture = "arm64"; }}')
        assert "fromImage" in error and "arm64" in error

    def test_that_is_missing_is_a_clear_error(self, nix, tmp_path):
        assert f"{tmp_path}/gone" in nix.image_error(f"{{ fromImage = {tmp_path}/gone; }}")

    @pytest.mark.parametrize(
        "damage",
        ["text", "empty", "folder", "cut", "cut gzip", "configuration", "layer", "lost layer"],
    )
    def test_that_is_broken_is_a_clear_error(self, nix, base, archives, tmp_path, damage):
        broken = tmp_path / "broken"
        if damage in ("text", "empty"):
            broken.write_text("I am no image\n" if damage == "text" else "")
        elif damage == "folder":
            broken.mkdir()
        elif damage in ("cut", "cut gzip"):
            form = "docker-archive" if damage == "cut" else "compressed"
            data = archives[form].read_bytes()
            broken.write_bytes(data[: len(data) // 2])
        else:
            shutil.copytree(base, broken)
            image = Image(broken)
            configuration, layer = image.manifest["config"]["digest"], image.digests[0]
            blob = image.blob(configuration if damage == "configuration" else layer)
            data = blob.read_bytes()
            if damage == "lost layer":
                blob.unlink()
            else:
                middle = len(data) // 2
                blob.write_bytes(data[:middle] + b"!" + data[middle + 1 :])
        error = nix.image_error(f"{{ fromImage = {broken}; }}")
        assert re.search(r"error: fromImage \S+-broken is ", error)
        assert "Traceback" not in error


@pytest.fixture(scope="module")
def runnable(nix: Nix) -> dict[str, object]:
    """An image that says where it runs and as whom, and the other forms of it."""
    arguments = """{
      name = "where/am-i";
      tag = "v1";
      contents = [ binSh pkgs.coreutils fakeNss ];
      maxLayers = 3;
      extraCommands = "mkdir -m 777 work";
      config = {
        Cmd = [ "/bin/sh" "-c" "echo $GREETING; pwd; id -un; id -u" ];
        Env = [ "GREETING=hello there" "PATH=/bin" ];
        WorkingDir = "/work";
        User = "nobody";
      };
    }"""
    forms = nix.build(
        *nix.image_call(arguments), "-A", "archive", "-A", "stream", "-A", "copyTo"
    ).paths
    return {
        "image": nix.image(arguments),
        "archive": forms[0],
        "stream": forms[1],
        "copyTo": forms[2] / "bin" / "copy-to",
    }


SAID = ["hello there", "/work", "nobody", "65534"]


class TestForms:
    def test_stream_writes_the_bytes_of_the_archive(self, runnable):
        streamed = run(runnable["stream"], text=False).stdout
        assert streamed == runnable["archive"].read_bytes()

    def test_archive_stands_alone(self, nix, runnable):
        assert nix.closure(runnable["archive"]) == {str(runnable["archive"])}
        with tarfile.open(runnable["archive"]) as archive:
            assert all(member.isfile() or member.isdir() for member in archive)
            names = archive.getnames()
        assert len(names) == len(set(names))
        # In the order of their names, and not in that of the file system.
        blobs = [name for name in names if name.startswith("blobs/sha256/")]
        assert len(blobs) >= 5 and blobs == sorted(blobs)

    @pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
    def test_archive_is_one_of_oci_and_of_docker(self, runnable, tmp_path, kind):
        copy = ["skopeo", "--insecure-policy", "copy"]
        run(*copy, f"{kind}:{runnable['archive']}", f"oci:{tmp_path}/copy:v1")
        assert Image(tmp_path / "copy").config["rootfs"] == runnable["image"].config["rootfs"]
        if kind == "oci-archive":
            assert Image(tmp_path / "copy").digests == runnable["image"].digests

    @pytest.mark.parametrize("form", ["archive", "stream", "image"])
    def test_is_reproducible(self, nix, runnable, form):
        path = runnable["image"].layout if form == "image" else runnable[form]
        (derivation,) = run("nix-store", "--query", "--deriver", path).stdout.split()
        run("nix-store", "--realise", "--check", derivation)

    def test_every_argument_at_once_is_reproducible(self, nix):
        image = nix.build_image(
            f"""{{
              contents = [ pkgs.hello {ONE} ];
              includeNixDB = true;
              extraCommands = "mkdir etc; echo x > etc/x";
              fakeRootCommands = "chown 1:1 etc/x";
              compressor = "zstd";
              fromImage =
                (buildImage {{ name = "below"; contents = binSh; includeNixDB = true; }}).archive;
              layers = [ [ pkgs.busybox ] ];
              mtime = "2024-05-06T07:08:09Z";
            }}"""
        ).path
        (derivation,) = run("nix-store", "--query", "--deriver", image).stdout.split()
        files = run("nix-store", "--query", "--requisites", derivation).stdout.split()
        names = r"(image|below|base)-image|image-.*|nix-database\.tar|layer-.*"
        own = re.compile(rf".{{44}}({names})\.drv")
        derivations = [file for file in files if own.fullmatch(file)]
        assert len(derivations) >= 9
        run("nix-store", "--realise", "--check", "--option", "sandbox", "true", *derivations)


class TestContainers:
    def test_runc_runs_the_command_as_configured(self, runnable, tmp_path):
        container = Container.of(runnable["image"], tmp_path / "bundle")
        done = container.runc()
        assert done.stdout.splitlines() == SAID, done.stderr

    def test_podman_loads_the_archive_and_runs_the_command_as_configured(
        self, runnable, short_folder
    ):
        podman(short_folder, "load", "--quiet", "--input", runnable["archive"])
        (name,) = podman(short_folder, "images", "--format={{.Names}}").stdout.split()
        assert name.strip("[]") == "docker.io/where/am-i:v1"
        done = podman(short_folder, "run", *PODMAN_RUN, "where/am-i:v1")
        assert done.stdout.splitlines() == SAID

    def test_podman_runs_the_layout(self, runnable, short_folder):
        done = podman(short_folder, "run", *PODMAN_RUN, "--quiet", runnable["image"].location)
        assert done.stdout.splitlines() == SAID


class TestOtherMachines:
    def test_image_says_which_machine_it_is_for(self, nix):
        image = nix.image(f'{{ contents = {ONE}; architecture = "arm64"; }}')
        assert image.config["architecture"] == "arm64"
        assert image.descriptor["platform"] == {"architecture": "arm64", "os": "linux"}

    def test_cross_package_set_makes_an_image_for_its_machine_with_tools_of_this_one(self, nix):
        cross = f"import {ROOT} {{ pkgs = pkgs.pkgsCross.aarch64-multiplatform; }}"
        call = f'({cross}).buildImage {{ name = "image"; tag = "latest"; contents = {ONE}; }}'
        image = Image(nix.build(*nix.expression(call)).path)
        assert image.config["architecture"] == "arm64"
        # Only the manifest differs: what packed the layers is the same.
        assert image.digests == nix.image(f"{{ contents = {ONE}; }}").digests

    def test_names_can_be_looked_up_for_another_machine(self, nix):
        image = nix.image_of(["iana-etc"], system="aarch64-linux")
        assert image.config["architecture"] == "arm64"


class TestOtherStore:
    def test_image_of_another_store_folder_has_its_paths(self, nix, short_folder, monkeypatch):
        # Two stores that build as the same users kill each other's builders.
        monkeypatch.setenv("NIX_CONFIG", os.environ["NIX_CONFIG"] + "\nbuild-users-group =")
        store = short_folder / "a+b" / "store"
        monkeypatch.setenv("NIX_STORE_DIR", str(store))
        monkeypatch.setenv("NIX_STATE_DIR", str(short_folder / "state"))
        monkeypatch.setenv("NIX_LOG_DIR", str(short_folder / "log"))
        config = 'config.Cmd = [ "${pkgs.busybox}/bin/busybox" ];'
        image = nix.image(f"{{ contents = {ONE}; {config} }}")
        one = image.tree["share/one"].linkname
        assert one.startswith(f"{store}/")
        assert image.file(one.lstrip("/")) == b"one"
        # The folders above the store come first; there is no other store.
        above = str(store).lstrip("/").split("/")
        folders = ["/".join(above[: end + 1]) for end in range(len(above))]
        members = image.members(image.manifest["layers"][0])
        assert [member.name for member in members[: len(folders)]] == folders
        assert not any(name.startswith("nix/") for name in image.tree)
        assert image.config["config"]["Cmd"][0].lstrip("/") in image.tree


class TestSecondMachine:
    def test_has_the_image_from_a_cache_without_building(self, nix, short_folder):
        cache = f"file://{short_folder}/cache?compression=zstd"
        command = ["nix", "--extra-experimental-features", "nix-command"]
        arguments = f'{{ contents = [ pkgs.hello {ONE} ]; config.Cmd = [ "${{pkgs.lua5_4}}." ]; }}'
        run(*command, "copy", "--to", cache, nix.build_image(arguments, "cache").path)
        built = nix.build(
            *nix.image_call(arguments),
            *("--store", short_folder / "machine"),
            *("--option", "substituters", cache, "--option", "require-sigs", "false"),
        )
        assert built.built == []
        there = short_folder / "machine" / str(built.path).lstrip("/")
        assert (there / "index.json").exists()
