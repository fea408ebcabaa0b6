"""The Nix database of an image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from containers import Container
from layouts import Layout, make_tar
from make_database import registration
from nix import ROOT, Nix

ONE = '(pkgs.writeTextDir "share/one" "one")'


class TestRegistration:
    def test_has_the_lines_that_load_db_reads_and_omits_what_is_left_out(self):
        entries = [
            {"path": "/s/a", "narHash": "sha256:1", "narSize": 5, "references": ["/s/b", "/s/x"]},
            {"path": "/s/b", "narHash": "sha256:2", "narSize": 6, "references": []},
            {"path": "/s/x", "narHash": "sha256:3", "narSize": 7, "references": []},
        ]
        assert registration(entries, ["/s/x"]) == (
            "/s/a\nsha256:1\n5\n\n1\n/s/b\n"  # path, hash, size, no deriver, one reference
            "/s/b\nsha256:2\n6\n\n0\n"
        )

    def test_failing_nix_store_ends_the_build_in_one_line(self, tmp_path):
        attributes = {
            "outputs": {"out": str(tmp_path / "out")},
            **{"closure": [], "leftOut": [], "baseFolder": None, "storeDir": "/nix/store"},
            **{"nixStore": shutil.which("false"), "tar": shutil.which("tar")},
            **{"mtime": 1, "owner": "root:0", "group": "root:0"},
        }
        (tmp_path / ".attrs.json").write_text(json.dumps(attributes))
        command = [sys.executable, "-BEsS", ROOT / "build-image/builders/make_database.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: nix-store --load-db failed with status 1\n"


class TestDatabase:
    @pytest.fixture(scope="class")
    @classmethod
    def container(cls, nix: Nix, tmp_path_factory: pytest.TempPathFactory) -> Container:
        contents = "[ pkgs.nix pkgs.coreutils binSh fakeNss ]"
        image = nix.image(f"{{ contents = {contents}; includeNixDB = true; }}")
        return Container.of(image, tmp_path_factory.mktemp("database") / "bundle")

    def test_knows_all_store_paths_of_the_image_and_their_contents(self, container):
        environment = {"PATH": "/bin", "HOME": "/tmp", "NIX_REMOTE": ""}
        nix_store = ["/bin/nix-store", "--option", "build-users-group", ""]
        done = container.bwrap(*nix_store, "--verify", "--check-contents", **environment)
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr and "warning" not in done.stderr
        known = container.bwrap(*nix_store, "--query", "--requisites", "/bin/nix", **environment)
        assert "-nix-bin-" in known.stdout or "-nix-" in known.stdout

    def test_has_a_layer_below_that_of_the_root(self, nix):
        commands = 'extraCommands = "mkdir -p nix/var/own etc";'
        image = nix.image(f"{{ contents = {ONE}; {commands} includeNixDB = true; }}")
        *_, database, root = map(image.members, image.manifest["layers"])
        assert "nix/var/nix/db/db.sqlite" in {member.name for member in database}
        assert "nix/var/own" in {member.name for member in root}
        comments = [entry["comment"] for entry in image.config["history"]]
        assert comments[-2:] == ["Nix database", "symlinks and files of the root"]

    def test_garbage_collection_in_a_container_leaves_the_image_as_it_is(self, container):
        environment = {"PATH": "/bin", "HOME": "/tmp", "NIX_REMOTE": ""}
        store = container.rootfs / "nix" / "store"
        before = {path.name for path in store.iterdir()} - {".links"}
        done = container.bwrap("/bin/nix-collect-garbage", **environment)
        assert done.returncode == 0, done.stderr
        assert {path.name for path in store.iterdir()} - {".links"} == before


class TestDatabaseUponABase:
    BASE = 'buildImage {{ name = "below"; contents = [ pkgs.jq ]; includeNixDB = {}; }}'

    def test_garbage_collection_leaves_the_store_paths_of_the_base(self, nix, tmp_path):
        base = self.BASE.format("true")
        contents = "[ pkgs.nix pkgs.coreutils binSh fakeNss ]"
        image = nix.image(f"{{ fromImage = {base}; contents = {contents}; includeNixDB = true; }}")
        container = Container.of(image, tmp_path / "bundle")
        environment = {"PATH": "/bin", "HOME": "/tmp", "NIX_REMOTE": ""}
        done = container.bwrap("/bin/nix-collect-garbage", **environment)
        assert done.returncode == 0, done.stderr
        store = container.rootfs / "nix" / "store"
        wanted = nix.closure(nix.package("jq"), nix.package("nix"))
        assert {os.path.basename(path) for path in wanted} <= {
            path.name for path in store.iterdir()
        }
        done = container.bwrap("/bin/nix-store", "--verify", "--check-contents", **environment)
        assert done.returncode == 0 and "error" not in done.stderr, done.stderr
        query = container.bwrap(
            "/bin/nix-store", "--query", "--requisites", nix.package("jq"), **environment
        )
        assert set(query.stdout.split()) == nix.closure(nix.package("jq"))
        assert container.bwrap("/bin/jq", "--version").returncode == 0

    def test_without_a_database_in_the_base_is_one_line(self, nix):
        base = self.BASE.format("false")
        error = nix.image_error(f"{{ fromImage = {base}; includeNixDB = true; }}")
        assert re.search("error: includeNixDB: fromImage has no Nix database that knows /", error)
        # Where the image has the same store paths itself, nothing is unknown.
        known = f"{{ fromImage = {base}; includeNixDB = true; contents = pkgs.jq; }}"
        assert nix.image(known).digests

    def test_of_no_database_is_one_line(self, nix, tmp_path):
        layout = Layout(tmp_path / "layout")
        folders = ["nix/", "nix/store/", f"nix/store/{'0' * 32}-x", "nix/var/nix/db/db.sqlite"]
        layout.write_image(make_tar(*folders))
        error = nix.image_error(f"{{ fromImage = {layout.folder}; includeNixDB = true; }}")
        assert "error: fromImage has a Nix database that can't be read: " in error
