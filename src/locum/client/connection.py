"""One party's connection to the coordinator: every request signed, every transfer resumable, every outage waited out.

A request is built and signed anew at each attempt, because its signature carries the time. Names are looked up at each
connect, so a coordinator may change its address. Nothing here follows a redirect or reads an unbounded answer.
"""

from __future__ import annotations

import hashlib
import os
import random
import ssl
import time
from asyncio import sleep
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import msgspec

from locum.client.patience import A_WHILE, Notice, Patience, Retries, Transient, Tries, silent
from locum.client.trust import check_url, is_loopback, tls_context
from locum.errors import ClockError, Conflict, EnvelopeError, Forbidden, LocumError, NotEnrolled, NotFound, TooLarge, Unavailable, from_code
from locum.federation.envelope import EMPTY_SHA256, sign_request
from locum.federation.identity import Identity
from locum.federation.wire import Problem

MAX_ANSWER_BYTES = 16 << 20
CHUNK = 1 << 20
PASSING = frozenset({429, 500, 502, 503, 504})
"""Statuses that say "not now": a proxy without its coordinator, a coordinator without its database, a replica that died."""
_BODILESS: dict[int, type[LocumError]] = {401: NotEnrolled, 403: Forbidden, 404: NotFound, 409: Conflict}
"""What a HEAD's status means, which has no body that says it."""

Source = Callable[[int], Iterable[bytes | memoryview]]
"""The bytes of an upload from an offset on, in pieces; called again after every cut."""


@dataclass(frozen=True)
class Answer:
    """A whole response with a status below 400."""

    status: int
    headers: httpx.Headers
    body: bytes


class Connection:
    """Calls to one coordinator in the name of one party. An async context manager.

    ca: PEM text trusted besides the system's authorities. http: a client to use; else one is made, whose TLS context is
    shared by all connections of the process. Many agents should not share one: the pool looks at each of its connections
    at every request, so that the cost of a round grows with the square of their number. plain: allow http:// beyond loopback. HTTPS_PROXY and SSL_CERT_FILE are
    honoured, except that loopback never goes through a proxy.
    """

    def __init__(
        self,
        url: str,
        federation: str,
        name: str,
        identity: Identity,
        *,
        ca: str = "",
        plain: bool = False,
        patience: Patience = A_WHILE,
        notice: Notice = silent,
        http: httpx.AsyncClient | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.url, self.federation, self.name, self.identity = check_url(url, plain=plain), federation, name, identity
        self.patience, self.notice, self.clock = patience, notice, clock
        self.offset = 0.0
        self._http = http or client_for(self.url, ca, patience)
        self._owned = http is None
        self._retries = Retries(patience, notice, clock, sleep, uniform)
        self._waits = {0.0: self._http.timeout}

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._owned:
            await self._http.aclose()

    def now(self) -> float:
        """Unix seconds by the coordinator's clock, as far as it is known here."""
        return self.clock() + self.offset

    # --- messages -------------------------------------------------------------------------------------------------

    async def call(
        self, method: str, target: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None, wait: float = 0.0, digest: str = "", signed: bool = True
    ) -> Answer:
        """One exchange, tried again as long as patience allows. target: path and query, as the coordinator sees them.

        wait: seconds that the coordinator may hold the answer back. Raises the `LocumError` that the coordinator sent,
        or `Unavailable`.
        """
        digest = digest or (hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256)

        async def once(_: Tries) -> Answer:
            async with self._exchange(method, target, body or None, digest, headers or {}, wait, signed) as response:
                return Answer(response.status_code, response.headers, await _bounded(response))

        return await self._retries.until_done(once)

    # --- transfers ------------------------------------------------------------------------------------------------

    async def download(self, target: str, *, sha256: str, size: int, to: Path | None = None) -> bytes | Path:
        """The blob with this digest and size: into memory, or into the file `to`, of which a part may be there already.

        After a cut it goes on where it stopped. Raises `EnvelopeError` if the bytes are not those of `sha256`, OSError
        if the disk is full.
        """
        with _Sink(to) as sink:
            for second in (False, True):
                sink.begin(size)
                await self._retries.until_done(lambda tries: self._fetch(target, size, sink, tries))
                if sink.digest() == sha256:
                    return sink.finish()
                sink.restart()
                if second:
                    break
                self.notice("a download was altered on the way; it is fetched again", {"target": target})
        raise EnvelopeError(
            "The downloaded bytes are not the ones that were announced.", why="Something on the way alters them.", fix="look at the proxies between"
        )

    async def _fetch(self, target: str, size: int, sink: _Sink, tries: Tries) -> None:
        if sink.at == size and size:
            return
        headers = {"Range": f"bytes={sink.at}-"} if sink.at else {}
        async with self._exchange("GET", target, None, EMPTY_SHA256, headers) as response:
            if sink.at and response.status_code != 206:
                sink.restart()
            elif sink.at and not response.headers.get("content-range", "").startswith(f"bytes {sink.at}-"):
                raise Transient("The coordinator sent another part of the file than was asked for.")
            async for chunk in response.aiter_raw():
                if sink.at + len(chunk) > size:
                    sink.restart()
                    raise TooLarge("The coordinator sends more bytes than it announced.")
                sink.write(chunk)
                tries.progress()
        if sink.at < size:
            raise Transient("The download ended early.")

    async def upload(self, target: str, source: Source, *, sha256: str, size: int, resume: bool = False) -> None:
        """Send `size` bytes to a content-addressed place, resuming where the coordinator's copy ends after any cut.

        resume: ask first how much is there, after a restart. Raises what the coordinator refuses with.
        """
        known: int | None = None if resume else 0

        async def once(tries: Tries) -> None:
            nonlocal known
            if known is None:
                known = await self._arrived(target, sha256)
            while known < size:
                offset, known = known, None  # until an answer says more, nothing is known
                known = await self._send(target, source, sha256, size, offset)
                if known > offset:
                    tries.progress()
                elif known == offset:
                    raise Transient("The coordinator took no bytes of the upload.")

        await self._retries.until_done(once)

    async def _arrived(self, target: str, sha256: str) -> int:
        async with self._exchange("HEAD", target, None, sha256, {}, passing=frozenset(_BODILESS)) as response:
            status = response.status_code
            if status == 401 and self._learn(response.headers.get("locum-time")):
                raise Transient("The clocks differ.", quiet=True)
            if status in _BODILESS:
                raise _BODILESS[status](f"The coordinator takes no upload for this round (status {status}).", why="The round is over, or not this site's.")
            return _offset(response) or 0

    async def _send(self, target: str, source: Source, sha256: str, size: int, offset: int) -> int:
        headers = {"Upload-Offset": str(offset), "Content-Length": str(size - offset), "Content-Type": "application/octet-stream"}
        async with self._exchange("PUT", target, _pieces(source(offset)), sha256, headers, passing=frozenset({409})) as response:
            here = _offset(response)
            if response.status_code == 409 and here is None:
                raise await _error(response)
            await _bounded(response)
            return size if here is None else here

    # --- one exchange ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        target: str,
        content: bytes | AsyncIterator[bytes] | None,
        digest: str,
        headers: Mapping[str, str],
        wait: float = 0.0,
        signed: bool = True,
        passing: frozenset[int] = frozenset(),
    ) -> AsyncIterator[httpx.Response]:
        """Send one request; yields the response, its body unread, if its status is below 400 or in `passing`.

        Raises `Transient` for what may pass, else the `LocumError` that the coordinator sent.
        """
        response = None
        try:
            request = self._http.build_request(method, self.url + target, content=content, headers={**headers}, timeout=self._timeout(wait))
            if signed:
                request.headers["Authorization"] = sign_request(
                    self.identity, federation=self.federation, sender=self.name, method=method, target=target, digest=digest, now=self.now()
                )
            response = await self._http.send(request, stream=True)
            if response.status_code >= 300 and response.status_code not in passing:
                raise await self._refusal(response)
            if "locum-time" not in response.headers:  # a login page's 200 must not pass for an acknowledgement
                raise _stranger(response)
            yield response
        except httpx.TransportError as error:
            raise _transient(error) from error
        finally:
            if response is not None:
                await response.aclose()

    def _timeout(self, wait: float) -> httpx.Timeout:
        if wait not in self._waits:
            p = self.patience
            self._waits[wait] = httpx.Timeout(p.answer_s, connect=p.connect_s, read=p.answer_s + wait, pool=None)
        return self._waits[wait]

    async def _refusal(self, response: httpx.Response) -> Exception:
        if response.status_code in PASSING:
            return Transient(f"It answers with status {response.status_code}.", after=_seconds(response.headers.get("retry-after")))
        error = await _error(response)
        if isinstance(error, ClockError) and self._learn(response.headers.get("locum-time")):
            return Transient(error.what, quiet=True)
        return error

    def _learn(self, theirs: str | None) -> bool:
        """Take over the coordinator's time; False if that is no news, so that a call does not turn in circles."""
        offset = _seconds(theirs) - self.clock()
        if theirs is None or abs(offset - self.offset) < 5.0:
            return False
        self.offset = offset
        self.notice("clock off", {"offset_s": round(offset, 1), "fix": "set this machine's clock (NTP)"})
        return True


def client_for(url: str, ca: str = "", patience: Patience = A_WHILE) -> httpx.AsyncClient:
    """An HTTP client for one party; where the URL is https, it verifies."""
    context: ssl.SSLContext | bool = tls_context(ca) if url.startswith("https:") else _unused_context()
    return httpx.AsyncClient(
        verify=context,
        trust_env=not is_loopback(url),
        headers={"User-Agent": "locum", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(patience.answer_s, connect=patience.connect_s, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0),
    )


@lru_cache(maxsize=1)
def _unused_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # plain HTTP; it trusts nobody


async def _pieces(pieces: Iterable[bytes | memoryview]) -> AsyncIterator[bytes]:
    """Cut pieces to CHUNK: only a chunk is ever copied, not the model."""
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]  # type: ignore[misc]


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise TooLarge("The coordinator's answer is larger than may be read.")
    return bytes(body)


async def _error(response: httpx.Response) -> LocumError:
    """The error that the coordinator sent; or, if a stranger between here and there answered, one that says so."""
    try:
        problem = msgspec.json.decode(await _bounded(response), type=Problem)
    except msgspec.DecodeError:
        return _stranger(response)
    return from_code(problem.error, problem.what, why=problem.why, fix=problem.fix)


def _stranger(response: httpx.Response) -> Unavailable:
    return Unavailable(
        f"Something that is not a Locum coordinator answered with status {response.status_code}.",
        why="A proxy, a login page or a wrong address stands between.",
        fix="open the coordinator's address in a browser on this machine, or ask whoever runs the proxy",
    )


def _transient(error: httpx.TransportError) -> Transient:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            fix = "if a proxy here inspects TLS, give its certificate authority (--ca, or SSL_CERT_FILE); else compare the coordinator's certificate"
            return Transient(f"Its TLS certificate cannot be verified ({cause.verify_message}).", fix=fix, hopeless=True)
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    return Transient(f"{type(error).__name__}{': ' + text if text else ''}.")


def _offset(response: httpx.Response) -> int | None:
    text = response.headers.get("upload-offset", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _seconds(text: str | None) -> float:
    try:
        return float(text or 0.0)
    except ValueError:
        return 0.0


class _Sink:
    """Where a download goes, hashed as it comes: memory, or a file whose first part may be there from an earlier life."""

    def __init__(self, to: Path | None) -> None:
        self.to = to
        self._file: BinaryIO | None = None
        self._memory: list[bytes] = []
        self._hash: Any = hashlib.sha256()
        self.at = 0

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def begin(self, size: int) -> None:
        if self.to is None or self._file is not None:
            return
        self._file = os.fdopen(os.open(self.to, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        while (chunk := self._file.read(CHUNK)) and self.at < size:
            self._hash.update(chunk)
            self.at += len(chunk)
        if self.at > size:
            self.restart()

    def write(self, chunk: bytes) -> None:
        if self._file:
            self._file.write(chunk)
        else:
            self._memory.append(chunk)
        self._hash.update(chunk)
        self.at += len(chunk)

    def restart(self) -> None:
        self._hash, self.at, self._memory = hashlib.sha256(), 0, []
        if self._file:
            self._file.seek(0)
            self._file.truncate()

    def digest(self) -> str:
        return str(self._hash.hexdigest())

    def finish(self) -> bytes | Path:
        if self.to is None or self._file is None:
            return b"".join(self._memory)
        self._file.flush()
        return self.to
