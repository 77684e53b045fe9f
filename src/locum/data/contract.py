"""The data contract at work: a site's table becomes `Rows`, and gates say whether the rows will do.

What is not a value at all stops `load_rows`; what is a value but cannot be right, or is too often missing, is for
`check` to judge, which reports on every variable before it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.convert import as_text, convert, is_absent
from locum.data.mapping import Column, SiteMapping
from locum.data.rows import Rows
from locum.data.sources import Source, open_source
from locum.errors import DataError
from locum.study.manifest import DataSpec, Study, Variable

Result = Literal["PASS", "WARN", "REFUSE"]
_RANK: dict[Result, int] = {"PASS": 0, "WARN": 1, "REFUSE": 2}
_TYPES = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "0 or 1 (or true, false, yes, no)",
    "category": "one of the study's categories",
}


def load_rows(study: Study, mapping: str | Path | None = None, source: str | Path | None = None) -> Rows:
    """The study's variables from a site's file.

    mapping: the site's mapping file; without one every variable is the column of the same name. source: the data file,
    in place of the one that the mapping names. Raises `ManifestError`, `DataError` or `TooLarge`.
    """
    site = SiteMapping.load(mapping) if mapping is not None else SiteMapping()
    return to_rows(study.data, open_source(site.source, source), site)


def to_rows(data: DataSpec, source: Source, mapping: SiteMapping | None = None) -> Rows:
    """The contract's variables, typed, from a table; raises `DataError` or `ManifestError`."""
    mapping = mapping or SiteMapping()
    found = mapping.resolve(data, source.columns(), source.name)
    frame = source.read(sorted({c.column for c in found.values()}))
    if not len(frame):
        raise DataError(f"{source.name} has no rows.", fix="check the export, and the filter that made it")
    for name in sorted({c.column for c in found.values()}):
        kind = frame[name].dtype
        if kind.is_nested() or kind.is_temporal() or kind in (pl.Binary, pl.Object):
            what = f"The column '{name}' of {source.name} holds {kind}, not numbers or text."
            raise DataError(what, fix="export it as numbers, for example as days since a date")
    who = _patients(data, frame, found, mapping)
    columns: dict[str, NDArray[np.float64]] = {}
    bad: list[tuple[str, str]] = []
    for name, variable in data.variables.items():
        if variable.role != "patient":
            columns[name], wrong = convert(frame[found[name].column], variable, found[name], mapping.source)
            if wrong:
                bad.append((f"{wrong} of {len(frame)} cells in the column '{found[name].column}' ({name}) are not {_TYPES[variable.type]}", _advice(variable)))
    if bad:
        fixes = dict.fromkeys(fix for _, fix in bad)
        raise DataError("; ".join(what for what, _ in bad[:5]) + ".", why="No cell is guessed or dropped.", fix="; ".join(fixes))
    return Rows.of(columns, who)


def _patients(data: DataSpec, frame: pl.DataFrame, found: dict[str, Column], mapping: SiteMapping) -> list[str] | None:
    """The patient of each row, or None where the contract has no such variable and every row is a patient."""
    names = [n for n, v in data.variables.items() if v.role == "patient"]
    if not names:
        return None
    column = found[names[0]]
    text = as_text(frame[column.column])
    nameless = int(is_absent(text, column, mapping.source).sum())
    if nameless:
        raise DataError(
            f"{nameless} of {len(frame)} rows have no patient identifier in the column '{column.column}'.",
            why="Without one, a patient's rows cannot be kept together.",
            fix="complete the identifiers, or leave those rows out of the export",
        )
    return text.to_list()


def _advice(variable: Variable) -> str:
    if variable.type == "category":
        return "list the site's codes as values = { ... } in the mapping"
    return 'in the mapping, list text codes as values = { ... } and cells that mean "no value" as missing = [...]; for 1,5 set decimal = "," under [source]'


@dataclass(frozen=True)
class Finding:
    """What one gate says of one variable ('' for the table as a whole). `count` rows led to it."""

    variable: str
    gate: Literal["conformance", "completeness", "plausibility", "variation", "rows"]
    result: Result
    count: int = 0
    what: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """All findings of `check`. It holds counts over the site's patients, so it stays at the site."""

    rows: int
    patients: int
    findings: tuple[Finding, ...]

    @property
    def result(self) -> Result:
        return max((f.result for f in self.findings), key=_RANK.__getitem__, default="PASS")

    def of(self, result: Result) -> list[Finding]:
        return [f for f in self.findings if f.result == result]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data: result, rows, patients, and the findings in the order of the contract."""
        return {"result": self.result, "rows": self.rows, "patients": self.patients, "findings": [asdict(f) for f in self.findings]}

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
            )


def check(data: DataSpec, rows: Rows, *, min_patients: int = 1) -> Report:
    """Every gate on every variable of the contract. It judges, and raises nothing."""
    findings = [_size(rows, min_patients)]
    for name, variable in data.variables.items():
        if variable.role != "patient":
            findings += _gates(name, variable, rows)
    return Report(len(rows), rows.patients, tuple(findings))


def _size(rows: Rows, least: int) -> Finding:
    if rows.patients >= least:
        return Finding("", "rows", "PASS", len(rows))
    what = f"there are {rows.patients} patients, and {least} are needed"
    return Finding("", "rows", "REFUSE", len(rows), what, "take part once the site has enough patients")


def _gates(name: str, variable: Variable, rows: Rows) -> Iterator[Finding]:
    if name not in rows.columns:
        yield Finding(name, "conformance", "REFUSE", len(rows), f"'{name}' is absent", "map it to a column of the site's table")
        return
    values = rows.columns[name]
    seen = values[~np.isnan(values)]
    yield _conformance(name, variable, seen)
    yield _completeness(name, variable, len(seen), len(values))
    yield _plausibility(name, variable, seen)
    constant = len(seen) > 0 and bool((seen == seen[0]).all())
    yield Finding(name, "variation", "WARN", len(seen), f"'{name}' has one value throughout") if constant else Finding(name, "variation", "PASS")


def _conformance(name: str, variable: Variable, seen: NDArray[np.float64]) -> Finding:
    good = np.isfinite(seen)
    if variable.type == "boolean":
        good = (seen == 0) | (seen == 1)
    elif variable.type in ("integer", "category"):
        good &= seen == np.round(seen)
    if variable.type == "category":
        good &= (seen >= 0) & (seen < len(variable.categories))
    wrong = int((~good).sum())
    if not wrong:
        return Finding(name, "conformance", "PASS")
    what = f"{wrong} values of '{name}' are not {_TYPES[variable.type]}"
    return Finding(name, "conformance", "REFUSE", wrong, what, f"correct the source or the mapping of '{name}'")


def _completeness(name: str, variable: Variable, seen: int, n: int) -> Finding:
    missing = n - seen
    if n and missing / n > variable.max_missing:
        what = f"{missing} of {n} values of '{name}' are missing, and at most {variable.max_missing:.0%} may be"
        return Finding(name, "completeness", "REFUSE", missing, what, f"find why '{name}' is missing, or stay out of this study")
    if n and not seen:
        return Finding(name, "completeness", "WARN", missing, f"'{name}' has no value at all")
    return Finding(name, "completeness", "PASS", missing)


def _plausibility(name: str, variable: Variable, seen: NDArray[np.float64]) -> Finding:
    low = -np.inf if variable.minimum is None else variable.minimum
    high = np.inf if variable.maximum is None else variable.maximum
    outside = int(((seen < low) | (seen > high)).sum())
    if not outside:
        return Finding(name, "plausibility", "PASS")
    unit = f" {variable.unit}" if variable.unit else ""
    what = f"{outside} values of '{name}' lie outside {low:g} to {high:g}{unit}"
    fix = f"for '{name}' in the mapping, list codes that mean 'no value' as missing = [...], or give the source's unit and scale if it is another"
    return Finding(name, "plausibility", "REFUSE", outside, what, fix)
