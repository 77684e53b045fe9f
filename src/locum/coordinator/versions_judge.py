"""What the gate is given, all from the coordinator's own record: the study, the results, the rounds, and the version that is current."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import func, select

from locum.coordinator import views
from locum.coordinator.parties import Party
from locum.coordinator.store import Store, Tx
from locum.coordinator.studies import approvals, parse_study
from locum.coordinator.tables import lines, runs, studies, versions
from locum.errors import NotFound
from locum.federation.card import card_or_none, plain
from locum.federation.identity import PublicKey
from locum.federation.lines import IN_USE
from locum.governance.gate import Current, judge
from locum.governance.gate_verdict import Check, Verdict
from locum.governance.update import continued
from locum.study.manifest import Study


def judged(store: Store, line: str, version: int, run: str, audit: Mapping[str, Any] | None) -> tuple[Verdict, int]:
    """The verdict on a run as the next version after the line's current one, and the version whose study it rests on. Takes seconds where a card
    does; so never within a transaction. Raises `NotFound`."""
    query = select(runs.c.study, studies.c.manifest, studies.c.requester, studies.c.requester_key).join(studies, studies.c.digest == runs.c.study)
    row = store.read(lambda tx: tx.first(query.where(runs.c.id == run)))
    if row is None:
        raise NotFound("There is no such run.")
    study = parse_study(row.manifest)
    owner = Party(row.requester, "investigator", PublicKey.parse(row.requester_key))
    view = views.get_run(store, owner, run)
    current, check, basis = store.read(lambda tx: _continues(tx, line, version, study))
    return judge(study, plain(view.results), current=current, card=_card(store, owner, study, run), audit=audit, update=check), basis


def _card(store: Store, owner: Party, study: Study, run: str) -> dict[str, Any] | None:
    runs_of_study = [r for r in views.list_runs(store, owner) if r.study == study.digest]
    rounds = {r.id: views.list_rounds(store, owner, r.id) for r in runs_of_study}
    return card_or_none(study, next(r for r in runs_of_study if r.id == run), rounds)


def _continues(tx: Tx, line: str, version: int, study: Study) -> tuple[Current | None, Check | None, int]:
    """The current version, what the update envelope says, and the basis that the version will have."""
    joined = lines.join(versions, (versions.c.line == lines.c.name) & (versions.c.version == lines.c.current)).join(runs, runs.c.id == versions.c.run)
    row = tx.first(select(versions.c.version, versions.c.basis, runs.c.cursor).select_from(joined).where(lines.c.name == line))
    if row is None:
        return None, None, version
    of_basis = studies.join(versions, versions.c.study == studies.c.digest)
    approved = parse_study(tx.first(select(studies.c.manifest).select_from(of_basis).where(versions.c.line == line, versions.c.version == row.basis)).manifest)
    where = (versions.c.line == line, versions.c.basis == row.basis, versions.c.version != row.basis, versions.c.status.in_(IN_USE))
    used = tx.first(select(func.count()).where(*where))[0]
    before, now = ([r.site for r in tx.rows(approvals(digest))] for digest in (approved.digest, study.digest))
    check, rests = continued(approved, study, used=used, today=_today(tx), before=before, now=now)
    return Current(row.version, plain(json.loads(row.cursor)["results"])), check, row.basis if rests else version


def _today(tx: Tx) -> date:
    return datetime.fromtimestamp(tx.now(), UTC).date()
