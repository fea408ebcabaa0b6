"""What is said of what people get wrong: for each, what is given, and the one sentence.

It names the image in a fleet, the argument, what was given and what to write. Sentences of single
arguments of buildImage are in test_arguments.py, of nixery-build-image in test_wrapper.py, of the
example server in test_registry.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nix import ROOT, Nix

IMAGE = '(buildImage { name = "image"; contents = [ pkgs.hello ]; })'

CALLS = [
    # Fleets
    (
        "(buildImages { images.web.maxLayers = 300; }).web",
        "buildImages: images.web: maxLayers must be a number from 1 to 125, not 300",
    ),
    (
        "(buildImages { images.web = { }; images.api.contnets = [ ]; }).web",
        "buildImages: images.api: there is no argument contnets (did you mean contents?)",
    ),
    (
        '(buildImages { images.web = { }; defaults.compressor = "xz"; }).web',
        'buildImages: images.web: compressor must be "gz", "zstd" or "none", not "xz"',
    ),
    (
        "(buildImages { images.web.config.cmd = [ ]; }).web",
        "config of image web: there is no key cmd (did you mean Cmd?)",
    ),
    (
        "buildImages { image.web = { }; }",
        "buildImages: there is no argument image (did you mean images?); the arguments are",
    ),
    (
        "buildImages { }",
        "buildImages: the argument images is missing; the arguments are defaults, images",
    ),
    (
        "(buildImages { images.web = { }; defaults = [ ]; }).web",
        'buildImages: defaults must be arguments of buildImage, as in defaults.tag = "v1", not [ ]',
    ),
    (
        "(buildImages { images.web = 5; }).web",
        "buildImages: images.web must be the arguments of a call of buildImage, as in images.web",
    ),
    (
        "(buildImages { images.web = { }; }).reference [ ]",
        "reference takes a name in a registry without a tag, such as",
    ),
    (
        '(buildImages { images.web.extraCommands = "exit 3"; images.api = { }; }).copyTo',
        "buildImages: images.web: extraCommands failed with status 3",
    ),
    (
        """(buildImages {
          images.api = { };
          images.web.config.Cmd = [ "${pkgs.hello}/bin/helo" ];
        }).copyTo""",
        "buildImages: images.web: config.Cmd starts /nix/store/",
    ),
    (
        "(buildImages { images.web.maxLayers = 1; images.web.contents = pkgs.hello; }).web",
        "buildImages: images.web: maxLayers = 1 is too few: the image needs 1 for its root",
    ),
    ("buildImages [ ]", "buildImages takes a set of arguments: defaults, images, known"),
    (
        '(buildImages { images.web = { }; known = "lock.json"; }).web',
        'buildImages: known must be an absolute path or a derivation, not "lock.json"',
    ),
    (
        "(buildImages { images.web = { }; known = /no/such/lock.json; }).web",
        "buildImages: known is /no/such/lock.json, and there is no such file, or evaluation may n",
    ),
    # Images
    (
        f"({IMAGE}).override 5",
        'override takes arguments of buildImage, as in override { tag = "2"; }, not 5',
    ),
    (f"({IMAGE}).changesFrom 5", "changesFrom takes an image, or a file with a plan"),
    (
        f"({IMAGE}).changesFrom /no/such.json",
        "changesFrom names /no/such.json, and there is no such file, or evaluation may not read it",
    ),
    # Indexes
    (
        'buildIndex { nam = "x"; images = [ ]; }',
        "buildIndex: there is no argument nam (did you mean name?); the arguments are images",
    ),
    (
        'buildIndex { name = "x"; }',
        "buildIndex: the argument images is missing; the arguments are ima",
    ),
    (f'buildIndex {{ name = "a b"; images = [ {IMAGE} ]; }}', "buildIndex: name must be letters"),
    ('buildIndex { name = "x"; images = [ 1 ]; }', "buildIndex: images must be a list of what"),
    # The project itself
    (
        f'(import "{ROOT}" {{ pkg = pkgs; }}).buildImage {{ }}',
        "default.nix: there is no argument pkg (did you mean pkgs?); the arguments are pkgs",
    ),
    # Files
    (
        'buildImage { name = "image"; popularity = /no/such/counts.json; }',
        "popularity is /no/such/counts.json, and there is no such file, or evaluation may not read",
    ),
]


def error_of(text: str) -> str:
    """Return the first of the lines in which Nix tells of an error, without its beginning."""
    return next(line for line in text.splitlines() if line.startswith("error: "))[7:]


@pytest.mark.parametrize(("call", "sentence"), CALLS)
def test_of_a_wrong_call(nix: Nix, call: str, sentence: str) -> None:
    assert error_of(nix.error(*nix.expression(call))).startswith(sentence)


@pytest.mark.parametrize("argument", ["popularity", "known"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "not JSON: "), ('{"git": "often"}', ""), (None, "Is a directory")],
    ids=["no JSON", "other JSON", "a folder"],
)
def test_of_a_wrong_file_names_the_argument_and_the_file(
    nix: Nix, tmp_path: Path, argument: str, text: str | None, problem: str
) -> None:
    file = tmp_path / "my-file.json"
    file.mkdir() if text is None else file.write_text(text)
    call = f"""buildImage {{
      name = "image";
      contents = [ pkgs.hello ];
      {argument} = {file};
    }}"""
    said = error_of(nix.error(*nix.expression(call)))
    assert said.startswith(f"{argument}, my-file.json: {problem}") and "/nix/store" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"system": "x86-64-linux"},
            "system must be one of aarch64-linux, armv6l-linux, armv7l-linux, i686-linux, loongarc",
        ),
        ({"contents": "git"}, "contents must be a list of derivations, which only callers in Nix"),
        ({"importFromDerivation": "no"}, 'importFromDerivation must be true or false, not "no"'),
        ({"popularity": "/no/such.json"}, "popularity is /no/such.json, and there is no such file"),
        ({"maxLayer": "7"}, "build-image.nix: there is no argument maxLayer (did you mean maxLay"),
        ({"systems": '["arm"]'}, "system must be one of aarch64-linux, armv6l-linux, armv7l-linux"),
    ],
)
def test_of_a_wrong_argument_with_names(nix: Nix, arguments: dict[str, str], sentence: str) -> None:
    assert error_of(nix.error(*nix.call(["hello"], **arguments))).startswith(sentence)


def test_a_misspelt_package_is_said_where_nix_reports_success(nix: Nix) -> None:
    """The answer is a file that says so, which people do not open."""
    log = nix.build(*nix.call(["gti", "hello"])).log
    assert "trace: no image: 'gti' was not found (did you mean git?)\n" in log


def test_names_work_where_import_from_derivation_is_forbidden(nix: Nix) -> None:
    forbidden = ("--option", "allow-import-from-derivation", "false")
    error = error_of(nix.error(*nix.call(["hello"]), "-A", "image", *forbidden))
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert error[error.index("because the option") :] in page
    words = nix.call(["hello"], importFromDerivation="false")
    without = nix.build(*words, "-A", "image", *forbidden).path
    with_it = nix.build(*nix.call(["hello"]), "-A", "image").path
    index = Path("index.json")
    assert (without / index).read_bytes() == (with_it / index).read_bytes()
