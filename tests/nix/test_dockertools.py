"""A call of dockerTools.buildLayeredImage or streamLayeredImage, with the function's name changed.

The tables hold what those functions take: their arguments, defaults and coercions in nixpkgs 24.05,
found by running them, and what has been added since, as it is documented (`mtime`, `includeNixDB`,
`layeringPipeline`, `debug`, `meta`).
Ours does the same with each, or says in one sentence what to write instead.
"""

from __future__ import annotations

import json
import tarfile

import pytest

from containers import PODMAN_RUN, podman
from nix import Image, attempt, run

ONE = '(pkgs.writeTextDir "share/one" "one")'
TWO = '(pkgs.writeTextDir "share/two" "two")'

# Their arguments, with the defaults. That of `architecture` is the machine's.
DEFAULTS = {
    "tag": "null",
    "fromImage": "null",
    "contents": "[ ]",
    "config": "{ }",
    "architecture": '"amd64"',
    "created": '"1970-01-01T00:00:01Z"',
    "mtime": '"1970-01-01T00:00:01Z"',
    "uid": "0",
    "gid": "0",
    "uname": '"root"',
    "gname": '"root"',
    "maxLayers": "100",
    "extraCommands": '""',
    "fakeRootCommands": '""',
    "enableFakechroot": "false",
    "includeStorePaths": "true",
    "includeNixDB": "false",
    "compressor": '"gz"',
    "passthru": "{ }",
    "meta": "{ }",
    "layeringPipeline": "null",
    "debug": "false",
}

# An argument, a value that means something else than it says, and what it means.
COERCIONS = [
    # The name that `docker load` is given is in lower case.
    ("name", '"Side/Notes"', '"side/notes"'),
    # A list is for symlinkJoin, and from there text: null is nothing, lists are what is in them.
    ("contents", ONE, f"[ {ONE} ]"),
    ("contents", f'"${{{ONE}}}"', f"[ {ONE} ]"),
    ("contents", "null", "[ ]"),
    ("contents", f"[ null {ONE} ]", f"[ {ONE} ]"),
    ("contents", f"[ [ {ONE} [ {TWO} ] ] [ ] ]", f"[ {ONE} {TWO} ]"),
    ("config", "null", "{ }"),
    # Times are for `date -d`, in UTC.
    ("created", '"20240506"', '"2024-05-06T00:00:00Z"'),
    ("created", '"2024-05-06"', '"2024-05-06T00:00:00Z"'),
    ("created", '"@1700000000"', '"2023-11-14T22:13:20Z"'),
    ("created", '"2024-05-06 07:08:09"', '"2024-05-06T07:08:09Z"'),
    ("created", '"2024-05-06T07:08:09+0200"', '"2024-05-06T05:08:09Z"'),
    ("created", '"2024-05-06 07:08:09 -05:30"', '"2024-05-06T12:38:09Z"'),
    ("created", '"2024-05-06 07:08:09.5 UTC"', '"2024-05-06T07:08:09Z"'),
    ("mtime", '"20240506"', '"2024-05-06T00:00:00Z"'),
    ("mtime", '"@1700000000"', '"2023-11-14T22:13:20Z"'),
    # Variables of a builder are text, null is none.
    ("uid", '"1000"', "1000"),
    ("gid", '"1000"', "1000"),
    ("extraCommands", "null", '""'),
    ("fakeRootCommands", "null", '""'),
    # No difference to the image
    ("debug", "true", "false"),
]

# An argument, a value that is taken there and not here, and what to write.
INSTEAD = [
    ("enableFakechroot", "true", "write the files that the program would write"),
    ("layeringPipeline", '[ [ "popularity_contest" ] ]', "write layers, popularity or maxLayers"),
    ("created", '"yesterday"', 'must be a time from 1970 to 9999 such as "2024-05-06"'),
    ("created", '"6 May 2024"', 'must be a time from 1970 to 9999 such as "2024-05-06"'),
    ("created", "null", 'must be a time from 1970 to 9999 such as "2024-05-06"'),
    ("created", "20240506", 'must be a time from 1970 to 9999 such as "2024-05-06"'),
    ("created", '"0001-01-01T00:00:00Z"', 'must be a time from 1970 to 9999 such as "2024-05-06"'),
    ("architecture", '"x86_64"', 'must be a GOARCH value, such as "amd64"'),
    ("maxLayers", "128", "must be a number from 1 to 125"),
    ("uname", "null", "must be a name of at most 31 characters without colons or spaces"),
    ("uname", '"a:b"', "must be a name of at most 31 characters without colons"),
    ("extraCommands", '[ "touch a;" "touch b" ]', "must be a string of shell commands, not ["),
    ("config", "{ User = 1000; }", "User must be a string"),
    ("config", "{ Cmd = 1; }", "Cmd must be a list of strings"),
    ("config", "{ cmd = [ ]; }", "there is no key cmd (did you mean Cmd?)"),
    # dockerTools.buildImage
    ("copyToRoot", ONE, "write contents"),
    ("runAsRoot", '"true"', "write fakeRootCommands"),
    ("keepContentsDirlinks", "true", "a link to a folder at the root always becomes a folder"),
    ("fromImageName", '"debian"', "pass as fromImage an archive of one image"),
    ("fromImageTag", '"12"', "pass as fromImage an archive of one image"),
    ("diskSize", "1024", "no virtual machine is started"),
    ("buildVMMemorySize", "512", "no virtual machine is started"),
    # nix2container.buildImage
    ("arch", '"amd64"', "write architecture"),
    ("fromImageEnv", "true", "all settings of the base stay that config does not replace"),
    ("initializeNixDatabase", "true", "write includeNixDB"),
    ("nixUid", "1000", "write uid"),
    ("nixGid", "100", "write gid"),
    ("perms", "[ { } ]", "write chmod and chown in fakeRootCommands"),
]


def derivation(arguments: str) -> str:
    """Return Nix text: the derivation of an image with these arguments."""
    given = f'{{ name = "image"; importFromDerivation = false; }} // {{ {arguments} }}'
    return f"(buildImage ({given})).drvPath"


def test_defaults_are_the_same(nix):
    given = [derivation(f"{name} = {value};") for name, value in DEFAULTS.items()]
    without, *found = nix.evaluate(f"[ {derivation('')} {' '.join(given)} ]")
    assert dict(zip(DEFAULTS, found)) == dict.fromkeys(DEFAULTS, without)


def test_coercions_are_the_same(nix):
    given = [derivation(f"{name} = {odd};") for name, odd, _ in COERCIONS]
    meant = [derivation(f"{name} = {plain};") for name, _, plain in COERCIONS]
    pairs = " ".join(f"({one} == {other})" for one, other in zip(given, meant))
    assert dict(zip(COERCIONS, nix.evaluate(f"[ {pairs} ]"))) == dict.fromkeys(COERCIONS, True)


@pytest.mark.parametrize(("argument", "value", "sentence"), INSTEAD)
def test_what_is_left_out_says_what_to_write_instead(nix, argument, value, sentence):
    error = nix.image_error(f"{{ {argument} = {value}; }}")
    (line,) = [line for line in error.splitlines() if line.lstrip().startswith("error: ")]
    assert argument in line and sentence in line


@pytest.mark.parametrize("argument", sorted({name for name, _, _ in INSTEAD} - set(DEFAULTS)))
def test_what_is_left_out_may_be_passed_if_it_asks_for_nothing(nix, argument):
    nothing = ["null", "false", '""', "[ ]"]
    given = " ".join(derivation(f"{argument} = {value};") for value in nothing)
    assert nix.evaluate(f"[ {given} ]") == nix.evaluate(f"[ {derivation('')} ]") * len(nothing)


def test_name_is_in_lower_case_where_docker_load_reads_it(nix):
    built = nix.build_image('{ name = "Side/Notes"; tag = "V1"; }').path
    docker = json.loads((built / "manifest.json").read_bytes())
    assert docker[0]["RepoTags"] == ["side/notes:V1"]


class TestCommands:
    """As in stdenv's shell."""

    @pytest.mark.parametrize("argument", ["extraCommands", "fakeRootCommands"])
    @pytest.mark.parametrize("commands", ["false | true; echo made > file", "x=$(false; echo y)"])
    def test_end_the_build_when_part_of_them_fails(self, nix, argument, commands):
        error = nix.image_error(f"{{ {argument} = {json.dumps(commands)}; }}".replace("$", "\\$"))
        assert f"error: {argument} failed with status 1" in error

    def test_make_the_same_times_on_every_machine(self, nix):
        image = nix.image('{ extraCommands = "echo $TZ $SOURCE_DATE_EPOCH >times"; }')
        assert image.file("times") == b"UTC 315532800\n"

    def test_find_nothing_where_no_name_matches(self, nix):
        image = nix.image('{ extraCommands = "for i in none*; do touch $i; done; touch made"; }')
        assert set(image.tree) == {".", "made", "tmp"}


def test_image_can_be_built_upon_with_its_arguments_changed(nix):
    call = f'(buildImage {{ name = "image"; tag = "latest"; contents = {ONE}; }})'
    changed = call + '.override { extraCommands = "touch more"; }'
    image = Image(nix.build(*nix.expression(changed)).path)
    assert {"share/one", "more"} <= set(image.tree)


# What stands for nixpkgs' set: functions that return what they are called with
THEIRS = """{
  pullImage = "theirs";
  buildLayeredImage = throw "theirs";
  streamLayeredImage = throw "theirs";
  buildLayeredImageWithNixDb = throw "theirs";
  buildImage = arguments: arguments.fromImage;
  mergeImages = images: builtins.head images;
}"""
BASE = f'buildLayeredImage {{ name = "base"; tag = "v1"; contents = {ONE}; }}'


class TestInPlaceOfNixpkgs:
    """The overlay: other people's calls, with results of the same shape."""

    def build(self, nix, text: str):
        return nix.build(*nix.expression(f"with dockerTools {THEIRS}; {text}")).path

    def evaluate(self, nix, text: str):
        return nix.evaluate(f"with dockerTools {THEIRS}; {text}")

    def test_build_layered_image_is_a_file_to_load(self, nix, short_folder):
        call = """{
          name = "Team/Notes";
          tag = "V1";
          contents = [ binSh ];
          config.Cmd = [ "/bin/sh" "-c" "echo loaded" ];
        }"""
        file = self.build(nix, f"buildLayeredImage {call}")
        assert file.is_file() and file.name.endswith("-notes.tar")
        podman(short_folder, "load", "--quiet", "--input", file)
        ran = podman(short_folder, "run", *PODMAN_RUN, "--pull=never", "team/notes:V1")
        assert ran.stdout == "loaded\n"

    def test_stream_layered_image_is_a_script_that_writes_that_file(self, nix):
        both = f"[ ({BASE}) ({BASE}).stream (stream{BASE.removeprefix('build')}) ]"
        file, of_file, script = nix.build(
            *nix.expression(f"with dockerTools {THEIRS}; {both}")
        ).paths
        assert of_file == script
        assert run(script, text=False).stdout == file.read_bytes()

    def test_results_have_the_attributes_of_nixpkgs(self, nix):
        call = f"""{{
          name = "Notes";
          contents = {ONE};
          meta.description = "notes";
          passthru.mine = 1;
        }}"""
        for function, is_script in ("buildLayeredImage", False), ("streamLayeredImage", True):
            found = self.evaluate(
                nix,
                f"""let image = {function} {call}; in {{
                  inherit (image) imageName meta mine isExe type;
                  tagged = image.imageTag == image.passthru.imageTag;
                  override = (image.override {{ tag = "2"; }}).imageTag;
                  same = (image.override (old: {{ inherit (old) name; }})).drvPath == image.drvPath;
                }}""",
            )
            assert found == {
                "imageName": "notes",
                "meta": {"description": "notes"},
                "mine": 1,
                "isExe": is_script,
                "type": "derivation",
                "tagged": True,
                "override": "2",
                "same": True,
            }

    def test_all_else_stays(self, nix):
        assert self.evaluate(nix, "pullImage") == "theirs"

    @pytest.mark.parametrize("asked", ["enableFakechroot = true;", "layeringPipeline = [ ];"])
    def test_what_only_nixpkgs_does_is_left_to_it(self, nix, asked):
        own = THEIRS.replace('throw "theirs"', "arguments: { inherit arguments; }")
        call = f'(buildLayeredImage {{ name = "image"; fromImage = {BASE}; {asked} }})'
        passed = f"({call}.arguments.fromImage.drvPath == ({BASE}).dockerArchive.drvPath)"
        assert nix.evaluate(f"with dockerTools {own}; {passed}") is True

    def test_the_variant_with_a_database_has_one(self, nix):
        text = f'buildLayeredImageWithNixDb {{ name = "image"; contents = {ONE}; }}'
        image = Image(self.build(nix, f"({text}).image"))
        assert "nix/var/nix/db/db.sqlite" in image.tree

    @pytest.mark.parametrize("base", [f"({BASE})", f"(stream{BASE.removeprefix('build')})"])
    def test_images_are_built_upon_each_other(self, nix, base):
        upper = f'buildLayeredImage {{ name = "upper"; fromImage = {base}; contents = {TWO}; }}'
        lower, image = (
            Image(self.build(nix, f"({BASE}).image")),
            self.build(nix, f"({upper}).image"),
        )
        assert Image(image).digests[: len(lower.digests)] == lower.digests
        assert {"share/one", "share/two"} <= set(Image(image).tree)

    @pytest.mark.parametrize(
        "call", [f"buildImage {{ fromImage = {BASE}; }}", f"mergeImages [ ({BASE}) ]"]
    )
    def test_functions_of_nixpkgs_get_an_archive_of_the_kind_that_they_read(self, nix, call):
        """They take a layer's digest for its diff id, and look for `*/layer.tar`."""
        lower = Image(self.build(nix, f"({BASE}).image"))
        with tarfile.open(self.build(nix, call)) as archive:
            (manifest,) = json.load(archive.extractfile("manifest.json"))
            names = archive.getnames()
            digests = [name.removesuffix(".tar") for name in manifest["Layers"]]
        assert manifest["RepoTags"] == ["docker.io/library/base:v1"]
        assert [f"sha256:{digest}" for digest in digests] == lower.config["rootfs"]["diff_ids"]
        assert len([name for name in names if name.endswith("/layer.tar")]) == len(digests)
        assert "index.json" not in names


class TestNameGivenToTheScript:
    """`--repo_tag`, as the script of dockerTools.streamLayeredImage takes it."""

    @pytest.fixture
    def script(self, nix):
        return nix.build_image(f'{{ name = "notes"; tag = "1"; contents = {ONE}; }}', "stream").path

    @pytest.mark.parametrize("words", [["--repo_tag", "{}"], ["--repo_tag={}"], ["-t", "{}"]])
    def test_is_the_image_s_in_all_that_loads_it(self, script, tmp_path, words):
        reference = "localhost:5000/team/other.notes:2"
        (tmp_path / "archive.tar").write_bytes(
            run(script, *(word.format(reference) for word in words), text=False).stdout
        )
        with tarfile.open(tmp_path / "archive.tar") as archive:
            (manifest,) = json.load(archive.extractfile("manifest.json"))
            (index,) = json.load(archive.extractfile("index.json"))["manifests"]
        assert manifest["RepoTags"] == [reference]
        assert index["annotations"] == {
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": "2",
        }
        plain = run(script, text=False).stdout
        with tarfile.open(tmp_path / "archive.tar") as archive:
            named = archive.getnames()
        (tmp_path / "plain.tar").write_bytes(plain)
        with tarfile.open(tmp_path / "plain.tar") as archive:
            assert archive.getnames() == named

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--repo_tag", "notes"], "'notes' is not a name and tag such as team/notes:2"),
            (["--repo_tag", "Notes:2"], "'Notes:2' is not a name and tag"),
            (["--repo_tag"], "expected one argument"),
            (["notes:2"], "unrecognized arguments: notes:2"),
            (["--unknown"], "unrecognized arguments: --unknown"),
        ],
    )
    def test_all_other_words_are_refused(self, script, words, told):
        done = attempt(script, *words)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("stream: ") and told in line
        assert line.endswith(": write --repo_tag NAME:TAG, or nothing")
