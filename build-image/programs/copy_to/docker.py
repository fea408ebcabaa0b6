"""Have docker pull an image from the loopback registry: it moves only the layers that it lacks.

From skopeo, docker takes an image as one archive with all layers, whatever it has. So docker's API
is asked to pull the image by its digest, to give it its name, and to forget the other one:
ImageCreate, ImageTag and ImageDelete of https://docs.docker.com/reference/api/engine/.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from children import Failure
from destinations import Server
from loopback_registry import Push

DEFAULT = "unix:///var/run/docker.sock"


class Unreachable(Exception):
    """The daemon does not reach this machine's loopback interface."""


class Refusal(Failure):
    """The daemon understands what it is asked, but does not do it."""


class Absent(Failure):
    """The daemon has no such image."""


@dataclass(frozen=True)
class Docker:
    """Where docker listens: a URL, and the folder with ca.pem, cert.pem and key.pem for TLS."""

    url: str
    certificates: str | None = None

    @classmethod
    def find(cls, given: str | None = None) -> Docker:
        """Return what `docker` itself talks to, unless its URL is `given`. Raises `Failure`.

        It is named by DOCKER_HOST, or by the context that DOCKER_CONTEXT or `docker context use`
        chooses.
        """
        environment = os.environ
        settings = environment.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        verified = None
        if environment.get("DOCKER_TLS_VERIFY"):
            verified = environment.get("DOCKER_CERT_PATH") or settings
        host = given or environment.get("DOCKER_HOST")
        if host:
            return cls(host, verified)
        name = environment.get("DOCKER_CONTEXT")
        if not name:
            name = _read_json(os.path.join(settings, "config.json")).get("currentContext")
        if not name or name == "default":
            return cls(DEFAULT, verified)
        folder = hashlib.sha256(name.encode()).hexdigest()
        meta = os.path.join(settings, "contexts", "meta", folder, "meta.json")
        try:
            host = _read_json(meta)["Endpoints"]["docker"]["Host"]
        except (KeyError, TypeError):
            raise Failure(f"docker's context {name!r} does not exist: {meta}") from None
        tls = os.path.join(settings, "contexts", "tls", folder, "docker")
        return cls(host, tls if os.path.isdir(tls) else None)

    @property
    def server(self) -> Server | None:
        """The machine that docker talks to by ssh, if it does. Raises `Failure`."""
        scheme, _, rest = self.url.partition("://")
        if scheme != "ssh":
            return None
        try:
            return Server.parse(rest.partition("/")[0])
        except ValueError:
            raise Failure(f"docker is at {self.url}: write ssh://[USER@]HOST[:PORT]") from None

    @property
    def skopeo_options(self) -> list[str]:
        """Options of `skopeo copy` that name it."""
        if self.certificates:
            return ["--dest-daemon-host", self.url, "--dest-cert-dir", self.certificates]
        return ["--dest-daemon-host", self.url.replace("tcp://", "http://")]

    def pull(self, push: Push, name: str, tag: str) -> None:
        """Pull the image that is served, as NAME:TAG. Raises `Failure` and `Unreachable`."""
        digest = push.image.digest
        pulled = f"/images/{push.reference}@{digest}"
        try:
            with self._asking(
                "POST", "/images/create", fromImage=push.reference, tag=digest
            ) as lines:
                for line in lines:
                    reason = json.loads(line).get("error")
                    if reason:
                        raise Refusal(f"docker: {reason}")
        except Refusal as refusal:
            if not push.reached:
                raise Unreachable from None
            raise (push.failures or [refusal])[0] from None
        with self._asking("POST", f"{pulled}/tag", repo=name, tag=tag):
            pass
        with self._asking("DELETE", pulled, noprune="true"):
            pass

    def describe(self, name: str, tag: str) -> dict[str, Any] | None:
        """Return what docker tells of an image's configuration, in its form, or None.

        Raises `Failure`.
        """
        try:
            image = self._read(f"/images/{name}:{tag}/json")
            history = self._read(f"/images/{name}:{tag}/history")
        except Absent:
            return None
        return {
            "os": image["Os"],
            "architecture": image["Architecture"],
            "variant": image.get("Variant"),
            "rootfs": {"diff_ids": image["RootFS"]["Layers"]},
            "history": [{"comment": entry["Comment"]} for entry in reversed(history)],
        }

    def keeps_chains(self) -> bool:
        """Return whether docker has its own store of layers, and not containerd's."""
        status = self._read("/info").get("DriverStatus") or []
        return ["driver-type", "io.containerd.snapshotter.v1"] not in status

    def _read(self, path: str) -> Any:
        with self._asking("GET", path) as response:
            return json.load(response)

    @contextmanager
    def _asking(self, method: str, path: str, **query: str) -> Iterator[HTTPResponse]:
        """Yield the response to a request, which is no error. Raises `Failure`."""
        try:
            connection = self._connection()
        except ValueError as error:
            raise Failure(f"docker is at {self.url}: {error}") from None
        try:
            connection.request(method, f"{path}?{urlencode(query)}")
            response = connection.getresponse()
            if response.status >= 400:
                message = f"docker: {_message(response.read())}"
                if response.status == 404 and "image" in message:
                    raise Absent(message)
                raise Refusal(message) if response.status >= 500 else Failure(message)
            yield response
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            advice = "start it, or set DOCKER_HOST for another"
            if isinstance(error, PermissionError):
                advice = "join its group, `adduser YOU docker`, or use sudo"
            raise Failure(f"docker does not answer at {self.url}: {reason} ({advice})") from None
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return UnixConnection(parts.path)
        if parts.scheme not in ("tcp", "http", "https") or not parts.hostname:
            raise Failure(f"docker is at {self.url}: copy-to knows unix://, tcp:// and ssh:// only")
        if parts.scheme == "https" or self.certificates:
            context = ssl.create_default_context()
            if self.certificates:
                folder = self.certificates
                try:
                    context.load_verify_locations(os.path.join(folder, "ca.pem"))
                    certificate = os.path.join(folder, "cert.pem")
                    if os.path.exists(certificate):
                        context.load_cert_chain(certificate, os.path.join(folder, "key.pem"))
                except OSError as error:
                    raise Failure(f"docker's certificates in {folder}: {error.strerror}") from None
            port = parts.port or 2376
            return HTTPSConnection(parts.hostname, port, context=context)
        return HTTPConnection(parts.hostname, parts.port or 2375)


class UnixConnection(HTTPConnection):
    """A connection to a socket in the file system."""

    def __init__(self, file: str) -> None:
        super().__init__("docker")
        self.file = file

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.file)


def _message(body: bytes) -> str:
    """Return what an error's body says: JSON, or text if what answers is not docker's API."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()


def _read_json(file: str) -> dict[str, Any]:
    """Return what a settings file of docker has; nothing if there is none. Raises `Failure`."""
    try:
        with open(file, encoding="utf-8") as opened:
            content = json.load(opened)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failure(f"{file}: {error}") from None
    return content if isinstance(content, dict) else {}
