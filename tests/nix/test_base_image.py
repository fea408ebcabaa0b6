"""Images on top of a base image that others made."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from base_images import described, read, write_docker_archive
from containers import Container
from layouts import Layout, digest_of, make_tar
from nix import Image, packed_paths, root_layer, run


@pytest.mark.parametrize("program", ["gzip", "zstd", "xz", "bzip2"])
def test_archive_may_be_compressed_with_what_docker_reads(tmp_path: Path, program: str) -> None:
    archive = write_docker_archive(tmp_path, ("etc/",))
    done = subprocess.run([program, "-c", archive], stdout=subprocess.PIPE, check=True)
    archive.write_bytes(done.stdout)
    assert described(archive, "image")["config"] == {"Cmd": ["image 0"]}


def test_layer_may_be_compressed_by_zstd_whatever_its_media_type_says(tmp_path: Path) -> None:
    layout, tar = Layout(tmp_path / "layout"), make_tar("etc/", "etc/file")
    zstd = subprocess.run(["zstd", "-c"], input=tar, stdout=subprocess.PIPE, check=True).stdout
    blob = layout.write_blob(zstd, mediaType="application/vnd.oci.image.layer.v1.tar+gzip")
    layout.write_image(
        manifest={"layers": [blob]}, config={"rootfs": {"diff_ids": [digest_of(tar)]}}
    )
    (layer,) = described(layout.folder, "description")
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
    assert (layer["digest"], layer["diffId"]) == (digest_of(zstd), digest_of(tar))


def test_archive_whose_compressed_bytes_were_cut_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(50))
    done = read(tmp_path / "archive")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: fromImage {tmp_path}/archive ") and "zstd can't read" in line


TEXT = '(pkgs.writeTextDir "share/one" "one")'
OTHER = '(pkgs.writeTextDir "share/two" "two")'


class TestBaseImage:
    """An image made elsewhere, here by umoci, from nothing, in two layers."""

    @pytest.fixture(scope="class")
    @classmethod
    def base(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("base")
        layout, image = folder / "layout", f"{folder}/layout:base"
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", image)
        for number in "12":
            bundle = folder / f"bundle{number}"
            run("umoci", "unpack", "--image", image, bundle)
            (bundle / "rootfs" / f"from-base-{number}").write_text("base")
            run("umoci", "repack", "--image", image, bundle)
        settings = ["A=base", "BASE=yes", "PATH=/base"]
        words = [word for setting in settings for word in ("--config.env", setting)]
        words += ["--config.label", "base.label=1", "--config.user", "7", "--config.cmd", "/base"]
        words += ["--config.exposedports", "1/tcp", "--config.volume", "/base"]
        run("umoci", "config", "--image", image, *words)
        return layout

    @pytest.fixture(scope="class")
    @classmethod
    def archives(cls, base: Path) -> dict[str, Path]:
        """The base in the other forms in which images are handed on."""
        found = {"layout": base}
        for kind in ["docker-archive", "oci-archive"]:
            found[kind] = base.parent / f"{kind}.tar"
            copy = ["skopeo", "--insecure-policy", "copy"]
            run(*copy, f"oci:{base}:base", f"{kind}:{found[kind]}:base:base")
        compressed = base.parent / "docker-archive.tar.gz"
        run("gzip", "--keep", found["docker-archive"])
        return {**found, "compressed": compressed}

    ARGUMENTS = f'contents = {TEXT}; config.Env = [ "A=top" "TOP=yes" ]; config.Labels.top = "2";'

    @pytest.mark.parametrize("form", ["layout", "docker-archive", "oci-archive", "compressed"])
    def test_is_below_the_image_in_whatever_form_it_comes(self, nix, archives, form):
        image = nix.image(f"{{ fromImage = {archives[form]}; {self.ARGUMENTS} }}")
        assert {"from-base-1", "from-base-2", "share/one"} <= set(image.tree)
        assert [bool(paths) for paths in image.store_paths] == [False, False, True, False]
        assert len(image.config["rootfs"]["diff_ids"]) == 4
        history = [entry for entry in image.config["history"] if not entry.get("empty_layer")]
        assert len(history) == 4
        if "docker" in archives[form].name:
            # Its layers are plain, and stay so: compressed anew they would have other digests.
            assert image.digests[:2] == image.config["rootfs"]["diff_ids"][:2]

    @pytest.mark.parametrize("commands", ["", "echo x >bin/made; mkdir lib/made"])
    def test_links_of_a_distribution_stay(self, nix, tmp_path, commands):
        """Where /bin is a link to /usr/bin: as a folder, it would hide the shell."""
        below = Layout(tmp_path / "below")
        names = ["usr/", "usr/bin/", "usr/bin/sh", "usr/lib/", "bin -> usr/bin", "lib -> usr/lib"]
        below.write_image(make_tar(*names))
        image = nix.image(
            f"""{{
              fromImage = {below.folder};
              contents = pkgs.hello;
              extraCommands = "{commands}";
            }}"""
        )
        root = root_layer(image)
        assert root["bin"].linkname == "usr/bin" and root["usr/bin"].isdir()
        assert root["usr/bin/hello"].linkname == f"{nix.package('hello')}/bin/hello"
        if commands:
            assert root["lib"].linkname == "usr/lib"
            assert root["usr/bin/made"].isfile() and root["usr/lib/made"].isdir()

    def test_configuration_of_the_base_gives_way(self, nix, base):
        more = 'config.ExposedPorts."2/tcp" = { }; config.Volumes."/top" = { };'
        config = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} {more} }}").config["config"]
        assert config["Env"] == ["A=top", "BASE=yes", "PATH=/base", "TOP=yes"]
        assert config["Labels"] == {"base.label": "1", "top": "2"}
        assert config["ExposedPorts"] == {"1/tcp": {}, "2/tcp": {}}
        assert config["Volumes"] == {"/base": {}, "/top": {}}
        assert config["User"] == "7"
        assert config["Cmd"] == ["/base"]
        replaced = nix.image(f'{{ fromImage = {base}; config.User = "8"; config.Cmd = [ "/x" ]; }}')
        assert replaced.config["config"]["User"] == "8"
        assert replaced.config["config"]["Cmd"] == ["/x"]

    def test_layers_of_the_base_keep_their_digests(self, nix, base):
        image = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} }}")
        assert image.digests[:2] == Image(base).digests

    def test_tools_accept_the_image_upon_it(self, nix, base, tmp_path):
        image = nix.image(f"{{ fromImage = {base}; {self.ARGUMENTS} }}")
        run("skopeo", "--insecure-policy", "copy", image.location, f"dir:{tmp_path}/copy")
        container = Container.of(image, tmp_path / "bundle")
        names = {path.name for path in container.rootfs.iterdir()}
        assert {"from-base-1", "from-base-2", "share", "nix", "tmp"} <= names

    @pytest.mark.parametrize("form", ["", ".archive"])
    def test_can_be_an_image_of_our_own_whose_store_paths_are_not_packed_again(self, nix, form):
        below = f'(buildImage {{ name = "below"; contents = pkgs.hello; }}){form}'
        image = nix.image(f"{{ fromImage = {below}; contents = [ pkgs.hello {TEXT} ]; }}")
        paths = packed_paths(image)
        assert len(paths) == len(set(paths))
        assert nix.closure(nix.package("hello")) < set(paths)
        assert image.digests[: len(image.digests) - 2] == (
            nix.image("{ contents = pkgs.hello; }").digests
        )

    def test_store_path_of_the_base_with_other_contents_is_packed(self, nix, tmp_path):
        """An image can call a file whatever it likes."""
        hello = nix.package("hello")
        layout = Layout(tmp_path / "layout")
        layout.write_image(make_tar("nix/", "nix/store/", str(hello)[1:]))
        image = nix.image(f"{{ fromImage = {layout.folder}; contents = pkgs.hello; }}")
        assert str(hello) in packed_paths(image)[1:]
        container = Container.of(image, tmp_path / "bundle")
        assert container.bwrap("/bin/hello").returncode == 0

    def test_dependencies_that_the_base_lacks_are_packed(self, nix, tmp_path):
        """Where the base has the path that was asked for, but not what it refers to."""
        hello = nix.package("hello")
        archive = tmp_path / "hello.tar"
        run("tar", "--create", "--sort=name", "--file", archive, "--directory=/", str(hello)[1:])
        layout = Layout(tmp_path / "layout")
        layout.write_image(archive.read_bytes())
        image = nix.image(f"{{ fromImage = {layout.folder}; contents = pkgs.hello; }}")
        assert image.store_paths[0] == [str(hello)]
        packed = [path for layer in image.store_paths[1:] for path in layer]
        assert sorted(packed) == sorted(nix.closure(hello) - {str(hello)})
        container = Container.of(image, tmp_path / "bundle")
        assert container.bwrap("/bin/hello").returncode == 0

    def test_image_keeps_what_the_base_says_about_itself(self, nix, tmp_path):
        layout = Layout(tmp_path / "layout")
        about = {"author": "me", "os.version": "1", "created": "2020-01-01T00:00:00Z"}
        layout.write_image(make_tar("etc/", "etc/file"), config=about)
        image = nix.image(f"{{ fromImage = {layout.folder}; }}")
        found = {key: image.config[key] for key in about}
        assert found == {**about, "created": "1970-01-01T00:00:01Z"}

    def test_groups_pack_no_store_path_that_the_base_has(self, nix):
        below = 'buildImage { name = "below"; contents = pkgs.hello; }'
        group = f"layers = [ [ pkgs.hello {TEXT} ] ];"
        image = nix.image(f"{{ fromImage = {below}; {group} }}")
        paths = packed_paths(image)
        assert len(paths) == len(set(paths))
        assert [[path.partition("-")[2] for path in layer] for layer in image.store_paths[-2:]] == [
            ["one"],
            [],
        ]

    def test_layers_of_the_base_count_for_the_limit(self, nix, base):
        contents = f"contents = [ {TEXT} {OTHER} pkgs.hello ];"
        image = nix.image(f"{{ fromImage = {base}; {contents} maxLayers = 4; }}")
        assert len(image.digests) == 4
        error = nix.image_error(f"{{ fromImage = {base}; {contents} maxLayers = 2; }}")
        assert "error: maxLayers = 2 is too few: the image needs 2 for its base image" in error
        assert ", and at least 1 for its store paths: write at least 4\n" in error

    def test_for_another_machine_is_refused(self, nix, base):
        error = nix.image_error(f'{{ fromImage = {base}; architecture = "arm64"; }}')
        assert "fromImage" in error and "arm64" in error

    def test_that_is_missing_is_a_clear_error(self, nix, tmp_path):
        assert f"{tmp_path}/gone" in nix.image_error(f"{{ fromImage = {tmp_path}/gone; }}")

    @pytest.mark.parametrize(
        "damage",
        ["text", "empty", "folder", "cut", "cut gzip", "configuration", "layer", "lost layer"],
    )
    def test_that_is_broken_is_a_clear_error(self, nix, base, archives, tmp_path, damage):
        broken = tmp_path / "broken"
        if damage in ("text", "empty"):
            broken.write_text("I am no image\n" if damage == "text" else "")
        elif damage == "folder":
            broken.mkdir()
        elif damage in ("cut", "cut gzip"):
            form = "docker-archive" if damage == "cut" else "compressed"
            data = archives[form].read_bytes()
            broken.write_bytes(data[: len(data) // 2])
        else:
            shutil.copytree(base, broken)
            image = Image(broken)
            configuration, layer = image.manifest["config"]["digest"], image.digests[0]
            blob = image.blob(configuration if damage == "configuration" else layer)
            data = blob.read_bytes()
            if damage == "lost layer":
                blob.unlink()
            else:
                middle = len(data) // 2
                blob.write_bytes(data[:middle] + b"!" + data[middle + 1 :])
        error = nix.image_error(f"{{ fromImage = {broken}; }}")
        assert re.search(r"error: fromImage \S+-broken ", error)
        assert "Traceback" not in error
