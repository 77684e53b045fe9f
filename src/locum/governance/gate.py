"""The release gate: whether a run's model may become the current version. A pure function of the study, the results and what goes with them.

What is asked is in the study, so the sites approved it before anybody saw a figure. Floors, ceilings, ranges and gaps hold for the figures
themselves, whose intervals are shown. Non-inferiority holds for the end of an interval: the one-sided 95 % bound of how much worse the new
version is, the two taken as found on different patients. With many subgroups some differ by chance, and the gate makes no allowance for that: it
errs to the side of blocking. A figure that is absent or withheld blocks, and so does a study that declares no gate.

Precondition   results, card and audit are those of one run of `study`; whoever calls has them from the log's digests, not from the requester
Postcondition  PASS iff every check passed; the verdict names the SHA-256 of all that was judged
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from locum.errors import ManifestError
from locum.governance.gate_figures import Figure, names, not_worse, read, words
from locum.governance.gate_groups import of_groups
from locum.governance.gate_verdict import Check, Verdict
from locum.study.canonical import canonical, sha256
from locum.study.document import nearest
from locum.study.manifest import Gate, Study

__all__ = ["Check", "Current", "Verdict", "digest_of", "judge"]
_EPS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Current:
    """The version that a new one would follow. results: of its run."""

    version: int
    results: Mapping[str, Any]


def digest_of(value: Any) -> str:
    """SHA-256 of plain JSON data in canonical form, as the log has it of a run's results. Raises `ManifestError`."""
    try:
        return sha256(canonical(value))
    except ValueError:
        raise ManifestError("A result, a card or a report holds a number that JSON has no one form for.") from None


def judge(
    study: Study,
    results: Mapping[str, Any],
    *,
    current: Current | None = None,
    card: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    update: Check | None = None,
) -> Verdict:
    """The verdict on a run of `study`. current: None for the first version. card: the run's privacy card. audit: `AuditReport.to_json()`.

    update: what `governance.update` says of the study, where it continues another.
    """
    given = {"results": results, "current": current.results if current else None, "card": card, "audit": audit}
    inputs = {"study": study.digest, **{name: digest_of(value) for name, value in given.items() if value is not None}}
    gate = study.governance.gate
    checks: list[Check] = [update] if update else []
    if gate is None:
        no_gate = "the study does not say what its model must show; write [governance.gate] in it, and have it approved"
        return Verdict((*checks, Check("gate", "The gate", "BLOCK", no_gate)), inputs)
    checks += _figures(gate, results, current)
    checks += of_groups(gate, results, current.results if current else None, current.version if current else 0)
    checks.append(_privacy(study, card))
    if gate.attacks:
        checks.append(_attacks(audit))
    return Verdict(tuple(checks), inputs)


def _figures(gate: Gate, results: Mapping[str, Any], current: Current | None) -> Iterator[Check]:
    result, step = results.get(gate.evaluation), gate.evaluation
    if not isinstance(result, Mapping):
        yield Check(f"evaluation.{step}", f"Step '{step}'", "BLOCK", "the run has no result of this step")
        return
    wanted: list[tuple[str, str, str, Callable[[float], bool]]] = []
    wanted += [(f"at_least.{m}", m, f"at least {b:g}", lambda v, b=b: v >= b) for m, b in gate.at_least.items()]  # type: ignore[misc]
    wanted += [(f"at_most.{m}", m, f"at most {b:g}", lambda v, b=b: v <= b) for m, b in gate.at_most.items()]  # type: ignore[misc]
    for name, ends in (("calibration_slope", gate.slope), ("observed_over_expected", gate.ratio)):
        if ends:
            wanted.append((f"within.{name}", name, f"within {ends[0]:g} and {ends[1]:g}", lambda v, e=ends: e[0] <= v <= e[1]))  # type: ignore[misc]
    for key, name, bound, holds in wanted:
        yield _bounded(key, name, bound, holds, read(result, name), result)
    for name, margin in gate.margin.items():
        before = current.results.get(step) if current else None
        yield not_worse(f"margin.{name}", words(name), name, margin, result, before, current.version if current else 0)


def _bounded(key: str, name: str, bound: str, holds: Callable[[float], bool], found: Figure | None, result: Mapping[str, Any]) -> Check:
    if found is None:
        return Check(key, words(name), "BLOCK", f"the step gives no '{name}'; {nearest(name, names(result))}", bound=bound)
    good = holds(found.value)
    return Check(key, words(name), "PASS" if good else "BLOCK", "it is" if good else "it is not", found.value, bound, found.low, found.high)


def _privacy(study: Study, card: Mapping[str, Any] | None) -> Check:
    title, asked = "Privacy", "what was promised was kept"
    if card is None:
        return Check("privacy", title, "BLOCK", "there is no privacy card of the run", bound=asked)
    try:
        named, status, promise = card["study"]["digest"], card["status"], card["promise"]
        failed = [str(i["title"]) for i in card["checks"] if i["status"] == "FAIL"]
    except (KeyError, TypeError):
        return Check("privacy", title, "BLOCK", "the privacy card is not one", bound=asked)
    if named != study.digest:
        return Check("privacy", title, "BLOCK", "the privacy card is of another study", bound=asked)
    if status not in ("PASS", "NOTE") or failed:
        return Check("privacy", title, "BLOCK", f"the privacy card says that it was not: {', '.join(failed) or status}", bound=asked)
    if not study.terms.privacy.on:
        return Check("privacy", title, "PASS", "nothing was promised to a single patient: the study's sums are exact, and its sites accepted that", bound=asked)
    eps, most = (promise or {}).get("eps"), study.terms.privacy.eps
    if not isinstance(eps, int | float) or not eps <= most * (1 + _EPS_TOLERANCE):
        return Check(
            "privacy.budget", "Privacy budget", "BLOCK", "the epsilon of what was released is above what the study asked for", bound=f"eps at most {most:g}"
        )
    return Check("privacy.budget", "Privacy budget", "PASS", "what was promised was kept", float(eps), f"eps at most {most:g}")


def _attacks(audit: Mapping[str, Any] | None) -> Check:
    title, asked = "Attacks", "the report of 'locum privacy audit', passed"
    if audit is None:
        return Check("attacks", title, "BLOCK", "the study asks for the report, and it was not given", bound=asked)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for key in ("findings", "mutants"):
        rows = audit.get(key)
        if not isinstance(rows, list) or not rows or not all(isinstance(r, Mapping) for r in rows):
            return Check("attacks", title, "BLOCK", "the report is not one of 'locum privacy audit --json'", bound=asked)
        found[key] = rows
    failed = [str(f.get("check", "?"))[:60] for f in found["findings"] if f.get("passed") is not True]
    failed += [f"a broken copy was not caught ({str(m.get('mutant', '?'))[:60]})" for m in found["mutants"] if m.get("caught") is not True]
    if failed or audit.get("passed") is not True:
        return Check("attacks", title, "BLOCK", f"the report says that an attack succeeded: {', '.join(failed[:5]) or 'see its verdict'}", bound=asked)
    return Check("attacks", title, "PASS", f"{len(found['findings'])} attacks failed; the report is of an installation, and its proposer's", bound=asked)
