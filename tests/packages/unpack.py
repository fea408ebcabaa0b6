"""Turn Debian packages into one store path, in a build.

Reads `.attrs.json` (structured attributes) with

- `debs`: the Debian packages that make this path,
- `deps`: the store paths that it may refer to,
- `outputs.out`, `seed`, and the corrections that default.nix describes: `links`, `replace`, `wrap`,
  `strings`, `needs`, `patch`, `bundle`, `remove`.

Debian's folders become those of nixpkgs: `bin`, `lib`, `share`, `etc`, `libexec`, without `usr` and
without a folder for the architecture. Programs and libraries are given the store paths of their
loader and libraries with patchelf, scripts that of their interpreter. Manuals, translations and
what configures a Debian system are dropped.
"""

from __future__ import annotations

import compileall
import io
import json
import lzma
import os
import posixpath
import py_compile
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

RENAMED = [
    (r"^usr/", ""),
    (r"^(sbin|games)/", "bin/"),
    (r"^lib/[^/]*-linux-gnu(/|$)", r"lib/"),
    (r"^lib/python3/dist-packages/", "lib/python3.11/site-packages/"),
]
KEPT = ("bin/", "etc/", "include/", "lib/", "libexec/", "share/")
DROPPED = re.compile(
    r"etc/(alternatives|cron\.\w+|default|init\.d|logrotate\.d|pam\.d|rc\w*\.d|systemd|ufw)/"
    r"|lib/(systemd|tmpfiles\.d|sysusers\.d|udev)/"
    r"|lib/python3\.11/(ensurepip|idlelib|lib2to3|pydoc_data|test)/"
    r"|share/(bug|doc|doc-base|info|lintian|locale|man|menu|perl/[\d.]+/(pod|unicore/lib/doc))/"
)


def rename(path: str) -> str | None:
    """Return where a path of a Debian package goes below the output; None where it is left out."""
    for pattern, replacement in RENAMED:
        path = re.sub(pattern, replacement, path)
    return path if path.startswith(KEPT) and not DROPPED.match(path) else None


def data_archive(deb: Path) -> tarfile.TarFile:
    """Open the archive of files in a Debian package (an `ar` archive with a member data.tar.xz)."""
    content = deb.read_bytes()
    offset = 8
    while offset < len(content):
        header = content[offset : offset + 60]
        name, size = header[:16].decode().rstrip(" /"), int(header[48:58])
        if name == "data.tar.xz":
            unpacked = lzma.decompress(content[offset + 60 : offset + 60 + size])
            return tarfile.open(fileobj=io.BytesIO(unpacked))
        offset += 60 + size + size % 2
    sys.exit(f"{deb}: no data.tar.xz in it")


def unpack(debs: list[Path], out: Path, deps: list[Path]) -> None:
    """Write the files of debs below out.

    Owners and set-user-id bits are not for the store; hard links become symbolic ones.
    """
    links = []
    for deb in debs:
        with data_archive(deb) as archive:
            for member in archive:
                source = posixpath.normpath(member.name)
                path = rename(source)
                if path is None or member.isdir():
                    continue
                target = out / path
                target.parent.mkdir(parents=True, exist_ok=True)
                if member.issym():
                    to = posixpath.normpath(
                        posixpath.join("/", posixpath.dirname(source), member.linkname)
                    )
                    links.append((target, rename(to.lstrip("/"))))
                elif member.islnk():
                    links.append((target, rename(posixpath.normpath(member.linkname))))
                elif member.isfile():
                    content = archive.extractfile(member)
                    assert content  # as of all files
                    target.write_bytes(content.read())
                    target.chmod(0o755 if member.mode & 0o111 else 0o644)
    # A link may lead to a file of another package, or to a link.
    for target, path in links:
        if path is None or target.exists():
            continue
        there = [root / path for root in deps if os.path.lexists(root / path)]
        if os.path.lexists(out / path) or any(out / path == other for other, _ in links):
            target.symlink_to(os.path.relpath(out / path, target.parent))
        elif there:
            target.symlink_to(there[0])
    for target, _ in links:
        if target.is_symlink() and not target.exists():
            print(f"{target}: leads to nothing, left out")
            target.unlink()


def dynamic_parts(file: Path) -> tuple[bool, bool]:
    """Return whether an ELF file names an interpreter, and whether it is linked dynamically."""
    with file.open("rb") as stream:
        head = stream.read(64)
        if head[:5] != b"\x7fELF\x02":
            return False, False
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        stream.seek(offset)
        table = stream.read(size * count)
    kinds = {struct.unpack_from("<I", table, index * size)[0] for index in range(count)}
    return 3 in kinds, 2 in kinds


class Patcher:
    """Writes store paths into programs, libraries and scripts."""

    def __init__(
        self, seed: Path, out: Path, deps: list[Path], needs: list[str], strings: dict[str, str]
    ) -> None:
        (loader,) = (seed / "lib").glob("ld-linux-*")
        self.command = [loader, "--library-path", seed / "lib", seed / "bin/patchelf"]
        self.out, self.deps, self.needs, self.strings = out, deps, needs, strings
        self.libraries: dict[str, Path] = {}
        for root in (out, *deps):
            for file in sorted(
                (root / "lib").rglob("*.so*"), key=lambda file: (len(file.parts), file)
            ):
                self.libraries.setdefault(file.name, file.parent)

    def patchelf(self, *arguments: str | Path) -> str:
        return subprocess.run(
            [*map(str, self.command), *map(str, arguments)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def patch_elf(self, file: Path, has_interpreter: bool) -> None:
        """Set the loader, and a run path with the folders of the libraries that are needed."""
        changes: list[str | Path] = []
        needed = self.patchelf("--print-needed", file).split()
        if has_interpreter:
            loader = Path(self.patchelf("--print-interpreter", file).strip()).name
            changes += ["--set-interpreter", self.libraries[loader] / loader]
            needed += self.needs
        folders = dict.fromkeys(self.libraries[name] for name in needed if name in self.libraries)
        for name in needed:
            if name not in self.libraries:
                print(f"{file}: {name} not found")
        if folders:
            changes += ["--set-rpath", ":".join(map(str, folders))]
        if changes:
            self.patchelf(*changes, file)
        # In one call with the others, patchelf 0.14 mixes up the strings.
        for name in self.needs if has_interpreter else []:
            self.patchelf("--add-needed", name, file)

    def patch_strings(self, file: Path) -> None:
        """Replace whole strings of a program by ones that are no longer."""
        content = file.read_bytes()
        for old, new in self.strings.items():
            content = content.replace(
                b"\0" + old.encode() + b"\0",
                b"\0" + new.encode().ljust(len(old), b"\0") + b"\0",
            )
        file.write_bytes(content)

    def patch_script(self, file: Path) -> None:
        """Set the interpreter of a script, where a package that it may refer to has it."""
        content = file.read_bytes()
        first, newline, rest = content.partition(b"\n")
        match = re.match(rb"#! *(?:/usr)?(?:/local)?/bin/(?:env +)?([\w.+-]+)(.*)$", first)
        if match:
            name, arguments = match[1].decode(), match[2]
            for root in (self.out, *self.deps):
                if (root / "bin" / name).exists():
                    file.write_bytes(f"#!{root}/bin/{name}".encode() + arguments + newline + rest)
                    return

    def patch(self, file: Path) -> None:
        with file.open("rb") as stream:
            start = stream.read(4)
        if start == b"\x7fELF":
            has_interpreter, is_dynamic = dynamic_parts(file)
            if is_dynamic:
                self.patch_elf(file, has_interpreter)
            self.patch_strings(file)
        elif start[:2] == b"#!":
            self.patch_script(file)


def wrap(program: Path, lines: str) -> None:
    """Put a script in the place of program that runs lines first."""
    hidden = program.with_name(f".{program.name}-wrapped")
    program.rename(hidden)
    (shell,) = (dep for dep in DEPS if (dep / "bin/bash").exists())
    text = f'#!{shell}/bin/bash\n{lines.strip()}\nexec -a "$0" {hidden} "$@"\n'
    program.write_text(text)
    program.chmod(0o755)


attrs = json.loads(Path(".attrs.json").read_text())
OUT = Path(attrs["outputs"]["out"])
DEPS = [Path(dep) for dep in attrs["deps"]]
os.umask(0o022)
OUT.mkdir()
unpack([Path(deb) for deb in attrs["debs"]], OUT, DEPS)
for path, changes in attrs["replace"].items():
    text = (OUT / path).read_text()
    for old, new in changes.items():
        if old not in text:
            sys.exit(f"{path}: {old!r} is not in it")
        text = text.replace(old, new.replace("@out@", str(OUT)))
    (OUT / path).write_text(text)
for path, to in attrs["links"].items():
    (OUT / path).parent.mkdir(parents=True, exist_ok=True)
    (OUT / path).symlink_to(to)
if attrs["bundle"]:
    certificates = sorted((OUT / "share/ca-certificates").rglob("*.crt"))
    folder = OUT / "etc/ssl/certs"
    folder.mkdir(parents=True)
    (folder / "ca-bundle.crt").write_text("".join(file.read_text() for file in certificates))
    (folder / "ca-certificates.crt").symlink_to("ca-bundle.crt")
for path in attrs["remove"]:
    shutil.rmtree(OUT / path)
if attrs["patch"]:
    patcher = Patcher(Path(attrs["seed"]), OUT, DEPS, attrs["needs"], attrs["strings"])
    for file in sorted(OUT.rglob("*")):
        if file.is_file() and not file.is_symlink():
            patcher.patch(file)
for path, lines in attrs["wrap"].items():
    wrap(OUT / path, lines.replace("@out@", str(OUT)))
if (OUT / "lib/python3.11").is_dir():
    # Root would write these into the store when it runs a program. Unchecked, they don't depend
    # on file times.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(OUT / "lib/python3.11", quiet=1, invalidation_mode=unchecked)
