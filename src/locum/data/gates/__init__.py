"""The gates of a data contract: one streaming pass over a site's table, and what it says of every variable.

    report = check_source(study.data, open_source(mapping.source), mapping)
    report.raise_if_refused()

Everything here stays at the site. What may be shown to others is `summary.outgoing`.
"""

from __future__ import annotations

from locum.data.gates.judge import judge
from locum.data.gates.report import GATES, Example, Finding, Gate, Report, Result, VariableSummary
from locum.data.gates.stream import Progress, over_rows, over_source
from locum.data.mapping import SiteMapping
from locum.data.rows import Rows
from locum.data.sources.base import Source
from locum.study.manifest import DataSpec

__all__ = ["GATES", "Example", "Finding", "Gate", "Progress", "Report", "Result", "VariableSummary", "check", "check_source"]


def check_source(
    data: DataSpec,
    source: Source,
    mapping: SiteMapping | None = None,
    *,
    min_patients: int = 1,
    examples: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Every gate on every variable of the contract, in one pass over a table of any size.

    min_patients: what the study's terms ask for. examples: whether cells are kept to be shown on this machine. edges: the bins of the federation's
    histograms, in place of the contract's. progress: called with the rows looked at so far. It judges; it raises only what the source or
    a wrong mapping raises (`DataError`, `ManifestError`, `TooLarge`, `Unavailable`).
    """
    return judge(over_source(data, source, mapping or SiteMapping(), examples=examples, progress=progress), min_patients)


def check(data: DataSpec, rows: Rows, *, min_patients: int = 1) -> Report:
    """The same gates on rows that are in memory. It judges, and raises nothing."""
    return judge(over_rows(data, rows), min_patients)
