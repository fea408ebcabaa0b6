"""The arguments of buildImage: what is taken for each, and the sentence for what is not."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nix import ROOT, Image, run

ONE = '(pkgs.writeTextDir "share/one" "one")'


def packed_paths(image: Image) -> list[str]:
    """Return the store paths that are in the layers of an image."""
    return [path for layer in image.store_paths for path in layer]


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
    body = f"map (import {ROOT}/build-image/parse-time.nix) (builtins.fromJSON (builtins.getEnv"
    command = ["nix-instantiate", "--eval", "--strict", "--json", "-E", f'{body} "TIMES"))']
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


class TestTimes:
    @settings(max_examples=20)
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
