"""How long to wait and how often to try again.

Exponential back-off with full jitter: uniform in [0, min(cap, first * 2^n)], so that hundreds of sites that lost the
coordinator at one moment do not come back at one moment (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).
"""

from __future__ import annotations

import random
import time
from asyncio import sleep
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from locum.errors import Unavailable

T = TypeVar("T")
Notice = Callable[[str, Mapping[str, object]], None]
"""Told when the coordinator is away, when it is back, and when the clock is off: an event's name and its details."""


def silent(event: str, details: Mapping[str, object]) -> None:
    """A `Notice` for those who do not care."""


@dataclass(frozen=True)
class Patience:
    """Seconds, and the number of failures in a row after which a call gives up (None: never)."""

    first_s: float = 0.1
    cap_s: float = 15.0
    attempts: int | None = None
    connect_s: float = 10.0
    answer_s: float = 30.0

    def delay(self, failures: int, uniform: float) -> float:
        """How long to wait after the n-th failure in a row; `uniform` is in [0, 1)."""
        return uniform * min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 32))


FOR_EVER = Patience()
"""For a site: an outage of hours is waited out."""
A_WHILE = Patience(attempts=6, cap_s=3.0)
"""For a person at a terminal: about six seconds."""


class Transient(Exception):
    """Something that may pass.

    after: seconds that the other side asked to wait. hopeless: waiting will hardly help. quiet: the other side is there.
    """

    def __init__(self, why: str, *, fix: str = "", after: float = 0.0, hopeless: bool = False, quiet: bool = False) -> None:
        super().__init__(why)
        self.why, self.fix, self.after, self.hopeless, self.quiet = why, fix, after, hopeless, quiet


@dataclass
class Retries:
    """Runs a call until it succeeds, and tells when the coordinator goes away and comes back."""

    patience: Patience
    notice: Notice = silent
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = sleep
    uniform: Callable[[], float] = random.random
    _away_since: float | None = field(default=None, init=False)

    async def until_done(self, once: Callable[[Tries], Awaitable[T]]) -> T:
        """What `once` returns, tried again whenever it raises `Transient`. Raises `Unavailable` when patience ends."""
        tries = Tries()
        while True:
            try:
                result = await once(tries)
            except Transient as trouble:
                tries.failures += 1
                self._away(trouble)
                limit = self.patience.attempts
                if limit is not None and (tries.failures >= limit or trouble.hopeless):
                    raise Unavailable("The coordinator cannot be reached.", why=trouble.why, fix=trouble.fix or "check the network, then try again") from None
                await self.sleep(max(self.patience.delay(tries.failures, self.uniform()), min(trouble.after, self.patience.cap_s)))
            else:
                self._back()
                return result

    def _away(self, trouble: Transient) -> None:
        if self._away_since is None and not trouble.quiet:
            self._away_since = self.clock()
            self.notice("coordinator away", {"reason": trouble.why, **({"fix": trouble.fix} if trouble.fix else {})})

    def _back(self) -> None:
        if self._away_since is not None:
            self.notice("coordinator back", {"after_s": round(self.clock() - self._away_since, 3)})
            self._away_since = None


@dataclass
class Tries:
    """The failures in a row of one call. A transfer that got further starts counting anew."""

    failures: int = 0

    def progress(self) -> None:
        self.failures = 0
