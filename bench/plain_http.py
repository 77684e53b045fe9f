"""The physical reference of a round: the same bytes copied over loopback by plain HTTP, file to file, with no hashing, signing, database or fsync."""

import http.client
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

CHUNK = 1 << 20


def server(port: int, folder: str, ready: Any) -> None:
    """A bare ASGI application: GET sends the model file, PUT writes the body to a file."""

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            path = Path(folder) / "model"
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(path.stat().st_size).encode())]})
            with path.open("rb") as f:
                while piece := f.read(CHUNK):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
            return
        with (Path(folder) / scope["path"].strip("/")).open("wb") as f:
            while True:
                message = await receive()
                f.write(message.get("body", b""))
                if not message.get("more_body"):
                    break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", loop="uvloop", http="httptools", lifespan="off")
    run = uvicorn.Server(config)
    threading.Thread(target=lambda: (_wait(port), ready.set()), daemon=True).start()
    run.run()


def client(port: int, name: str, folder: str, barrier: Any, rounds: int) -> None:
    """Download the model to a file, upload it from that file: one round's bytes of one site."""
    connection = http.client.HTTPConnection("127.0.0.1", port, blocksize=CHUNK)
    local = Path(folder) / f"local-{name}"
    for _ in range(rounds):
        barrier.wait()
        connection.request("GET", "/model")
        response = connection.getresponse()
        with local.open("wb") as f:
            while piece := response.read(CHUNK):
                f.write(piece)
        with local.open("rb") as f:
            connection.request("PUT", f"/up-{name}", body=f, headers={"Content-Length": str(local.stat().st_size)})
        connection.getresponse().read()
        barrier.wait()


def copy_seconds(sites: int, nbytes: int, rounds: int) -> list[float]:
    """Seconds for `sites` processes to download and upload `nbytes` each, at once; one figure a round."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as s:
        (Path(folder) / "model").write_bytes(bytes(nbytes))
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        ready = context.Event()
        serving = context.Process(target=server, args=(port, folder, ready), daemon=True)
        serving.start()
        ready.wait(30)
        barrier = context.Barrier(sites + 1)
        clients = [context.Process(target=client, args=(port, str(i), folder, barrier, rounds), daemon=True) for i in range(sites)]
        for c in clients:
            c.start()
        seconds = []
        for _ in range(rounds):
            barrier.wait(60)
            start = time.perf_counter()
            barrier.wait(120)
            seconds.append(time.perf_counter() - start)
        for c in clients:
            c.join(10)
        serving.terminate()
        serving.join(10)
    return seconds


def _wait(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.01)


if __name__ == "__main__":
    for size in (1_000_000, 50_000_000):
        print(size, statistics.median(copy_seconds(5, size, 6)))
