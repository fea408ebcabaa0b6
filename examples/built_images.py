"""The images of the example registry: those that were built, and those that are being built.

Each is built by `nixery-build-image`, whose answer a garbage collector root in the state folder
holds; remove the root and the image can be collected. `blobs/sha256:...` there are links to the
files of the store, by digest, which a web server can serve by itself.

Two limits keep slow builds from holding up what needs none, such as images that were built before.
A job begins under that of evaluations, and moves to that of builds when Nix begins to build. If too
many build already, it ends, and begins again when there is room.
"""

from __future__ import annotations

import ctypes
import fnmatch
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMIT = re.compile("[0-9a-f]{40}")
# User and password in an address, even if they have a slash; and a query, which may be a token
LOGIN, QUERY = re.compile(r"//\S*@"), re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")
LINE_LENGTH = 65536  # characters

# Each takes a few hundred megabytes of memory. An evaluation takes a core as well; twice as many
# leave room for short ones beside long ones. A build waits for Nix, which has limits of its own.
EVALUATIONS = 2 * (os.cpu_count() or 1)
BUILDS = 8
MOST_JOBS = 100  # that run or wait
# What Nix says when it has something to make. An answer that says what was not found takes no time.
BUILDING = re.compile(r"waiting |(building|copying path|downloading) '(?!\S*-answer\.json\.drv')")

POSTPONED = "postponed"

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Refusal(Exception):
    """What the client gets instead: status, code of the specification, message and detail."""


class GoneError(Exception):
    """Nobody waits for the image any more."""


@dataclass(frozen=True)
class Image:
    """An image that was built, held by the garbage collector root `root`."""

    root: Path
    manifest: bytes
    media_type: str
    blobs: dict[str, str]  # paths by digest
    images: dict[str, str]  # of an image index: media types of its manifests by digest

    @classmethod
    def read(cls, root: Path) -> Image:
        """Read an answer of nixery-build-image. Raises what `UNREADABLE` lists."""
        answer = json.loads(root.read_bytes())
        # The form that the manifest's digest is of.
        text = json.dumps(
            answer["manifest"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        media_type = answer["manifest"]["mediaType"]
        blobs = {f"sha256:{key}": it["path"] for key, it in answer["layerLocations"].items()}
        children = answer["manifest"].get("manifests", [])
        images = {child["digest"]: child["mediaType"] for child in children}
        return cls(root, text.encode(), media_type, blobs, images)

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()


UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Source:
    """Where packages come from, and at which of its revisions.

    `text` is "nixpkgs", "path:" and the absolute path of a package set, or "git:" and the address
    of a repository with one; `tags` are patterns of the tags that clients may request. Raises
    ValueError.
    """

    def __init__(self, text: str, tags: list[str]) -> None:
        self.kind, _, self.place = text.partition(":")
        self.tags = tags
        is_path = self.kind == "path" and os.path.isabs(self.place)
        is_address = self.kind == "git" and re.match(r"[^\s:]*:/\S*$", self.place)
        if text != "nixpkgs" and not is_path and not is_address:
            raise ValueError(
                f"not nixpkgs, path:/a/package/set or git:https://...: {conceal(text)}"
            )

    def allows(self, tag: str) -> bool:
        return any(fnmatch.fnmatchcase(tag, pattern) for pattern in self.tags)

    def arguments(self, tag: str) -> dict[str, str]:
        """Return srcType and srcArgs of a tag."""
        if self.kind == "path":
            return {"srcType": "path", "srcArgs": self.place}
        if self.kind == "git":
            # Without a ref, Nix 2.8 wants a branch called master.
            branch = {"ref": "HEAD" if tag == "latest" else tag}
            commit = {"rev": tag, "allRefs": True}
            revision = commit if COMMIT.fullmatch(tag) else branch
            return {"srcType": "git", "srcArgs": json.dumps({"url": self.place} | revision)}
        return {"srcType": "nixpkgs"} | ({} if tag == "latest" else {"srcArgs": tag})

    def is_pinned(self, tag: str) -> bool:
        """Return whether a tag stands for the same packages for ever."""
        if self.kind == "path":
            return os.path.normpath(self.place).startswith("/nix/store/")
        is_latest = self.kind == "nixpkgs" and tag == "latest"
        return is_latest or COMMIT.fullmatch(tag) is not None


@dataclass(eq=False)
class Job:
    """An image that is being made, or waits to be."""

    name: str
    tag: str
    clients: int = 0  # who wait for it
    result: Future[Image] = field(default_factory=Future)


class Images:
    """All images, for the threads of all clients.

    `command` runs nixery-build-image, `state` is the state folder. Raises OSError.
    """

    def __init__(self, command: list[str], source: Source, state: Path) -> None:
        self.command, self.source, self.state = command, source, state
        self.evaluations = threading.Semaphore(EVALUATIONS)
        self.builds = threading.Semaphore(BUILDS)
        self.lock = threading.Lock()
        self.jobs: dict[tuple[str, str], Job] = {}
        self.held: dict[str, Image] = {}
        # Images that no evaluation can change, by name and tag
        self.pinned: dict[tuple[str, str], Image] = {}
        (state / "blobs").mkdir(exist_ok=True)
        for link in (state / "blobs").iterdir():
            if not link.exists():  # its image was collected
                link.unlink()
        for root in state.glob("*-answer"):
            if root.exists():
                try:
                    self.hold(Image.read(root))
                except UNREADABLE as error:
                    logging.warning("%s is not an answer, and is ignored: %r", root, error)
        logging.info("%d images are held in %s", len(self.held), state)

    def hold(self, image: Image) -> Image:
        """Keep an image; one with the same manifest that is held already makes it superfluous."""
        with self.lock:
            if other := self.find(image.digest):
                if other.root != image.root:
                    image.root.unlink()
                return other
            for digest, path in image.blobs.items():
                link = self.find_blob(digest)
                if not link.exists():
                    link.unlink(missing_ok=True)
                    link.symlink_to(path)
            self.held[image.digest] = image
            return image

    def find(self, digest: str) -> Image | None:
        """Return the image with this manifest, unless somebody has removed its root."""
        image = self.held.get(digest)
        return image if image and image.root.exists() else None

    def find_blob(self, digest: str) -> Path:
        """Return the file with a blob. There is none if no image has it, or all were collected."""
        return self.state / "blobs" / digest

    def find_manifest(self, digest: str) -> tuple[str, bytes] | None:
        """Return media type and text of a manifest: of a held image, or of one in a held index."""
        if image := self.find(digest):
            return image.media_type, image.manifest
        for index in list(self.held.values()):
            if digest in index.images and self.find_blob(digest).exists():
                return index.images[digest], self.find_blob(digest).read_bytes()
        return None

    def build(self, name: str, tag: str, is_gone: Callable[[], bool]) -> Image:
        """Return the image of a name and tag; who asks while it is being built waits with others.

        Unless the tag is a pinned revision, Nix finds out whether anything has to be done. A job
        that nobody waits for does not begin; one that has begun goes on, since clients that lost
        patience come again. Raises Refusal, and GoneError when `is_gone` says that the client left.
        """
        if not self.source.allows(tag):
            message = f"allowed tags: {', '.join(self.source.tags)}"
            raise Refusal(404, "MANIFEST_UNKNOWN", message)
        image = self.pinned.get((name, tag))
        if image and image.root.exists():
            return image
        with self.lock:
            job = self.jobs.get((name, tag))
            if job is None:
                if len(self.jobs) >= MOST_JOBS:
                    message = f"{MOST_JOBS} images are being built or wait: try again later"
                    raise Refusal(503, "UNAVAILABLE", message)
                job = self.jobs[name, tag] = Job(name, tag)
                threading.Thread(target=self.work, args=[job], daemon=True).start()
            job.clients += 1
        try:
            while True:
                with suppress(FutureTimeoutError):
                    return job.result.result(timeout=1)
                if is_gone():
                    raise GoneError
        finally:
            with self.lock:
                job.clients -= 1

    def work(self, job: Job) -> None:
        """Do a job; its own thread."""
        try:
            job.result.set_result(self.make(job))
        except (Refusal, GoneError) as error:
            job.result.set_exception(error)
        except UNREADABLE as error:
            job.result.set_exception(Refusal(500, "UNKNOWN", f"the server failed: {error!r}"))
        with self.lock:
            if self.jobs.get((job.name, job.tag)) is job:
                del self.jobs[job.name, job.tag]

    def make(self, job: Job) -> Image:
        """Call nixery-build-image. Raises Refusal."""
        root = self.state / uuid.uuid4().hex
        command = [*self.command, "--out-link", str(root)]
        arguments = {"name": job.name, "tag": job.tag}
        arguments["packages"] = json.dumps(job.name.split("/"))
        for key, value in {**arguments, **self.source.arguments(job.tag)}.items():
            command += ["--argstr", key, value]
        failure = self.call(job, command, self.evaluations)
        if failure is POSTPONED:
            failure = self.call(job, command, self.builds)
        if failure is not None:
            raise Refusal(500, "UNKNOWN", failure)
        if not root.is_symlink():
            image = self.hold(Image.read(root.with_name(root.name + "-answer")))
            if self.source.is_pinned(job.tag):
                self.pinned[job.name, job.tag] = image
            return image
        answer = json.loads(root.read_bytes())
        root.unlink()
        raise Refusal(404, "MANIFEST_UNKNOWN", describe(answer), answer)

    def call(self, job: Job, command: list[str], limit: threading.Semaphore) -> str | None:
        """Run a command under a limit.

        Returns None, what its last line says if it failed, or POSTPONED if it is one build too many
        and was ended.
        """
        self.enter(limit, job)
        line, is_postponed = "no reason given", False
        try:
            process = start(command)
            errors = process.stderr
            assert errors
            for text in iter(lambda: errors.readline(LINE_LENGTH), ""):
                line = conceal(text.rstrip())
                logging.info("%s:%s: %s", job.name, job.tag, line)
                if limit is self.evaluations and not is_postponed and BUILDING.match(line):
                    is_postponed = not self.builds.acquire(blocking=False)
                    if is_postponed:
                        process.terminate()
                    else:
                        limit.release()
                        limit = self.builds
            is_done = process.wait() == 0
            return None if is_done else POSTPONED if is_postponed else line
        finally:
            limit.release()

    def enter(self, limit: threading.Semaphore, job: Job) -> None:
        """Wait for room under a limit. Raises GoneError when nobody waits for the job any more."""
        has_entered = False
        while not has_entered:
            has_entered = limit.acquire(timeout=1)
            with self.lock:
                if not job.clients:
                    del self.jobs[job.name, job.tag]
                    if has_entered:
                        limit.release()
                    raise GoneError


def conceal(text: str) -> str:
    """Return a line without the secrets of addresses.

    >>> conceal("unable to access 'https://me:pass/word@example.org/x?token=abc'")
    "unable to access 'https://example.org/x?...'"
    """
    return QUERY.sub(r"\1?...", LOGIN.sub("//", text))


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a program that ends when this process does, for whatever reason.

    The thread that calls this must outlive the program.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,
    )


def describe(answer: dict[str, Any]) -> str:
    """Say what is wrong with each package of an answer with an error."""
    reasons = {each["name"]: each["reason"] for each in answer.get("unavailable", [])}
    sentences = []
    for name in answer["pkgs"]:
        similar = answer.get("similar", {}).get(name)
        question = f" (did you mean {' or '.join(similar)}?)" if similar else ""
        sentences.append(f"{name} {reasons.get(name, 'was not found')}{question}")
    return "; ".join(sentences)
