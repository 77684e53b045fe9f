"""A real coordinator behind what a hospital's network puts in between."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from locum import Study
from locum.client import FOR_EVER, Api, Connection, Membership, Patience
from locum.client.api import _decode
from locum.client.connection import Answer, _pieces
from locum.client.membership import KEY, open_connection
from locum.errors import EnvelopeError, Forbidden, LocumError, ManifestError, NotEnrolled, NotFound, TooLarge, Unavailable
from locum.federation.identity import Identity
from locum.federation.wire import RunView
from locum.study.canonical import sha256
from locum.testing import CuttingProxy

QUICK = Patience(first_s=0.01, cap_s=0.05, connect_s=1.0, answer_s=1.0)
IMPATIENT = Patience(first_s=0.01, cap_s=0.05, attempts=3, connect_s=1.0, answer_s=1.0)


def connect(federation: Any, *, url: str = "", patience: Patience = QUICK, **options: Any) -> Connection:
    member = Membership.load(federation.ida)
    member = msgspec.structs.replace(member, url=url or member.url, **{k: options.pop(k) for k in ("ca", "plain") if k in options})
    return member.connect(Identity.load(federation.ida / KEY), patience=patience, **options)


def runs(connection: Connection) -> Any:
    async def main() -> Any:
        async with Api(connection) as api:
            return await api.runs()

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_a_signed_call(federation: Any) -> None:
    assert runs(connect(federation)) == ()


@pytest.mark.parametrize(
    ("target", "error"),
    [("/v1/runs/none", NotFound), ("/v1/nothing", NotFound), ("/v1/work?wait=0&known=", Forbidden)],
)
def test_a_problem_becomes_its_error(federation: Any, target: str, error: type[LocumError]) -> None:
    with pytest.raises(error), federation.client() as client:
        client(client.api.connection.call("GET", target))


def test_a_study_that_does_not_parse_is_told_to_the_investigator(federation: Any) -> None:
    with pytest.raises(ManifestError), federation.client() as client:
        client(client.api.connection.call("POST", "/v1/studies", b"{}", headers={"Locum-Envelope": "x"}))


def test_strangers_and_stolen_names(federation: Any) -> None:
    member = Membership.load(federation.ida)
    for name, identity in (("nobody", Identity.generate()), ("ida", Identity.generate()), ("nobody", Identity.load(federation.ida / KEY))):
        with pytest.raises(NotEnrolled):
            runs(msgspec.structs.replace(member, name=name).connect(identity, patience=IMPATIENT))
    with pytest.raises(NotEnrolled):
        runs(msgspec.structs.replace(member, federation="another").connect(Identity.load(federation.ida / KEY), patience=IMPATIENT))


def test_a_target_is_signed_as_it_is_sent(federation: Any) -> None:
    """Characters that a URL library may rewrite: the coordinator verifies the signature over what it received."""
    for target in ("/v1/runs?x=a,b:c", "/v1/runs?x=%20%2C", "/v1/runs?x='(*)!~;@"):
        with federation.client() as client:
            assert client(client.api.connection.call("GET", target)).status == 200


@pytest.mark.parametrize("skew", [-86_400.0, 3600.0, 400.0])
def test_a_wrong_clock_is_learned_once(federation: Any, skew: float) -> None:
    told: list[Any] = []
    connection = connect(federation, clock=lambda: time.time() + skew, notice=lambda e, d: told.append((e, dict(d))))

    async def main() -> None:
        async with Api(connection) as api:
            for _ in range(3):
                assert await api.runs() == ()

    asyncio.run(main())
    assert [event for event, _ in told] == ["clock off"]
    assert told[0][1]["offset_s"] == pytest.approx(-skew, abs=3)
    assert connection.now() == pytest.approx(time.time(), abs=3)


def test_a_clock_that_is_a_little_off_is_nobodys_business(federation: Any) -> None:
    told: list[Any] = []
    assert runs(connect(federation, clock=lambda: time.time() + 100, notice=lambda e, d: told.append(e))) == ()
    assert told == []


def test_a_clock_that_jumps_after_it_was_corrected(federation: Any) -> None:
    skew = 5000.0
    connection = connect(federation, clock=lambda: time.time() + skew)

    async def main() -> None:
        nonlocal skew
        async with Api(connection) as api:
            await api.runs()
            skew = 0.0  # somebody has set the clock
            await api.runs()

    asyncio.run(main())
    assert connection.offset == pytest.approx(0.0, abs=3)


def test_an_outage_of_six_minutes(federation: Any) -> None:
    """Real connections that are refused; the waits between them pass on a test clock, but for the signed time."""
    started = time.time()
    slept = 0.0
    with CuttingProxy(federation.port) as proxy:
        proxy.down()

        async def sleep(seconds: float) -> None:
            nonlocal slept
            slept += seconds
            if slept > 360:
                proxy.up()
            await asyncio.sleep(0)

        told: list[str] = []
        url = f"http://127.0.0.1:{proxy.port}"
        assert runs(connect(federation, url=url, patience=FOR_EVER, sleep=sleep, notice=lambda e, d: told.append(e))) == ()
    assert slept > 360
    assert time.time() - started < 20
    assert told == ["coordinator away", "coordinator back"]


def test_a_connection_that_falls_silent(federation: Any, relay: Any) -> None:
    with relay(federation.port) as between:
        between.silent = 2
        patience = Patience(first_s=0.01, cap_s=0.05, answer_s=0.3)
        assert runs(connect(federation, url=f"http://127.0.0.1:{between.port}", patience=patience)) == ()
        assert between.accepted == 3


def test_an_address_that_changes(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        if host not in ("coordinator.test", b"coordinator.test"):
            return real(host, *args, **options)
        asked.append("?")
        return real("127.0.0.1" if len(asked) > 3 else "127.0.0.77", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("NO_PROXY", "*")
    assert runs(connect(federation, url=f"http://coordinator.test:{federation.port}", plain=True)) == ()
    assert len(asked) == 4, "looked up anew at each connect"


@pytest.mark.parametrize(
    "canned",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nblocked",
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["login page", "redirect", "blocked", "proxy login"],
)
def test_something_that_is_no_coordinator(federation: Any, relay: Any, canned: bytes) -> None:
    with relay(0, canned=canned) as between, pytest.raises(Unavailable, match="not a Locum coordinator"):
        runs(connect(federation, url=f"http://127.0.0.1:{between.port}"))


@pytest.mark.parametrize(
    "canned",
    [
        b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\r\n",
    ],
    ids=["503", "502", "nonsense", "nothing"],
)
def test_what_may_pass_is_tried_again(federation: Any, relay: Any, canned: bytes) -> None:
    with relay(0, canned=canned) as between:
        with pytest.raises(Unavailable, match="cannot be reached"):
            runs(connect(federation, url=f"http://127.0.0.1:{between.port}", patience=IMPATIENT))
        assert between.accepted == 3


def test_an_answer_without_end_is_not_read(federation: Any, relay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.client.connection.MAX_ANSWER_BYTES", 1000)
    canned = b"HTTP/1.1 200 OK\r\nLocum-Time: 0\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000
    with relay(0, canned=canned) as between, pytest.raises(TooLarge):
        runs(connect(federation, url=f"http://127.0.0.1:{between.port}"))


def test_an_answer_of_another_version() -> None:
    with pytest.raises(EnvelopeError, match="this version"):
        _decode(Answer(200, {}, b'{"id": "x", "colour": "red"}'), RunView)  # type: ignore[arg-type]


# --- TLS ---------------------------------------------------------------------------------------------------------------


def test_a_proxy_that_inspects_tls_works_when_its_authority_is_given(federation: Any, relay: Any, inspector: Any) -> None:
    context, ca = inspector
    with relay(federation.port, tls=context) as between:
        assert runs(connect(federation, url=f"https://localhost:{between.port}", ca=ca.read_text())) == ()


def test_a_proxy_that_inspects_tls_is_refused_otherwise(federation: Any, relay: Any, inspector: Any) -> None:
    with relay(federation.port, tls=inspector[0]) as between:
        patience = Patience(attempts=50, first_s=5.0)
        started = time.monotonic()
        with pytest.raises(Unavailable) as error:
            runs(connect(federation, url=f"https://localhost:{between.port}", patience=patience))
        assert time.monotonic() - started < 4, "waiting would not help"
    assert "certificate" in error.value.why
    assert "SSL_CERT_FILE" in error.value.fix


def test_the_name_in_the_certificate_counts(federation: Any, relay: Any, inspector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    monkeypatch.setenv("NO_PROXY", "*")
    with relay(federation.port, tls=inspector[0]) as between:
        ca = inspector[1].read_text()
        assert runs(connect(federation, url=f"https://coordinator.test:{between.port}", ca=ca)) == ()
        with pytest.raises(Unavailable, match="certificate"):
            runs(connect(federation, url=f"https://other.test:{between.port}", ca=ca, patience=IMPATIENT))


def test_https_proxy_and_ssl_cert_file_are_honoured(federation: Any, relay: Any, inspector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context, ca = inspector
    with relay(federation.port, tls=context, connect=True) as proxy:
        for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        assert runs(connect(federation, url="https://coordinator.test")) == ()
        assert proxy.asked == ["CONNECT coordinator.test:443 HTTP/1.1"]
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert runs(connect(federation)) == ()
        assert proxy.accepted == 1, "loopback does not go through a proxy"


# --- transfers ---------------------------------------------------------------------------------------------------------

SIZE = 3_000_017


class Blob:
    """A server of one blob over real HTTP, with Range; and the place of one upload, as the coordinator keeps it."""

    def __init__(self, content: bytes, *, ranges: bool = True) -> None:
        self.content, self.ranges, self.got, self.heads, self.puts = content, ranges, bytearray(), 0, 0
        self.over = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        if scope["method"] == "GET":
            start = int(headers.get("range", "bytes=0-")[6:-1]) if self.ranges else 0
            out = {"content-range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"} if start else {}
            return await self._reply(send, 206 if start else 200, self.content[start:], **out)
        if scope["method"] == "HEAD":
            self.heads += 1
            return await self._reply(send, 409 if self.over else 200, b"", **({} if self.over else {"upload-offset": str(len(self.got))}))
        self.puts += 1
        if headers["upload-offset"] != str(len(self.got)):
            return await self._reply(send, 409, b"", **{"upload-offset": str(len(self.got))})
        while (message := await receive())["type"] == "http.request":
            self.got += message.get("body", b"")
            if not message.get("more_body"):
                break
        return await self._reply(send, 200, b"", **{"upload-offset": str(len(self.got))})

    async def _reply(self, send: Any, status: int, body: bytes, **headers: str) -> None:
        headers = {"locum-time": "0", "content-length": str(len(body)), **headers}
        await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(1).bytes(SIZE)


@pytest.fixture
def serve() -> Any:
    import threading

    import uvicorn

    servers: list[Any] = []

    def start(app: Any) -> int:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", interface="asgi3"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return int(sock.getsockname()[1])

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


def transfer(port: int, work: Callable[[Connection], Any]) -> Any:
    async def main() -> Any:
        async with Connection(f"http://127.0.0.1:{port}", "f", "s", Identity.generate(), patience=QUICK) as connection:
            return await work(connection)

    return asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize("cuts", [[1], [60], [200], [70_000, 70_000, 2_000_000], [SIZE], [SIZE + 100]], ids=str)
def test_a_download_cut_at_any_byte(serve: Any, relay: Any, content: bytes, tmp_path: Path, cuts: list[int], to_file: bool) -> None:
    with relay(serve(Blob(content))) as between:
        between.cut_down = list(cuts)
        to = tmp_path / "x.part" if to_file else None
        got = transfer(between.port, lambda c: c.download("/x", sha256=sha256(content), size=SIZE, to=to))
        assert between.cut_down == []
    assert (got.read_bytes() if to_file else got) == content


@pytest.mark.parametrize("have", [0, 1, 5000, SIZE - 1, SIZE, SIZE + 9])
def test_a_download_goes_on_after_a_restart(serve: Any, content: bytes, tmp_path: Path, have: int) -> None:
    part = tmp_path / "x.part"
    part.write_bytes((content + b"surplus!!")[:have])
    assert transfer(serve(Blob(content)), lambda c: c.download("/x", sha256=sha256(content), size=SIZE, to=part)).read_bytes() == content


def test_a_download_whose_first_part_is_rotten_starts_again(serve: Any, content: bytes, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    part.write_bytes(bytes(5000))
    assert transfer(serve(Blob(content)), lambda c: c.download("/x", sha256=sha256(content), size=SIZE, to=part)).read_bytes() == content


def test_a_server_without_ranges(serve: Any, relay: Any, content: bytes) -> None:
    with relay(serve(Blob(content, ranges=False))) as between:
        between.cut_down = [1_000_000]
        assert transfer(between.port, lambda c: c.download("/x", sha256=sha256(content), size=SIZE)) == content


def test_bytes_that_are_not_the_announced_ones(serve: Any, content: bytes) -> None:
    port = serve(Blob(content))
    with pytest.raises(EnvelopeError, match="not the ones that were announced"):
        transfer(port, lambda c: c.download("/x", sha256="0" * 64, size=SIZE))
    with pytest.raises(TooLarge):
        transfer(port, lambda c: c.download("/x", sha256=sha256(content), size=SIZE - 1))


def test_an_empty_blob(serve: Any) -> None:
    assert transfer(serve(Blob(b"")), lambda c: c.download("/x", sha256=sha256(b""), size=0)) == b""


def source_of(content: bytes, asked: list[int]) -> Any:
    def source(offset: int) -> Any:
        asked.append(offset)
        return [memoryview(content)[offset : offset + 1000], memoryview(content)[offset + 1000 :]]

    return source


@pytest.mark.parametrize("after", [0, 1, 150, 400, 66_000, 1_500_000, SIZE - 1, SIZE, SIZE + 300])
def test_an_upload_cut_at_any_byte(serve: Any, content: bytes, after: int) -> None:
    blob, asked = Blob(content), list[int]()
    with CuttingProxy(serve(blob)) as proxy:
        proxy.cut_upload(after)
        transfer(proxy.port, lambda c: c.upload("/x", source_of(content, asked), sha256=sha256(content), size=SIZE))
        assert proxy.cuts == 1
    assert bytes(blob.got) == content
    assert asked[0] == 0
    if after > 100_000:
        assert len(asked) == 1 or asked[1] > 0, "it went on where the copy ended"


def test_an_upload_whose_beginning_is_there_and_one_that_is_complete(serve: Any, content: bytes) -> None:
    blob, asked = Blob(content), list[int]()
    blob.got = bytearray(content[:1000])
    port = serve(blob)
    transfer(port, lambda c: c.upload("/x", source_of(content, asked), sha256=sha256(content), size=SIZE))
    assert asked == [0, 1000], "the 409 said where to go on"
    transfer(port, lambda c: c.upload("/x", source_of(content, asked), sha256=sha256(content), size=SIZE, resume=True))
    assert asked == [0, 1000], "nothing is sent twice"
    assert bytes(blob.got) == content


def test_an_upload_that_nobody_wants_any_more(serve: Any, content: bytes) -> None:
    blob = Blob(content)
    blob.over = True
    with pytest.raises(LocumError, match="takes no upload"):
        transfer(serve(blob), lambda c: c.upload("/x", source_of(content, []), sha256=sha256(content), size=SIZE, resume=True))
    assert blob.puts == 0


def test_only_a_chunk_of_a_large_piece_is_copied() -> None:
    big = np.zeros(5 << 20, np.uint8)

    async def main() -> list[Any]:
        return [piece async for piece in _pieces([big.data])]

    pieces = asyncio.run(main())
    assert [len(p) for p in pieces] == [1 << 20] * 5
    assert all(np.shares_memory(np.frombuffer(p, np.uint8), big) for p in pieces)


def test_a_study_is_handed_in_twice_and_found_once(federation: Any) -> None:
    study = Study.parse(
        {
            "name": "twice",
            "terms": {"privacy": "none"},
            "data": {"variables": {"x": {}}},
            "plan": [{"name": "m", "task": "moments", "variables": ["x"]}],
        }
    )
    with federation.client() as client:
        first = client.submit(study)
        assert client.submit(study) == first
        (run,) = [r for r in client.runs() if r.study == study.digest]
        assert run.status == "waiting"
        assert client.cancel(run.id).status == "cancelled"
        assert [v.status for v in client.watch(run.id)] == ["cancelled"]


def test_a_folder_without_an_enrolment(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled):
        open_connection(tmp_path)
