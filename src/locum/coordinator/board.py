"""What is open right now: one query per change, shared by every poll of this process. A cache; the database decides."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio.to_thread
from sqlalchemy import select

from locum.coordinator.runs import OpenRound, as_round
from locum.coordinator.store import Store, Tx
from locum.coordinator.studies import ACTIVE
from locum.coordinator.tables import decisions, inbox, messages, rounds, runs
from locum.coordinator.wakeups import RECHECK_S
from locum.federation.wire import SignedAssignment, Work


class Posted(NamedTuple):
    """An open round, what each site is asked in its present phase, and who has answered already."""

    id: str
    round: OpenRound
    asked: dict[str, SignedAssignment]
    answered: set[str]

    @property
    def first(self) -> bool:
        """Whether it is the assignment itself that asks."""
        return self.round.phase == self.round.assignment.phase


@dataclass(frozen=True)
class Snapshot:
    """The open (and turning) rounds by (run, seq), and the active studies with the sites that have decided on them."""

    rounds: dict[tuple[str, int], Posted] = field(default_factory=dict)
    studies: dict[str, frozenset[str]] = field(default_factory=dict)

    def work(self, site: str, known: frozenset[str]) -> Work:
        """What `site` has to do and does not have yet; known: ids 'run:seq' and study digests."""
        due = [p for p in self.rounds.values() if site in p.asked and site not in p.answered and p.id not in known]
        return Work(
            assignments=tuple(p.asked[site] for p in due if p.first),
            notices=tuple(p.asked[site] for p in due if not p.first),
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

    def answered(self, run: str, seq: int, phase: str, site: str) -> None:
        """Do not offer this phase to `site` again."""
        posted = self._snapshot.rounds.get((run, seq))
        if posted and posted.round.phase == phase:
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
    for row in tx.rows(select(rounds).where(rounds.c.status.in_(("open", "between")))):
        found = as_round(row)
        first, id_ = found.phase == found.assignment.phase, f"{row.run}:{row.seq}"
        asked = dict.fromkeys(found.assignment.roster, found.signed) if first else _notices(tx, row)
        here = (messages.c.run == row.run, messages.c.seq == row.seq, (messages.c.phase == row.phase) | (messages.c.kind == "decline"))
        senders = {s.sender for s in tx.rows(select(messages.c.sender).where(*here))}
        posted[row.run, row.seq] = Posted(id_ if first else f"{id_}:{row.phase}", found, asked if row.status == "open" else {}, senders)
    active = [r.study for r in tx.rows(select(runs.c.study).where(runs.c.status.in_(ACTIVE)).order_by(runs.c.created))]
    decided: dict[str, set[str]] = {digest: set() for digest in active}
    for row in tx.rows(select(decisions.c.study, decisions.c.site).where(decisions.c.study.in_(active))):
        decided[row.study].add(row.site)
    return Snapshot(posted, {digest: frozenset(sites) for digest, sites in decided.items()})


def _notices(tx: Tx, row: Any) -> dict[str, SignedAssignment]:
    query = select(inbox.c.site, inbox.c.notice, inbox.c.envelope).where(inbox.c.run == row.run, inbox.c.seq == row.seq, inbox.c.phase == row.phase)
    return {r.site: SignedAssignment(r.notice, r.envelope) for r in tx.rows(query)}
