"""A network in memory that carries HTTP to an application in this process, and strikes once at a named message of a round."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import httpx

from locum.federation.round import MASKED, SETUP

Strike = Callable[[], Awaitable[None]]


class Network(httpx.AsyncBaseTransport):
    """Carries requests to the application that is alive (`inner`; None: nobody there), and strikes once at `where`.

    where: (sender, message, seq), the message being 'work' (the poll's answer that offers the round), 'state', 'answer', or
    in a masked round the phase that is answered.
    before and after: what happens to the request, or once the application has answered it. A strike that raises an
    `httpx.TransportError` loses the message.
    """

    def __init__(self) -> None:
        self.inner: httpx.AsyncBaseTransport | None = None
        self.where: tuple[str, str, int] | None = None
        self.before: Strike | None = None
        self.after: Strike | None = None
        self.struck = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # a network always lets others go first
        if self.inner is None:
            raise httpx.ConnectError("nobody there")
        sender = request.headers.get("authorization", "").partition("sender=")[2].partition(",")[0]
        message, seq = _boundary(request)
        hit = (sender, message, seq) == self.where and not self.struck
        if hit and self.before:
            self.struck = True
            await self.before()
        response = await self.inner.handle_async_request(request)
        content = await response.aread()
        if message == "work" and self.where == (sender, "work", _offered(content)) and not self.struck:
            hit = True
            if self.before:  # a poll's round is known only from its answer: to lose the request is to lose the answer
                self.struck = True
                await self.before()
        if hit and self.after and not self.struck:
            self.struck = True
            await self.after()
        return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(content))


def _boundary(request: httpx.Request) -> tuple[str, int]:
    parts = request.url.path.split("/")
    if "rounds" not in parts:
        return parts[2], -1
    last = parts[-1]
    return last if last in ("state", *SETUP, *MASKED) else "answer", int(parts[parts.index("rounds") + 1])


def _offered(content: bytes) -> int:
    """The seq of the round that a poll's answer offers, or -1."""
    found = re.search(rb'\\"seq\\":(\d+),', content)  # the assignment is JSON text within JSON
    return int(found[1]) if found else -1
