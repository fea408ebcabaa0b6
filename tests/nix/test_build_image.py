"""buildImage, for people who write Nix: its arguments, and the layers that it makes."""

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

from nix import ROOT, Image, Nix, attempt, packed_paths, root_layer, run

# Two small packages that refer to nothing, as Nix text.
ONE = '(pkgs.writeTextDir "share/one" "one")'
TWO = '(pkgs.writeTextDir "share/two" "two")'


def nix_version() -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", run("nix-build", "--version").stdout)
    assert found
    return int(found[1]), int(found[2])


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
        assert set(image.tree) == {".", "tmp"}

    def test_order_of_contents_changes_no_store_layer(self, nix):
        one = nix.image(f"{{ contents = [ {ONE} {TWO} ]; }}")
        other = nix.image(f"{{ contents = [ {TWO} {ONE} ]; }}")
        assert one.digests == other.digests

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ("contents = [ known ];", "contents has the derivation known, which is content-addr"),
            ("layers = [ [ known ] ];", "layers has the derivation known, which is content-addr"),
            (
                'config.Cmd = [ "${known}/x" ];',
                "config refers to a derivation that is content-addr",
            ),
        ],
    )
    def test_content_addressed_derivation_is_one_true_sentence(self, nix, arguments, complaint):
        known = """derivation {
          name = "known"; system = builtins.currentSystem; builder = "/bin/sh";
          __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
        }"""
        call = nix.image_call(f"(let known = {known}; in {{ {arguments} }})")
        error = nix.error(*call, "--option", "experimental-features", "ca-derivations")
        assert complaint in error and "leave out __contentAddressed" in error

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
        image = nix.image('{ config.WorkingDir = pkgs.hello; config.Cmd = [ "ls" pkgs.hello ]; }')
        assert image.config["config"]["WorkingDir"] == str(nix.package("hello"))
        assert image.config["config"]["Cmd"] == ["ls", str(nix.package("hello"))]
        assert str(nix.package("hello")) in packed_paths(image)

    @pytest.mark.parametrize(
        ("config", "complaint"),
        [
            ("{ Cmd = [ pkgs.hello ]; }", "Cmd starts {}, and that is a folder; it has bin/hello"),
            (
                '{ Entrypoint = [ "${pkgs.hello}/bin/helloo" ]; Cmd = [ pkgs.hello ]; }',
                "Entrypoint starts {}/bin/helloo, and there is no such file; it has bin/hello",
            ),
            (
                '{ Entrypoint = [ ]; Cmd = [ (pkgs.writeText "x" "x") ]; }',
                "-x, and that is not a program",
            ),
        ],
    )
    def test_what_starts_no_program_is_one_line(self, nix, config, complaint):
        error = nix.image_error(f"{{ config = {config}; }}")
        (line,) = [line for line in error.splitlines() if line.startswith("error: config.")]
        assert line.endswith(complaint.format(nix.package("hello")))

    @pytest.mark.parametrize(
        "config",
        [
            '{ Cmd = [ "${pkgs.hello}/bin/hello" ]; }',
            '{ Entrypoint = [ "sh" ]; Cmd = [ pkgs.hello ]; }',
            '{ Cmd = [ "/bin/nothing" pkgs.hello ]; }',
        ],
    )
    def test_what_may_start_a_program_is_taken(self, nix, config):
        assert nix.image(f"{{ config = {config}; }}").digests

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
                image = import ./project/build-image/image/image.nix {{
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
        """What a registry has from an older release is sent again only if CHANGELOG.md says so."""
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
            "sha256:9439147f88e63e44de5e8702aae637502e4f6022f76fef8f12c8f96729124136",
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
