"""What the release gate says: each check with its figure, its bound and why; for a person and for a program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from locum.errors import ManifestError
from locum.study.canonical import canonical, sha256

SCHEMA = "locum/verdict/1"
MAX_VERDICT_BYTES = 1 << 20
Status = Literal["PASS", "BLOCK"]


@dataclass(frozen=True)
class Check:
    """One thing that the gate asks. figure: what was found, None where there is none; bound: in words what it must be; low, high: an interval."""

    id: str
    title: str
    status: Status
    reason: str
    figure: float | None = None
    bound: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Verdict:
    """inputs: name -> SHA-256 of what was judged."""

    checks: tuple[Check, ...]
    inputs: dict[str, str]

    @property
    def status(self) -> Status:
        """PASS only if there are checks, and each of them passed."""
        return "PASS" if self.checks and all(c.status == "PASS" for c in self.checks) else "BLOCK"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it blocks."""
        return tuple(f"{c.title}: {c.reason}" for c in self.checks if c.status == "BLOCK")

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "status": self.status, "checks": [vars(c) for c in self.checks], "inputs": self.inputs}

    @cached_property
    def canonical(self) -> bytes:
        return canonical(self.to_json())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `canonical`: what an approver signs."""
        return sha256(self.canonical)

    @classmethod
    def decode(cls, raw: bytes) -> Verdict:
        """Raises `ManifestError` for anything but the one form of a verdict."""
        try:
            if len(raw) > MAX_VERDICT_BYTES:
                raise ValueError
            value = json.loads(raw)
            found = cls(tuple(Check(**c) for c in value["checks"]), dict(value["inputs"]))
            if found.canonical != raw:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ManifestError("The verdict is not in its one form.", fix="update both sides to the same release") from None
        return found

    def text(self) -> str:
        """For a terminal: the verdict, then a line for each check, what blocks first."""
        blocked = sum(c.status == "BLOCK" for c in self.checks)
        lines = [f"{self.status}: " + (f"{blocked} of {len(self.checks)} checks block." if blocked else f"all {len(self.checks)} checks pass."), ""]
        for check in sorted(self.checks, key=lambda c: c.status != "BLOCK"):
            figure = "" if check.figure is None else f" {check.figure:.4g}"
            interval = "" if check.low is None or check.high is None else f" ({check.low:.4g} to {check.high:.4g})"
            bound = f" asked: {check.bound}" if check.bound else ""
            what = f"{figure}{interval}," if figure else " no figure,"
            lines += [f"{check.status:5}  {check.title}:{(what if bound else what[:-1])}{bound}", f"       {check.reason}"]
        return "\n".join(lines)
