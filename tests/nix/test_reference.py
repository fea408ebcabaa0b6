"""docs/reference.md says what there is: every argument, default and attribute, and no other."""

from __future__ import annotations

import re

import pytest

from nix import ROOT

TEXT = (ROOT / "docs" / "reference.md").read_text()

# Defaults that are an expression, and what the tables say instead
WORDS = {
    "architecture": "the package set's",
    "system": "this machine's",
}


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    section = re.split(r"^#+ ", TEXT.partition(f" {heading}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines, heading
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def documented(heading: str) -> dict[str, str]:
    """Return the arguments of a table with their defaults, without backquotes."""
    return {names(row[0])[0]: row[1].strip("`") for row in rows(heading)}


def formals(file: str, indentation: int, number: int = 0) -> dict[str, str]:
    """Return the formal arguments of one of the functions in `file` that are so far indented."""
    text = (ROOT / "build-image" / file).read_text()
    space = " " * indentation
    block = rf"^{space}\{{\n(.*?)^{space}\}}[^\n]*:$"
    function = re.findall(block, text, re.DOTALL | re.MULTILINE)[number]
    formal = re.compile(rf"^{space}  (\w+)(?: \?\s+(.*?))?,$", re.DOTALL | re.MULTILINE)
    found = {}
    for name, default in formal.findall(function):
        found[name] = WORDS.get(name, default or "required")
    return found


@pytest.mark.parametrize(
    ("heading", "place"),
    [
        ("Arguments of buildImage", ("image/arguments.nix", 4)),
        ("Arguments of buildImages", ("image/fleet.nix", 0, 1)),
        ("Arguments of buildIndex", ("image/index.nix", 0, 1)),
        ("Arguments of build-image.nix", ("build-image.nix", 0)),
    ],
)
def test_arguments_and_defaults_are_those_of_the_code(heading, place):
    assert documented(heading) == formals(*place)


@pytest.mark.parametrize(
    ("heading", "value"),
    [
        ("Attributes of an image", 'buildImage { name = "image"; }'),
        (
            "Attributes of an index",
            """buildIndex {
              name = "image";
              images = [ (buildImage { name = "image"; }) ];
            }""",
        ),
        (
            "Attributes of the answer",
            f"""import "{ROOT}/build-image/build-image.nix" {{
              srcType = "path";
              srcArgs = folder;
              contents = [ pkgs.hello ];
            }}""",
        ),
    ],
)
def test_attributes_are_those_that_there_are(nix, heading, value):
    listed = [name for row in rows(heading) for name in names(row[0])]
    quoted = " ".join(f'"{name}"' for name in listed)
    # Beside those of every derivation, and what only says what to write instead
    found, present = nix.evaluate(
        f"""let folder = {nix.package_set}; value = {value}; in [
          (builtins.attrNames (removeAttrs value (
            builtins.attrNames (derivation value.drvAttrs // value.drvAttrs)
            ++ [ "overrideAttrs" ]
          )))
          (builtins.filter (name: value ? ${{name}}) [ {quoted} ])
        ]"""
    )
    assert present == listed
    assert set(found) <= set(listed)


def test_attributes_of_a_fleet_are_those_that_there_are(nix):
    listed = [name for row in rows("Attributes of a fleet") for name in names(row[0])]
    found = nix.evaluate("builtins.attrNames (buildImages { images.web = { }; })")
    assert sorted([*listed, "web"]) == found


def test_what_default_nix_provides_is_listed(nix):
    listed = [names(row[0])[0] for row in rows("What default.nix and the flake provide")]
    assert sorted(listed) == sorted(nix.evaluate("builtins.attrNames nixery"))


def test_code_reads_the_variables_that_are_listed():
    files = [*ROOT.glob("*.py"), *ROOT.glob("build-image/**/*.py"), *ROOT.glob("examples/*.py")]
    read = re.compile(r"environ(?:\.get\(|\[)\"(\w+)\"")
    found = {name for file in files for name in read.findall(file.read_text())}
    listed = {names(row[0])[0] for row in rows("Environment")}
    assert listed == {name for name in found if not name.startswith("NIX_BUILD_")}
