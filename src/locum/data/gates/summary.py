"""What of a report may be shown outside the site: results, and counts that no small number of patients can be read off.

Precondition   a report; `threshold`, the least number of patients behind a count that is shown
Pseudocode     a count that stands between 0 and a total is shown if it is 0 or at least `threshold` patients must be behind it, and the same holds of what
               remains of its total; the counts of categories are shown together or, where any is small, with enough others hidden
Postcondition  what is hidden cannot be told from what is shown closer than to `threshold` patients: alone in its total, or with others whose
               sum leaves at least that much room
Source         the threshold of 11 and the shown zeros are those of the CMS cell size suppression policy, as in locum.privacy.disclosure,
               whose threshold the caller passes: this room does not know the other.

Where a patient may have several rows, r rows are of at least r / (most rows of one patient) patients, and that is what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from locum.data.gates.report import Report, VariableSummary, worst


def outgoing(report: Report, threshold: int) -> dict[str, Any]:
    """Plain JSON data; a hidden count is None. No mean, quantile, example, or finding's text: only results and counts."""
    least = max(1, threshold) * report.most_rows
    return {
        "result": report.result,
        "threshold": threshold,
        "rows": report.rows if report.rows >= least and _apart(report.repeated, least) else None,
        "patients": report.patients if report.patients >= threshold else None,
        "gates": {gate: worst([f for f in report.findings if f.gate == gate]) for gate in dict.fromkeys(f.gate for f in report.findings)},
        "variables": {name: _variable(report, name, v, least) for name, v in report.variables.items()},
    }


def _variable(report: Report, name: str, v: VariableSummary, least: int) -> dict[str, Any]:
    """Of two counts of which one holds the other, such as missing and recoded cells, the second is shown only where their difference may be."""
    missing = of_total(v.missing, v.rows, least)
    outside, implausible = v.below + v.above, v.low + v.high
    shown = {
        "missing": missing,
        "recoded": of_total(v.recoded, v.missing, least) if missing is not None else None,
        "outside": of_total(outside, v.rows, least),
        "implausible": of_total(implausible, v.rows, least) if _apart(abs(implausible - outside), least) else None,
    }
    if missing is None or not _apart(v.rows - v.values - v.missing, least):  # the sum of all categories would give it away
        counts: dict[str, int | None] = dict.fromkeys(v.counts)
    else:
        counts = dict(zip(v.counts, hide(list(v.counts.values()), least), strict=True))
    return {"result": worst(report.about(name)), **shown, "counts": counts}


def _apart(count: int, least: int) -> bool:
    return count == 0 or count >= least


def of_total(count: int, total: int, least: int) -> int | None:
    """A count beside a known total: shown where neither it nor the rest is small."""
    return count if _apart(count, least) and _apart(total - count, least) else None


def hide(counts: Sequence[int], least: int) -> list[int | None]:
    """Counts of disjoint cells whose sum is known: small ones hidden, and the next smallest until those hidden could each be anything within
    `least`. All of them, where that cannot be had."""
    hidden = {i for i, c in enumerate(counts) if 0 < c < least}
    others = sorted((i for i, c in enumerate(counts) if c >= least), key=lambda i: counts[i])
    while hidden and not (len(hidden) > 1 and sum(counts[i] for i in hidden) - len(hidden) >= least):
        if not others:
            return [None] * len(counts)
        hidden.add(others.pop(0))
    return [None if i in hidden else c for i, c in enumerate(counts)]
