"""What is open right now: one query per change, shared by every poll of this process. A cache; the database decides."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio.to_thread
from sqlalchemy import select

from locum.coordinator.runs import OpenRound, as_round
from locum.coordinator.store import Store, Tx
from locum.coordinator.studies import ACTIVE
from locum.coordinator.tables import decisions, messages, rounds, runs
from locum.coordinator.wakeups import RECHECK_S
from locum.federation.wire import Work


class Posted(NamedTuple):
    """An open round, who is asked, and who has answered already."""

    id: str
    round: OpenRound
    roster: frozenset[str]
    answered: set[str]


@dataclass(frozen=True)
class Snapshot:
    """The open rounds by (run, seq), and the active studies with the sites that have decided on them."""

    rounds: dict[tuple[str, int], Posted] = field(default_factory=dict)
    studies: dict[str, frozenset[str]] = field(default_factory=dict)

    def work(self, site: str, known: frozenset[str]) -> Work:
        """What `site` has to do and does not have yet; known: ids 'run:seq' and study digests."""
        return Work(
            assignments=tuple(p.round.signed for p in self.rounds.values() if site in p.roster and site not in p.answered and p.id not in known),
            studies=tuple(digest for digest, decided in self.studies.items() if site not in decided and digest not in known),
        )


class Board:
    """The snapshot of this process; it is loaded again after a wake-up on 'work', or when it is older than `RECHECK_S`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._snapshot, self._loaded = Snapshot(), 0.0
        self._heard, self._current = 1, 0  # news heard of, and the news that the snapshot is not older than
        self._lock = asyncio.Lock()
        store.wakeups.on("work", self._spoil)

    def _spoil(self) -> None:
        self._heard += 1

    @property
    def _fresh(self) -> bool:
        return self._current == self._heard and time.monotonic() - self._loaded < RECHECK_S

    def answered(self, run: str, seq: int, site: str) -> None:
        """Do not offer this round to `site` again."""
        posted = self._snapshot.rounds.get((run, seq))
        if posted:
            posted.answered.add(site)

    async def snapshot(self) -> Snapshot:
        if not self._fresh:
            async with self._lock:
                if not self._fresh:  # whoever waited for the lock finds it done
                    heard, started = self._heard, time.monotonic()
                    self._snapshot = await anyio.to_thread.run_sync(self.store.read, _load)
                    self._current, self._loaded = heard, started
        return self._snapshot


def _load(tx: Tx) -> Snapshot:
    posted = {}
    for row in tx.rows(select(rounds).where(rounds.c.status == "open")):
        found = as_round(row)
        senders = tx.rows(select(messages.c.sender).where(messages.c.run == row.run, messages.c.seq == row.seq))
        posted[row.run, row.seq] = Posted(f"{row.run}:{row.seq}", found, frozenset(found.assignment.roster), {s.sender for s in senders})
    active = [r.study for r in tx.rows(select(runs.c.study).where(runs.c.status.in_(ACTIVE)).order_by(runs.c.created))]
    decided: dict[str, set[str]] = {digest: set() for digest in active}
    for row in tx.rows(select(decisions.c.study, decisions.c.site).where(decisions.c.study.in_(active))):
        decided[row.study].add(row.site)
    return Snapshot(posted, {digest: frozenset(sites) for digest, sites in decided.items()})
