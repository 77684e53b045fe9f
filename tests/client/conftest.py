"""Things that stand between a party and its coordinator: proxies that cut, fall silent, inspect TLS, or are no coordinator."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.client import Client, Patience, join
from locum.coordinator.config import Folder, init_folder
from locum.coordinator.pki import write_authority
from locum.coordinator.server import invite
from locum.testing.process import CoordinatorProcess


class Relay:
    """A relay on loopback: plain or TLS in front, or an HTTP proxy that answers CONNECT and then inspects TLS itself.

    cut_down: after so many bytes of answers, reset the connection, once for each number in the list. silent: how many of
    the next connections get no answer. canned: bytes that everybody gets instead of an answer.
    """

    def __init__(self, target: int, *, tls: ssl.SSLContext | None = None, connect: bool = False, canned: bytes = b"") -> None:
        self.target, self.tls, self.connect, self.canned = target, tls, connect, canned
        self.cut_down: list[int] = []
        self.silent = 0
        self.accepted = 0
        self.asked: list[str] = []

    def __enter__(self) -> "Relay":
        self._loop, self._ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=None if self.connect else self.tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self.connect:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked.append(head.split(b"\r\n")[0].decode())
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.drain()
                await writer.start_tls(self.tls)  # type: ignore[arg-type]
            if self.silent > 0:
                self.silent -= 1
                await asyncio.sleep(3600)
            if self.canned:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.canned)
                await writer.drain()
                writer.close()
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._pump(reader, up_writer, None), self._pump(up_reader, writer, up_writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, other: asyncio.StreamWriter | None) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if other and self.cut_down and sent + len(data) >= self.cut_down[0]:
                    sink.write(data[: self.cut_down.pop(0) - sent])
                    await sink.drain()
                    await asyncio.sleep(0.02)
                    sink.transport.abort()
                    other.transport.abort()
                    return
                sent += len(data)
                sink.write(data)
                await sink.drain()
        sink.close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Federation:
    """A real coordinator and an enrolled investigator."""

    def __init__(self, folder: Folder, process: CoordinatorProcess, ida: Path) -> None:
        self.folder, self.process, self.ida = folder, process, ida

    @property
    def port(self) -> int:
        return self.process.port

    def client(self, **options: Any) -> Client:
        return Client.open(self.ida, patience=Patience(attempts=10, cap_s=0.2), **options)


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    tmp, port = tmp_path_factory.mktemp("federation"), free_port()
    folder = init_folder(tmp / "coordinator", url=f"http://127.0.0.1:{port}")
    with CoordinatorProcess(folder.path, port=port) as process:
        join(tmp / "ida", invite(folder, "ida", "investigator"))
        yield Federation(folder, process, tmp / "ida")


@pytest.fixture
def relay() -> type[Relay]:
    return Relay


@pytest.fixture(scope="session")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """The TLS context of a proxy that inspects, and its certificate authority."""
    path = tmp_path_factory.mktemp("inspector")
    write_authority(path, "inspector", ["coordinator.test", "localhost", "127.0.0.1"], time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / "server.crt", path / "server.key")
    return context, path / "ca.crt"
