"""The registry of models, as people use it: every decision is made here, signed with the caller's key, and only then sent.

An approver's client judges a version itself before it signs: from the study, results and rounds that the coordinator has recorded. So a
coordinator cannot have a verdict signed that its own record does not give.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from locum.client.blocking import Client
from locum.errors import EnvelopeError, NotFound, Refused
from locum.federation.card import card_or_none, plain
from locum.federation.lines import IN_USE, Action, Decision, LineView, Proposal, SignedDecision, VersionView, decision_of, first_state, report_of
from locum.governance.gate import Current, judge
from locum.governance.gate_verdict import Verdict
from locum.governance.update import continued
from locum.study.canonical import sha256
from locum.study.manifest import Study

JSON = {"Content-Type": "application/json"}


class Registry:
    """`Registry(client)`; each call raises the `LocumError` that the coordinator sent."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def lines(self) -> Sequence[LineView]:
        found: tuple[LineView, ...] = self._call("GET", "/v1/lines", tuple[LineView, ...])
        return found

    def line(self, name: str) -> LineView:
        """A line, its decisions verified. Raises `EnvelopeError` where they do not follow from each other."""
        found: LineView = self._call("GET", _line(name), LineView)
        found.check()
        return found

    def current(self, name: str) -> VersionView:
        """The version in use."""
        return self._version("GET", f"{_line(name)}/current")

    def version(self, name: str, version: int) -> VersionView:
        return self._version("GET", f"{_line(name)}/versions/{version}")

    def judge(self, name: str, version: int) -> VersionView:
        """The version, judged against what is current now."""
        return self._version("POST", f"{_line(name)}/versions/{version}/verdict")

    def propose(self, name: str, run: str, *, audit: str = "", reason: str = "") -> VersionView:
        """A finished run's model as the line's next version."""
        view = self.client.run(run)
        if view.model is None:
            raise NotFound("The run has not made a model.", fix="propose a run that has finished")
        try:
            line = self.line(name)
            state, last = line.state, max(v.version for v in line.versions)
        except NotFound:
            state, last = first_state(name), 0
        more = {"audit": sha256(audit.encode()) if audit else "", "reason": reason}
        decision = Decision(action="propose", line=name, version=last + 1, run=view.id, model=view.model, study=view.study, state=state, **more)
        body = msgspec.json.encode(Proposal(decision=self._seal(decision), audit=audit))
        return self._version("POST", f"{_line(name)}/versions", body)

    def promote(self, seen: VersionView, *, reason: str = "") -> VersionView:
        """Put a candidate in use whose verdict was read: `seen` is what `judge` gave. Raises `Refused` where it blocks, and `EnvelopeError`
        where the coordinator's own record gives another verdict."""
        if not seen.passes:
            raise Refused(
                f"The gate blocks version {seen.version} of '{seen.line}'.",
                why="; ".join(seen.reasons[:8]),
                fix=f"locum model show {seen.line}@{seen.version} shows every check",
            )
        if self.judge_here(seen).digest != seen.verdict_digest or Verdict.decode(seen.verdict.encode()).digest != seen.verdict_digest:
            raise EnvelopeError("The verdict does not follow from what the coordinator shows.", fix="judge it again; if it stays so, tell the sites")
        return self._decide(seen, "promote", verdict=seen.verdict_digest, reason=reason)

    def judge_here(self, seen: VersionView) -> Verdict:
        """The verdict on a version from the study, results and rounds that the coordinator shows, by this machine's own gate."""
        line, run, study = self.line(seen.line), self.client.run(seen.run), self._study(seen.study)
        if (run.model, run.study) != (seen.model, seen.study):
            raise EnvelopeError("The run has not made the model that the version names.")
        rounds = {r.id: self.client.rounds(r.id) for r in self.client.runs() if r.study == run.study}
        held = next((v for v in line.versions if v.version == line.current), None)
        current, check = None, None
        if held is not None:
            base = next(v for v in line.versions if v.version == held.basis)
            used = sum(v.basis == base.version != v.version and v.status in IN_USE for v in line.versions)
            before, now = (self.client.study(digest).approvals for digest in (base.study, run.study))
            check, _ = continued(self._study(base.study), study, used=used, today=datetime.now(UTC).date(), before=before, now=now)
            current = Current(held.version, plain(self.client.run(held.run).results))
        card = card_or_none(study, run, rounds)
        return judge(study, plain(run.results), current=current, card=card, audit=report_of(seen.audit), update=check)

    def _study(self, digest: str) -> Study:
        found = Study.from_json(self.client.study(digest).manifest.encode())
        if found.digest != digest:
            raise EnvelopeError("The coordinator shows another study than the one that was named.")
        return found

    def roll_back(self, name: str, version: int, *, reason: str) -> VersionView:
        """Put an earlier version in use again."""
        return self._decide(self.version(name, version), "roll-back", reason=reason)

    def withdraw(self, name: str, version: int, *, reason: str) -> VersionView:
        """Take a version out of use for good."""
        return self._decide(self.version(name, version), "withdraw", reason=reason)

    def _decide(self, seen: VersionView, action: Action, **more: Any) -> VersionView:
        signed = self._seal(decision_of(seen, action, **more))
        return self._version("POST", f"{_line(seen.line)}/decisions", msgspec.json.encode(signed))

    def _seal(self, decision: Decision) -> SignedDecision:
        c = self.client.api.connection
        return decision.seal(c.name, c.identity)

    def _version(self, method: str, target: str, body: bytes = b"") -> VersionView:
        found: VersionView = self._call(method, target, VersionView, body)
        return found

    def _call(self, method: str, target: str, kind: Any, body: bytes = b"") -> Any:
        answer = self.client(self.client.api.connection.call(method, target, body, headers=JSON if body else {}))
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.DecodeError:
            raise EnvelopeError("The coordinator's answer is not what this version understands.", fix="update both sides to the same release") from None


def _line(name: str) -> str:
    return f"/v1/lines/{quote(name)}"
