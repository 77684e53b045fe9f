"""What an operator does: serve, invite, revoke."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn

from locum.coordinator import parties
from locum.coordinator.app import Coordinator
from locum.coordinator.config import Folder
from locum.coordinator.store import Store
from locum.coordinator.wakeups import Wakeups
from locum.errors import LocumError
from locum.federation.wire import Invitation, Role

GRACE_S = 10


def invite(folder: Folder | Path | str, name: str, role: Role = "site", valid_days: float = 14.0, *, now: Callable[[], float] = time.time) -> str:
    """The text of a one-time invitation for `name`; it goes to the hospital out of band."""
    folder = folder if isinstance(folder, Folder) else Folder.open(folder)
    with open_store(folder, now) as store:
        token, expires = parties.create_invitation(store, name, role, valid_days * 86400)
    key = str(folder.identity.public)
    return Invitation(
        url=folder.settings.url,
        name=name,
        role=role,
        token=token,
        coordinator_key=key,
        expires=expires,
        ca=folder.ca,
        consortium_key=folder.settings.consortium,
    ).text()


def revoke(folder: Folder | Path | str, name: str, *, now: Callable[[], float] = time.time) -> None:
    """Shut a party out. Raises `NotFound`."""
    with open_store(folder if isinstance(folder, Folder) else Folder.open(folder), now) as store:
        parties.revoke(store, name)


def serve(
    folder: Folder | Path | str,
    *,
    host: str | None = None,
    port: int | None = None,
    now: Callable[[], float] = time.time,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run one replica until SIGINT or SIGTERM. host and port go before those in the settings; port 0 takes a free one.

    When it listens, `on_ready` gets its URL on this machine; without it, one line with the URL is printed.
    """
    folder = folder if isinstance(folder, Folder) else Folder.open(folder)
    s = folder.settings
    configure_log(s.log)
    sys.setswitchinterval(0.0005)  # the event loop must not wait 5 ms whenever a thread is busy
    _more_files()
    coordinator = Coordinator(folder, now=now)
    certificate = folder.certificate()
    config = uvicorn.Config(
        coordinator.app,
        host=host or s.host,
        port=s.port if port is None else port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=str(certificate[0]) if certificate else None,
        ssl_keyfile=str(certificate[1]) if certificate else None,
    )
    config.load()
    if config.ssl:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    server = _Server(config, coordinator, on_ready or (lambda url: print(f"Locum coordinator ready at {url}", flush=True)))
    server.run()
    if not server.started:
        raise LocumError(f"The coordinator could not start on {config.host}:{config.port}.", fix="see the log above; another program may use that port")


class _Server(uvicorn.Server):
    """uvicorn, with a word when it listens, and polls that end when it is told to stop."""

    def __init__(self, config: uvicorn.Config, coordinator: Coordinator, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self.coordinator, self.ready = coordinator, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = "127.0.0.1" if self.config.host in ("0.0.0.0", "") else self.config.host  # noqa: S104
            self.ready(f"{'https' if self.config.ssl else 'http'}://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.coordinator.close_polls()
        self._hang_up()
        await super().shutdown(sockets)
        self._captured_signals.clear()  # we did what they asked for: end with status 0

    def _hang_up(self) -> None:
        """Do not wait for idle clients to answer the end of TLS."""
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None and transport.is_closing():
                transport.abort()
        if not self.force_exit:
            asyncio.get_running_loop().call_later(0.5, self._hang_up)


def configure_log(style: str) -> None:
    """Structured lines on standard error, ours and the libraries'. Requests' headers and bodies are never logged."""
    renderer = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default prints local variables, and those may be updates
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if style == "json" else _as_is,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _as_is(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event


def _more_files() -> None:
    """Allow as many open files as the system lets us: a round may read one per site."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def open_store(folder: Folder, now: Callable[[], float]) -> Iterator[Store]:
    store = Store(folder.database, Wakeups(), now, pool=1)
    try:
        store.migrate()
        yield store
    finally:
        store.close()
