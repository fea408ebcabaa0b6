"""build-image.nix through real Nix: the answer, the layers, and what is built again."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path

import pytest

from nix import BUILD_IMAGE, Image, Nix, file_hash, file_md5, run, write_set

PACKAGES = ["git", "curl"]


@pytest.fixture(scope="module")
def answer(nix: Nix) -> dict:
    return nix.answer(PACKAGES)


@pytest.fixture(scope="module")
def image(nix: Nix) -> Image:
    return nix.image_of(PACKAGES)


def paths_in_layers(nix: Nix, packages: list[str], **arguments: object) -> list[list[str]]:
    """Return the store paths in each of the image's layers, as their descriptions have them."""
    documents = nix.build(*nix.call(packages, **arguments), "-A", "image.documents").path
    return [layer["storePaths"] for layer in json.loads((documents / "layers.json").read_bytes())]


def allowed_layers(explanation: str) -> int:
    """Return how many layers the store paths might have, from a plan's explanation."""
    found = re.search(r"(\d+) layers?, (\d+) more were allowed", explanation)
    assert found
    return int(found[1]) + int(found[2])


class TestAnswer:
    def test_has_a_manifest_with_the_media_types_of_docker(self, answer):
        manifest = answer["manifest"]
        assert set(answer) == {"manifest", "layerLocations"}
        assert set(manifest) == {"schemaVersion", "mediaType", "config", "layers"}
        assert manifest["schemaVersion"] == 2
        docker = "application/vnd.docker."
        assert manifest["mediaType"] == docker + "distribution.manifest.v2+json"
        assert manifest["config"]["mediaType"] == docker + "container.image.v1+json"
        for layer in manifest["layers"]:
            assert layer["mediaType"] == docker + "image.rootfs.diff.tar.gzip"

    def test_digests_sizes_and_md5_are_those_of_the_files_that_it_names(self, answer):
        manifest, locations = answer["manifest"], answer["layerLocations"]
        descriptors = [manifest["config"], *manifest["layers"]]
        assert set(locations) == {d["digest"].removeprefix("sha256:") for d in descriptors}
        for descriptor in descriptors:
            algorithm, _, digest = descriptor["digest"].partition(":")
            location = locations[digest]
            file = Path(location["path"])
            assert algorithm == "sha256"
            assert file_hash(file) == digest
            assert file.stat().st_size == location["size"] == descriptor["size"]
            assert file_md5(file) == location["md5"]

    def test_keeps_what_it_names_from_being_deleted(self, nix, answer):
        path = nix.build(*nix.call(PACKAGES)).path
        alive = nix.closure(path)
        for location in answer["layerLocations"].values():
            assert "/".join(location["path"].split("/")[:4]) in alive

    def test_does_not_keep_what_is_packed_in_the_layers(self, nix):
        path = nix.build(*nix.call(PACKAGES)).path
        assert str(nix.package("git")) not in nix.closure(path)

    def test_names_the_blobs_of_the_image(self, answer, image):
        assert answer["manifest"]["config"]["digest"] == image.manifest["config"]["digest"]
        assert [layer["digest"] for layer in answer["manifest"]["layers"]] == image.digests

    def test_configuration_has_the_digests_of_the_uncompressed_layers_in_order(self, image):
        layers = map(image.uncompressed, image.manifest["layers"])
        digests = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
        assert image.config["rootfs"] == {"type": "layers", "diff_ids": digests}
        assert image.config["architecture"] == "amd64"
        assert image.config["os"] == "linux"

    def test_image_has_the_tag_as_its_reference(self, nix, image):
        assert image.reference == "latest"
        assert nix.image_of(["hello"], tag="v1.2").reference == "v1.2"


class TestContents:
    def test_derivations_can_be_given_beside_names(self, nix):
        call = f"""import "{BUILD_IMAGE}" {{
          packages = {{packages}};
          contents = [ (pkgs.writeTextDir "share/given" "") ];
          srcType = "path";
          srcArgs = {nix.package_set};
          importArgs = {{ config = {{ }}; }};
          maxLayers = 3;
        }}"""
        for packages, wanted in [("''[\"hello\"]''", {"bin/hello"}), ('"[]"', set())]:
            built = nix.build(*nix.expression(call.replace("{packages}", packages)), "-A", "image")
            image = Image(built.path)
            assert {name for name in image.tree if "share/given" in name} >= {"share/given"}
            assert {"bin/hello"} & set(image.tree) == wanted


class TestSource:
    def test_set_is_given_the_import_arguments(self, nix, tmp_path):
        folder = write_set(
            tmp_path,
            nix.package_set,
            '{ asked = pkgs.writeTextDir "share/asked" pkgs.config.question; }',
        )
        arguments = json.dumps({"config": {"question": "why?"}})
        image = nix.image_of(["asked"], srcArgs=folder, importArgs=arguments, maxLayers=2)
        (store_path,) = image.store_paths[0]
        assert image.file(f"{store_path.lstrip('/')}/share/asked") == b"why?"

    def test_set_can_be_loaded_by_another_file(self, nix, tmp_path):
        (tmp_path / "load.nix").write_text(
            f'{{ srcType, importArgs, ... }}: assert srcType == "mine";'
            f" {{ mine = (import {nix.package_set} importArgs).hello; }}"
            f" // import {nix.package_set} importArgs"
        )
        given = nix.call(["mine"], srcType="mine", loadPkgs=tmp_path / "load.nix")
        # The path of a file, as a caller in Nix or with --arg gives it.
        given[given.index("loadPkgs") - 1] = "--arg"
        assert nix.build(*given).path == nix.build(*nix.call(["hello"])).path

    def test_set_can_come_from_a_git_repository(self, nix, tmp_path):
        write_set(tmp_path, nix.package_set, "{ }")
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        run("git", "-C", tmp_path, "init", "--quiet", "--initial-branch=main")
        run("git", "-C", tmp_path, "add", "default.nix")
        run("git", "-C", tmp_path, *identity, "commit", "--quiet", "--message=set")
        commit = run("git", "-C", tmp_path, "rev-parse", "HEAD").stdout.strip()
        arguments = json.dumps({"url": f"file://{tmp_path}", "rev": commit, "ref": "main"})
        built = nix.build(*nix.call(["hello"], srcType="git", srcArgs=arguments))
        assert built.path == nix.build(*nix.call(["hello"])).path

    @pytest.mark.parametrize(
        "arguments",
        [
            {"system": "x86_64-linux"},
            {"localSystem": "x86_64-linux"},
            {"localSystem": {"system": "x86_64-linux"}},
        ],
    )
    def test_system_can_be_in_the_import_arguments(self, nix, tmp_path, arguments):
        """In one place only, as nixpkgs wants it."""
        (tmp_path / "default.nix").write_text(f"""
          {{ system ? null, localSystem ? null }}:
          assert (system == null) != (localSystem == null);
          import {nix.package_set} {{ }}
        """)
        given = {"srcArgs": tmp_path, "importArgs": json.dumps(arguments)}
        words = nix.call(["hello"], **given)
        assert nix.build(*words).path == nix.build(*nix.call(["hello"])).path

    def test_image_is_for_the_system_of_the_import_arguments(self, nix):
        """Of data, which is the same for any machine; it is packed by tools of this one."""
        image = nix.image_of(["iana-etc"], importArgs='{"system": "aarch64-linux"}')
        assert image.config["architecture"] == "arm64"

    @pytest.mark.parametrize(
        ("version", "revision"),
        [
            ("2.8.0", "ac62194c3917d5f474c1a844b6fd6da2db95077d"),
            ("2.17.1", "ac62194c3917d5f474c1a844b6fd6da2db95077d"),
            ("2.18.0", "cbb5cf358f50aa6acc9efd6113b7bcfbc352cd73"),
            ("2.34.8", "cbb5cf358f50aa6acc9efd6113b7bcfbc352cd73"),
        ],
    )
    def test_default_is_a_nixpkgs_that_the_running_nix_can_evaluate(self, nix, version, revision):
        """They want 2.3.17 and 2.18: lib/minfeatures.nix. Restricted evaluation fetches nothing."""
        file = BUILD_IMAGE.parent / "names" / "load-pkgs.nix"
        scope = f'{{ builtins = builtins // {{ nixVersion = "{version}"; }}; }}'
        words = ["-E", f'builtins.scopedImport {scope} "{file}" {{ }}', "-I", file.parent]
        error = nix.error(*words, "--option", "restrict-eval", "true")
        assert f"https://github.com/NixOS/nixpkgs/archive/{revision}.tar.gz" in error

    @pytest.mark.parametrize(
        "revision",
        [
            "../x",
            "x/../../../../evil/repo/archive/main",
            "a/./b",
            "a//b",
            ".",
            "a..b",
            "/x",
            "x/",
            "-x",
            "%2e%2e/x",
            "a b",
            "a\nb",
            "a?b",
            "a#b",
            "a:b",
            "a@b",
            "a\\b",
            "refs/pull/1/head",
            "pull/1/merge",
            "",
        ],
    )
    def test_revision_that_leads_elsewhere_is_one_sentence(self, nix, revision):
        error = nix.error(*nix.call(["git"], srcType="nixpkgs", srcArgs=revision))
        sentence = (
            "srcArgs for srcType 'nixpkgs' must be a channel, branch, tag or commit of nixpkgs"
        )
        assert f"error: {sentence}, not {json.dumps(revision)}" in error

    @pytest.mark.parametrize("revision", ["nixos-25.05", "24.11", "staging-next", "refs/tags/1.0"])
    def test_revision_of_nixpkgs_is_fetched(self, nix, revision):
        words = nix.call(["git"], srcType="nixpkgs", srcArgs=revision)
        error = nix.error(*words, "-I", BUILD_IMAGE.parent, "--option", "restrict-eval", "true")
        assert f"https://github.com/NixOS/nixpkgs/archive/{revision}.tar.gz" in error

    @pytest.mark.parametrize(
        ("source", "arguments", "sentence"),
        [
            ("svn", "x", "srcType must be 'nixpkgs', 'git' or 'path', not \"svn\""),
            ("path", "here", 'must be the absolute path of a package set, not "here"'),
            ("path", None, "for srcType 'path' must be the absolute path of a package set\n"),
            (
                "git",
                "a b",
                "srcArgs must be the arguments of fetchGit for srcType 'git', JSON such as",
            ),
            (
                "git",
                None,
                "srcArgs must be the arguments of fetchGit for srcType 'git', JSON such as",
            ),
        ],
    )
    def test_source_that_makes_no_sense_is_one_sentence(self, nix, source, arguments, sentence):
        given = {} if arguments is None else {"srcArgs": arguments}
        words = [BUILD_IMAGE, "--argstr", "packages", '["git"]', "--argstr", "srcType", source]
        words += [word for name, value in given.items() for word in ("--argstr", name, value)]
        assert sentence in nix.error(*words)


class TestJSON:
    @pytest.mark.parametrize(
        "packages",
        """git|git curl|[git]|[, "git"]|['git']|[git, "curl"]|git,curl|[True]""".split("|"),
    )
    def test_that_people_get_wrong_is_one_sentence_with_an_example(self, nix, packages):
        error = nix.error(*nix.call(packages))
        sentence = "packages must be a JSON array of strings such as '[\"git\"]'"
        assert f"error: {sentence}, not {json.dumps(packages)}\n" in error

    @pytest.mark.parametrize("packages", ['["git" "curl"]', '["git",]', '["git'])
    def test_with_a_slip_inside_names_the_argument_in_its_trace(self, nix, packages):
        error = nix.error(*nix.call(packages), "--show-trace")
        assert "while reading the argument packages as JSON" in error

    def test_object_that_people_get_wrong_is_one_sentence_with_an_example(self, nix):
        error = nix.error(*nix.call(["git"], importArgs="{config: {allowUnfree: true}}"))
        assert 'a JSON object such as \'{"config": {"allowUnfree": true}}\', not' in error

    def test_is_read_whatever_white_space_it_has(self, nix):
        assert nix.answer(' [\n\t"gti" ]\n')["pkgs"] == ["gti"]


class TestLayers:
    @pytest.mark.parametrize("budget", ["2", "3", "5", "20", "96", "120", "125", "007"])
    def test_every_path_of_the_closure_is_in_exactly_one_layer(self, nix, budget):
        layers = paths_in_layers(nix, PACKAGES, maxLayers=budget)
        closure = nix.closure(nix.package("git"), nix.package("curl"))
        assert sorted(path for layer in layers for path in layer) == sorted(closure)
        assert len(layers) <= int(budget)
        assert layers[-1] == []

    def test_limit_can_be_a_number(self, nix):
        words = [*nix.call(PACKAGES), "-A", "layers"]
        assert nix.build(*words, "--arg", "maxLayers", "5").paths == (
            nix.build(*nix.call(PACKAGES, maxLayers="5"), "-A", "layers").paths
        )

    @pytest.mark.parametrize(
        "limit", ["0", "126", "x", "-1", "", "1.5", "1e2", "99999999999999999999"]
    )
    def test_limit_that_cannot_be_kept_is_one_sentence(self, nix, limit):
        error = nix.error(*nix.call(["hello"], maxLayers=limit))
        assert "error: maxLayers must be a number from 1 to 125, not " in error

    @pytest.mark.parametrize(("argument", "value"), [("tag", "a/b"), ("mediaTypes", "Oci")])
    def test_arguments_that_the_answer_does_not_use_are_checked(self, nix, argument, value):
        error = nix.error(*nix.call(["hello"], **{argument: value}))
        assert f"error: {argument} must be " in error

    def test_default_limit_is_ninety_six(self, nix):
        text = nix.build(*nix.call(PACKAGES), "-A", "explain").path.read_text()
        assert allowed_layers(text) == 96

    def test_tar_files_hold_what_the_plan_says_in_its_order(self, nix, image):
        plan = json.loads(nix.build(*nix.call(PACKAGES), "-A", "groupedLayers").path.read_bytes())
        assert image.store_paths == [sorted(layer["contents"]) for layer in plan]

    def test_no_layer_names_a_file_twice(self, image):
        for layer in image.manifest["layers"]:
            names = [member.name for member in image.members(layer)]
            assert len(names) == len(set(names))

    def test_no_store_path_spreads_over_two_layers(self, image):
        seen: set[str] = set()
        for layer in image.manifest["layers"][:-1]:
            names = {member.name for member in image.members(layer)} - {"nix", "nix/store"}
            assert not names & seen
            seen |= names

    def test_files_belong_to_root_and_have_one_time(self, image):
        for name, member in image.tree.items():
            owner = (member.uid, member.gid, member.uname, member.gname)
            assert (name, member.mtime, *owner) == (name, 1, 0, 0, "root", "root")

    def test_folders_above_the_store_paths_come_first_and_are_readable(self, image):
        for layer in image.manifest["layers"][:-1]:
            above = [(member.name, member.mode) for member in image.members(layer)[:2]]
            assert above == [("nix", 0o755), ("nix/store", 0o755)]
            assert all(member.isdir() for member in image.members(layer)[:2])

    def test_root_is_the_last_layer_and_links_what_was_asked_for(self, nix, image):
        last = {member.name: member for member in image.members(image.manifest["layers"][-1])}
        assert last["bin/git"].linkname == f"{nix.package('git')}/bin/git"
        assert last["bin/curl"].linkname == f"{nix.package('curl')}/bin/curl"
        assert (last["tmp"].type, last["tmp"].mode) == (b"5", 0o1777)

    def test_explanation_is_for_people(self, nix):
        text = nix.build(*nix.call(PACKAGES), "-A", "explain").path.read_text()
        assert "git" in text

    def test_layer_holds_three_thousand_store_paths(self, nix, tmp_path):
        packages = """{
          many = pkgs.runCommand "many" { } ''
            mkdir $out
            ln -s ${builtins.toFile "all" (toString (builtins.genList (number:
              builtins.toFile "number-${toString number}" (toString number)) 3000))} $out/all
          '';
        }"""
        folder = write_set(tmp_path, nix.package_set, packages)
        image = nix.image_of(["many"], srcArgs=folder, maxLayers=2)
        assert [len(layer) for layer in image.store_paths] == [3002, 0]


class TestPopularity:
    @pytest.fixture(scope="class")
    @classmethod
    def library(cls, nix: Nix) -> str:
        """The largest of the store paths that share a layer, of 20, if there is no table."""
        shared = [
            path
            for layer in paths_in_layers(nix, PACKAGES, maxLayers="20")
            if len(layer) > 1
            for path in layer
        ]
        sizes = run("nix-store", "--query", "--size", *shared).stdout.split()
        return max(zip(map(int, sizes), shared))[1]

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, nix: Nix, library: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A table of all paths in which the library is far more popular than any other."""
        closure = nix.closure(*map(nix.package, PACKAGES))
        counts = {path.partition("-")[2]: 2 for path in closure}
        counts[library.partition("-")[2]] = 1_000_000
        # Nix remembers for an hour what it fetched from where: each run has a name of its own.
        file = tmp_path_factory.mktemp("popularity") / f"popularity-{time.time_ns()}.json"
        file.write_text(json.dumps(counts))
        return file

    def test_popular_path_has_a_layer_of_its_own(self, nix, library, table):
        assert [library] in paths_in_layers(nix, PACKAGES, maxLayers="20", popularity=table)

    def test_table_can_be_fetched(self, nix, table):
        local = nix.build(*nix.call(PACKAGES, popularity=table), "-A", "layers")
        fetched = nix.build(*nix.call(PACKAGES, popularityUrl=f"file://{table}"), "-A", "layers")
        assert fetched.paths == local.paths

    def test_table_that_is_broken_ends_the_build_with_one_line(self, nix, tmp_path):
        table = tmp_path / "popularity.json"
        table.write_text('{"glibc": "many"}')
        error = nix.error(*nix.call(["hello"], popularity=table))
        assert "popularity.json" in error and "glibc" in error and "Traceback" not in error


class TestBuildingAgain:
    def test_the_same_request_builds_nothing(self, nix, answer):
        again = nix.build(*nix.call(PACKAGES))
        assert again.built == []

    def test_added_package_leaves_layers_as_they_are(self, nix, image):
        before = nix.build(*nix.call(PACKAGES), "-A", "layers").paths
        added = nix.build(*nix.call([*PACKAGES, "bash"]), "-A", "layers").paths
        assert len(set(before) & set(added)) >= len(before) // 2
        old = paths_in_layers(nix, PACKAGES)
        for layer, paths in zip(added, paths_in_layers(nix, [*PACKAGES, "bash"])):
            assert layer in before or paths == [] or paths not in old

    def test_layers_that_two_images_share_have_the_same_order_in_both(self, nix, image):
        before = paths_in_layers(nix, PACKAGES)
        added = paths_in_layers(nix, [*PACKAGES, "bash"])
        shared = [layer for layer in before if layer in added]
        assert shared == [layer for layer in added if layer in before]
        # The C library, which every image has, is at the bottom.
        assert "-libc6-" in shared[0][0]

    def test_name_and_tag_change_no_layer(self, nix):
        words = nix.call(PACKAGES, name="other", tag="v2")
        assert not [name for name in nix.build(*words).built if name.startswith("layer")]

    @pytest.mark.parametrize(
        "options",
        [
            # Without a sandbox, Nix builds what is there to other paths, and rewrites those.
            ["--cores", "7", "--option", "build-users-group", "", "--option", "sandbox", "false"],
            ["--cores", "1", "--option", "sandbox", "true"],
        ],
        ids=["seven cores as root without a sandbox", "one core in the sandbox"],
    )
    def test_builds_to_the_same_bytes_again(self, nix, image, options):
        derivations = image_derivations(nix)
        names = {name for _, name in derivations}
        assert {
            "image-image",
            "image-root.tar",
            "grouped-layers.json",
            "layer-image-root.tar",
        } <= names
        files = [file for file, _ in derivations]
        run("nix-store", "--realise", "--check", *options, *files)


def image_derivations(nix: Nix) -> list[tuple[str, str]]:
    """Return the derivations of the project's own that make the image, with their names."""
    attributes = ["image", "image.answer", "image.groupedLayers", "image.picture"]
    words = [word for attribute in attributes for word in ("-A", attribute)]
    built = nix.build(*nix.call(PACKAGES), *words)
    derivers = run("nix-store", "--query", "--deriver", *built.paths).stdout.split()
    own = re.compile(
        r"[0-9a-z]{32}-(image-image|image-documents|image-root\.tar|grouped-layers\.json|picture\.svg"
        r"|layer-.*)\.drv"
    )
    files = run("nix-store", "--query", "--requisites", *derivers).stdout.split()
    found = [(file, own.fullmatch(file.rpartition("/")[2])) for file in files]
    return [(file, match[1]) for file, match in found if match]
