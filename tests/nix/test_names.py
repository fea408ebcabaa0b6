"""Package names: which packages they find, and what is said of those that are not available."""

from __future__ import annotations

import json
import os

import pytest

from nix import BUILD_IMAGE, Nix, run, write_set


class TestNames:
    @pytest.fixture(scope="class")
    @classmethod
    def packages(cls, nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Nix:
        """A package set with packages that can't be had, as nixpkgs marks them."""
        packages = """rec {
          refused = meta: {
            type = "derivation";
            name = "refused";
            drvPath = throw "refused";
            outPath = throw "refused";
            inherit meta;
          };
          marked-broken = refused { broken = true; };
          proprietary = refused { unfree = true; };
          partly-proprietary = refused { license = [ { } { free = false; } ]; };
          old-and-proprietary = refused { license.free = false; };
          vulnerable = refused { knownVulnerabilities = [ "CVE-2014-0160" ]; };
          for-macs = refused { platforms = [ "x86_64-darwin" ]; };
          removed = throw "removed was removed";
          misspelt = pkgs.runCommand "misspelt" { } (pkgs.there-is-no-such-thing);
          inherit (pkgs) hello;
          HELLO = abort "everything stops";
          Upper = pkgs.writeTextDir "share/upper" "upper";
          lower.UPPER.nested = pkgs.writeTextDir "share/nested" "nested";
          both = pkgs.writeTextDir "share/both" "both";
          BOTH = pkgs.writeTextDir "share/BOTH" "BOTH";
          _both = pkgs.writeTextDir "share/_both" "_both";
          Function = argument: argument;
          function = throw "function has been renamed to Function";
          alias = throw "alias was removed";
          Alias = pkgs.writeTextDir "share/alias" "alias";
          OldName = throw "OldName was removed";
          dependent = pkgs.runCommand "dependent" { } "${removed}";
          inside = { inside = { inside = { inherit (pkgs) hello; }; }; };
          loop = { inherit loop; inherit (pkgs) hello; };
          string-with-context = "${pkgs.hello}";
        }"""
        folder = tmp_path_factory.mktemp("set")
        return Nix(write_set(folder, nix.package_set, packages))

    def test_unknown_package_is_an_answer(self, nix):
        assert nix.answer(["zzzz"]) == {"error": "not_found", "pkgs": ["zzzz"]}

    def test_all_unknown_packages_are_named_in_the_order_of_the_request(self, nix):
        answer = nix.answer(["zzz", "git", "gti", "curl", "bsah"])
        assert (answer["error"], answer["pkgs"]) == ("not_found", ["zzz", "gti", "bsah"])

    @pytest.mark.parametrize(
        ("name", "similar"),
        [
            ("gti", ["git"]),
            ("GTI", ["git"]),
            ("helllo", ["hello"]),
            ("helo", ["hello"]),
            ("hallo", ["hello"]),
            ("xaw4d", ["Xaw3d"]),
            ("util", ["util-linux"]),
            ("python3Packages.syx", ["python3Packages.six"]),
            ("pyhton3Packages.six", ["python3Packages.six"]),
            ("git@2.40", ["git"]),
            ("GTI:latest", ["git"]),
            ("python3Packages.six==1.16.0", ["python3Packages.six"]),
            ("@2.40", None),
            ("gt", None),
            ("python3Packages", None),
            ("g" * 31, None),
            ("git.git", None),
            ("git.", None),
        ],
    )
    def test_similar_names_are_suggested(self, nix, name, similar):
        assert nix.answer([name]).get("similar", {}).get(name) == similar

    def test_ten_names_of_a_request_are_guessed(self, nix):
        names = "bash curl git hello htop less nano nginx perl tree wget which".split()
        similar = nix.answer([f"{name}q" for name in names])["similar"]
        assert similar == {f"{name}q": [name] for name in names[:10]}

    def test_suggesting_names_takes_no_longer_in_a_larger_set(self, tmp_path):
        """As Nix counts its work; going through all names once is allowed for."""

        def primitive_calls(names: int, unknown: int) -> int:
            folder = tmp_path / f"{names}-{unknown}"
            folder.mkdir()
            expression = f"""
              import "{BUILD_IMAGE.parent}/names/find-packages.nix" {{
                system = "x86_64-linux";
                pkgs = builtins.listToAttrs (builtins.genList (index: {{
                  name = "package-${{toString index}}";
                  value = 1;
                }}) {names});
                names = builtins.genList (index: "unknown-${{toString index}}") {unknown};
              }}"""
            environment = {
                **os.environ,
                "NIX_SHOW_STATS": "1",
                "NIX_SHOW_STATS_PATH": f"{folder}/statistics.json",
            }
            command = ["nix-instantiate", "--eval", "--strict", "-E", expression, "-A", "similar"]
            run(*command, env=environment)
            return json.loads((folder / "statistics.json").read_bytes())["nrPrimOpCalls"]

        per_name = (primitive_calls(100, 100) - primitive_calls(100, 10)) / 90
        in_large_set = (primitive_calls(20_000, 100) - primitive_calls(20_000, 10)) / 90
        assert in_large_set < 1.1 * per_name

    @pytest.mark.parametrize(
        "name",
        [
            "lib",
            "runCommand",
            "python3Packages",
            "path",
            "lib.id",
            "git.name",
            "git.meta",
            "config",
        ],
    )
    def test_what_is_no_package_is_not_found(self, nix, name):
        answer = nix.answer([name])
        assert (answer["error"], answer["pkgs"]) == ("not_found", [name])
        assert "unavailable" not in answer

    def test_string_that_refers_to_a_package_is_no_package(self, packages):
        assert packages.answer(["string-with-context"])["error"] == "not_found"

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "git.",
            ".git",
            "xorg..libX11",
            "git curl",
            "git\n",
            "${builtins.abort}",
            '"; abort "',
            "(import ./. { })",
            "$(touch FILE)",
            "`touch FILE`",
            "; touch FILE",
            "../../etc/passwd",
            "--option",
            "gït",
            "\\",
        ],
    )
    def test_name_is_data_and_never_run(self, nix, name, tmp_path):
        name = name.replace("FILE", str(tmp_path / "touched"))
        answer = nix.answer([name])
        assert (answer["error"], answer["pkgs"]) == ("not_found", [name])
        assert list(tmp_path.iterdir()) == []

    def test_certificates_are_found_by_programs(self, nix):
        variables = nix.image_of(["cacert"]).config["config"]["Env"]
        assert variables == ["SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt"]

    def test_dots_lead_into_sets(self, nix):
        image = nix.image_of(["python3Packages.six"], maxLayers=2)
        assert any(path.partition("-")[2].startswith("six-") for path in image.store_paths[0])

    def test_name_without_capitals_finds_a_package_that_has_them(self, nix):
        written = nix.build(*nix.call(["Xaw3d"])).path
        assert nix.build(*nix.call(["xaw3d"])).path == written

    def test_capitals_matter_only_in_the_first_part(self, packages):
        assert "manifest" in packages.answer(["LOWER.UPPER.nested"])
        assert packages.answer(["lower.upper.nested"])["error"] == "not_found"

    def test_name_as_written_comes_before_other_spellings(self, packages):
        for name in ["both", "BOTH", "_both"]:
            image = packages.image_of([name], maxLayers=2)
            assert image.tree[f"share/{name}"].linkname == f"{packages.package(name)}/share/{name}"

    def test_other_spellings_of_a_package_are_not_evaluated(self, packages):
        assert "manifest" in packages.answer(["hello"])

    def test_underscore_before_a_digit_need_not_be_written(self, nix):
        written = nix.build(*nix.call(["_7zz"])).path
        assert nix.build(*nix.call(["7zz"])).path == written
        assert nix.build(*nix.call(["7ZZ"])).path == written

    def test_alias_in_another_spelling_does_not_make_a_package_of_a_function(self, packages):
        assert packages.answer(["Function"]) == {"error": "not_found", "pkgs": ["Function"]}

    def test_name_as_written_counts_even_if_it_cannot_be_evaluated(self, packages):
        assert packages.answer(["alias"])["unavailable"][0]["name"] == "alias"

    def test_name_without_capitals_finds_what_cannot_be_evaluated(self, packages):
        assert packages.answer(["oldname"])["unavailable"][0]["name"] == "oldname"

    def test_name_of_more_than_255_characters_is_not_found(self, packages):
        assert "manifest" in packages.answer(["loop." * 50 + "hello"])
        name = "loop." * 51 + "hello"
        assert packages.answer([name]) == {"error": "not_found", "pkgs": [name]}

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("marked-broken", "is marked as broken"),
            ("proprietary", "is unfree"),
            ("partly-proprietary", "is unfree"),
            ("old-and-proprietary", "is unfree"),
            ("vulnerable", "is insecure"),
            ("for-macs", "is not available for x86_64-linux"),
            ("removed", "cannot be evaluated (-A image says why)"),
            ("dependent", "cannot be evaluated (-A image says why)"),
        ],
    )
    def test_package_that_cannot_be_had_is_an_answer_with_the_reason(self, packages, name, reason):
        assert packages.answer([name, "hello"]) == {
            "error": "not_found",
            "pkgs": [name],
            "unavailable": [{"name": name, "reason": reason}],
        }

    def test_unavailable_packages_are_reported_beside_unknown_ones(self, packages):
        assert packages.answer(["removed", "gti", "marked-broken"]) == {
            "error": "not_found",
            "pkgs": ["removed", "gti", "marked-broken"],
            "unavailable": [
                {"name": "removed", "reason": "cannot be evaluated (-A image says why)"},
                {"name": "marked-broken", "reason": "is marked as broken"},
            ],
            "similar": {"gti": ["git"]},
        }

    @pytest.mark.parametrize(
        ("names", "sentence"),
        [
            (["gti", "for-macs"], "(did you mean git?), 'for-macs' is not available for x86_64-li"),
            (["gti", "dependent"], "error: removed was removed"),
            (["function"], "error: function has been renamed to Function"),
            (["Function"], "error: no image: 'Function' is not a package\n"),
            (["loop.loop", "zzzz"], "'loop.loop' is not a package, 'zzzz' was not found; the pa"),
        ],
    )
    def test_who_asks_for_the_image_is_told_why(self, packages, names, sentence):
        assert sentence in packages.error(*packages.call(names), "-A", "image")

    @pytest.mark.parametrize(
        "attribute",
        "archive stream copyTo layers groupedLayers explain picture cache".split(),
    )
    def test_who_asks_for_what_an_image_has_is_told_why(self, nix, attribute):
        assert "error: no image: 'gti' was not" in nix.error(*nix.call(["gti"]), "-A", attribute)

    def test_error_that_nix_cannot_catch_names_the_package(self, packages):
        assert "'misspelt'" in packages.error(*packages.call(["hello", "misspelt"]), "--show-trace")

    def test_image_of_unknown_packages_is_one_sentence_that_names_them(self, nix):
        size = nix.evaluate("builtins.length (builtins.attrNames pkgs)")
        sentence = "no image: 'gti' was not found (did you mean git?), 'zzzz' was not found"
        error = nix.error(*nix.call(["gti", "hello", "zzzz"]), "-A", "image")
        assert f"error: {sentence}; the package set has {size} names\n" in error

    def test_no_packages_at_all_is_one_sentence(self, nix):
        assert "error: packages is empty: name at least one" in nix.error(*nix.call([]))

    def test_shell_stands_for_what_people_want_at_hand(self, nix):
        image = nix.image_of(["shell"])
        assert {"bin/bash", "bin/ls", "bin/nano", "etc/protocols"} <= set(image.tree)
        assert image.config["config"]["Cmd"] == ["bash"]
        (variable,) = [v for v in image.config["config"]["Env"] if v.startswith("SSL_CERT_FILE=")]
        assert variable.partition("=")[2].lstrip("/") in image.tree
