"""What the wrapper says: Nix's errors in one line, and nothing that a terminal would obey."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixery_build_image import check_json, find_cause, printable


@pytest.mark.parametrize(
    ("lines", "summary"),
    [
        ("error: boom\n … while looking up the package 'a'\n", "package 'a': boom"),
        # Newer Nixes tell first what they were doing.
        ("error:\n … while looking up the package 'a'\n  error: boom", "package 'a': boom"),
        (
            "error:\n … while loading the package set\n"
            " … while reading the argument srcArgs as JSON\n  error: no JSON",
            "argument srcArgs: no JSON",
        ),
        (
            "error: no JSON\n … while reading the argument srcArgs as JSON\n"
            " … while loading the package set\n",
            "argument srcArgs: no JSON",
        ),
        (
            "fatal: couldn't find remote ref x\nfatal: ambiguous argument 'x'\n"
            "error: program 'git' failed with exit code 128",
            "program 'git' failed with exit code 128: couldn't find remote ref x",
        ),
        ("fatal: of a builder\nerror: boom", "boom"),
        (
            "error: Cannot build '/x.drv'.\n  Reason: builder failed with exit code 3.\n"
            "  Last 1 log lines:\n  > last\nerror: Cannot build '/y.drv'.\n"
            "  Reason: 1 dependency failed.",
            "Cannot build '/x.drv': builder failed with exit code 3: last",
        ),
        ("building '/x.drv'...\nerror: timed out after 1 seconds", "building '/x.drv' timed out"),
        (
            "error: boom\nnote: build failure may have been caused by lack of free disk space\n"
            "error: 1 dependencies of derivation '/y.drv' failed to build",
            "boom (the disk may be full)",
        ),
        ("\x1b[31;1merror:\x1b[0m a\x07b", "a b"),
        ("error:\nwarning: nothing", "nix-build gave no reason"),
    ],
)
def test_what_nix_says_in_one_line(lines: str, summary: str) -> None:
    """In words that Nix 2.8, 2.26 and 2.34 use."""
    assert find_cause(lines.splitlines()).summary.startswith(summary)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)


@given(VALUES, st.booleans(), st.none() | st.integers(0, 3))
def test_json_is_taken_however_it_is_written(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    problem = check_json({"packages": text})
    assert (problem is None) == ("\0" not in strings_of(value))


def strings_of(value: object) -> str:
    """Return all strings in a value, one after the other."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(key + strings_of(item) for key, item in value.items())
    return "".join(map(strings_of, value)) if isinstance(value, list) else ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"packages": "git"},
            "packages is not JSON: Expecting value at line 1, column 1: write it",
        ),
        ({"packages": '["git",\n"curl" "jq"]'}, "Expecting ',' delimiter at line 2, column 8"),
        ({"packages": '["git"]]'}, "packages is not JSON: Extra data at line 1, column 8"),
        ({"packages": '["git\\u0000"]'}, "a string has \\u0000, which Nix cannot hold"),
        ({"packages": "[" * 100_000}, "packages is not JSON: brackets are nested too deeply"),
        ({"systems": "x86_64-linux"}, 'write it as in ["x86_64-linux", "aarch64-linux"]'),
        ({"importArgs": "{config: {}}"}, "importArgs is not JSON: Expecting property name"),
        ({"srcType": "git", "srcArgs": "https://x"}, 'write it as in {"url": "https://git'),
    ],
)
def test_what_is_no_json_is_one_sentence_with_place_and_example(
    given: dict[str, str], sentence: str
) -> None:
    problem = check_json(given)
    assert problem is not None and sentence in problem and "\n" not in problem


@pytest.mark.parametrize(
    "given",
    [
        {"srcType": "path", "srcArgs": "/a/set"},
        {"srcArgs": "nixos-25.05"},
        {"packages": '["git\\\\u0000"]'},
        {"name": "[", "tag": "{"},
    ],
)
def test_other_arguments_are_not_read_as_json(given: dict[str, str]) -> None:
    assert check_json(given) is None


@given(st.text())
def test_nothing_that_is_said_ends_a_line_or_moves_a_cursor(text: str) -> None:
    said = printable(text)
    assert said.isprintable() and len(said.splitlines()) <= 1
