"""A masked round in the database: what each site is asked in each phase, and which sites share a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select, update

from locum.coordinator.journal import record
from locum.coordinator.rosters import latest
from locum.coordinator.runs import check, fenced
from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import inbox, messages, rounds, runs, sessions
from locum.federation.envelope import Envelope
from locum.federation.masking import PublicSession, Turn
from locum.federation.round import Round
from locum.federation.wire import Assignment, Session, SignedAssignment
from locum.governance.events import Event
from locum.secagg.parameters import lot

NOTICE_BYTES_AT_A_TIME = 8 << 20
"""In one transaction: the notices of a large set-up are hundreds of megabytes together."""


def choose_session(store: Store, a: Assignment, buckets: int) -> Session:
    """Under which secrets round `a` is masked: those that were set up before, or new ones if a site has come since, has lost its
    own, or (having been away) says that it has none; or if one has left a session whose graph or buckets are drawn by lot.
    """

    def query(tx: Tx) -> Session:
        signed = latest(tx)
        roster = signed.digest if signed else ""
        known = tx.first(select(sessions).where(sessions.c.run == a.run).order_by(sessions.c.seq.desc()).limit(1))
        lost = select(messages.c.sender).where(messages.c.run == a.run, messages.c.seq == a.seq - 1, messages.c.code == "session")
        if known and known.roster == roster and tx.first(lost) is None:
            opened = tx.first(select(rounds.c.body).where(rounds.c.run == a.run, rounds.c.seq == known.seq))
            members = set(_public(known.body).members)
            whole = members <= set(a.roster) or not lot(len(members), buckets)
            if set(a.roster) <= set(msgspec.json.decode(opened.body, type=Assignment).roster) and whole:
                return Session(roster=roster, seq=known.seq)
        return Session(roster=roster, seq=a.seq)

    return store.read(query)


def session_of(store: Store, a: Assignment) -> PublicSession | None:
    """The session of round `a`, once it is set up."""
    if a.session is None:
        return None
    where = (sessions.c.run == a.run, sessions.c.seq == a.session.seq)
    row = store.read(lambda tx: tx.first(select(sessions.c.body).where(*where)))
    return _public(row.body) if row else None


def _public(body: bytes) -> PublicSession:
    return msgspec.msgpack.decode(body, type=PublicSession)


def contents(store: Store, a: Assignment, phase: str) -> dict[str, bytes]:
    """A phase's control messages by sender; of the vectors the contexts that their envelopes name."""

    def query(tx: Tx) -> dict[str, bytes]:
        column = messages.c.envelope if phase == "masked" else messages.c.body
        where = (messages.c.run == a.run, messages.c.seq == a.seq, messages.c.phase == phase, messages.c.kind == "release")
        return {r.sender: r[1] for r in tx.rows(select(messages.c.sender, column).where(*where))}

    found = store.read(query)
    return {sender: Envelope.peek(text).context.encode() for sender, text in found.items()} if phase == "masked" else found  # type: ignore[arg-type]


def go_on(store: Store, fence: int, round_: Round, turn: Turn, notices: Mapping[str, SignedAssignment], deadline: float) -> None:
    """Go on to a masked round's next phase. The notices are written first, in parts; only the last step lets anybody see them."""
    a = round_.assignment
    rows: list[dict[str, Any]] = [
        {"run": a.run, "seq": a.seq, "phase": turn.phase, "site": s, "notice": signed.body, "envelope": signed.envelope, "body": turn.notices[s]}
        for s, signed in notices.items()
    ]
    while rows:
        part, size = [rows.pop()], 0
        while rows and size < NOTICE_BYTES_AT_A_TIME:
            size += len(rows[-1]["body"])
            part.append(rows.pop())
        store.write(lambda tx, part=part: _write_notices(tx, a, fence, part))  # type: ignore[misc]

    def change(tx: Tx) -> None:
        asked = len(turn.notices) or len(round_.asked)
        fenced(tx, a.run, fence, version=runs.c.version + runs.c.asked + 1, asked=asked)
        values = {"phase": turn.phase, "needed": turn.needed, "status": "open", "deadline": deadline}
        tx.execute(update(rounds).where(rounds.c.run == a.run, rounds.c.seq == a.seq).values(**values))
        if turn.session and a.session:
            body = msgspec.msgpack.encode(turn.session)
            tx.execute(delete(sessions).where(sessions.c.run == a.run, sessions.c.seq == a.session.seq))
            tx.execute(insert(sessions).values(run=a.run, seq=a.session.seq, roster=a.session.roster, body=body))
        tx.wake("work", f"run:{a.run}")

    store.write(change)


def _write_notices(tx: Tx, a: Assignment, fence: int, rows: list[dict[str, Any]]) -> None:
    check(tx, a.run, fence)
    sites = [r["site"] for r in rows]
    tx.execute(delete(inbox).where(inbox.c.run == a.run, inbox.c.seq == a.seq, inbox.c.phase == rows[0]["phase"], inbox.c.site.in_(sites)))
    tx.execute(insert(inbox), rows)


def end_round(store: Store, fence: int, a: Assignment, status: str) -> None:
    """Close a masked round, or let it fail."""

    def change(tx: Tx) -> None:
        fenced(tx, a.run, fence, version=runs.c.version + 1)
        tx.execute(update(rounds).where(rounds.c.run == a.run, rounds.c.seq == a.seq).values(status=status, closed=tx.now()))
        if status == "failed":
            record(tx, Event.ROUND_FAILED, a.run, by="coordinator", seq=a.seq)

    store.write(change)


def inbox_body(store: Store, run: str, seq: int, phase: str, site: str) -> bytes | None:
    """What `site` is to answer in a phase."""
    where = (inbox.c.run == run, inbox.c.seq == seq, inbox.c.phase == phase, inbox.c.site == site)
    row = store.read(lambda tx: tx.first(select(inbox.c.body).where(*where)))
    return bytes(row.body) if row else None
