"""What the gates say of a table: findings, and the counts behind them. All of it stays at the site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from locum.data.gates.histogram import Histogram
from locum.errors import DataError
from locum.study.manifest import Variable

if TYPE_CHECKING:
    from locum.data.gates.waiver import Waiver

Result = Literal["PASS", "WARN", "REFUSE"]
Gate = Literal["source", "conformance", "completeness", "plausibility", "variation", "rows", "split", "drift"]
GATES: tuple[Gate, ...] = get_args(Gate)
"""In the order in which they are judged and printed."""
_RANK: dict[Result, int] = {"PASS": 0, "WARN": 1, "REFUSE": 2}


@dataclass(frozen=True)
class Example:
    """A cell as it stands in the table, and the number of its record, from 1, among those that could be read. For this site's eyes."""

    record: int
    cell: str


@dataclass(frozen=True)
class Finding:
    """What one gate says of one variable ('' for the table as a whole). `count` rows led to it.

    what, fix: without the content of any cell. examples: the first few cells that led to it; they stay on this machine.
    """

    variable: str
    gate: Gate
    result: Result
    count: int = 0
    what: str = ""
    fix: str = ""
    examples: tuple[Example, ...] = field(default=(), repr=False)

    def to_json(self, *, examples: bool = False) -> dict[str, Any]:
        plain = asdict(self)
        shown = plain.pop("examples")
        return {**plain, "examples": list(shown)} if examples else plain


@dataclass(frozen=True)
class VariableSummary:
    """Counts and moments of one variable.

    rows: of the cohort = values + missing + those of `wrong` that belong to the cohort. recoded: how many of the missing cells held a
    code for "no value". wrong: cells that are neither missing nor a value, in all records. below, above: outside the hard range. low, high:
    outside the plausible range. mode_share: of the most frequent value, a lower bound where there are many; None where it was not
    needed. quantiles: 5, 25, 50, 75 and 95 %, within 0.4 % of their value. unknown: codes that the contract does not list; local.
    """

    variable: Variable
    rows: int = 0
    values: int = 0
    missing: int = 0
    recoded: int = 0
    wrong: int = 0
    below: int = 0
    above: int = 0
    low: int = 0
    high: int = 0
    mean: float | None = None
    sd: float | None = None
    mode_share: float | None = None
    quantiles: tuple[float, ...] = ()
    histogram: Histogram | None = None
    shown: Histogram | None = None
    unknown: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many values each category has; empty for a variable that has none."""
        names = ("0", "1") if self.variable.type == "boolean" else self.variable.categories
        return dict(zip(names, self.histogram.counts, strict=True)) if self.histogram and names else {}

    def to_json(self) -> dict[str, Any]:
        """Without the codes that the contract does not list."""
        keys = ("rows", "values", "missing", "recoded", "wrong", "below", "above", "low", "high", "mean", "sd", "mode_share")
        return {"type": self.variable.type, **{k: getattr(self, k) for k in keys}, "quantiles": list(self.quantiles), "counts": self.counts}


@dataclass(frozen=True)
class Report:
    """All findings about a table, and the counts behind them. They are counts over the site's patients, so it stays at the site.

    rows, patients: of the cohort. repeated: rows of a patient beyond the first. most_rows: of any one patient, at most. events: rows in
    which the event happened. cohort: why records do not belong to it -> how many. source: the tally of what was read.
    """

    rows: int
    patients: int
    findings: tuple[Finding, ...]
    variables: Mapping[str, VariableSummary] = field(default_factory=dict)
    repeated: int = 0
    most_rows: int = 1
    events: int | None = None
    cohort: Mapping[str, int] = field(default_factory=dict)
    source: Mapping[str, Any] | None = None

    @property
    def result(self) -> Result:
        return worst(self.findings)

    def of(self, result: Result) -> list[Finding]:
        return [f for f in self.findings if f.result == result]

    def about(self, variable: str) -> list[Finding]:
        """What the gates say of one variable, in their order; '' for the table as a whole."""
        return [f for f in self.findings if f.variable == variable]

    def to_json(self, *, examples: bool = False) -> dict[str, Any]:
        """Plain JSON data: result, rows, patients, the findings in the order of the gates, and the counts of every variable."""
        return {
            "result": self.result,
            "rows": self.rows,
            "patients": self.patients,
            "repeated": self.repeated,
            "events": self.events,
            "cohort": dict(self.cohort),
            "source": dict(self.source) if self.source is not None else None,
            "findings": [f.to_json(examples=examples) for f in self.findings],
            "variables": {name: v.to_json() for name, v in self.variables.items()},
        }

    def waived(self, waivers: Iterable[Waiver]) -> Report:
        """The report in which every refusal that a waiver covers is a warning that names the waiver. waivers: those in force for the
        study (`Waiver.in_force`); whose signature is good is for the caller to know."""
        known = list(waivers)

        def after(finding: Finding) -> Finding:
            waiver = next((w for w in known if finding.result == "REFUSE" and w.covers(finding)), None)
            return replace(finding, result="WARN", what=f"{finding.what}; {waiver.told}", fix="") if waiver is not None else finding

        return replace(self, findings=tuple(after(f) for f in self.findings))

    def raise_if_refused(self) -> None:
        """Raise `DataError` with the first few reasons, unless the result is PASS or WARN."""
        refused = self.of("REFUSE")
        if refused:
            fixes = dict.fromkeys(f.fix for f in refused[:5] if f.fix)
            more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
            raise DataError(
                "The data does not meet the study's contract: " + "; ".join(f.what for f in refused[:5]) + more + ".",
                why="A study does not start on data that falls short.",
                fix="; ".join(fixes),
                local="; ".join(f"{f.variable}: {told(f.examples)}" for f in refused[:5] if f.examples),
            )


def worst(findings: tuple[Finding, ...] | list[Finding]) -> Result:
    """The worst result of several; PASS if there are none."""
    return max((f.result for f in findings), key=_RANK.__getitem__, default="PASS")


def told(examples: tuple[Example, ...]) -> str:
    """Examples as text for a person at this site."""
    return ", ".join(f"record {e.record:,}: {e.cell!r}" for e in examples)
