"""All forms of an image, with the tools that read them, and on other machines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile

import pytest

from containers import PODMAN_RUN, Container, podman
from nix import ROOT, Image, Nix, attempt, run

ONE = '(pkgs.writeTextDir "share/one" "one")'


@pytest.fixture(scope="module")
def runnable(nix: Nix) -> dict[str, object]:
    """An image that says where it runs and as whom, and the other forms of it."""
    arguments = """{
      name = "where/am-i";
      tag = "v1";
      contents = [ binSh pkgs.coreutils fakeNss ];
      maxLayers = 3;
      extraCommands = "mkdir -m 777 work";
      config = {
        Cmd = [ "/bin/sh" "-c" "echo $GREETING; pwd; id -un; id -u" ];
        Env = [ "GREETING=hello there" "PATH=/bin" ];
        WorkingDir = "/work";
        User = "nobody";
      };
    }"""
    forms = nix.build(
        *nix.image_call(arguments), "-A", "archive", "-A", "stream", "-A", "copyTo"
    ).paths
    return {
        "image": nix.image(arguments),
        "archive": forms[0],
        "stream": forms[1],
        "copyTo": forms[2] / "bin" / "copy-to",
    }


SAID = ["hello there", "/work", "nobody", "65534"]


class TestForms:
    def test_stream_writes_the_bytes_of_the_archive(self, runnable):
        streamed = run(runnable["stream"], text=False).stdout
        assert streamed == runnable["archive"].read_bytes()

    def test_stream_takes_files_whose_inodes_change_meanwhile(self, runnable):
        """Nix does that when it finds another file with the same bytes (`auto-optimise-store`)."""
        blobs = list((runnable["image"].layout / "blobs" / "sha256").iterdir())
        streamed = b""
        with subprocess.Popen(
            runnable["stream"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            while part := process.stdout.read(1 << 16):
                streamed += part
                for blob in blobs:
                    blob.chmod(0o444)  # as it is
            said = process.stderr.read()
        assert (process.returncode, said) == (0, b"")
        assert streamed == runnable["archive"].read_bytes()

    def test_stream_fails_if_a_blob_is_gone(self, runnable, tmp_path):
        layout = runnable["image"].layout
        shutil.copytree(layout, tmp_path / "layout", symlinks=True)
        blob = next(
            file for file in (tmp_path / "layout/blobs/sha256").iterdir() if file.is_symlink()
        )
        blob.unlink()
        blob.symlink_to("/nix/store/collected")
        script = runnable["stream"].read_text().replace(str(layout), str(tmp_path / "layout"))
        assert attempt("bash", "-c", script, text=False).returncode == 1

    def test_archive_stands_alone(self, nix, runnable):
        assert nix.closure(runnable["archive"]) == {str(runnable["archive"])}
        with tarfile.open(runnable["archive"]) as archive:
            assert all(member.isfile() or member.isdir() for member in archive)
            names = archive.getnames()
        assert len(names) == len(set(names))
        # In the order of their names, and not in that of the file system.
        blobs = [name for name in names if name.startswith("blobs/sha256/")]
        assert len(blobs) >= 5 and blobs == sorted(blobs)

    @pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
    def test_archive_is_one_of_oci_and_of_docker(self, runnable, tmp_path, kind):
        copy = ["skopeo", "--insecure-policy", "copy"]
        run(*copy, f"{kind}:{runnable['archive']}", f"oci:{tmp_path}/copy:v1")
        assert Image(tmp_path / "copy").config["rootfs"] == runnable["image"].config["rootfs"]
        if kind == "oci-archive":
            assert Image(tmp_path / "copy").digests == runnable["image"].digests

    @pytest.mark.parametrize("form", ["archive", "stream", "image"])
    def test_is_reproducible(self, nix, runnable, form):
        path = runnable["image"].layout if form == "image" else runnable[form]
        (derivation,) = run("nix-store", "--query", "--deriver", path).stdout.split()
        run("nix-store", "--realise", "--check", derivation)

    def test_every_argument_at_once_is_reproducible(self, nix):
        image = nix.build_image(
            f"""{{
              contents = [ pkgs.hello {ONE} ];
              includeNixDB = true;
              extraCommands = "mkdir etc; echo x > etc/x";
              fakeRootCommands = "chown 1:1 etc/x";
              compressor = "zstd";
              fromImage =
                (buildImage {{ name = "below"; contents = binSh; includeNixDB = true; }}).archive;
              layers = [ [ pkgs.busybox ] ];
              mtime = "2024-05-06T07:08:09Z";
            }}"""
        ).path
        (derivation,) = run("nix-store", "--query", "--deriver", image).stdout.split()
        files = run("nix-store", "--query", "--requisites", derivation).stdout.split()
        names = r"(image|below|base)-image|image-.*|nix-database\.tar|layer-.*"
        own = re.compile(rf".{{44}}({names})\.drv")
        derivations = [file for file in files if own.fullmatch(file)]
        assert len(derivations) >= 9
        run("nix-store", "--realise", "--check", "--option", "sandbox", "true", *derivations)


class TestContainers:
    def test_runc_runs_the_command_as_configured(self, runnable, tmp_path):
        container = Container.of(runnable["image"], tmp_path / "bundle")
        done = container.runc()
        assert done.stdout.splitlines() == SAID, done.stderr

    def test_podman_loads_the_archive_and_runs_the_command_as_configured(
        self, runnable, short_folder
    ):
        podman(short_folder, "load", "--quiet", "--input", runnable["archive"])
        (name,) = podman(short_folder, "images", "--format={{.Names}}").stdout.split()
        assert name.strip("[]") == "docker.io/where/am-i:v1"
        done = podman(short_folder, "run", *PODMAN_RUN, "where/am-i:v1")
        assert done.stdout.splitlines() == SAID

    def test_podman_runs_the_layout(self, runnable, short_folder):
        done = podman(short_folder, "run", *PODMAN_RUN, "--quiet", runnable["image"].location)
        assert done.stdout.splitlines() == SAID


class TestOtherMachines:
    def test_image_says_which_machine_it_is_for(self, nix):
        image = nix.image(f'{{ contents = {ONE}; architecture = "arm64"; }}')
        assert image.config["architecture"] == "arm64"
        assert image.descriptor["platform"] == {"architecture": "arm64", "os": "linux"}

    def test_cross_package_set_makes_an_image_for_its_machine_with_tools_of_this_one(self, nix):
        cross = f'import "{ROOT}" {{ pkgs = pkgs.pkgsCross.aarch64-multiplatform; }}'
        call = f'({cross}).buildImage {{ name = "image"; tag = "latest"; contents = {ONE}; }}'
        image = Image(nix.build(*nix.expression(call)).path)
        assert image.config["architecture"] == "arm64"
        # Only the manifest differs: what packed the layers is the same.
        assert image.digests == nix.image(f"{{ contents = {ONE}; }}").digests

    def test_names_can_be_looked_up_for_another_machine(self, nix):
        image = nix.image_of(["iana-etc"], system="aarch64-linux")
        assert image.config["architecture"] == "arm64"


class TestOtherStore:
    def test_image_of_another_store_folder_has_its_paths(self, nix, short_folder, monkeypatch):
        # Two stores that build as the same users kill each other's builders.
        monkeypatch.setenv("NIX_CONFIG", os.environ["NIX_CONFIG"] + "\nbuild-users-group =")
        store = short_folder / "a+b" / "store"
        monkeypatch.setenv("NIX_STORE_DIR", str(store))
        monkeypatch.setenv("NIX_STATE_DIR", str(short_folder / "state"))
        monkeypatch.setenv("NIX_LOG_DIR", str(short_folder / "log"))
        config = 'config.Cmd = [ "${pkgs.busybox}/bin/busybox" ];'
        image = nix.image(f"{{ contents = {ONE}; {config} }}")
        one = image.tree["share/one"].linkname
        assert one.startswith(f"{store}/")
        assert image.file(one.lstrip("/")) == b"one"
        # The folders above the store come first; there is no other store.
        above = str(store).lstrip("/").split("/")
        folders = ["/".join(above[: end + 1]) for end in range(len(above))]
        members = image.members(image.manifest["layers"][0])
        assert [member.name for member in members[: len(folders)]] == folders
        assert not any(name.startswith("nix/") for name in image.tree)
        assert image.config["config"]["Cmd"][0].lstrip("/") in image.tree


class TestSecondMachine:
    def test_has_the_image_from_a_cache_without_building(self, nix, short_folder):
        cache = f"file://{short_folder}/cache?compression=zstd"
        command = ["nix", "--extra-experimental-features", "nix-command"]
        arguments = f'{{ contents = [ pkgs.hello {ONE} ]; config.Cmd = [ "${{pkgs.lua5_4}}." ]; }}'
        run(*command, "copy", "--to", cache, nix.build_image(arguments, "cache").path)
        built = nix.build(
            *nix.image_call(arguments),
            *("--store", short_folder / "machine"),
            *("--option", "substituters", cache, "--option", "require-sigs", "false"),
        )
        assert built.built == []
        there = short_folder / "machine" / str(built.path).lstrip("/")
        assert (there / "index.json").exists()
