"""Packing a layer by real tar and compressors, whose bytes must be the same everywhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nix import ROOT
from pack_layer import _parts

STORE_NAME = "0123456789abcdfghijklmnpqrsvwxyz-git-2.39"
COMPRESSORS = {"none": "", "gz": "libdeflate-gzip", "zstd": "zstd"}


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> Path:
    """A folder of 20 MB: several parts for each compressor."""
    folder = tmp_path_factory.mktemp("store") / STORE_NAME
    folder.mkdir()
    (folder / "file").write_bytes(random.Random(1).randbytes(20 << 20))
    return folder


class TestPack:
    """pack_layer.py as Nix runs it, on folders in place of store paths, with the tools here."""

    def pack(
        self,
        folder: Path,
        content: Path,
        compressor: str,
        program: str | None = None,
        cores: int = 2,
        tar: str | None = None,
    ) -> subprocess.CompletedProcess:
        folder.mkdir()
        attributes = {
            "outputs": {name: str(folder / name) for name in ("out", "description")},
            "contents": [str(content)],
            "archive": None,
            "packing": {
                "tar": tar or shutil.which("tar"),
                "compressor": compressor,
                "compressorProgram": shutil.which(program or COMPRESSORS[compressor]),
                "storeDir": "/nix/store",
                "mtime": 1,
                "owner": "root:0",
                "group": "root:0",
            },
            "unsafeDiscardReferences": {"out": True, "description": False},
        }
        (folder / ".attrs.json").write_text(json.dumps(attributes))
        return self.run(folder, cores)

    def run(self, folder: Path, cores: int = 2) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-BEsS", ROOT / "build-image/builders/pack_layer.py"],
            cwd=folder,
            env={"NIX_BUILD_CORES": str(cores)},
            capture_output=True,
            text=True,
        )

    @pytest.mark.parametrize("compressor", ["none", "gz", "zstd"])
    def test_full_disk_is_one_line(self, tmp_path, content, compressor):
        folder = tmp_path / "full"
        assert self.pack(folder, content, compressor).returncode == 0
        (folder / "out").unlink()
        (folder / "out").symlink_to("/dev/full")
        done = self.run(folder)
        assert done.returncode != 0
        assert "No space left on device" in done.stderr and "Traceback" not in done.stderr

    @pytest.mark.parametrize("compressor", ["gz", "zstd"])
    def test_bytes_are_the_same_with_any_number_of_cores(self, tmp_path, content, compressor):
        assert self.pack(tmp_path / "plain", content, "none").returncode == 0
        for cores in 1, 2, 9:
            done = self.pack(tmp_path / str(cores), content, compressor, cores=cores)
            assert (done.returncode, done.stderr) == (0, "")
        files = {cores: (tmp_path / cores / "out").read_bytes() for cores in "129"}
        assert files["1"] == files["2"] == files["9"]
        unpacked = subprocess.run(
            [COMPRESSORS[compressor], "-dc"],
            input=files["1"],
            stdout=subprocess.PIPE,
            check=True,
        )
        assert unpacked.stdout == (tmp_path / "plain/out").read_bytes()

    @given(chunks=st.lists(st.binary(max_size=20)), size=st.integers(1, 9))
    def test_parts_are_cut_at_the_same_places_however_the_bytes_come(self, chunks, size):
        whole = b"".join(chunks)
        expected = [whole[start : start + size] for start in range(0, len(whole), size)]
        parts = []
        for part in _parts(iter(chunks), size):
            os.lseek(part, 0, os.SEEK_SET)
            with open(part, "rb") as file:
                parts.append(file.read())
        assert parts == expected

    @pytest.mark.parametrize("cores", [1, 9])
    def test_failing_compressor_has_the_last_word(self, tmp_path, content, cores):
        done = self.pack(tmp_path / "build", content, "gz", "false", cores)
        assert done.returncode == 1
        assert done.stderr == f"error: {shutil.which('false')} failed with status 1\n"

    def script(self, folder: Path, text: str) -> str:
        """Write a shell script; return its name."""
        (folder / "script").write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{text}\n")
        (folder / "script").chmod(0o755)
        return str(folder / "script")

    def test_files_whose_links_change_meanwhile_are_packed(self, tmp_path, content):
        """tar then ends with status 1; `auto-optimise-store` does that."""
        tar = self.script(tmp_path, 'tar "$@"; exit 1')
        assert self.pack(tmp_path / "build", content, "none", tar=tar).returncode == 0
        assert self.pack(tmp_path / "plain", content, "none").returncode == 0
        for name in "out", "description":
            assert (tmp_path / "build" / name).read_bytes() == (
                (tmp_path / "plain" / name).read_bytes()
            )

    def test_no_more_compressors_run_at_once_than_there_are_cores(self, tmp_path, content):
        (tmp_path / "running").mkdir()
        program = self.script(
            tmp_path,
            f"cd {tmp_path}; touch running/$$; ls running | wc -l >>counts\n"
            "sleep .1; rm running/$$",
        )
        assert self.pack(tmp_path / "build", content, "gz", program, cores=3).returncode == 0
        counts = list(map(int, (tmp_path / "counts").read_text().split()))
        assert len(counts) > 9 and max(counts) <= 3

    def test_failing_tar_ends_the_build(self, tmp_path):
        done = self.pack(tmp_path / "build", tmp_path / "nothing", "gz")
        assert done.returncode == 1
        *_, last = done.stderr.splitlines()
        assert last == f"error: {shutil.which('tar')} failed with status 2"

    def test_file_that_would_remove_another_one_ends_the_build(self, tmp_path):
        folder = tmp_path / STORE_NAME
        folder.mkdir()
        (folder / "a").write_text("that is no whiteout: /.wh.a")
        assert self.pack(tmp_path / "allowed", folder, "gz").returncode == 0
        (folder / ".wh.a").write_text("")
        done = self.pack(tmp_path / "refused", folder, "gz")
        assert done.returncode == 1
        assert f"error: {folder}/.wh.a would remove a file from the image" in done.stderr
