"""Who waits for what. A wake-up is a hint and may be lost or false; whoever wakes looks at the database, and looks again every `RECHECK_S` anyway.

Topics: 'work' (a round was opened, a study or a decision arrived), 'runs' (a run may start), 'run:<id>' (anything about that run), 'parties'.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import structlog

CHANNEL = "locum"
RECHECK_S = 3.0
log = structlog.get_logger(__name__)


class Wakeups:
    """Wakes threads and coroutines of this process, and with PostgreSQL those of every replica (LISTEN/NOTIFY)."""

    def __init__(self, conninfo: str | None = None) -> None:
        self.origin = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._threads: dict[str, set[threading.Event]] = {}
        self._hooks: dict[str, list[Callable[[], None]]] = {}
        self._events: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._conninfo = conninfo
        self._listener = threading.Thread(target=self._listen, name="locum-listen", daemon=True) if conninfo else None

    def start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Attach to the event loop whose coroutines wait here, and begin to listen to the other replicas."""
        self._loop = loop
        if self._listener:
            self._listener.start()

    def stop(self) -> None:
        self._stop.set()
        self._loop = None
        if self._listener and self._listener.is_alive():
            self._listener.join(timeout=5)

    def notify(self, topics: Iterable[str]) -> None:
        """Wake everything in this process that waits for these topics. From any thread."""
        topics = tuple(topics)
        with self._lock:
            events = [e for t in topics for e in self._threads.get(t, ())]
            hooks = [h for t in topics for h in self._hooks.get(t, ())]
        for hook in hooks:
            hook()
        for event in events:
            event.set()
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has just closed
                self._loop.call_soon_threadsafe(self._fire, topics)

    def payload(self, topic: str) -> str:
        """What travels to the other replicas for `topic`."""
        return f"{self.origin}|{topic}"

    def on(self, topic: str, hook: Callable[[], None]) -> None:
        """Call `hook` (fast, from any thread) before the waiters of `topic` wake."""
        self._hooks.setdefault(topic, []).append(hook)

    @contextmanager
    def thread(self, *topics: str) -> Iterator[threading.Event]:
        """An event that is set by these topics. Clear it, look, then wait: nothing is missed in between."""
        event = threading.Event()
        with self._lock:
            for topic in topics:
                self._threads.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            with self._lock:
                for topic in topics:
                    self._threads[topic].discard(event)
                    if not self._threads[topic]:
                        del self._threads[topic]

    def event(self, topic: str) -> asyncio.Event:
        """The next occurrence of `topic`, for a coroutine of the loop: take it, look, then await it."""
        return self._events.setdefault(topic, asyncio.Event())

    def fire_all(self) -> None:
        """Wake every coroutine. From the loop."""
        self._fire(list(self._events))

    def _fire(self, topics: Iterable[str]) -> None:
        for topic in topics:
            event = self._events.pop(topic, None)
            if event:
                event.set()

    def _everything(self) -> list[str]:
        with self._lock:
            return [*self._threads, *self._hooks, *list(self._events)]

    def _listen(self) -> None:
        import psycopg

        delay = 0.1
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._conninfo or "", autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    delay = 0.1
                    self.notify(self._everything())  # whatever was said while nobody listened
                    while not self._stop.is_set():
                        for note in connection.notifies(timeout=1.0):
                            origin, _, topic = note.payload.partition("|")
                            if origin != self.origin:
                                self.notify([topic])
            except (psycopg.Error, OSError):
                log.warning("listen.lost", retry_s=delay)
                self._stop.wait(delay)
                delay = min(5.0, delay * 2)


async def wait_for(event: asyncio.Event, timeout: float) -> None:
    """Return when `event` is set or after `timeout` seconds."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout)
