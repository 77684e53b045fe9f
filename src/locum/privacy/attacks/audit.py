"""All attacks on the protection that this release ships, and on broken copies of it: one result.

An attack must succeed where nothing protects, else it shows nothing; it must fail where the protection stands; and each broken copy must be
caught. The audit looks at the functions that the door calls, not at a running site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from locum.privacy.attacks import canaries, imprint, inversion, membership, noise_test, sampling_test
from locum.privacy.attacks.findings import Finding, Progress
from locum.privacy.attacks.mutants import MUTANTS, Caught
from locum.privacy.attacks.subject import Subject
from locum.privacy.mechanism import Kind

CAVEAT = "Passing never proves differential privacy; it shows that these attacks did not find a violation."

QUICK: tuple[Callable[[Subject], list[Finding]], ...] = (
    canaries.check,
    canaries.check_sampled,
    canaries.check_correlated,
    noise_test.check_size,
    noise_test.check_repetition,
    sampling_test.check,
)
"""What every mutant is tried with."""


@dataclass(frozen=True)
class AuditReport:
    """What the attacks found, and which mutants were caught."""

    full: bool
    seed: int
    findings: tuple[Finding, ...]
    mutants: tuple[Caught, ...]

    @property
    def passed(self) -> bool:
        """Every figure within its limit and every mutant caught."""
        return all(f.passed for f in self.findings) and all(m.failed for m in self.mutants)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the caveat among them."""
        return {
            "passed": self.passed,
            "full": self.full,
            "seed": self.seed,
            "caveat": CAVEAT,
            "findings": [f.to_json() for f in self.findings],
            "mutants": [m.to_json() for m in self.mutants],
        }

    def text(self) -> str:
        """Two tables and the verdict, for a person."""
        lines = _table(
            ["attack", "measure", "unprotected", "protected", "limit", ""],
            [[f.check, f.measure, _figure(f.unprotected), _figure(f.protected), f.limit, "ok" if f.passed else "FAILED"] for f in self.findings],
        )
        lines += ["", *_table(["broken on purpose", "caught by"], [[m.mutant, ", ".join(m.by) or "NOTHING"] for m in self.mutants])]
        failed = sum(not f.passed for f in self.findings) + sum(not m.failed for m in self.mutants)
        verdict = "All attacks failed on the protection, and every broken copy was caught." if self.passed else f"{failed} of the lines above failed."
        return "\n".join([*lines, "", verdict, CAVEAT])


def run(full: bool, progress: Progress, *, seed: int = 0) -> AuditReport:
    """The whole audit. full: more canaries, images and runs, and both kinds of noise. progress: told what runs next. The same seed gives the same report."""
    subject = Subject(seed)
    findings: list[Finding] = []
    for name, check in _checks(full):
        progress(name)
        findings += check(subject)
    caught = []
    for mutant in MUTANTS:
        progress(f"mutant: {mutant.name}")
        caught.append(tried(mutant(seed)))
    return AuditReport(full, seed, tuple(findings), tuple(caught))


def tried(subject: Subject) -> Caught:
    """What the quick checks find wrong with `subject`."""
    return Caught(subject.name, tuple(f for check in QUICK for f in check(subject) if not f.passed))


def _checks(full: bool) -> list[tuple[str, Callable[[Subject], list[Finding]]]]:
    scale = 4 if full else 1
    return [
        ("inversion", lambda s: inversion.check(s, images=8 * scale)),
        ("imprint", imprint.check),
        ("membership", lambda s: membership.check(s, runs=10 * scale)),
        ("canaries", lambda s: canaries.check(s, m=2000 * scale)),
        ("canaries, Skellam noise", lambda s: canaries.check(_of(s, "skellam"), m=2000 * scale)),
        ("canaries, sampled", lambda s: canaries.check_sampled(s, m=2000 * scale)),
        ("canaries, correlated noise", lambda s: canaries.check_correlated(s, m=2000 * scale)),
        ("law of the noise", lambda s: noise_test.check_law(s, size=200_000 * scale**2)),
        ("size of the noise", lambda s: noise_test.check_size(s, dimension=50_000 * scale)),
        ("size of the noise, Skellam", lambda s: noise_test.check_size(_of(s, "skellam"), dimension=50_000 * scale)),
        ("repetition", lambda s: noise_test.check_repetition(s, dimension=50_000 * scale)),
        ("sampling", sampling_test.check),
    ]


def _of(subject: Subject, kind: Kind) -> Subject:
    return type(subject)(subject.seed, kind)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
