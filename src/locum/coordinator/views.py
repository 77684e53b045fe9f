"""What a party may read, and nothing besides: a site its own work, an investigator what it submitted."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, exists, func, or_, select

from locum.coordinator.parties import Party
from locum.coordinator.rosters import obstacle
from locum.coordinator.store import Store, Tx
from locum.coordinator.studies import approvals, parse_study
from locum.coordinator.tables import decisions, messages, models, parties, rounds, runs, studies, versions
from locum.errors import NotFound
from locum.federation.identity import PublicKey
from locum.federation.round import VECTORS
from locum.federation.runner import Cursor
from locum.federation.wire import Assignment, ModelView, Role, RoundView, RunView, StudyView


class SiteView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An enrolled site. fingerprint: of its key, to compare over the telephone."""

    name: str
    role: Role
    fingerprint: str
    enrolled: float


def list_sites(store: Store) -> tuple[SiteView, ...]:
    rows = store.read(lambda tx: tx.rows(select(parties).where(parties.c.role == "site", parties.c.revoked.is_(None)).order_by(parties.c.name)))
    return tuple(SiteView(name=r.name, role=r.role, fingerprint=PublicKey.parse(r.public_key).fingerprint, enrolled=r.enrolled) for r in rows)


def list_studies(store: Store, party: Party) -> tuple[StudyView, ...]:
    """Every study for a site, since it may decide on each; an investigator's own."""
    query = select(studies).where(_sees_study(party)).order_by(studies.c.submitted)
    return store.read(lambda tx: tuple(_study(tx, row, party) for row in tx.rows(query)))


def get_study(store: Store, party: Party, digest: str) -> StudyView:
    def query(tx: Tx) -> StudyView:
        row = tx.first(select(studies).where(studies.c.digest == digest, _sees_study(party)))
        if row is None:
            raise NotFound("There is no such study.")
        return _study(tx, row, party)

    return store.read(query)


def list_runs(store: Store, party: Party) -> tuple[RunView, ...]:
    return store.read(lambda tx: tuple(_run(tx, row) for row in tx.rows(_runs(party).order_by(runs.c.created))))


def get_run(store: Store, party: Party, run: str) -> RunView:
    def query(tx: Tx) -> RunView:
        return _run(tx, _seen_run(tx, party, run))

    return store.read(query)


def list_rounds(store: Store, party: Party, run: str) -> tuple[RoundView, ...]:
    """The rounds of a run; for a site those it was asked in, and of the refusals only its own."""

    def query(tx: Tx) -> tuple[RoundView, ...]:
        manifest = _seen_run(tx, party, run).manifest
        answers: dict[int, list[Any]] = {}
        columns = (messages.c.seq, messages.c.phase, messages.c.sender, messages.c.kind, messages.c.code, messages.c.size)
        for row in tx.rows(select(*columns).where(messages.c.run == run)):
            answers.setdefault(row.seq, []).append(row)
        found = tx.rows(select(rounds).where(rounds.c.run == run).order_by(rounds.c.seq))
        views = (_round(row, answers.get(row.seq, []), manifest, party) for row in found)
        return tuple(view for view in views if view is not None)

    return store.read(query)


def list_models(store: Store, party: Party) -> tuple[ModelView, ...]:
    return store.read(lambda tx: tuple(_model(row) for row in tx.rows(_models(party).order_by(models.c.created))))


def get_model(store: Store, party: Party, digest: str) -> ModelView:
    row = store.read(lambda tx: tx.first(_models(party).where(models.c.id == digest).order_by(models.c.created)))
    if row is None:
        raise NotFound("There is no such model.")
    return _model(row)


def _sees_study(party: Party) -> ColumnElement[bool]:
    return studies.c.requester == party.name if party.role == "investigator" else studies.c.digest.is_not(None)


def _sees_run(party: Party) -> ColumnElement[bool]:
    """An investigator: runs of its studies. A site: runs of studies that it approves, or that it has answered. An approver: all."""
    if party.role == "approver":
        return runs.c.id.is_not(None)
    if party.role == "investigator":
        return studies.c.requester == party.name
    approves = exists().where(decisions.c.study == runs.c.study, decisions.c.site == party.name, decisions.c.kind == "approval")
    answered = exists().where(messages.c.run == runs.c.id, messages.c.sender == party.name)
    return or_(approves, answered)


def _runs(party: Party) -> Any:
    model = select(models.c.id).where(models.c.run == runs.c.id).scalar_subquery().label("model")
    return select(runs, studies.c.manifest, model).join(studies, studies.c.digest == runs.c.study).where(_sees_run(party))


def _seen_run(tx: Tx, party: Party, run: str) -> Any:
    row = tx.first(_runs(party).where(runs.c.id == run))
    if row is None:
        raise NotFound("There is no such run.")
    return row


def _models(party: Party) -> Any:
    """Those of the runs that the party sees, and for everybody the current version of every line."""
    joined = models.join(runs, runs.c.id == models.c.run).join(studies, studies.c.digest == models.c.study)
    current = exists().where(versions.c.run == models.c.run, versions.c.status == "current")
    return select(models, studies.c.manifest).select_from(joined).where(or_(_sees_run(party), current))


def _study(tx: Tx, row: Any, party: Party) -> StudyView:
    denied = select(decisions.c.site).where(decisions.c.study == row.digest, decisions.c.kind == "denial").order_by(decisions.c.site)
    if party.role == "site":
        denied = denied.where(decisions.c.site == party.name)
    return StudyView(
        digest=row.digest,
        manifest=row.manifest,
        envelope=row.envelope,
        requester=row.requester,
        requester_key=row.requester_key,
        submitted=row.submitted,
        approvals=tuple(r.site for r in tx.rows(approvals(row.digest))),
        denials=tuple(r.site for r in tx.rows(denied)),
    )


def _run(tx: Tx, row: Any) -> RunView:
    study = parse_study(row.manifest)
    cursor = msgspec.json.decode(row.cursor, type=Cursor)
    answered = 0
    if row.asked:
        phase = select(rounds.c.phase).where(rounds.c.run == row.id, rounds.c.seq == cursor.seq).scalar_subquery()
        answered = tx.first(select(func.count()).where(messages.c.run == row.id, messages.c.seq == cursor.seq, messages.c.phase == phase))[0]
    return RunView(
        id=row.id,
        study=row.study,
        name=study.name,
        status=row.status,
        version=row.version + answered,  # the driver adds `asked` when a round ends, so this never falls
        step=cursor.step,
        steps=tuple(step.name for step in study.plan),
        iteration=cursor.iteration,
        seq=cursor.seq,
        asked=row.asked,
        answered=answered,
        approvals=len(tx.rows(approvals(row.study))),
        needed=row.needed,
        created=row.created,
        started=row.started,
        ended=row.ended,
        protection=study.terms.protection(),
        model=row.model,
        error=row.error,
        results=cursor.results,
        note=obstacle(tx, row.manifest) if row.status == "waiting" else "",
    )


def _round(row: Any, answers: list[Any], manifest: str, party: Party) -> RoundView | None:
    assignment = msgspec.json.decode(row.body, type=Assignment)
    if party.role == "site" and party.name not in assignment.roster:
        return None
    return RoundView(
        seq=row.seq,
        step=parse_study(manifest).plan[assignment.step].name,
        iteration=assignment.iteration,
        status=row.status,
        opened=row.opened,
        closed=row.closed,
        asked=len(assignment.roster),
        answered=sum(a.kind == "decline" or a.phase in VECTORS for a in answers),
        declined={a.sender: a.code for a in answers if a.kind == "decline" and (party.role != "site" or a.sender == party.name)},
        bytes_in=sum(a.size for a in answers),
        bytes_out=assignment.state_bytes * len(assignment.roster),
        phase=row.phase,
        vector_bytes=assignment.vector_bytes,
        scalars=row.scalars,
        summed=sum(a.kind == "release" and a.phase in VECTORS for a in answers),
    )


def _model(row: Any) -> ModelView:
    return ModelView(id=row.id, run=row.run, study=row.study, name=parse_study(row.manifest).name, bytes=row.bytes, created=row.created)
