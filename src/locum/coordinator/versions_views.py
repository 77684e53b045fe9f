"""What a party may read of the registry: an investigator its own lines, an approver all, a site what was put in use."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, select

from locum.coordinator.parties import Party
from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import line_decisions, lines, versions
from locum.errors import NotFound
from locum.federation.lines import IN_USE, DecisionView, LineView, VersionView
from locum.governance.gate_verdict import Verdict


def visible(party: Party) -> ColumnElement[bool]:
    """Which rows of versions joined with lines."""
    if party.role == "investigator":
        return lines.c.owner == party.name
    if party.role == "approver":
        return lines.c.name.is_not(None)
    return versions.c.status.in_(IN_USE)


def version_view(store: Store, party: Party, name: str, version: int) -> VersionView:
    """One version with its verdict. Raises `NotFound`."""
    return store.read(lambda tx: _one(tx, party, name, versions.c.version == version, f"There is no version {version} of '{name}'."))


def current(store: Store, party: Party, name: str) -> VersionView:
    """The version in use, which everybody may read. Raises `NotFound`."""
    site = Party(party.name, "site", party.key)
    return store.read(lambda tx: _one(tx, site, name, versions.c.version == lines.c.current, f"No version of '{name}' is in use."))


def list_lines(store: Store, party: Party) -> tuple[LineView, ...]:
    def query(tx: Tx) -> tuple[LineView, ...]:
        rows = tx.rows(_rows(party).order_by(lines.c.name, versions.c.version))
        names = list(dict.fromkeys(r.line for r in rows))
        return tuple(_line([r for r in rows if r.line == name]) for name in names)

    return store.read(query)


def get_line(store: Store, party: Party, name: str) -> LineView:
    """A line with all that was signed about what the party sees. Raises `NotFound`."""

    def query(tx: Tx) -> LineView:
        rows = tx.rows(_rows(party).where(lines.c.name == name).order_by(versions.c.version))
        if not rows:
            raise NotFound(f"There is no line '{name[:80]}'.", fix="locum model list shows them")
        signed = tx.rows(select(line_decisions).where(line_decisions.c.line == name).order_by(line_decisions.c.n))
        return _line(rows, tuple(DecisionView(by=d.by, key=d.key, at=d.at, body=d.body, envelope=d.envelope) for d in signed))

    return store.read(query)


def _rows(party: Party) -> Any:
    return select(versions, lines.c.state, lines.c.owner, lines.c.current).join(lines, lines.c.name == versions.c.line).where(visible(party))


def _one(tx: Tx, party: Party, name: str, which: ColumnElement[bool], missing: str) -> VersionView:
    row = tx.first(_rows(party).where(lines.c.name == name, which))
    if row is None:
        raise NotFound(missing, fix="locum model list shows them")
    return _view(row, whole=True)


def _line(rows: Any, decisions: tuple[DecisionView, ...] = ()) -> LineView:
    first = rows[0]
    return LineView(name=first.line, owner=first.owner, state=first.state, current=first.current, versions=tuple(_view(r) for r in rows), decisions=decisions)


def _view(row: Any, *, whole: bool = False) -> VersionView:
    verdict = Verdict.decode(row.verdict.encode())
    return VersionView(
        line=row.line,
        version=row.version,
        status=row.status,
        run=row.run,
        model=row.model,
        study=row.study,
        basis=row.basis,
        previous=row.previous,
        requester=row.requester,
        requested=row.requested,
        approver=row.approver,
        decided=row.decided,
        passes=verdict.status == "PASS",
        reasons=verdict.reasons,
        verdict_digest=verdict.digest,
        state=row.state,
        verdict=row.verdict if whole else "",
        audit=row.audit if whole else "",
    )
