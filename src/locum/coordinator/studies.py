"""Studies, the sites' decisions on them, and the runs they lead to."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Select, delete, insert, select, update

from locum.coordinator.journal import record
from locum.coordinator.parties import Party, still_enrolled
from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import decisions, inbox, parties, rounds, runs, studies
from locum.errors import Conflict, ManifestError, NotFound
from locum.federation.budget import budget_of
from locum.federation.envelope import Envelope
from locum.federation.runner import Cursor
from locum.governance.events import Event
from locum.study.manifest import Study
from locum.tasks import build_plan

ACTIVE = ("waiting", "running")


@lru_cache(maxsize=256)
def parse_study(manifest: str) -> Study:
    return Study.from_json(manifest.encode())


def submit(store: Store, party: Party, body: bytes, envelope_text: str, request: str) -> str:
    """Record a study and start waiting for approvals; the study's digest. Repeating it changes nothing. Raises `ManifestError`."""
    study = Study.from_json(body)
    budget_of(study, build_plan(study))
    if study.canonical != body:
        raise ManifestError(
            "The study is not in canonical form.", why="Its digest here would differ from the one that was signed.", fix="update both sides to the same release"
        )
    Envelope.open(envelope_text, party.key, kind="study", study=study.digest, sender=party.name, digest=study.digest)

    def change(tx: Tx) -> None:
        row = tx.first(select(studies.c.requester).where(studies.c.digest == study.digest))
        if row and row.requester != party.name:
            raise Conflict("Another investigator has submitted this very study.", fix="change its title or seed to make it your own")
        if row is None:
            tx.execute(
                insert(studies).values(
                    digest=study.digest,
                    manifest=body.decode(),
                    envelope=envelope_text,
                    requester=party.name,
                    requester_key=str(party.key),
                    submitted=store.now(),
                )
            )
        if row is None:
            record(tx, Event.STUDY_SUBMITTED, study.digest, by=party.name, key=party.key.fingerprint, envelope=envelope_text)
        if tx.first(select(runs.c.id).where(runs.c.study == study.digest)) is None:
            _add_run(tx, study, request, party.name)

    store.write(change)
    return study.digest


def start_run(store: Store, party: Party, digest: str, request: str) -> str:
    """Another run of a study; the one that is active, if there is one. A replayed request finds the run that it made."""

    def change(tx: Tx) -> str:
        study = parse_study(own_study(tx, party, digest).manifest)
        active = tx.first(select(runs.c.id).where(runs.c.study == digest, runs.c.status.in_(ACTIVE)))
        return str(active.id) if active else _add_run(tx, study, request, party.name)

    return store.write(change)


def _add_run(tx: Tx, study: Study, request: str, by: str) -> str:
    run = hashlib.sha256(f"locum/run/1\0{study.digest}\0{request}".encode()).hexdigest()[:20]
    if tx.first(select(runs.c.id).where(runs.c.id == run)):
        return run
    values = {"cursor": msgspec.json.encode(Cursor()).decode(), "needed": study.terms.start_when or study.terms.min_cohort, "created": tx.now()}
    tx.execute(insert(runs).values(id=run, study=study.digest, status="waiting", version=1, fence=0, asked=0, error="", **values))
    tx.wake("runs", "work", f"run:{run}")
    record(tx, Event.RUN_CREATED, run, by=by, study=study.digest)
    return run


def decide(store: Store, party: Party, digest: str, envelope_text: str, at: float) -> None:
    """Record a site's approval or denial; the latest holds, from the next round on. `at`: the time that the site signed its request at."""
    envelope = Envelope.open(envelope_text, party.key, study=digest, sender=party.name, digest=digest)
    if envelope.kind not in ("approval", "denial"):
        raise ManifestError("A decision is an approval or a denial.")

    def change(tx: Tx) -> None:
        still_enrolled(tx, party)
        if tx.first(select(studies.c.digest).where(studies.c.digest == digest)) is None:
            raise NotFound("There is no such study.")
        query = select(decisions).where(decisions.c.study == digest, decisions.c.site == party.name)
        known = tx.first(query.with_for_update())
        if known and known.kind == envelope.kind:
            return
        if known and at <= known.at:
            raise Conflict("A later decision by this site is recorded already.", why="This one is older: it was replayed, or the site's clock went back.")
        values = {"kind": envelope.kind, "envelope": envelope_text, "at": at}
        if known:
            tx.execute(update(decisions).where(decisions.c.study == digest, decisions.c.site == party.name).values(**values))
        else:
            tx.execute(insert(decisions).values(study=digest, site=party.name, **values))
        tx.wake("runs", "work", *(f"run:{r.id}" for r in tx.rows(select(runs.c.id).where(runs.c.study == digest, runs.c.status.in_(ACTIVE)))))
        event = Event.STUDY_APPROVED if envelope.kind == "approval" else Event.STUDY_DENIED
        record(tx, event, digest, by=party.name, key=party.key.fingerprint, envelope=envelope_text)

    store.write(change)


def cancel(store: Store, party: Party, run: str) -> None:
    """Stop a run for good; whoever drives it loses its lease. Nothing happens to a run that has ended."""

    def change(tx: Tx) -> None:
        row = tx.first(select(runs.c.study).where(runs.c.id == run))
        if row is None:
            raise NotFound("There is no such run.")
        own_study(tx, party, row.study)
        active = (runs.c.id == run) & runs.c.status.in_(ACTIVE)
        ended = tx.execute(
            update(runs)
            .where(active)
            .values(status="cancelled", ended=store.now(), version=runs.c.version + runs.c.asked + 1, asked=0, fence=runs.c.fence + 1, lease_owner=None)
        )
        if ended.rowcount:
            tx.execute(update(rounds).where(rounds.c.run == run, rounds.c.status.in_(("open", "between"))).values(status="failed", closed=store.now()))
            tx.execute(delete(inbox).where(inbox.c.run == run))
            tx.wake("work", f"run:{run}")
            record(tx, Event.RUN_CANCELLED, run, by=party.name, study=row.study)

    store.write(change)


def own_study(tx: Tx, party: Party, digest: str) -> Any:
    """The study's row if `party` submitted it; raises `NotFound` for any other."""
    row = tx.first(select(studies).where(studies.c.digest == digest, studies.c.requester == party.name))
    if row is None:
        raise NotFound("There is no such study.", why="An investigator sees the studies that it submitted.")
    return row


def approvals(digest: str) -> Select[Any]:
    """A query for the names of the sites whose approval of `digest` is in force."""
    return (
        select(decisions.c.site)
        .join(parties, parties.c.name == decisions.c.site)
        .where(decisions.c.study == digest, decisions.c.kind == "approval", parties.c.revoked.is_(None), parties.c.role == "site")
        .order_by(decisions.c.site)
    )
