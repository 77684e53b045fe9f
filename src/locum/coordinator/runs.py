"""A run in the database: who drives it, its rounds, and its progress.

A replica holds a run by a lease; every write names the fence that came with the lease, so a replica that was thought
dead, and was replaced, can change nothing any more.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, select, update

from locum.coordinator.journal import record
from locum.coordinator.rosters import eligible
from locum.coordinator.store import Store, Tx
from locum.coordinator.studies import ACTIVE, parse_study
from locum.coordinator.tables import inbox, messages, models, rounds, runs, studies
from locum.errors import Conflict, Forbidden
from locum.federation.envelope import Envelope
from locum.federation.round import VECTORS, Round, phases
from locum.federation.runner import Cursor
from locum.federation.wire import Assignment, SignedAssignment
from locum.governance.events import Event
from locum.study.canonical import canonical, sha256
from locum.study.manifest import Study

LEASE_S = 5.0


class LeaseLost(Exception):
    """The run is another replica's now, or it was cancelled."""


@dataclass(frozen=True)
class Claim:
    """A lease on a run."""

    run: str
    fence: int
    taken_over: bool


@dataclass(frozen=True)
class Position:
    """Where a run is: what its driver starts from."""

    manifest: str
    cursor: Cursor
    state: str | None


@dataclass(frozen=True)
class OpenRound:
    """A round as the database has it. header: of the vector that travels; scalars: the numbers that it stands for."""

    assignment: Assignment
    signed: SignedAssignment
    header: bytes
    needed: int
    status: str
    phase: str = "release"
    deadline: float = 0.0
    scalars: int = 0


def owner(nonce: str) -> str:
    """A name for this process that tells replicas on the same machine whether it is alive."""
    return f"{_machine()}:{os.getpid()}:{nonce}"


def claim(store: Store, me: str, skip: Iterable[str]) -> list[Claim]:
    """Lease every run that may go on and that nobody alive holds, except `skip`."""

    def query(tx: Tx) -> list[Any]:
        active = select(runs, studies.c.manifest).join(studies, studies.c.digest == runs.c.study).where(runs.c.status.in_(ACTIVE))
        found, clock, skipped = tx.rows(active.order_by(runs.c.created)), tx.clock(), set(skip)
        free = [r for r in found if r.id not in skipped and _is_free(r, clock, me)]
        return [r for r in free if r.status == "running" or len(eligible(tx, parse_study(r.manifest))) >= r.needed]

    claims = []
    for row in store.read(query):
        taken = store.write(lambda tx, row=row: _take(tx, row, me))  # type: ignore[misc]
        if taken:
            claims.append(Claim(row.id, row.fence + 1, taken_over=row.lease_owner is not None))
    return claims


def _take(tx: Tx, row: Any, me: str) -> bool:
    done = tx.execute(
        update(runs)
        .where(runs.c.id == row.id, runs.c.fence == row.fence, runs.c.status == row.status)
        .values(
            status="running",
            fence=row.fence + 1,
            version=runs.c.version + 1,
            lease_owner=me,
            lease_until=tx.clock() + LEASE_S,
            started=func.coalesce(runs.c.started, tx.now()),
        )
    )
    if done.rowcount:
        tx.wake(f"run:{row.id}")
        if row.status == "waiting":
            record(tx, Event.RUN_STARTED, row.id, by="coordinator", study=row.study, protection=parse_study(row.manifest).terms.protection())
    return bool(done.rowcount)


def renew(store: Store, me: str, held: Iterable[str]) -> None:
    """Keep the leases of the runs that this replica drives."""
    ids = list(held)
    if ids:
        store.write(lambda tx: tx.execute(update(runs).where(runs.c.lease_owner == me, runs.c.id.in_(ids)).values(lease_until=tx.clock() + LEASE_S)))


def release(store: Store, me: str) -> None:
    """Give every lease back, so that another replica goes on at once."""

    def change(tx: Tx) -> None:
        if tx.execute(update(runs).where(runs.c.lease_owner == me).values(lease_owner=None, fence=runs.c.fence + 1)).rowcount:
            tx.wake("runs")

    store.write(change)


def position(store: Store, run: str) -> Position:
    """Where `run` is."""
    query = select(studies.c.manifest, runs.c.cursor, runs.c.state).join(studies, studies.c.digest == runs.c.study).where(runs.c.id == run)
    row = store.read(lambda tx: tx.first(query))
    return Position(row.manifest, msgspec.json.decode(row.cursor, type=Cursor), row.state)


def cohort(store: Store, study: Study) -> list[str]:
    """The sites that approve `study` and may be asked, sorted."""
    return store.read(lambda tx: eligible(tx, study))


def find_round(store: Store, run: str, seq: int) -> OpenRound | None:
    row = store.read(lambda tx: tx.first(select(rounds).where(rounds.c.run == run, rounds.c.seq == seq)))
    return as_round(row) if row else None


def as_round(row: Any) -> OpenRound:
    signed = SignedAssignment(row.body, row.envelope)
    assignment = msgspec.json.decode(row.body, type=Assignment)
    return OpenRound(assignment, signed, row.header, row.needed, row.status, row.phase, row.deadline, row.scalars)


def open_round(store: Store, fence: int, found: OpenRound) -> None:
    """Publish a round; the sites' polls wake."""
    a = found.assignment

    def change(tx: Tx) -> None:
        fenced(tx, a.run, fence, version=runs.c.version + 1, asked=len(a.roster), state=a.state)
        values = {"body": found.signed.body, "envelope": found.signed.envelope, "header": found.header, "needed": found.needed}
        values |= {"phase": phases(a)[0], "deadline": a.deadline, "scalars": found.scalars}
        tx.execute(insert(rounds).values(run=a.run, seq=a.seq, status="open", opened=tx.now(), **values))
        tx.wake("work", f"run:{a.run}")

    store.write(change)


def progress(store: Store, run: str, seq: int, fence: int) -> tuple[int, int]:
    """How many have answered and declined in the present phase; raises `LeaseLost`."""

    def query(tx: Tx) -> tuple[int, int]:
        check(tx, run, fence)
        phase = select(rounds.c.phase).where(rounds.c.run == run, rounds.c.seq == seq).scalar_subquery()
        here = select(messages.c.kind, func.count()).where(messages.c.run == run, messages.c.seq == seq, messages.c.phase == phase)
        counts = dict(tx.rows(here.group_by(messages.c.kind)))
        return counts.get("release", 0), counts.get("decline", 0)

    return store.read(query)


def replay(store: Store, found: OpenRound) -> Round:
    """The round's machine after the messages that are durable now."""
    return store.read(lambda tx: _replay(tx, found.assignment, found.needed))


def settle(store: Store, fence: int, round_: Round) -> Round:
    """The machine after all messages and the present time; if that ends the round, no later message can enter it."""
    a = round_.assignment

    def change(tx: Tx) -> Round:
        fenced(tx, a.run, fence, version=runs.c.version + 1)
        tx.first(select(rounds.c.status).where(rounds.c.run == a.run, rounds.c.seq == a.seq).with_for_update())  # waits for those who are about to commit
        machine = _replay(tx, a, round_.needed)
        machine.tick(tx.now())
        if machine.status != "open":
            closed = None if machine.status == "between" else tx.now()
            tx.execute(update(rounds).where(rounds.c.run == a.run, rounds.c.seq == a.seq).values(status=machine.status, closed=closed))
            if machine.status == "failed":
                record(tx, Event.ROUND_FAILED, a.run, by="coordinator", seq=a.seq)
        return machine

    return store.write(change)


def _replay(tx: Tx, a: Assignment, needed: int) -> Round:
    row = tx.first(select(rounds.c.status, rounds.c.phase, rounds.c.deadline, rounds.c.needed).where(rounds.c.run == a.run, rounds.c.seq == a.seq))
    columns = (messages.c.sender, messages.c.kind, messages.c.code, messages.c.digest, messages.c.phase)
    machine = Round(a, needed)
    given = tx.rows(select(*columns).where(messages.c.run == a.run, messages.c.seq == a.seq).order_by(messages.c.sender))
    for phase in phases(a):
        if phase == row.phase and phase != phases(a)[0]:
            machine.enter(phase, _asked(tx, a, phase), row.needed, row.deadline)
        for m in given:
            if m.phase == phase != row.phase:  # the phase is over: its answers stand as they are
                (machine.answers.setdefault(phase, {}) if m.kind == "release" else machine.declined)[m.sender] = m.digest if m.kind == "release" else m.code
            elif m.phase == phase:
                envelope = Envelope(kind=m.kind, study=a.study, run=a.run, seq=a.seq, phase=phase, sender=m.sender, digest=m.digest)
                with suppress(Conflict, Forbidden):  # accepted while the phase was ending: the outcome is the same
                    machine.feed(envelope, m.code)
        if phase == row.phase:
            break
    if row.status != "open":
        machine.status = row.status
    return machine


def _asked(tx: Tx, a: Assignment, phase: str) -> list[str]:
    return [r.site for r in tx.rows(select(inbox.c.site).where(inbox.c.run == a.run, inbox.c.seq == a.seq, inbox.c.phase == phase))]


def bodies(store: Store, run: str, seq: int, senders: list[str], *, phase: str = "release", at_a_time: int = 64) -> Iterable[bytes]:
    """The vectors that are kept in rows, in the order of `senders`, read `at_a_time`."""
    step = min(at_a_time, 64)
    for start in range(0, len(senders), step):
        part = senders[start : start + step]
        where = (messages.c.run == run, messages.c.seq == seq, messages.c.phase == phase, messages.c.sender.in_(part))
        query = select(messages.c.sender, messages.c.body).where(*where)
        found = dict(store.read(lambda tx, query=query: tx.rows(query)))  # type: ignore[misc]
        for sender in part:
            yield found[sender]


def checkpoint(store: Store, fence: int, run: str, seq: int, cursor: Cursor, state: str, *, study: str, model_bytes: int | None) -> None:
    """Make the position after round `seq` durable and drop the round's releases; with `model_bytes` the run has finished."""

    def change(tx: Tx) -> None:
        ending: dict[str, Any] = {} if model_bytes is None else {"status": "finished", "ended": tx.now(), "lease_owner": None}
        text = msgspec.json.encode(cursor).decode()
        fenced(tx, run, fence, cursor=text, state=state, version=runs.c.version + runs.c.asked + 1, asked=0, **ending)
        tx.execute(update(messages).where(messages.c.run == run, messages.c.seq == seq).values(body=None))
        tx.execute(delete(inbox).where(inbox.c.run == run, inbox.c.seq == seq))
        if model_bytes is not None:
            tx.execute(insert(models).values(run=run, id=state, study=study, bytes=model_bytes, created=tx.now()))
        tx.wake(f"run:{run}")
        given = _answers(tx, run, seq)
        if given:
            record(tx, Event.ROUND_COMBINED, run, by="coordinator", seq=seq, state=state, sites=len(given), answers=sha256(canonical(given)))
        if model_bytes is not None:
            record(tx, Event.MODEL_MADE, state, by="coordinator", run=run, study=study, bytes=model_bytes, results=sha256(canonical(cursor.results)))

    store.write(change)


def fail(store: Store, fence: int, run: str, error: str) -> None:
    """End a run without a model."""

    def change(tx: Tx) -> None:
        version = runs.c.version + runs.c.asked + 1
        fenced(tx, run, fence, status="failed", error=error, ended=tx.now(), version=version, asked=0, lease_owner=None)
        tx.execute(update(rounds).where(rounds.c.run == run, rounds.c.status.in_(("open", "between"))).values(status="failed", closed=tx.now()))
        tx.execute(update(messages).where(messages.c.run == run).values(body=None))
        tx.execute(delete(inbox).where(inbox.c.run == run))
        tx.wake("work", f"run:{run}")
        record(tx, Event.RUN_FAILED, run, by="coordinator", error=error[:500])

    store.write(change)


def _answers(tx: Tx, run: str, seq: int) -> dict[str, str]:
    """Site -> digest of the vector that it released in a round, as it signed it."""
    if tx.first(select(rounds.c.run).where(rounds.c.run == run, rounds.c.seq == seq, rounds.c.status == "closed")) is None:
        return {}  # a round that failed was summed by nobody, whoever had answered
    where = (messages.c.run == run, messages.c.seq == seq, messages.c.kind == "release", messages.c.phase.in_(VECTORS))
    return {m.sender: m.digest for m in tx.rows(select(messages.c.sender, messages.c.digest).where(*where).order_by(messages.c.sender))}


def has_ended(store: Store, run: str) -> bool:
    return store.read(lambda tx: tx.first(select(runs.c.id).where(runs.c.id == run, runs.c.status.in_(ACTIVE)))) is None


def fenced(tx: Tx, run: str, fence: int, **values: Any) -> None:
    """Update a run if the lease is still ours; raises `LeaseLost`."""
    if not tx.execute(update(runs).where(runs.c.id == run, runs.c.fence == fence, runs.c.status == "running").values(**values)).rowcount:
        raise LeaseLost(run)


def check(tx: Tx, run: str, fence: int) -> None:
    """Raises `LeaseLost` if the lease is no longer ours."""
    if tx.first(select(runs.c.id).where(runs.c.id == run, runs.c.fence == fence, runs.c.status == "running")) is None:
        raise LeaseLost(run)


def _is_free(row: Any, clock: float, me: str) -> bool:
    return row.lease_owner in (None, me) or row.lease_until < clock or _is_dead(row.lease_owner)


@cache
def _machine() -> str:
    """This boot of this machine, and the process namespace: within it a process number means one process."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            return f"{f.read(8)}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{socket.gethostname()}-{os.urandom(4).hex()}"


def _is_dead(name: str) -> bool:
    """Whether the process called `name` is certainly gone. Elsewhere than here nobody can tell: its lease must run out."""
    machine, pid, _ = name.rsplit(":", 2)
    if machine != _machine():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
