"""One request as the endpoints see it, and what they work with; each part of a request is read with a bound."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from locum.coordinator.blobs import BlobStore
from locum.coordinator.board import Board
from locum.coordinator.config import Folder
from locum.coordinator.journal import Journal
from locum.coordinator.messages import Recorder
from locum.coordinator.metrics import Metrics
from locum.coordinator.parties import Party, Registry
from locum.coordinator.store import Store
from locum.coordinator.wakeups import Wakeups
from locum.errors import EnvelopeError, Forbidden, ManifestError, TooLarge
from locum.federation.envelope import Caller

MAX_WAIT_S = 30.0
JSON = "application/json"
R = TypeVar("R")


@dataclass(frozen=True)
class Services:
    """What the endpoints work with."""

    folder: Folder
    store: Store
    blobs: BlobStore
    wakeups: Wakeups
    registry: Registry
    board: Board
    recorder: Recorder
    metrics: Metrics
    limiter: anyio.CapacityLimiter
    closing: asyncio.Event
    now: Callable[[], float]
    small: dict[str, tuple[int, bytes | None]] = field(default_factory=dict)

    @cached_property
    def federation(self) -> str:
        return self.folder.federation

    @cached_property
    def metrics_token(self) -> str:
        return self.folder.metrics_token

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.store, self.folder.identity, self.federation)

    async def thread(self, work: Callable[..., R], *args: Any) -> R:
        """Run blocking work off the event loop."""
        return await anyio.to_thread.run_sync(partial(work, *args), limiter=self.limiter)


class Call:
    """One request: its party once it is known, and its parts, each read with a bound."""

    def __init__(self, request: Request, services: Services) -> None:
        self.request, self.services = request, services
        self.signed = False
        self.party: Party
        self.caller: Caller

    async def authenticate(self) -> None:
        """Raises `NotEnrolled` or `ClockError`."""
        s, scope = self.services, self.request.scope
        self.caller = Caller.parse(self.request.headers.get("authorization"))
        party = s.registry.cached(self.caller.sender)
        self.party = party if party is not None else await s.thread(s.registry.find, self.caller.sender)
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        self.caller.verify(self.party.key, federation=s.federation, method=scope["method"], target=target, now=s.now())
        self.signed = True

    def part(self, name: str) -> str:
        return str(self.request.path_params[name])

    def number(self, name: str, default: float) -> float:
        """A finite number from the query."""
        try:
            value = float(self.request.query_params.get(name, default))
        except ValueError:
            value = float("nan")
        if not abs(value) < 1e15:
            raise ManifestError(f"'{name}' in the query must be a number.")
        return value

    @property
    def wait(self) -> float:
        return min(MAX_WAIT_S, max(0.0, self.number("wait", 0.0)))

    @property
    def length(self) -> int | None:
        """The announced length of the body; None if it comes in chunks of unknown number."""
        headers = self.request.headers
        if "content-length" in headers:
            return int(headers["content-length"])
        return None if "transfer-encoding" in headers else 0

    def bound(self, limit: int) -> None:
        """Refuse a body that announces more than `limit` bytes, before any of it is read."""
        if (self.length or 0) > limit:
            raise TooLarge(f"The body has {self.length} bytes; at most {limit} are taken here.")

    async def body(self, limit: int) -> bytes:
        """The whole body, and proof that its digest is the one that was signed."""
        self.bound(limit)
        parts, size = [], 0
        async for chunk in self.request.stream():
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"The body is longer than the {limit} bytes that are taken here.")
            parts.append(chunk)
        body = b"".join(parts)
        self.services.metrics.bytes_in.inc(size)
        if self.signed and hashlib.sha256(body).hexdigest() != self.caller.digest:
            raise EnvelopeError("The body's digest is not the one that was signed.", why="It was altered on the way.")
        return body

    def envelope(self) -> str:
        text = self.request.headers.get("locum-envelope")
        if not text:
            raise EnvelopeError("The Locum-Envelope header is missing.")
        return text

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, for whoever bounds it."""
        async for chunk in self.request.stream():
            self.services.metrics.bytes_in.inc(len(chunk))
            yield chunk


def reply(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type=JSON)


def decode(raw: bytes, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise ManifestError(f"The body is not what this endpoint takes: {error}.", fix="update both sides to the same release") from None


Handler = Callable[[Call], Awaitable[Response]]
OPEN: tuple[str, ...] = ()
ANY = ("site", "investigator", "approver")
SITE = ("site",)
INVESTIGATOR = ("investigator",)
APPROVER = ("approver",)


@dataclass(frozen=True)
class Endpoint:
    """One line of the API. roles: who may call it; empty means that no signature is needed. request and response: the
    bodies' types; bytes for a file, None for no body."""

    method: str
    path: str
    handler: Handler
    roles: tuple[str, ...]
    summary: str
    response: Any = None
    request: Any = None
    headers: tuple[str, ...] = ()
    query: tuple[str, ...] = ()

    def admit(self, role: str) -> None:
        if role not in self.roles:
            raise Forbidden(f"This is not for a party of the role '{role}'.")
