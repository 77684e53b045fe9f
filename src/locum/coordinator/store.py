"""The database: an engine, its migrations, and transactions that tell others when they have committed."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, CursorResult, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql import Executable

from locum.coordinator.wakeups import CHANNEL, Wakeups
from locum.errors import ManifestError, Unavailable

MIGRATION_LOCK = 0x6C6F63756D  # 'locum'
BUSY_MS = 10_000
R = TypeVar("R")


class Tx:
    """One transaction. `wake` names the topics that others hear of once it has committed."""

    def __init__(self, connection: Connection, now: Callable[[], float]) -> None:
        self.connection, self.now = connection, now
        self.topics: dict[str, None] = {}

    def execute(self, statement: Executable, values: Any = None) -> CursorResult[Any]:
        return self.connection.execute(statement, values)

    def rows(self, statement: Executable) -> Sequence[Any]:
        return self.connection.execute(statement).all()

    def first(self, statement: Executable) -> Any:
        """The first row, or None."""
        return self.connection.execute(statement).first()

    def wake(self, *topics: str) -> None:
        self.topics.update(dict.fromkeys(topics))

    @property
    def shared(self) -> bool:
        """Whether replicas on other machines may write too (PostgreSQL)."""
        return self.connection.dialect.name == "postgresql"

    def clock(self) -> float:
        """Unix seconds on a clock that all replicas share: the database's."""
        if self.shared:
            return float(self.connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        return self.now()


class Store:
    """All durable state but blobs. Every method may raise `Unavailable`, after which trying again later is right."""

    def __init__(self, url: str, wakeups: Wakeups, now: Callable[[], float], *, pool: int = 16) -> None:
        self.wakeups, self.now = wakeups, now
        self._url = _parse(url)
        self.engine = _engine(self._url, pool)
        self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT") if self.is_postgres else self.engine
        self._writer = self.engine if self.is_postgres else self.engine.execution_options(locum_writes=True)
        # SQLite has one writer; waiting here costs microseconds, waiting in its busy handler up to 100 ms
        self._turn: AbstractContextManager[Any] = nullcontext() if self.is_postgres else threading.Lock()

    @property
    def is_postgres(self) -> bool:
        return self._url.get_backend_name() == "postgresql"

    def migrate(self) -> None:
        """Bring the schema up to date; of several replicas that start at once, one does it and the others wait."""
        config = Config()
        config.set_main_option("script_location", "locum.coordinator:migrations")

        def upgrade(tx: Tx) -> None:
            if self.is_postgres:
                tx.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            config.attributes["connection"] = tx.connection
            command.upgrade(config, "head")

        self.write(upgrade)

    def read(self, query: Callable[[Tx], R]) -> R:
        """The result of a query that changes nothing."""
        return self._run(self._reader, query)

    def write(self, change: Callable[[Tx], R]) -> R:
        """Commit `change` durably, then wake. It is called again if it collided with another writer, so it must only use its transaction."""
        for attempt in range(4):
            try:
                with self._turn:
                    return self._run(self._writer, change)
            except IntegrityError:
                if attempt == 3:
                    raise Unavailable("Two writers collided in the coordinator's database.", fix="try again") from None
        raise AssertionError

    def close(self) -> None:
        self.engine.dispose()

    def _run(self, engine: Engine, work: Callable[[Tx], R]) -> R:
        try:
            with engine.begin() as connection:
                tx = Tx(connection, self.now)
                result = work(tx)
                if tx.shared:
                    for topic in tx.topics:
                        tx.execute(text(f"SELECT pg_notify('{CHANNEL}', :payload)"), {"payload": self.wakeups.payload(topic)})
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:  # the driver's text may name hosts and users: it stays in the local log
            raise Unavailable(
                "The coordinator's database is away or out of space.", fix="try again in a moment", local=str(getattr(error, "orig", error))
            ) from None
        if tx.topics:
            self.wakeups.notify(tx.topics)
        return result


def conninfo(url: str) -> str | None:
    """What psycopg needs to listen, or None if `url` is not PostgreSQL's. It holds the password: never log it."""
    parsed = _parse(url)
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False) if parsed.get_backend_name() == "postgresql" else None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        name = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ManifestError("The database URL cannot be read.", fix="write it like sqlite:////path/file.db or postgresql://user@host/name") from None
    if name in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if name != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise ManifestError(f"The database '{name}' is not supported.", fix="use a SQLite file, or PostgreSQL")
    return parsed


def _engine(url: URL, pool: int) -> Engine:
    try:
        if url.get_backend_name() == "postgresql":
            return create_engine(url, pool_size=pool, max_overflow=4, pool_timeout=10, pool_use_lifo=True, connect_args={"connect_timeout": 5})
        engine = create_engine(url, pool_size=pool, max_overflow=4, pool_timeout=10, pool_use_lifo=True, connect_args={"timeout": BUSY_MS / 1000})
    except (SQLAlchemyError, ImportError):
        raise ManifestError("The database's driver is missing.", fix="pip install 'locum[postgres]'") from None
    event.listen(engine, "connect", _pragmas)
    event.listen(engine, "begin", _begin)
    if url.database and not os.path.exists(url.database):
        os.close(os.open(url.database, os.O_CREAT | os.O_WRONLY, 0o600))
    return engine


def _pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin says, not where the driver guesses
    for pragma in (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON", "secure_delete=FAST"):
        connection.execute(f"PRAGMA {pragma}")
    until = time.monotonic() + BUSY_MS / 1000
    while True:  # SQLite does not wait by itself where several switch a new file to WAL at once
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("locum_writes") else "BEGIN")
