"""The record of a finished run, for its investigator and for approvers: what an audit bundle is made of, under one checkpoint."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select
from starlette.responses import Response

from locum.coordinator.call import INVESTIGATOR, Call, Endpoint, reply
from locum.coordinator.journal import Journal
from locum.coordinator.parties import Party
from locum.coordinator.store import Store, Tx
from locum.coordinator.studies import own_study
from locum.coordinator.tables import log_entries, messages, models, rosters, rounds, runs, studies
from locum.errors import Conflict, NotFound
from locum.federation.identity import b64
from locum.federation.record import ENTRIES, ProvedEntry, RoundRecord, RunRecord, Statement, listing
from locum.federation.roster import SignedRoster
from locum.federation.round import VECTORS
from locum.federation.runner import Cursor
from locum.federation.wire import Assignment
from locum.governance.events import Event
from locum.study.canonical import canonical


def run_record(store: Store, journal: Journal, party: Party, run: str) -> RunRecord:
    """Raises `NotFound` for a run that is not this party's, `Conflict` for one that has no model yet."""

    def query(tx: Tx) -> tuple[RunRecord, set[str], int]:
        row = tx.first(select(runs).where(runs.c.id == run))
        if row is None:
            raise NotFound("There is no such run.")
        study = _study(tx, party, row.study)
        made = tx.first(select(models).where(models.c.run == run))
        if made is None:
            raise Conflict("This run has made no model.", why="A bundle is about a model.", fix="wait for the run to finish, or see why it failed")
        here = (log_entries.c.subject == made.id, log_entries.c.event == str(Event.MODEL_MADE))
        logged = [e.n for e in tx.rows(select(log_entries.c.n, log_entries.c.body).where(*here)) if f'"run":"{run}"'.encode() in e.body]
        if not logged:
            raise Conflict("This run was made before the federation had a log.", fix="run the study again")
        signed, asked = _rosters(tx, run)
        results = canonical(msgspec.json.decode(row.cursor, type=Cursor).results).decode()
        record = RunRecord(
            study=row.study,
            run=run,
            model=made.id,
            model_bytes=made.bytes,
            requester=study.requester,
            manifest=study.manifest,
            envelope=study.envelope,
            results=results,
            rosters=signed,
            checkpoint="",
            entries=(),
            complete=Statement("", ""),
            rounds=len(tx.rows(select(rounds.c.seq).where(rounds.c.run == run))),
        )
        deciders = [e.body for e in tx.rows(select(log_entries.c.body).where(log_entries.c.subject == row.study))]
        names = {msgspec.json.decode(body)["by"] for body in deciders} | asked
        return record, names | {row.study, run, made.id, study.requester, *(s.digest for s in signed)}, max(logged)

    record, subjects, n = store.read(query)
    signed = journal.best(n)
    head = signed.checkpoint
    subjects |= {name for name, _ in signed.lines if name != head.origin}
    found = journal.proved(sorted(subjects), head.size)
    said = listing(head.origin, head.size, head.root, sorted(subjects), [n for n, _, _ in found])
    return msgspec.structs.replace(
        record,
        checkpoint=signed.text(),
        entries=tuple(ProvedEntry(n, body.decode(), tuple(h.hex() for h in proof)) for n, body, proof in found),
        complete=Statement(said.decode(), b64(journal.identity.sign(ENTRIES, said))),
    )


def _study(tx: Tx, party: Party, digest: str) -> Any:
    """The study's row. An investigator sees its own, an approver every one."""
    return tx.first(select(studies).where(studies.c.digest == digest)) if party.role == "approver" else own_study(tx, party, digest)


def _rosters(tx: Tx, run: str) -> tuple[tuple[SignedRoster, ...], set[str]]:
    """The consortium's rosters under which the run's rounds were masked, and every site that was asked."""
    named: set[str] = set()
    asked: set[str] = set()
    for row in tx.rows(select(rounds.c.body).where(rounds.c.run == run)):
        a = msgspec.json.decode(row.body, type=Assignment)
        asked.update(a.roster)
        if a.session:
            named.add(a.session.roster)
    found = tx.rows(select(rosters).where(rosters.c.digest.in_(named)).order_by(rosters.c.version))
    return tuple(SignedRoster(body=r.body, signature=r.signature) for r in found), asked


def round_record(store: Store, party: Party, run: str, seq: int) -> RoundRecord:
    """Raises `NotFound`."""

    def query(tx: Tx) -> RoundRecord:
        row = tx.first(select(rounds, runs.c.study).join(runs, runs.c.id == rounds.c.run).where(rounds.c.run == run, rounds.c.seq == seq))
        if row is None:
            raise NotFound("There is no such round.")
        _study(tx, party, row.study)
        where = (messages.c.run == run, messages.c.seq == seq, messages.c.kind == "release", messages.c.phase.in_(VECTORS))
        given = tx.rows(select(messages.c.sender, messages.c.envelope).where(*where).order_by(messages.c.sender)) if row.status == "closed" else []
        return RoundRecord(seq=seq, body=row.body, envelope=row.envelope, answers={m.sender: m.envelope for m in given})

    return store.read(query)


async def get_run_record(call: Call) -> Response:
    s = call.services
    return reply(await s.thread(run_record, s.store, s.journal, call.party, call.part("run")))


async def get_round_record(call: Call) -> Response:
    s = call.services
    return reply(await s.thread(round_record, s.store, call.party, call.part("run"), int(call.part("seq"))))


READERS = (*INVESTIGATOR, "approver")
ENDPOINTS = (
    Endpoint("GET", "/v1/runs/{run}/record", get_run_record, READERS, "What an audit bundle of a finished run is made of", RunRecord),
    Endpoint("GET", "/v1/runs/{run}/record/{seq:int}", get_round_record, READERS, "A round's assignment, and the envelopes of its answers", RoundRecord),
)
