"""The sites' answers: many arrive at once, and all that are waiting share one durable transaction (group commit)."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, tuple_

from locum.coordinator.runs import OpenRound
from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import inbox, messages, rounds
from locum.errors import LocumError, NotFound, Unavailable
from locum.federation.envelope import Envelope
from locum.federation.round import Round

BATCH = 256
Outcome = bool | LocumError


@dataclass(frozen=True)
class Message:
    """A verified answer. body: the vector if it is kept in the row, else None."""

    round: OpenRound
    envelope: Envelope
    text: str
    code: str
    size: int
    body: bytes | None

    @property
    def place(self) -> tuple[str, int]:
        return self.envelope.run, self.envelope.seq


class Recorder(threading.Thread):
    """One thread that makes messages durable. A future resolves only after the commit: True if new, False if the same came before."""

    def __init__(self, store: Store) -> None:
        super().__init__(name="locum-recorder", daemon=True)
        self.store = store
        self._queue: queue.SimpleQueue[tuple[Message, Future[bool]] | None] = queue.SimpleQueue()

    def submit(self, message: Message) -> Future[bool]:
        future: Future[bool] = Future()
        self._queue.put((message, future))
        return future

    def stop(self) -> None:
        self._queue.put(None)
        self.join(timeout=10)

    def run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < BATCH and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    self._queue.put(None)
                    break
                batch.append(item)
            self._commit(batch)

    def _commit(self, batch: list[tuple[Message, Future[bool]]]) -> None:
        outcomes: list[Outcome]
        try:
            outcomes = self.store.write(lambda tx: record(tx, [message for message, _ in batch]))
        except LocumError as error:
            outcomes = [error] * len(batch)
        except Exception:
            outcomes = [Unavailable("The coordinator could not record this message.", fix="try again; if it repeats, tell the operator")] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, LocumError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def record(tx: Tx, batch: list[Message]) -> list[Outcome]:
    """Insert what the round's machine accepts. Each message gets True (new), False (known) or its own error."""
    places = sorted({m.place for m in batch})
    # FOR SHARE: a round cannot end between this look and the commit
    found = tx.rows(
        select(rounds.c.run, rounds.c.seq, rounds.c.status, rounds.c.phase)
        .where(tuple_(rounds.c.run, rounds.c.seq).in_(places))
        .order_by(rounds.c.run, rounds.c.seq)
        .with_for_update(read=True)
    )
    now = {(r.run, r.seq): (r.status, r.phase) for r in found}
    senders = {m.envelope.sender for m in batch}
    columns = (messages.c.run, messages.c.seq, messages.c.sender, messages.c.phase, messages.c.kind, messages.c.digest, messages.c.code)
    known = tx.rows(select(*columns).where(tuple_(messages.c.run, messages.c.seq).in_(places), messages.c.sender.in_(senders)))
    answers: dict[tuple[str, int, str], dict[str, Given]] = {}
    for r in known:
        answers.setdefault((r.run, r.seq, r.sender), {})[r.phase] = (r.kind, r.digest, r.code)
    asked = _asked(tx, [m for m in batch if m.envelope.phase != m.round.assignment.phase])
    outcomes: list[Outcome] = []
    rows: list[dict[str, Any]] = []
    for m in batch:
        given = answers.setdefault((*m.place, m.envelope.sender), {})
        outcome = _judge(m, now.get(m.place), given, asked)
        outcomes.append(outcome)
        if outcome is True:
            given[m.envelope.phase] = (m.envelope.kind, m.envelope.digest, m.code)
            rows.append(_row(m, tx.now()))
    if rows:
        tx.execute(insert(messages), rows)
        tx.wake(*{f"run:{row['run']}" for row in rows})
    return outcomes


Given = tuple[str, str, str]


def _asked(tx: Tx, batch: list[Message]) -> set[tuple[str, int, str, str]]:
    """Of the messages of later phases, which (run, seq, phase, sender) were asked for."""
    if not batch:
        return set()
    columns = (inbox.c.run, inbox.c.seq, inbox.c.phase, inbox.c.site)
    keys = sorted({(*m.place, m.envelope.phase, m.envelope.sender) for m in batch})
    return {tuple(r) for r in tx.rows(select(*columns).where(tuple_(*columns).in_(keys)))}


def _judge(m: Message, now: tuple[str, str] | None, given: dict[str, Given], asked: set[tuple[str, int, str, str]]) -> Outcome:
    """What the round's machine says of one message, given what this sender said before."""
    if now is None:
        return NotFound("There is no such round.")
    (status, phase), e, a = now, m.envelope, m.round.assignment
    may = a.roster if phase == a.phase else (e.sender,) if (e.run, e.seq, phase, e.sender) in asked else ("",)
    machine = Round(a, m.round.needed, status=status, phase=phase, asked=may)  # type: ignore[arg-type]
    for before, (kind, digest, code) in given.items():
        if kind == "release":
            machine.answers.setdefault(before, {})[e.sender] = digest
        else:
            machine.declined[e.sender] = code
    try:
        return machine.feed(m.envelope, m.code)
    except LocumError as error:
        return error


def _row(m: Message, now: float) -> dict[str, Any]:
    e = m.envelope
    return {
        "run": e.run,
        "seq": e.seq,
        "phase": e.phase,
        "sender": e.sender,
        "kind": e.kind,
        "code": m.code,
        "digest": e.digest,
        "size": m.size,
        "body": m.body,
        "envelope": m.text,
        "received": now,
    }
