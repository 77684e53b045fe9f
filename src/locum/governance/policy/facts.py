"""What a decision is about, as Cedar's principal, action, resource and context (`schema.cedar`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from math import ceil, floor, isfinite
from typing import Any, Literal, get_args

from locum.governance.policy.approval import Approval
from locum.governance.policy.duo import Permissions
from locum.study.manifest import Study

Action = Literal["review", "approve", "round", "release"]
ACTIONS: tuple[Action, ...] = get_args(Action)
NO_CELL = 1_000_000
"""Stands for the smallest cell of a plan that hides none."""
MOST = 922_337_203_685_477.0
"""Cedar's largest decimal, to the unit."""


@dataclass(frozen=True)
class Question:
    """One study on one data set at one moment. requester, key: who has signed the study, and the key's fingerprint.

    now: an aware time in the site's own zone. code: digest of the program. approval: what is on record, None before one is.
    patients: of the data set, as counted at the approval, 0 where not known. cell: the smallest threshold of a task that hides small cells.
    parameters: of the largest regression. min_cohort, min_rows: the stricter of the study's and the site's. spent, remaining: eps in the data
    set's ledger.
    """

    study: Study
    requester: str
    key: str
    data: str
    now: datetime
    code: str
    permissions: Permissions = field(default_factory=Permissions)
    approval: Approval | None = None
    patients: int = 0
    cell: int = NO_CELL
    parameters: int = 0
    min_cohort: int = 0
    min_rows: int = 0
    spent: float = 0.0
    remaining: float = 0.0

    @property
    def today(self) -> date:
        return self.now.date()

    def entities(self) -> list[dict[str, Any]]:
        """The requester and the data set, in Cedar's JSON."""
        p = self.permissions
        attributes = {"use": p.use, "diseases": [*p.disease], "modifiers": [*p.codes], "tags": [*p.tags], "n": self.patients}
        return [
            {"uid": {"type": "Requester", "id": self.requester}, "attrs": {"key": self.key}, "parents": []},
            {"uid": {"type": "DataSet", "id": self.data}, "attrs": attributes, "parents": []},
        ]

    def context(self, policy: str, action: Action) -> dict[str, Any]:
        """policy: the digest of the one in force. Times and decimals are the texts that the schema turns into theirs.

        Where a round runs under an approval that does not say what it was for, all may have changed.
        """
        study, g, terms = self.study, self.study.governance, self.study.terms
        privacy, approved = terms.privacy, self.approval
        unknown = approved is None and action in ("round", "release")
        days = {name: day.isoformat() for name, day in (("valid_from", g.valid_from), ("valid_until", g.valid_until)) if day}
        return {
            "study": study.name,
            "use": g.use or "",
            "disease": g.disease,
            "methods": g.methods,
            "commercial": g.commercial,
            "profit": g.profit,
            "ethics": g.ethics,
            "permit": g.permit,
            "basis": g.basis,
            "region": [*g.region],
            "publishes": g.publishes,
            "collaborates": g.collaborates,
            "returns": g.returns,
            **days,
            "tasks": sorted({s.task for s in study.plan}),
            "steps": len(study.plan),
            "rounds": sum(s.rounds for s in study.plan),
            "cell": self.cell,
            "parameters": self.parameters,
            "variables": sorted(study.data.variables),
            "aggregation": terms.aggregation,
            "exact": not privacy.on,
            "unit": privacy.unit,
            "eps": decimal(privacy.eps if privacy.on else MOST),
            "delta_ppb": ceil(privacy.delta * 1e9) if privacy.on else 10**9,
            "min_cohort": max(self.min_cohort, terms.min_cohort),
            "min_rows": max(self.min_rows, terms.min_rows),
            "now": self.now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "hour": self.now.hour,
            "weekday": self.now.isoweekday(),
            "spent": decimal(self.spent),
            "remaining": decimal(self.remaining, up=False),
            "code": self.code,
            "code_changed": unknown or (approved is not None and approved.code != self.code),
            "policy_changed": unknown or (approved is not None and approved.policy != policy),
        }


def decimal(value: float, *, up: bool = True) -> str:
    """As Cedar's decimal, which has four digits behind the point: rounded to the side on which nothing is allowed by rounding."""
    if not isfinite(value) or value >= MOST:
        return f"{MOST:.1f}" if up else "0.0"
    scaled = (ceil if up else floor)(round(max(0.0, value) * 1e4, 6))
    return f"{scaled // 10_000}.{scaled % 10_000:04d}"
