"""One decision, with everything that spoke for and against it: purposes, days, and the site's own rules.

Precondition   the policy is one that `Policy.load` let pass
Pseudocode     refuse where the approval or the study's own days are over; where a DUO term of the data set is not met; where a forbid
               holds, a rule cannot be evaluated, or no permit holds
Postcondition  `allowed` only if none of these is so. A refusal names each, and has a code for the coordinator, which gets nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from locum.governance.policy.duo import Mismatch, mismatches
from locum.governance.policy.facts import Action, Question
from locum.governance.policy.rules import Policy
from locum.governance.policy.source import Rule

EXPIRED, CHANGED, FORBIDDEN = "expired", "changed", "policy"
"""Codes of a refusal: the approval or the study is over; the program changed and the rules ask for a new approval; anything else."""


@dataclass(frozen=True)
class Ruling:
    """code: '' where it is allowed. permits, forbids: the rules that held. purposes: DUO terms that are not met. days: what is over or
    not yet, or approved for something else.

    failed: rules that could not be evaluated. context: what Cedar was given.
    """

    action: Action
    code: str
    permits: tuple[Rule, ...]
    forbids: tuple[Rule, ...]
    purposes: tuple[Mismatch, ...]
    days: tuple[str, ...]
    failed: tuple[str, ...]
    policy: str
    entities: list[dict[str, Any]]
    context: dict[str, Any]

    @property
    def allowed(self) -> bool:
        return not self.code

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why not, a sentence each; empty where it is allowed."""
        if self.allowed:
            return ()
        out = [*self.days, *(f"{m.reason} (DUO term {m.code}, {m.identifier})" for m in self.purposes)]
        out += [f"{r.reason} (rule '{r.id}', line {r.line} of the site's policy)" for r in self.forbids]
        out += [f"A rule of the site's policy could not be evaluated: {text}." for text in self.failed]
        return tuple(out) or ("No rule of the site's policy permits it.",)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "allowed": self.allowed, "refusals": list(self.refusals)}


def judge(policy: Policy, action: Action, q: Question) -> Ruling:
    """Ask everything; a refusal does not stop the rest from being asked, so that a reader sees all at once."""
    entities, context = q.entities(), q.context(policy.digest, action)
    held = policy.evaluate(action, entities, context)
    days, other = _days(action, q), _another(action, q)
    purposes = mismatches(q.permissions, q.study.governance, q.requester, q.key, q.today)
    code = ""
    if days:
        code = EXPIRED
    elif other or purposes or not held.allowed:
        code = FORBIDDEN
        if not other and not purposes and context["code_changed"] and policy.evaluate(action, entities, {**context, "code_changed": False}).allowed:
            code = CHANGED
    return Ruling(action, code, held.permits, held.forbids, purposes, days + other, held.failed, policy.digest, entities, context)


def explained(policy: Policy, ruling: Ruling) -> Ruling:
    """The same, with the permits that held although a forbid overruled them, which Cedar does not say."""
    if not ruling.forbids:
        return ruling
    permits = policy.only_permits().evaluate(ruling.action, ruling.entities, ruling.context).permits
    return replace(ruling, permits=permits)


def _another(action: Action, q: Question) -> tuple[str, ...]:
    a = q.approval
    if a is None or action not in ("round", "release") or (a.study, a.data) == (q.study.digest, q.data):
        return ()
    return ("The approval on record is for another study or another data set.",)


def _days(action: Action, q: Question) -> tuple[str, ...]:
    """A review or an approval may come before the study's first day; a round may not."""
    g, out = q.study.governance, []
    if g.valid_until and q.today > g.valid_until:
        out.append(f"The study was to run until {g.valid_until}.")
    if g.valid_from and q.today < g.valid_from and action in ("round", "release"):
        out.append(f"The study is to run from {g.valid_from} on.")
    if q.approval and action in ("round", "release") and q.approval.expired(q.today):
        out.append(f"The approval counted until {q.approval.valid_until}.")
    return tuple(out)
