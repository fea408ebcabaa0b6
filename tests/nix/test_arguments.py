"""The arguments of buildImage: what is taken for each, and the sentence for what is not."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nix import ROOT, packed_paths, run

ONE = '(pkgs.writeTextDir "share/one" "one")'


class TestReferences:
    """What a configuration names is in the image: Nix says what that is."""

    NAMES = '[ "." "=/data" "?" "+" "-" "-x" "_" "," "/bin/hello." "" ]'

    def test_store_paths_are_found_whatever_follows_them(self, nix):
        labels = 'builtins.listToAttrs (map (end: { name = end; value = "${pkgs.hello}${end}"; })'
        image = nix.image(f"{{ config.Labels = {labels} {self.NAMES}); }}")
        hello = nix.package("hello")
        assert image.config["config"]["Labels"]["."] == f"{hello}."
        assert set(packed_paths(image)) == nix.closure(hello)

    def test_store_paths_are_found_without_import_from_derivation(self, nix):
        arguments = 'config.Env = [ "MAP=${pkgs.hello}=/data" ]; importFromDerivation = false;'
        image = nix.image(f"{{ {arguments} }}")
        assert set(packed_paths(image)) == nix.closure(nix.package("hello"))

    def test_database_knows_them_and_nothing_else(self, nix, tmp_path):
        image = nix.image('{ config.Cmd = [ "${pkgs.hello}." ]; includeNixDB = true; }')
        database = tmp_path / "db.sqlite"
        database.write_bytes(image.file("nix/var/nix/db/db.sqlite"))
        query = "select path from ValidPaths"
        found = run("python3", "-c", READ_DATABASE, database, query).stdout.split()
        assert set(found) == nix.closure(nix.package("hello")) == set(packed_paths(image))

    def test_path_is_copied_to_the_store_and_into_the_image(self, nix, tmp_path):
        (tmp_path / "program").write_text("#!/bin/sh\n")
        (tmp_path / "program").chmod(0o755)
        image = nix.image(f"{{ config.Entrypoint = [ {tmp_path}/program ]; }}")
        (program,) = image.config["config"]["Entrypoint"]
        assert packed_paths(image) == [program] and program.endswith("-program")

    def test_what_a_text_was_made_from_and_does_not_name_is_left_out(self, nix):
        image = nix.image('{ config.User = builtins.substring 0 4 "1000${pkgs.hello}"; }')
        assert image.config["config"]["User"] == "1000"
        assert packed_paths(image) == []


READ_DATABASE = """
import sqlite3, sys
print(*(row[0] for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2])))
"""


def seconds_of(times: list[str]) -> list[int | None]:
    """Return what parse-time.nix makes of `times`."""
    parse = f'import "{ROOT}/build-image/image/parse-time.nix"'
    body = f'map ({parse}) (builtins.fromJSON (builtins.getEnv "TIMES"))'
    command = ["nix-instantiate", "--eval", "--strict", "--json", "-E", body]
    environment = {**os.environ, "TIMES": json.dumps(times)}
    return json.loads(run(*command, env=environment).stdout)


def seconds_by_date(time: str) -> int | None:
    """Return what `date -d` makes of a time, in UTC; null for one that no image can have."""
    command = ["date", "--utc", "--date", time, "+%s"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not 0 <= int(done.stdout) <= 253402300799:
        return None
    return int(done.stdout)


@st.composite
def times(draw: st.DrawFn) -> str:
    """A time as people write it, in the calendar or a little beside it."""

    def number(least: int, most: int) -> int:
        return draw(st.integers(least, most))

    compact = draw(st.booleans())
    year = draw(st.sampled_from([1969, 1970, 2000, 2023, 2024, 2100, 9999]) | st.integers(0, 9999))
    numbers = [f"{year:04}", f"{number(0, 13):02}", f"{number(0, 32):02}"]
    text = ("" if compact else "-").join(numbers)
    hour, minute, second = number(0, 24), number(0, 60), number(0, 60)
    separator = " " if compact else draw(st.sampled_from(" T"))
    time = draw(
        st.sampled_from(["", f"{hour:02}:{minute:02}", f"{hour:02}:{minute:02}:{second:02}.25"])
    )
    if time:
        text += separator + time
    zones = ["", "Z", " UTC"] + (["+02:00", " -0530", "+14", "-23:59", "+24"] if time else [])
    return text + draw(st.sampled_from(zones))


# The first and the last of everything, and what is just beside it
EDGES = """
    1970-01-01|1969-12-31|9999-12-31|9999-12-31 23:59:59|9999-12-31 23:59:59-00:01
    1970-01-01 00:00+00:01|1969-12-31 23:59-00:01|@0|@253402300799|@253402300800
    2024-00-06|2024-01-06|2024-12-31|2024-13-01|2024-05-00|2024-05-01|2024-05-31|2024-05-32
    2024-04-31|2024-02-29|2023-02-29|2000-02-29|2100-02-29|2024-12-32|2024-5-6 7:8
    2024-05-06 00:00:00|2024-05-06 23:59:59|2024-05-06 24:00|2024-05-06 23:60|2024-05-06 23:59:60
    2024-05-06 07:08+24:00|2024-05-06 07:08+24:01|2024-05-06 +0200|20240506Z|2024-05-06 UTC
    2024-05-06T07:08:09,5Z|2024-05-06  07:08|20240506 07:08|2024-0506
"""


class TestTimes:
    def test_at_the_edges_of_the_calendar_mean_what_date_says(self):
        given = [time for line in EDGES.split("\n") for time in line.strip().split("|") if time]
        assert dict(zip(given, seconds_of(given))) == {t: seconds_by_date(t) for t in given}

    @settings(max_examples=10)
    @given(st.lists(times(), min_size=50, max_size=50))
    def test_mean_what_date_says_that_they_mean(self, given):
        assert seconds_of(given) == [seconds_by_date(time) for time in given]

    def test_of_flakes_are_read_to_the_second(self):
        assert seconds_of(["20240506070809", "@1700000000"]) == [1714979289, 1700000000]

    @pytest.mark.parametrize("argument", ["created", "mtime"])
    @pytest.mark.parametrize(
        "value",
        [
            '"yesterday"',
            '"2024-13-45"',
            '"0999-01-01"',
            '"1969-12-31T23:59:59Z"',
            '""',
            "1714979289",
            "null",
        ],
    )
    def test_that_no_image_can_have_are_refused(self, nix, argument, value):
        error = nix.image_error(f"{{ {argument} = {value}; }}")
        sentence = f'error: {argument} must be a time from 1970 to 9999 such as "2024-05-06"'
        assert sentence in error and f"not {value}" in error


class TestWhatIsMeant:
    """One sentence names the argument, what was given and what to write."""

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                "{ contnets = [ ]; }",
                "buildImage: there is no argument contnets (did you mean conte",
            ),
            ("{ xyzzy = 1; }", "buildImage: there is no argument xyzzy\n"),
            ("{ maxlayers = 1; arch = 1; }", "no argument arch: write architecture; there is no a"),
            ('{ name = ""; }', "name must be letters and digits, with . _ - and / between them"),
            ('{ name = "foo bar"; }', 'such as "team/notes", not "foo bar"'),
            ('{ name = "a//b"; }', 'such as "team/notes", not "a//b"'),
            ('{ name = "Foo:1.0"; }', 'without a tag: write name = "foo"; tag = "1.0"'),
            ('{ name = "foo@sha256:00"; }', 'such as "team/notes", not "foo@sha256:00"'),
            ("{ name = 1; }", "name must be a string of up to 255 characters, not 1"),
            ("{ tag = 1; }", "tag must be null or a string of up to 128 letters"),
            ('{ tag = "-x"; }', 'that begins with no . or -, not "-x"'),
            ("{ contents = args: args; }", "contents must be derivations or paths, or a list of"),
            ("{ contents = [ pkgs.hello { } ]; }", "or a list of them, not { }"),
            ('{ contents = "/etc"; }', 'contents has "/etc", which is not in the Nix store: write'),
            (
                "{ contents = pkgs; }",
                "contents must be derivations or paths, or a list of them, not a",
            ),
            (
                "{ contents = /no/such; }",
                "contents has /no/such, and there is no such file, or eva",
            ),
            ("{ config = [ ]; }", "config of image image must be a set, not [ ]"),
            ('{ config.Cmd = "hello"; }', 'Cmd must be a list of strings, not "hello"'),
            ('{ config.Env = [ "A" ]; }', 'must be a list of strings NAME=VALUE, not [ "A" ]'),
            ("{ config.Labels.a = 1; }", "Labels must be a set of strings, not { a = 1; }"),
            (
                '{ config.ExposedPorts."65536/tcp" = { }; }',
                'such as { "80/tcp" = { }; }, not { "65536/tcp" = { }; }',
            ),
            ('{ uid = "root"; }', 'uid must be a number from 0 to 4294967294, not "root"'),
            ("{ gid = -1; }", "gid must be a number from 0 to 4294967294, not -1"),
            ("{ uid = 4294967295; }", "uid must be a number from 0 to 4294967294, not 4294967295"),
            (
                '{ uname = "a:b"; }',
                "uname must be a name of at most 31 characters without colons or",
            ),
            ("{ gname = null; }", "without colons or spaces, not null"),
            ('{ architecture = "x86_64"; }', 'such as "amd64", not "x86_64"'),
            ('{ architecture = "aarch64"; }', 'such as "arm64", not "aarch64"'),
            ('{ architecture = "linux/arm64"; }', 'such as "amd64", not "linux/arm64"'),
            ('{ maxLayers = "5"; }', 'maxLayers must be a number from 1 to 125, not "5"'),
            (
                '{ fromImage = "debian:12"; }',
                "fromImage must be an image archive or OCI layout, as",
            ),
            ("{ fromImage = /no/such.tar; }", "fromImage is /no/such.tar, and there is no such"),
            (
                "{ extraCommands = [ ]; }",
                "extraCommands must be a string of shell commands, not [ ]",
            ),
            ("{ includeNixDB = 1; }", "includeNixDB must be true or false, not 1"),
            ('{ compressor = "xz"; }', 'compressor must be "gz", "zstd" or "none", not "xz"'),
            ("{ layers = [ pkgs.hello ]; }", "layers = [ [ pkgs.hello ] ], not a flat list"),
            ("{ layers = pkgs.hello; }", "a list of lists of derivations, as in layers = [ [ pkgs"),
            (
                '{ popularity = "counts.json"; }',
                "popularity must be an absolute path or a derivati",
            ),
            (
                "{ popularity = [ 1 ]; }",
                "popularity must be an absolute path or a derivation, not [ 1 ]",
            ),
            (
                "{ importFromDerivation = null; }",
                "importFromDerivation must be true or false, not n",
            ),
            ('{ meta = "text"; }', 'meta must be a set, not "text"'),
        ],
    )
    def test_is_said_of_what_cannot_be(self, nix, arguments, sentence):
        error = nix.image_error(arguments)
        (line,) = [line for line in error.splitlines(True) if line.lstrip().startswith("error: ")]
        assert sentence in line

    @pytest.mark.parametrize(
        ("argument", "sentence"),
        [
            ('name = "{}";', "name must be a string of up to 255 characters"),
            ("{} = 1;", "there is no argument a-a-a-"),
            ("config.{} = 1;", "there is no key a-a-a-"),
        ],
    )
    def test_is_said_of_a_name_of_absurd_length(self, nix, argument, sentence):
        assert sentence in nix.image_error(f"{{ {argument.format('a-' * 50_000 + 'a')} }}")

    def test_is_said_of_a_name_that_no_registry_takes(self, nix):
        longest = "a" * 255
        assert nix.evaluate(f'(buildImage {{ name = "{longest}"; }}).imageName') == longest
        error = nix.image_error(f'{{ name = "{longest}a"; }}')
        assert "name must be a string of up to 255 characters" in error

    def test_is_said_of_a_name_that_is_missing(self, nix):
        error = nix.error(*nix.expression("buildImage { contents = [ ]; }"))
        assert 'error: buildImage: name is missing: write name = "hello"' in error

    @pytest.mark.parametrize(
        ("healthcheck", "complaint"),
        [
            ('{ Test = "curl"; }', "Healthcheck.Test must be a list of strings that begins with"),
            ('{ Test = [ "curl" ]; }', "Healthcheck.Test must be a list of strings that begins"),
            ('{ Interval = "30s"; }', "Healthcheck.Interval must be a number of nanoseconds"),
            ("{ Timeout = 30; }", "Healthcheck.Timeout must be a number of nanoseconds, 0 or at"),
            ("{ Retries = 1.5; }", "Healthcheck.Retries must be a number"),
            ("{ retries = 1; }", "no key Healthcheck.retries (did you mean Retries?)"),
            ("[ ]", "Healthcheck must be a set"),
        ],
    )
    def test_is_said_of_a_health_check_that_docker_would_not_load(
        self, nix, healthcheck, complaint
    ):
        assert complaint in nix.image_error(f"{{ config.Healthcheck = {healthcheck}; }}")

    def test_health_check_is_in_the_configuration(self, nix):
        check = {"Test": ["CMD-SHELL", "true"], "Interval": 30 * 10**9, "Retries": 3}
        text = f"builtins.fromJSON ''{json.dumps(check)}''"
        image = nix.image(f"{{ config.Healthcheck = {text}; }}")
        assert image.config["config"]["Healthcheck"] == check


class TestPopularity:
    def test_absolute_path_may_be_a_string(self, nix, tmp_path):
        (tmp_path / "counts").write_text("{}")
        call = 'buildImage { name = "image"; popularity = %s; }'
        assert nix.evaluate(f"({call % f'{tmp_path}/counts'}).drvPath") == nix.evaluate(
            f"({call % json.dumps(f'{tmp_path}/counts')}).drvPath"
        )


class TestOverride:
    def test_changes_arguments(self, nix):
        names = f"""let
          image = buildImage {{ name = "one"; contents = {ONE}; tag = "a"; }};
          both = image.override {{ tag = "b"; }};
          named = both.override (old: {{ name = old.name + "-" + old.tag; }});
          name = image: "${{image.imageName}}:${{image.imageTag}}";
        in [ (name image) (name both) (name named) ]"""
        assert nix.evaluate(names) == ["one:a", "one:b", "one-b:b"]

    def test_of_attributes_says_what_to_write(self, nix):
        call = nix.expression('(buildImage { name = "image"; }).overrideAttrs (old: { })')
        assert "an image has no overrideAttrs: write override { ... }" in nix.error(*call)


class TestStoreNames:
    def test_have_the_name_of_the_image(self, nix):
        forms = "[ image image.archive image.stream image.cache ]"
        call = f'let image = buildImage {{ name = "Team/Notes"; }}; in map (f: f.name) {forms}'
        assert nix.evaluate(call) == [
            "notes-image",
            "notes.tar",
            "stream-notes",
            "notes-cache",
        ]

    def test_of_layers_have_nothing_of_it(self, nix):
        layers = '(buildImage { name = "%s"; contents = pkgs.hello; }).layers'
        call = f"map (l: l.drvPath) ({layers % 'one'}) == map (l: l.drvPath) ({layers % 'two'})"
        assert nix.evaluate(call) is True


class TestTools:
    @pytest.mark.parametrize(
        ("tools", "sentence"),
        [
            (
                'removeAttrs pkgs [ "libdeflate" "zstd" ]',
                "has no libdeflate, zstd: take nixpkgs of",
            ),
            (
                'pkgs // { python3 = pkgs.python3 // { name = "python3-3.8.9"; }; }',
                "has Python 3.8.9 and not 3.9: take nixpkgs of NixOS 21.11 or later",
            ),
        ],
    )
    def test_of_a_set_that_is_too_old_are_named(self, nix, tools, sentence):
        function = f'import "{ROOT}/build-image/image/image.nix" {{ tools = {tools}; }}'
        call = f'{function} {{ name = "image"; }}'
        assert f"error: the package set {sentence}" in nix.error(*nix.expression(call))


class TestMachines:
    @pytest.mark.parametrize(
        ("system", "arguments", "platform"),
        [
            ("armv7l-linux", 'architecture = "amd64";', "linux/amd64"),
            ("mips-linux", 'architecture = "mips";', "linux/mips"),
        ],
    )
    def test_can_be_given_another_name(self, nix, system, arguments, platform):
        image = image_for(system, arguments)
        assert nix.evaluate(f"({image}).platform") == platform

    def test_have_the_names_of_the_specification(self, nix):
        platforms = {
            "x86_64-linux": "linux/amd64",
            "i686-linux": "linux/386",
            "aarch64-linux": "linux/arm64",
            "armv7l-linux": "linux/arm/v7",
            "armv6l-linux": "linux/arm/v6",
            "riscv64-linux": "linux/riscv64",
            "powerpc64le-linux": "linux/ppc64le",
            "s390x-linux": "linux/s390x",
            "loongarch64-linux": "linux/loong64",
        }
        images = (f"{system} = ({image_for(system, '')}).platform;" for system in platforms)
        assert nix.evaluate(f"{{ {' '.join(images)} }}") == platforms

    @pytest.mark.parametrize("attribute", ["archive", "groupedLayers"])
    def test_without_a_name_need_one_before_anything_is_built(self, nix, attribute):
        error = nix.error(*nix.expression(image_for("aarch64-darwin", "")), "-A", attribute)
        assert "error: there is no name for the architecture of aarch64-darwin: pass archi" in error


def image_for(system: str, arguments: str) -> str:
    """Return Nix text: an image for a machine."""
    function = (
        f'import "{ROOT}/build-image/image/image.nix" {{ tools = pkgs; system = "{system}"; }}'
    )
    return f'{function} {{ name = "image"; {arguments} }}'
