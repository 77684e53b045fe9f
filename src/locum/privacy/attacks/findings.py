"""What an attack found, and whether that is what the protection promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Progress = Callable[[str], None]
Check = Callable[[], "list[Finding]"]


@dataclass(frozen=True)
class Finding:
    """One figure. unprotected: the same figure without protection, None where there is none; limit: in words what `protected` must be."""

    check: str
    measure: str
    unprotected: float | None
    protected: float
    limit: str
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values; a figure that is not finite becomes None."""
        return {
            "check": self.check,
            "measure": self.measure,
            "unprotected": _finite(self.unprotected),
            "protected": _finite(self.protected),
            "limit": self.limit,
            "passed": self.passed,
        }


def at_most(check: str, measure: str, protected: float, limit: float, *, unprotected: float | None = None, leaks: float | None = None) -> Finding:
    """`protected` must be <= limit, and the attack must work where nothing protects: `unprotected` >= leaks, if stated."""
    words = f"<= {limit:.4g}" + (f", unprotected >= {leaks:g}" if leaks is not None else "")
    works = leaks is None or (unprotected is not None and unprotected >= leaks)
    return Finding(check, measure, unprotected, protected, words, bool(protected <= limit and works))


def at_least(check: str, measure: str, protected: float, limit: float) -> Finding:
    """`protected` must be >= limit."""
    return Finding(check, measure, None, protected, f">= {limit:.4g}", bool(protected >= limit))


def leaks(check: str, measure: str, found: float, limit: float) -> Finding:
    """Something that does leak, shown because it is why more protection is needed: `found` must be >= limit for the attack to count."""
    return Finding(check, measure, found, found, f">= {limit:.4g}: it leaks", bool(found >= limit))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
