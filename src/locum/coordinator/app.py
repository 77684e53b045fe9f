"""The ASGI application: routes, authentication, errors, headers, and the life of what stands behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from locum.coordinator.api import ENDPOINTS
from locum.coordinator.blobs import BlobStore, FolderBlobs
from locum.coordinator.board import Board
from locum.coordinator.call import Call, Endpoint, Services
from locum.coordinator.config import Folder
from locum.coordinator.driver import Drivers
from locum.coordinator.messages import Recorder
from locum.coordinator.metrics import Metrics
from locum.coordinator.parties import Registry
from locum.coordinator.store import Store, conninfo
from locum.coordinator.wakeups import Wakeups
from locum.errors import LocumError, NotFound
from locum.federation.wire import INLINE_BYTES, STATUS, Problem

THREADS = 24
SECURITY = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
]
log = structlog.get_logger(__name__)


class Coordinator:
    """One replica: `Coordinator(folder).app` is an ASGI application whose lifespan starts and stops the drivers."""

    def __init__(self, folder: Folder, *, now: Callable[[], float] = time.time) -> None:
        self.folder, self.now = folder, now
        self.metrics = Metrics()
        self.app = Edge(Router([self._route(e) for e in ENDPOINTS], default=_nothing, lifespan=self.lifespan), self.metrics, now)
        self.services: Services

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        folder = self.folder
        wakeups = Wakeups(conninfo(folder.database))
        store = Store(folder.database, wakeups, self.now)
        await anyio.to_thread.run_sync(store.migrate)
        blobs = open_blobs(folder)
        wakeups.start(asyncio.get_running_loop())
        recorder = Recorder(store)
        recorder.start()
        drivers = Drivers(store, blobs, folder.identity, self.metrics, max_vector_bytes=folder.settings.max_vector_bytes)
        limiter = anyio.CapacityLimiter(THREADS)
        self.services = Services(folder, store, blobs, wakeups, Registry(store), Board(store), recorder, self.metrics, limiter, asyncio.Event(), self.now)
        drivers.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(drivers.stop)
            await anyio.to_thread.run_sync(recorder.stop)
            await anyio.to_thread.run_sync(wakeups.stop)
            store.close()

    def close_polls(self) -> None:
        """Answer every long-poll now: the replica is about to stop."""
        services = getattr(self, "services", None)
        if services:
            services.closing.set()
            services.wakeups.fire_all()

    def _route(self, endpoint: Endpoint) -> Route:
        async def handle(request: Request) -> Response:
            request.scope["locum.route"] = endpoint.path
            call = Call(request, self.services)
            if endpoint.roles:
                await call.authenticate()
                endpoint.admit(call.party.role)
            return await endpoint.handler(call)

        return Route(endpoint.path, handle, methods=[endpoint.method])


class Edge:
    """The outermost layer: turns errors into problems, adds headers, and counts."""

    def __init__(self, app: ASGIApp, metrics: Metrics, now: Callable[[], float]) -> None:
        self.app, self.metrics, self.now = app, metrics, now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SECURITY, (b"locum-time", f"{self.now():.3f}".encode())]
            await send(message)

        try:
            await self._answer(scope, receive, dressed, lambda: status)
        except ClientDisconnect:
            status = 499
        finally:
            route = scope.get("locum.route", "other")
            self.metrics.requests.labels(route, scope["method"] if route != "other" else "other", str(status)).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, status: Callable[[], int]) -> None:
        try:
            await self.app(scope, receive, send)
            return
        except ClientDisconnect:
            raise
        except LocumError as error:
            if error.local:
                log.warning("request.refused", route=scope.get("locum.route"), error=error.code, local=error.local)
            response = problem(error, STATUS.get(error.code, 400))
        except Exception:
            log.exception("request.failed", route=scope.get("locum.route"))
            response = problem(LocumError("The coordinator failed while it answered.", fix="try again; if it repeats, tell the operator"), 500)
        if status():  # the answer had begun: only cutting it tells the other side
            raise ConnectionAbortedError("the answer broke off")
        if _unread(scope) > INLINE_BYTES:
            response.headers["Connection"] = "close"
        await response(scope, receive, send)


def problem(error: LocumError, status: int) -> Response:
    return Response(msgspec.json.encode(Problem.of(error)), status, media_type="application/json")


def _unread(scope: Scope) -> int:
    """How many bytes of body may still be coming that nobody will read."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return INLINE_BYTES + 1
    return int(headers.get(b"content-length", b"0"))


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await problem(NotFound("There is nothing here."), 404)(scope, receive, send)


def open_blobs(folder: Folder) -> BlobStore:
    """The blob store that the folder's settings name."""
    settings = folder.settings
    if settings.blobs == "file":
        return FolderBlobs(folder.path / "blobs")
    from locum.coordinator.s3 import S3Blobs

    return S3Blobs(settings.blobs, settings.s3_endpoint)
