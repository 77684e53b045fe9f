"""A TCP proxy on loopback that cuts connections where a test, or the demonstration, says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class CuttingProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`, and misbehaves on request.

    `cut_upload(after)` resets the next connection that has sent `after` bytes or more upstream since the call, once.
    `down()` refuses and resets everything until `up()`. Use as a context manager; it runs in a thread of its own.
    """

    target: int
    port: int = 0
    cuts: int = 0
    bytes_up: int = 0
    on_cut: Callable[[], None] | None = None
    _after: int | None = None
    _is_down: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __enter__(self) -> CuttingProxy:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="cutting-proxy")
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def cut_upload(self, after: int) -> None:
        """Reset the connection that carries the next large request, `after` bytes into it."""
        self._after = after

    def down(self) -> None:
        """Drop all connections and refuse new ones: a VPN that is gone."""
        self._is_down = True
        self._loop.call_soon_threadsafe(self._drop)

    def up(self) -> None:
        self._is_down = False

    def _drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._drop()
        await asyncio.sleep(0)
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        with contextlib.suppress(asyncio.CancelledError):  # the proxy stops
            await asyncio.gather(self._pump(reader, up_writer, writer, up=True), self._pump(up_reader, writer, up_writer, up=False))
        self._writers -= {writer, up_writer}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter, *, up: bool) -> None:
        # A request is what goes up between two answers; a cut counts bytes within one request, so a small poll is spared.
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await source.read(1 << 16):
                if up:
                    self.bytes_up += len(data)
                    sent = self._sent[back] = self._sent.get(back, 0) + len(data)
                    if self._after is not None and sent >= self._after:
                        keep = len(data) - (sent - self._after)
                        sink.write(data[: max(keep, 0)])
                        await sink.drain()
                        self._cut(sink, back)
                        return
                else:
                    self._sent[sink] = 0
                sink.write(data)
                await sink.drain()
        with contextlib.suppress(OSError, RuntimeError):
            sink.close()

    def __post_init__(self) -> None:
        self._sent: dict[asyncio.StreamWriter, int] = {}

    def _cut(self, *writers: asyncio.StreamWriter) -> None:
        self._after = None
        self.cuts += 1
        for writer in writers:
            writer.transport.abort()
        if self.on_cut:
            self.on_cut()
