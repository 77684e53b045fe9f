"""The coordinator's folder: its settings, its key, its certificates. Replicas share the folder, or copies of it."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from locum.coordinator.pki import write_authority, write_new
from locum.errors import LocumError, ManifestError
from locum.federation.identity import Identity, PublicKey
from locum.federation.wire import federation_id
from locum.study.document import Document, read_toml
from locum.study.manifest import Name

FILE, KEY, METRICS_TOKEN, CONSORTIUM_KEY = "coordinator.toml", "coordinator.key", "metrics.token", "consortium.key"
DATABASE_ENV = "LOCUM_DATABASE_URL"


class Settings(Document):
    """coordinator.toml. url: what sites connect to. database: an SQLAlchemy URL; LOCUM_DATABASE_URL goes before it.

    blobs: 'file' for a folder beside this file, or 's3://bucket/prefix' (credentials come from the environment, as for
    any AWS client). tls = false only behind a reverse proxy that terminates TLS, or on loopback. consortium: the public key
    whose signature on the roster says which sites there are.
    """

    name: Name = "locum"
    url: str
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8443
    database: str = ""
    blobs: str = "file"
    s3_endpoint: str = ""
    tls: bool = True
    tls_certificate: str = "server.crt"
    tls_key: str = "server.key"
    tls_ca: str = "ca.crt"
    max_vector_bytes: Annotated[int, Field(ge=1)] = 4 << 30
    log: Literal["console", "json"] = "console"
    consortium: str = ""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise ValueError("url must be like https://locum.example.org:8443, without a path")
        if self.blobs != "file" and not self.blobs.startswith("s3://"):
            raise ValueError("blobs must be 'file' or 's3://bucket/prefix'")
        return self


@dataclass(frozen=True)
class Folder:
    """A coordinator's folder, opened."""

    path: Path
    settings: Settings

    @classmethod
    def open(cls, path: str | Path) -> Folder:
        """Raises `ManifestError` where there is no folder of a coordinator."""
        path = Path(path).resolve()
        return cls(path, Settings.parse(read_toml(path / FILE), where=FILE))

    @cached_property
    def identity(self) -> Identity:
        return Identity.load(self.path / KEY)

    @property
    def federation(self) -> str:
        return federation_id(self.identity.public)

    @property
    def consortium(self) -> PublicKey:
        """Raises `LocumError` in a folder that was made without one."""
        if not self.settings.consortium:
            raise LocumError("This coordinator has no consortium key.", fix="make a new folder with 'locum init', or add 'consortium' to coordinator.toml")
        return PublicKey.parse(self.settings.consortium)

    @property
    def database(self) -> str:
        """The database's URL. It may hold a password: never log it."""
        return os.environ.get(DATABASE_ENV) or self.settings.database or f"sqlite:///{self.path / 'coordinator.db'}"

    @property
    def metrics_token(self) -> str:
        return self._text(METRICS_TOKEN).strip()

    @property
    def ca(self) -> str:
        """The PEM text that newcomers are given with their invitation; empty where a public authority signed the certificate."""
        return self._text(self.settings.tls_ca) if self.settings.tls and self.settings.tls_ca else ""

    def certificate(self) -> tuple[Path, Path] | None:
        """Certificate and key for the server, or None without TLS."""
        s = self.settings
        return (self.path / s.tls_certificate, self.path / s.tls_key) if s.tls else None

    def _text(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except OSError:
            raise LocumError(f"The file {self.path / name} cannot be read.", fix="restore it from a backup, or correct coordinator.toml") from None


def init_folder(
    path: str | Path,
    *,
    url: str = "https://localhost:8443",
    name: str = "locum",
    host: str | None = None,
    port: int | None = None,
    database: str = "",
    blobs: str = "file",
    s3_endpoint: str = "",
    tls: bool | None = None,
    consortium: PublicKey | None = None,
) -> Folder:
    """Create a coordinator's folder: settings, an Ed25519 key, and an authority with a server certificate if TLS is on.

    host and port are where to listen; by default they follow from `url`. consortium: the key that signs the roster; without
    it one is made, and its private half put into the folder as consortium.key, to be moved away from the coordinator.
    Raises `LocumError` where one exists already.
    """
    path = Path(path).resolve()
    if (path / FILE).exists():
        raise LocumError(f"{path} already holds a coordinator.", fix="choose another folder, or serve this one")
    parts = urlsplit(url)
    named = parts.hostname or ""
    secure = parts.scheme == "https"
    own = None if consortium else Identity.generate()
    values = {
        "name": name,
        "url": url.rstrip("/"),
        "host": host or ("127.0.0.1" if named in ("localhost", "127.0.0.1", "::1") else "0.0.0.0"),  # noqa: S104 - a public name means a public service
        "port": port if port is not None else (parts.port or (443 if secure else 80)),
        "database": database,
        "blobs": blobs,
        "s3_endpoint": s3_endpoint,
        "tls": secure if tls is None else tls,
        "consortium": str(own.public if own else consortium),
    }
    settings = Settings.parse(values, where="coordinator")
    path.mkdir(parents=True, exist_ok=True)
    try:
        Identity.generate().save(path / KEY)
        if own:
            own.save(path / CONSORTIUM_KEY)
        write_new(path / METRICS_TOKEN, secrets.token_urlsafe(32).encode() + b"\n", secret=True)
        if settings.tls:
            write_authority(path, name, list(dict.fromkeys([named, "localhost", "127.0.0.1"])), time.time())
        write_new(path / FILE, _toml(values).encode(), secret=True)  # last, so that a folder that was cut short can be told apart
    except FileExistsError as error:
        raise ManifestError(
            f"{error.filename} is in the way.", why="An earlier attempt was cut short, or the folder is in use.", fix="use an empty folder"
        ) from None
    return Folder(path, settings)


def _toml(values: dict[str, object]) -> str:
    return "".join(f"{key} = {_literal(value)}\n" for key, value in values.items())


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
