"""How two images differ: what holds for all of them, and the reasons that are given."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from changes import (
    STORE_PATH,
    Layer,
    above_common,
    compare,
    compare_packages,
    format_report,
    read_image,
)
from store_names import parse_store_path


def path(name: str, build: int = 0) -> str:
    return f"/nix/store/{build:032d}-{name}"


GLIBC, OLD_SSL, NEW_SSL = path("glibc-2.38"), path("openssl-3.0.13"), path("openssl-3.0.14", 1)

paths = st.builds(
    path,
    st.sampled_from(["a-1", "a-2", "a-2-bin", "b", "b-1.2", "c-0-unstable-2024-01-01", "d+e-3"]),
    st.integers(0, 3),
)
layers = st.builds(
    lambda contents, number: Layer(frozenset(contents), f"sha256:{number}", f"{number}", number),
    st.lists(paths, max_size=4),
    st.integers(0, 9),
)
images = st.lists(layers, max_size=8)
graphs = st.dictionaries(paths, st.lists(paths, max_size=4))


def test_a_new_version_is_named_with_what_was_rebuilt_for_it():
    old = [GLIBC, OLD_SSL, path("curl-8.1"), path("git-2.45"), path("app-1")]
    new = [GLIBC, NEW_SSL, path("curl-8.1", 1), path("git-2.45", 1), path("app-1")]
    graph = {
        NEW_SSL: [GLIBC],
        path("curl-8.1", 1): [NEW_SSL, GLIBC],
        path("git-2.45", 1): [path("curl-8.1", 1)],
    }
    changes = compare_packages(new, old, graph)
    rebuilt = [path("curl-8.1", 1), path("git-2.45", 1)]
    assert changes["changed"] == [
        {"name": "openssl", "old": ["3.0.13"], "new": ["3.0.14"], "rebuilt": rebuilt}
    ]
    assert [entry["path"] for entry in changes["rebuilt"]] == rebuilt
    assert all(entry["because"] == ["openssl 3.0.14"] for entry in changes["rebuilt"])
    report = compare({"linux/amd64": [Layer(frozenset(new))]}, {"linux/amd64": []}, graph)
    report["packages"] = changes
    text = format_report(report, "image")
    assert "- openssl 3.0.13 -> 3.0.14, and 2 paths rebuilt for it\n" in text


def test_a_change_without_another_version_is_the_lowest_path_that_changed():
    old = [path("lib-1"), path("app-1")]
    new = [path("lib-1", 1), path("app-1", 1)]
    changes = compare_packages(new, old, {path("app-1", 1): [path("lib-1", 1)]})
    assert {entry["name"]: entry["because"] for entry in changes["rebuilt"]} == {
        "lib": [],
        "app": ["lib 1"],
    }
    assert not (changes["changed"] or changes["new"] or changes["gone"])
    report = {**compare({"linux/amd64": []}, {"linux/amd64": []}, {}), "packages": changes}
    told = "- lib 1: its source or its build has changed, and 1 path rebuilt for it\n"
    assert told in format_report(report, "image")


@given(images, images, graphs)
def test_every_path_that_is_new_or_gone_is_accounted_for_once(new, old, graph):
    now = {path for layer in new for path in layer.contents}
    before = {path for layer in old for path in layer.contents}
    changes = compare_packages(now, before, graph)
    rebuilt = [entry["path"] for entry in changes["rebuilt"]]
    assert len(set(rebuilt)) == len(rebuilt)
    assert set(rebuilt) <= now - before
    fresh = {
        (entry["name"], version)
        for kind in ("changed", "new")
        for entry in changes[kind]
        for version in entry["new"]
    }
    versions = {parse_store_path(path)[:2] for path in before}
    for added in now - before:
        assert (added in rebuilt) == (parse_store_path(added)[:2] in versions)
        assert (parse_store_path(added)[:2] in fresh) == (added not in rebuilt)
    lost = {entry["name"] for entry in changes["gone"] + changes["changed"]}
    names = {parse_store_path(path).name for path in now}
    assert {parse_store_path(path).name for path in before} - names <= lost


@given(images, images, graphs, st.sets(st.integers(0, 9)))
def test_bytes_are_those_of_the_layers_that_are_missing(new, old, graph, absent):
    lacking = {f"sha256:{number}" for number in absent}
    report = compare({"p": new}, {"p": old}, graph, lacking)
    missing = {layer.digest: layer.size for layer in new if layer.digest in lacking}
    assert report["send"] == {"layers": len(missing), "bytes": sum(missing.values())}
    assert [row["there"] for row in report["layers"]] == [
        layer.digest not in lacking for layer in new
    ]
    assert report["pull"]["p"]["bytes"] <= report["pullByPrefix"]["p"]["bytes"]
    json.dumps(report)
    text = format_report(report, "image")
    assert all(len(line) < 600 for line in text.splitlines()) and text.count("\n") < 60


@given(images, images)
def test_a_host_that_keeps_chains_pulls_all_from_the_first_difference(new, old):
    above = above_common(new, old)
    shared = len(new) - len(above)
    assert [layer.diff_id for layer in new[:shared]] == [layer.diff_id for layer in old[:shared]]
    if above and shared < len(old):
        assert above[0].diff_id != old[shared].diff_id


@given(images, graphs)
def test_an_image_does_not_differ_from_itself(image, graph):
    report = compare({"p": image}, {"p": image}, graph)
    nothing = {"layers": 0, "bytes": 0}
    assert (report["send"], report["pullByPrefix"]["p"]) == (nothing, nothing)
    assert not any(report["packages"].values())
    assert "All packages are the same." in format_report(report, "image")


def test_history_of_other_builders_is_read():
    manifest = {"layers": [{"digest": "sha256:0", "size": 1}, {"digest": "sha256:1", "size": 1}]}
    config = {
        "rootfs": {"diff_ids": ["0", "1"]},
        "history": [
            {"created_by": "ENV a=b", "empty_layer": True},
            {"comment": f"store paths: ['{GLIBC}', '{OLD_SSL}']"},
            {"created_by": "COPY"},
        ],
    }
    assert [layer.contents for layer in read_image(manifest, config)] == [{GLIBC, OLD_SSL}, set()]
    del config["history"]
    assert [layer.contents for layer in read_image(manifest, config)] == [set(), set()]


@given(st.lists(paths, max_size=5))
def test_store_paths_are_found_in_a_comment(found):
    assert STORE_PATH.findall(" ".join(found)) == found


def test_a_report_says_for_each_platform_what_hosts_pull_and_names_each_package():
    def layer(number: int, *contents: str, comment: str = "") -> Layer:
        return Layer(frozenset(contents), f"sha256:{number}", str(number), 10**6 * number, comment)

    root = layer(1, comment="symlinks and files of the root")
    old = {"linux/amd64": [layer(2, path("perl-5.36"), path("curl-8.1"))]}
    new = {
        "linux/amd64": [root, layer(3, path("perl-5.36"), path("perl-5.38", 1), path("jq-1.7"))],
        "linux/arm64": [root],
    }
    assert format_report(compare(new, old, {}), "app:2") == (
        "**app:2**: 2 of 2 layers to send, 4.0 MB."
        " On linux/amd64, a host that has the older image pulls 2 layers, 4.0 MB;"
        " with docker's own store, 2 layers, 4.0 MB."
        " On linux/arm64, a host that has the older image pulls 1 layer, 1.0 MB;"
        " with docker's own store, 1 layer, 1.0 MB.\n"
        "\n"
        "| layer | size | new in it |\n"
        "|---:|---:|---|\n"
        "| 1 | 1.0 MB | symlinks and files of the root |\n"
        "| 2 | 3.0 MB | jq 1.7, perl 5.38 |\n"
        "| 1 | 1.0 MB | symlinks and files of the root |\n"
        "\n"
        "- perl 5.36 -> 5.38\n"
        "- jq 1.7 is new\n"
        "- curl 8.1 is gone\n"
    )
