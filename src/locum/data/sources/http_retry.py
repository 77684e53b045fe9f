"""One GET of a FHIR server: bounded in size, tried again as the server asks, and its refusals put in words.

Retry-After: RFC 9110 section 10.2.3. OperationOutcome: FHIR R4; its diagnostics may quote the query or a record, so they stay on this machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from locum.errors import DataError, LocumError, TooLarge, Unavailable

TRIES = 6
MAX_WAIT_S = 120.0
_AGAIN = (429, 502, 503, 504)
_ISSUE_CODES = (
    "invalid|structure|required|value|invariant|security|login|unknown|expired|forbidden|suppressed|processing|not-supported|duplicate|"
    "multiple-matches|not-found|deleted|too-long|code-invalid|extension|too-costly|business-rule|conflict|transient|lock-error|no-store|exception|"
    "timeout|incomplete|throttled|informational"
)
_ISSUES = frozenset(_ISSUE_CODES.split("|"))
"""The value set issue-type: words that say nothing of a patient, so that a message may show them."""


@dataclass(frozen=True)
class Asked:
    """One page to fetch: who asks, for what, how its server is called in messages, its most bytes, and how to wait."""

    client: httpx.Client
    url: str
    server: str
    limit: int
    sleep: Callable[[float], None]


class _Issue(msgspec.Struct):
    code: str = ""


class _Outcome(msgspec.Struct):
    resourceType: str = ""
    issue: list[_Issue] = []


def ask(asked: Asked) -> bytes:
    """The body of a 200 answer; raises `DataError`, `TooLarge`, or `Unavailable` once all tries are used up."""
    server = asked.server[0].upper() + asked.server[1:]
    for attempt in range(1, TRIES + 1):
        try:
            with asked.client.stream("GET", asked.url) as response:
                body = _body(response, asked.limit, server)
                if response.status_code == 200:
                    return body
                if response.status_code not in _AGAIN:
                    raise _refusal(response.status_code, body, server)
                wait = _retry_after(response.headers.get("Retry-After", ""))
                problem: LocumError = Unavailable(f"{server} answered {response.status_code} {TRIES} times.", fix="try again later, with a smaller _count")
        except httpx.InvalidURL:
            raise DataError(f"{server} links its next page to an address that is none.", fix="report it to whoever runs it") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            wait, why = None, f"{type(error).__name__}."
            problem = Unavailable(f"{server} cannot be reached.", why=why, fix="check its address, the network and the certificate", local=str(error))
        if attempt < TRIES:
            asked.sleep(_pause(attempt) if wait is None else wait)
    raise problem


def _body(response: httpx.Response, limit: int, server: str) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > limit:
            raise TooLarge(f"{server} sent a page of more than {limit >> 20} MiB.", fix="ask for smaller pages with _count, or raise max_page_mib")
        parts.append(part)
    return b"".join(parts)


def _pause(attempt: int) -> float:
    """Seconds before the next try: doubling from a half, spread so that many sites do not come back at once."""
    return min(MAX_WAIT_S, 0.5 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311  no secret


def _retry_after(text: str) -> float | None:
    """Seconds that the server asks to wait, at most `MAX_WAIT_S`; None where it says nothing that can be read."""
    if text.strip().isascii() and text.strip().isdigit():
        return min(MAX_WAIT_S, float(text))
    try:
        when = parsedate_to_datetime(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)
        return min(MAX_WAIT_S, max(0.0, seconds.total_seconds()))
    except (ValueError, TypeError, OverflowError):
        return None


def _refusal(status: int, body: bytes, server: str) -> LocumError:
    """A final answer other than 200, in words."""
    try:
        outcome = msgspec.json.decode(body, type=_Outcome)
        codes = sorted({i.code for i in outcome.issue if i.code in _ISSUES}) if outcome.resourceType == "OperationOutcome" else []
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        codes = []
    why = f"It gave the reason: {', '.join(codes)}." if codes else ""
    local = body[:2000].decode("utf-8", "replace")
    if status in (401, 403):
        return DataError(
            f"{server} refuses access ({status}).", why=why, fix="check that the token is there, still valid, and allowed this search", local=local
        )
    if 300 <= status < 400:
        return DataError(f"{server} redirects to another address ({status}), which is not followed.", fix="name the address that it redirects to as server")
    fix = (
        "try the query in the server's own tools: it may not know a resource or a parameter"
        if status < 500
        else "ask whoever runs the server; its log says more"
    )
    return DataError(f"{server} answered {status} to the search.", why=why, fix=fix, local=local)
