"""The registry of models: lines of versions, and the signed decisions by which one takes the place of another.

Each decision is one transaction: the signed text, what it changes, and the log's entries. A version is judged again when somebody wants to
promote it, against the version that is current then; the signature is over the verdict that the approver has read, and over the line's state.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, insert, select, update

from locum.coordinator.journal import record
from locum.coordinator.parties import Party, still_enrolled
from locum.coordinator.store import Store, Tx
from locum.coordinator.tables import line_decisions, lines, models, runs, studies, versions
from locum.coordinator.versions_judge import judged
from locum.coordinator.versions_views import version_view, visible
from locum.errors import Conflict, EnvelopeError, Forbidden, ManifestError, NotFound, Refused
from locum.federation.lines import MAX_AUDIT_BYTES, Decision, Proposal, SignedDecision, VersionView, first_state, next_state, report_of
from locum.governance.events import Event
from locum.governance.gate import digest_of
from locum.governance.gate_verdict import Verdict
from locum.study.canonical import sha256
from locum.study.manifest import NAME

MOST_REASONS, REASON_CHARS = 20, 200
"""Of a verdict's reasons, what goes into the log, whose entries are small."""


def propose(store: Store, party: Party, name: str, proposal: Proposal) -> VersionView:
    """A run's model as the next version of a line; the first makes the line. It is judged, and a version that blocks is recorded as well."""
    decision = _open(party, name, proposal.decision, ("propose",))
    if not NAME.match(name):
        raise ManifestError(f"'{name[:80]}' is not a name.", fix="use at most 64 lower-case letters, digits, '-', '_' and '.'")
    audit = _audit(decision, proposal.audit)
    before = store.read(lambda tx: _line(tx, name))
    if before is not None and _last(store, name) == proposal.decision.body:
        return version_view(store, party, name, decision.version)
    _expect(decision, before.state if before else first_state(name))
    if before is not None and before.owner != party.name:
        raise Forbidden(f"The line '{name}' is another investigator's.", fix="choose another name")
    verdict, basis = judged(store, name, decision.version, decision.run, audit)

    def change(tx: Tx) -> None:
        line = _line(tx, name, lock=True)
        _expect(decision, line.state if line else first_state(name))
        _check_run(tx, party, decision)
        last = tx.first(select(func.max(versions.c.version)).where(versions.c.line == name))[0] or 0
        if decision.version != last + 1:
            raise Conflict(f"The next version of '{name}' is {last + 1}.", fix="propose it again")
        if line is None:
            tx.execute(insert(lines).values(name=name, owner=party.name, state=decision.state, current=None, created=tx.now()))
        named = {"run": decision.run, "model": decision.model, "study": decision.study}
        who = {"requester": party.name, "requester_key": str(party.key), "requested": tx.now()}
        rest = {"basis": basis, "verdict": verdict.canonical.decode(), "audit": proposal.audit}
        tx.execute(insert(versions).values(line=name, version=decision.version, status="candidate", **named, **who, **rest))
        _signed(tx, party, proposal.decision, decision)
        _record(tx, Event.MODEL_PROPOSED, party, proposal.decision, decision)
        if verdict.status == "BLOCK":
            _record_block(tx, decision.line, decision.version, decision.model, verdict)

    store.write(change)
    return version_view(store, party, name, decision.version)


def judge_again(store: Store, party: Party, name: str, version: int) -> VersionView:
    """Judge a candidate against the version that is current now. Nothing is recorded where the verdict is the same."""
    row = store.read(lambda tx: _version(tx, party, name, version))
    if row.status == "candidate":
        verdict, basis = judged(store, name, version, row.run, report_of(row.audit))
        if verdict.canonical.decode() != row.verdict:
            store.write(lambda tx: _keep_verdict(tx, row, verdict, basis))
    return version_view(store, party, name, version)


def decide(store: Store, party: Party, name: str, signed: SignedDecision) -> VersionView:
    """Promote, roll back or withdraw. The same decision again, while it is the latest, changes nothing."""
    decision = _open(party, name, signed, ("promote", "roll-back", "withdraw"))
    row = store.read(lambda tx: _version(tx, party, name, decision.version))
    if _last(store, name) == signed.body:
        return version_view(store, party, name, decision.version)
    _authorise(party, decision, row)
    fresh = judged(store, name, decision.version, row.run, report_of(row.audit)) if decision.action == "promote" else None

    def change(tx: Tx) -> None:
        still_enrolled(tx, party)
        line = _line(tx, name, lock=True)
        found = _version(tx, party, name, decision.version)
        _expect(decision, line.state)
        if (decision.run, decision.model, decision.study) != (found.run, found.model, found.study):
            raise EnvelopeError("The decision names another run, model or study than this version has.")
        if fresh is not None:
            _promote(tx, party, line, found, decision, *fresh)
        elif decision.action == "roll-back":
            _roll_back(tx, party, line, found)
        else:
            _withdraw(tx, party, line, found)
        _signed(tx, party, signed, decision)
        events = {"promote": Event.MODEL_PROMOTED, "roll-back": Event.MODEL_ROLLED_BACK, "withdraw": Event.MODEL_WITHDRAWN}
        more = {"inputs": fresh[0].inputs} if fresh else {}
        _record(tx, events[decision.action], party, signed, decision, previous=line.current, **more)

    store.write(change)
    return version_view(store, party, name, decision.version)


# --- the decisions -------------------------------------------------------------------------------------------------


def _promote(tx: Tx, party: Party, line: Any, row: Any, decision: Decision, verdict: Verdict, basis: int) -> None:
    if row.status != "candidate":
        raise Conflict(f"Version {row.version} is {row.status}; only a candidate is promoted.", fix="roll back to an earlier version, or propose the run again")
    if verdict.status == "BLOCK":
        raise Refused(f"The gate blocks version {row.version} of '{line.name}'.", why="; ".join(verdict.reasons[:8]), fix="locum model show says what it asks")
    if decision.verdict != verdict.digest:
        raise Conflict(
            "The verdict is not the one that was signed.",
            why="It was judged again, against what holds now.",
            fix="read it, and promote it again: locum model promote",
        )
    if line.current is not None:
        _set(tx, line.name, line.current, status="superseded")
    decided = {"approver": party.name, "decided": tx.now(), "verdict": verdict.canonical.decode()}
    _set(tx, line.name, row.version, status="current", previous=line.current, basis=basis, **decided)
    tx.execute(update(lines).where(lines.c.name == line.name).values(current=row.version))


def _roll_back(tx: Tx, party: Party, line: Any, row: Any) -> None:
    if row.status != "superseded":
        raise Conflict(f"Version {row.version} is {row.status}; one goes back to a version that was current and was superseded.", fix="locum model list")
    if line.current is not None:
        _set(tx, line.name, line.current, status="rolled-back")
    _set(tx, line.name, row.version, status="current", approver=party.name, decided=tx.now())
    tx.execute(update(lines).where(lines.c.name == line.name).values(current=row.version))


def _withdraw(tx: Tx, party: Party, line: Any, row: Any) -> None:
    if row.status == "withdrawn":
        raise Conflict(f"Version {row.version} is withdrawn already.")
    _set(tx, line.name, row.version, status="withdrawn", decided=tx.now(), **({"approver": party.name} if party.role == "approver" else {}))
    if line.current == row.version:
        tx.execute(update(lines).where(lines.c.name == line.name).values(current=None))


def _authorise(party: Party, decision: Decision, row: Any) -> None:
    """Four eyes: whoever asked for a version does not put it in use. Raises `Forbidden`."""
    if decision.action == "withdraw" and party.name == row.requester and row.status == "candidate":
        return
    if party.role != "approver":
        raise Forbidden("Only an approver does that.", fix="the operator invites one with 'locum invite FOLDER NAME --role approver'")
    if party.name == row.requester or str(party.key) == row.requester_key:
        raise Forbidden("Whoever asked for a version cannot promote it.", fix="another approver does")


# --- parts ---------------------------------------------------------------------------------------------------------


def _open(party: Party, name: str, signed: SignedDecision, actions: tuple[str, ...]) -> Decision:
    decision = signed.open(party.name, party.key)
    if decision.line != name or decision.action not in actions:
        raise EnvelopeError("The decision was made for something else.", why="It is stale, or was replayed.")
    return decision


def _audit(decision: Decision, text: str) -> dict[str, Any] | None:
    raw = text.encode("utf-8", "replace")
    if decision.audit != (sha256(raw) if raw else ""):
        raise EnvelopeError("The attack report is not the one that was signed for.")
    try:
        if len(raw) > MAX_AUDIT_BYTES:
            raise ValueError
        found = report_of(text)
        digest_of(found)
    except (ValueError, RecursionError):
        raise ManifestError("The attack report is not one.", fix="give what 'locum privacy audit --json' printed") from None
    return found


def _expect(decision: Decision, state: str) -> None:
    if decision.state != state:
        raise Conflict(
            f"The line '{decision.line}' has changed since this was signed.", why="It is stale, or was replayed.", fix="look at the line, and decide again"
        )


def _check_run(tx: Tx, party: Party, decision: Decision) -> None:
    """That the run is this investigator's and ended in this model. Raises `NotFound` or `Conflict`."""
    joined = runs.join(studies, studies.c.digest == runs.c.study).outerjoin(models, models.c.run == runs.c.id)
    query = select(runs.c.study, runs.c.status, studies.c.requester, models.c.id).select_from(joined).where(runs.c.id == decision.run)
    row = tx.first(query)
    if row is None or row.requester != party.name:
        raise NotFound("There is no such run.", why="An investigator proposes the models of its own studies.")
    if row.status != "finished" or (row.study, row.id) != (decision.study, decision.model):
        raise Conflict("The run has not made this model.", fix="propose a run that has finished")


def _line(tx: Tx, name: str, *, lock: bool = False) -> Any:
    query = select(lines).where(lines.c.name == name)
    return tx.first(query.with_for_update() if lock else query)


def _version(tx: Tx, party: Party, name: str, version: int) -> Any:
    here = (versions.c.line == name, versions.c.version == version, visible(party))
    row = tx.first(select(versions, lines.c.state).join(lines, lines.c.name == versions.c.line).where(*here))
    if row is None:
        raise NotFound("There is no such version.", fix="locum model list shows them")
    return row


def _set(tx: Tx, name: str, version: int, **values: Any) -> None:
    tx.execute(update(versions).where(versions.c.line == name, versions.c.version == version).values(**values))


def _last(store: Store, name: str) -> str:
    """The latest decision's text, '' before the first."""
    row = store.read(lambda tx: tx.first(select(line_decisions.c.body).where(line_decisions.c.line == name).order_by(line_decisions.c.n.desc()).limit(1)))
    return str(row.body) if row else ""


def _signed(tx: Tx, party: Party, signed: SignedDecision, decision: Decision) -> None:
    n = tx.first(select(func.count()).where(line_decisions.c.line == decision.line))[0]
    values = {"by": party.name, "key": str(party.key), "body": signed.body, "envelope": signed.envelope, "at": tx.now()}
    tx.execute(insert(line_decisions).values(line=decision.line, n=n, **values))
    tx.execute(update(lines).where(lines.c.name == decision.line).values(state=next_state(decision.state, signed.body)))


def _record(tx: Tx, event: Event, party: Party, signed: SignedDecision, decision: Decision, **more: object) -> None:
    named = {"line": decision.line, "version": decision.version, "run": decision.run, "study": decision.study, "verdict": decision.verdict}
    proof = {"key": party.key.fingerprint, "decision": sha256(signed.body.encode()), "envelope": sha256(signed.envelope.encode())}
    record(tx, event, decision.model, by=party.name, **named, **proof, **more)


def _record_block(tx: Tx, line: str, version: int, model: str, verdict: Verdict) -> None:
    reasons = [r[:REASON_CHARS] for r in verdict.reasons[:MOST_REASONS]]
    record(tx, Event.MODEL_BLOCKED, model, by="coordinator", line=line, version=version, verdict=verdict.digest, inputs=verdict.inputs, reasons=reasons)


def _keep_verdict(tx: Tx, row: Any, verdict: Verdict, basis: int) -> None:
    """Unless somebody has decided, or judged it, meanwhile: the verdict under which a version was promoted stays with it."""
    line = _line(tx, row.line, lock=True)
    now = tx.first(select(versions.c.status, versions.c.verdict).where(versions.c.line == row.line, versions.c.version == row.version))
    if (line.state, now.status, now.verdict) != (row.state, "candidate", row.verdict):
        return
    _set(tx, row.line, row.version, verdict=verdict.canonical.decode(), basis=basis)
    if verdict.status == "BLOCK":
        _record_block(tx, row.line, row.version, row.model, verdict)
