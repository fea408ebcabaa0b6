"""Package sets for measuring layers: the references and the size of each path.

A corpus comes from a file, from Debian's mirrors, or from a Nix store. Debian has lists of
packages of each release as published, of its updates, and of the next release: dependencies, sizes
and the differences between two of them are real. The store paths are made up so that they
behave like Nix's: the hash covers the package and the paths that it refers to, so an update of a
library renames everything that needs it. The hash does not cover build tools, whose
updates rename more paths in a Nix package set.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent / "dev"))
from debian import SUITES, Apt, AptError

__all__ = ["DEBIAN_SETS", "Corpus", "CorpusError", "read_corpus"]


class CorpusError(Exception):
    """A corpus can't be read or made; the message names the file or the command."""


class Corpus(NamedTuple):
    """A package set. Every path that is referred to is in `sizes` and in `references`."""

    name: str
    sizes: dict[str, int]  # path -> bytes, as narSize
    references: dict[str, list[str]]  # path -> paths that it refers to directly
    roots: dict[str, list[str]]  # attribute -> paths that a user asks for by it
    popularity: dict[str, int]  # store name -> how many packages refer to it directly

    def closure(self, paths: Iterable[str]) -> set[str]:
        """Return the paths and all that they need."""
        found = set(paths)
        waiting = list(found)
        while waiting:
            new = set(self.references[waiting.pop()]) - found
            found |= new
            waiting.extend(new)
        return found


def read_corpus(name: str) -> Corpus:
    """Read a package set: a file, `nix-store`, or a suite of Debian. Raises `CorpusError`."""
    if name.endswith(".json.gz"):
        return read_file(name)
    return read_nix_store() if name == "nix-store" else read_debian(name)


def read_file(file: str) -> Corpus:
    """Read a gzipped JSON file. Raises `CorpusError`.

    It holds ``{"nodes": {path: [narSize, [reference, ...]]}, "roots": {attribute: [path, ...]},
    "popularity": {name: count}}``, and optionally a ``"name"``.
    """
    try:
        with gzip.open(file, "rt") as stream:
            content = json.load(stream)
        nodes = content["nodes"]
        corpus = Corpus(
            content.get("name") or os.path.basename(file).split(".json")[0],
            {path: size for path, (size, _) in nodes.items()},
            {path: references for path, (_, references) in nodes.items()},
            content["roots"],
            content.get("popularity", {}),
        )
    except (OSError, EOFError, ValueError) as error:
        raise CorpusError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{file}: not a corpus: {error}") from None
    _check(file, corpus)
    return corpus


def _check(origin: str, corpus: Corpus) -> None:
    named = {"roots": corpus.roots, "references": corpus.references}
    for what, lists in named.items():
        for name, paths in lists.items():
            for path in paths:
                if path not in corpus.sizes:
                    raise CorpusError(f"{origin}: {what}: {name}: {path} is not in the corpus")
    if len(corpus.roots) < 2:
        raise CorpusError(f"{origin}: fewer than two roots: nothing to compare")


# Debian

# What people put into images: servers, interpreters, compilers, tools. Names that a release does
# not have are left out.
PROGRAMS = """
ansible apache2 aria2 awscli bash bat bind9 borgbackup build-essential buildah busybox
ca-certificates cargo certbot chromium clang cmake coreutils cron curl default-jdk-headless
default-jre-headless dnsutils docker.io dovecot-core elixir emacs-nox erlang-base etcd-server
exim4-daemon-light fd-find ffmpeg file findutils firefox-esr fish fzf gawk gcc gdb ghc ghostscript
git gnupg gnuplot-nox golang-go gradle graphviz grep gunicorn gzip haproxy hugo imagemagick inkscape
iproute2 iputils-ping jekyll jq kubernetes-client less libreoffice-writer lsof lua5.4 make
mariadb-client mariadb-server maven memcached mercurial mono-runtime mosquitto mtr-tiny nano neovim
netcat-openbsd nginx nmap nodejs npm octave opam openjdk-17-jre openssh-client openssh-server
openssl openvpn optipng pandoc perl php-cli php-fpm podman poppler-utils postfix postgresql
postgresql-client procps prometheus prosody python3 python3-boto3 python3-cryptography
python3-django python3-flask python3-gi python3-lxml python3-matplotlib python3-numpy python3-pandas
python3-pil python3-pip python3-requests python3-scipy python3-sklearn python3-sqlalchemy
python3-tornado python3-yaml qemu-utils r-base-core rabbitmq-server rails rclone redis-server restic
ripgrep rsync ruby rustc samba sbcl sed shellcheck skopeo socat sox sphinx-common sqlite3 squid
strace subversion supervisor swi-prolog tar tcl tcpdump tesseract-ocr texlive-latex-base tmux tor
transmission-daemon unbound unzip uwsgi valgrind varnish vim vlc wget wireguard-tools xz-utils
yt-dlp zip zsh zstd
""".split()


class _Package(NamedTuple):
    name: str
    version: str
    size: int
    depends: str
    provides: str


# A suite, and what follows it: its updates, or the next release. The newest come first; the charts
# show the first.
DEBIAN_SETS = (
    ("trixie", "trixie-updated"),
    ("forky", "sid"),
    ("trixie", "forky"),
    ("bookworm", "bookworm-updated"),
    ("bullseye", "bullseye-updated"),
)


@cache
def read_debian(name: str) -> Corpus:
    """Make a corpus of a suite of Debian as released, such as `bookworm`, or `bookworm-updated`.

    apt fetches the suite's lists into the user's cache, where they are read again the next time.
    Raises `CorpusError`.
    """
    suite = name.removesuffix("-updated")
    if not SUITES.fullmatch(suite):
        raise CorpusError(f"{name}: no package set: write FILE.json.gz, nix-store or, say, trixie")
    packages = {package.name: package for package in reversed(list(_read_suite(suite)))}
    if name != suite:
        # Among several updates the highest version wins.
        for update in _read_suite(f"{suite}-security"):
            known = packages.get(update.name)
            if known is None or _version_key(update.version) > _version_key(known.version):
                packages[update.name] = update
    return _corpus_of(name, packages)


def _read_suite(suite: str) -> Iterator[_Package]:
    """Read the list of a suite's packages, in the order that it has."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        lists = Apt(Path(cache, "nixery-corpora", suite), [suite]).lists()
    except AptError as error:
        raise CorpusError(str(error)) from None
    for _, text in lists:
        yield from _packages(text)


def _version_key(version: str) -> list:
    """Return a key that sorts versions as Debian's policy manual has it (deb-version(7))."""
    epoch, _, rest = version.rpartition(":")
    upstream, dash, revision = rest.rpartition("-")

    def place(character: str) -> int:
        return -1 if character == "~" else ord(character) + 256 * (not character.isalpha())

    def parts(text: str) -> list:
        pairs = re.findall(r"(\D*)(\d*)", text)
        return [([*map(place, other), 0], int(digits or 0)) for other, digits in pairs]

    return [int(epoch or 0), parts(upstream if dash else rest), parts(revision if dash else "0")]


def _packages(text: str) -> Iterator[_Package]:
    """Read a list of packages, in the format of Debian's package archives."""
    wanted = re.compile(
        "^(Package|Version|Installed-Size|Pre-Depends|Depends|Provides): (.*)$", re.MULTILINE
    )
    for stanza in text.split("\n\n"):
        fields = dict(wanted.findall(stanza))
        if fields:
            depends = [fields[key] for key in ("Pre-Depends", "Depends") if key in fields]
            yield _Package(
                fields["Package"],
                fields["Version"],
                int(fields.get("Installed-Size", 0)) * 1024,
                ", ".join(depends),
                fields.get("Provides", ""),
            )


def _names(field: str) -> list[list[str]]:
    """Return the alternatives of each entry of a dependency field, without versions."""
    entries = (entry.split("|") for entry in field.split(",") if entry.strip())
    return [[re.split(r"[\s:(]", word.strip(), maxsplit=1)[0] for word in e] for e in entries]


def _corpus_of(name: str, packages: dict[str, _Package]) -> Corpus:
    """Make a corpus of the programs among these packages and of all that they depend on."""
    providers: dict[str, str] = {}
    for package in sorted(packages):
        for (provided,) in _names(packages[package].provides):
            providers.setdefault(provided, package)

    def resolve(package: str) -> list[str]:
        """The first alternative that there is, for each dependency, as apt prefers them."""
        found = []
        for alternatives in _names(packages[package].depends):
            choices = [c if c in packages else providers.get(c) for c in alternatives]
            chosen = next((c for c in choices if c), None)
            if chosen and chosen != package:
                found.append(chosen)
        return sorted(set(found))

    depends = {package: resolve(package) for package in sorted(packages)}
    counts: dict[str, int] = {}
    for needed in depends.values():
        for package in needed:
            counts[package] = counts.get(package, 0) + 1

    programs = [program for program in PROGRAMS if program in packages]
    order, depends = _without_cycles(depends, programs)
    paths: dict[str, str] = {}
    sizes, references = {}, {}
    for package in order:
        store_name = f"{package}-{packages[package].version}"
        needs = sorted(paths[needed] for needed in depends[package])
        path = _store_path(store_name, needs)
        paths[package] = path
        sizes[path], references[path] = packages[package].size, needs
    popularity = {
        _allowed_name(f"{package}-{packages[package].version}"): count
        for package, count in sorted(counts.items())
    }
    roots = {program: [paths[program]] for program in programs}
    return Corpus(name, sizes, references, roots, popularity)


def _without_cycles(
    depends: dict[str, list[str]], roots: list[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Return what the roots need, dependencies first, and the dependencies of each.

    Those that close a cycle are left out: a package can't name the hash of one that names its own.
    """
    acyclic: dict[str, list[str]] = {}
    done: dict[str, None] = {}
    for root in sorted(roots):
        stack = [(root, iter(depends[root]))] if root not in acyclic else []
        acyclic.setdefault(root, [])
        while stack:
            package, rest = stack[-1]
            for needed in rest:
                if needed not in acyclic:
                    acyclic[package].append(needed)
                    acyclic[needed] = []
                    stack.append((needed, iter(depends[needed])))
                    break
                if needed in done:
                    acyclic[package].append(needed)
            else:
                done[package] = None
                stack.pop()
    return list(done), acyclic


def _allowed_name(name: str) -> str:
    """A store path's name has only these characters."""
    return re.sub(r"[^A-Za-z0-9+._?=-]", "_", name)


def _store_path(name: str, references: list[str]) -> str:
    name = _allowed_name(name)
    digest = hashlib.sha256("\n".join([name, *references]).encode()).digest()
    number = int.from_bytes(digest[:20], "big")
    alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
    return "/nix/store/" + "".join(alphabet[number >> 5 * i & 31] for i in range(32)) + f"-{name}"


# Nix


def read_nix_store() -> Corpus:
    """Make a corpus of the user's Nix store. Raises `CorpusError`.

    Its roots are the paths that no other path refers to. Those that refer to nothing themselves are
    mostly sources, and derivations are in no image: both are left out.
    """
    text = _run(
        "nix", "--extra-experimental-features", "nix-command", "path-info", "--json", "--all"
    )
    return corpus_of_path_info(json.loads(text))


def corpus_of_path_info(info: list | dict) -> Corpus:
    """Make a corpus of what ``nix path-info --json`` prints. Raises `CorpusError`.

    That is a list of objects with a path each, or, since Nix 2.19, an object by path.
    """
    entries = (
        {entry["path"]: entry for entry in info} if isinstance(info, list) else dict(info.items())
    )
    kept = {path for path, entry in entries.items() if entry and not path.endswith(".drv")}
    sizes = {path: entries[path]["narSize"] for path in sorted(kept)}
    references = {
        path: sorted(set(entries[path]["references"]) & kept - {path}) for path in sorted(kept)
    }
    needed = {reference for paths in references.values() for reference in paths}
    roots: dict[str, list[str]] = {}
    for path in sorted(path for path in kept - needed if references[path]):
        roots[path.split("/")[-1]] = [path]
    popularity: dict[str, int] = {}
    for paths in references.values():
        for path in paths:
            store_name = path.split("/")[-1].split("-", 1)[1]
            popularity[store_name] = popularity.get(store_name, 0) + 1
    corpus = Corpus("nix-store", sizes, references, roots, popularity)
    _check("nix path-info", corpus)
    return corpus


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CorpusError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CorpusError(f"{os.path.basename(command[0])}: {reason}")
    return done.stdout
