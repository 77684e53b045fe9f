"""The performance figures that the results of a run hold: of everybody, of subgroups, of sites and of groups that were held out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from locum.governance.cards.facts import Facts, Plain

JUDGES = ("evaluate_binary", "evaluate_survival", "evaluate_categories", "subgroups", "local_baseline", "local_categories", "leave_one_out")
"""Tasks whose results say how well a model predicts."""
EVERYBODY = "everybody"
Kind = Literal["all", "group", "held out", "alone"]
ALONE = {
    "local_": "models that sites fitted alone, at the sites",
    "federated_": "this model, at the sites",
    "majority_": "always saying the more frequent outcome, at the sites",
}
"""Whose a figure of task local_baseline or local_categories is, by the beginning of its name."""
_METRIC = re.compile(r"auc|accuracy|brier|log_loss|sensitivity|specificity|concordance")
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Figure:
    """One figure. low, high: its 95 % interval. note: what else belongs to it. kind: of everybody; of a subgroup or of sites; of a group that the
    model had not seen; or of a comparison with what each site could do alone."""

    step: str
    name: str
    value: float
    group: str = EVERYBODY
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""
    kind: Kind = "all"

    @property
    def words(self) -> str:
        interval = f" (95 % interval {number(self.low)} to {number(self.high)})" if self.low is not None and self.high is not None else ""
        return number(self.value) + interval


def number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def figures(facts: Facts) -> list[Figure]:
    """Every figure, in the order of the plan."""
    return [f for step, task, result in facts.steps(*JUDGES) for f in _of(step, task, result)]


def calibration(found: list[Figure]) -> list[Figure]:
    return [f for f in found if f.name.startswith(("calibration_", "observed_over_expected"))]


def withheld(facts: Facts) -> list[str]:
    """What the results hold back, in words."""
    out = []
    for step, _, result in facts.steps(*JUDGES):
        for item in result.get("withheld") or ():
            levels = ", ".join(map(str, item.get("levels", ())))
            out.append(f"step '{step}' shows no figures of {item.get('variable')}: {levels} ({item.get('why')})")
        for name, site in (result.get("sites") or {}).items() if isinstance(result.get("sites"), dict) else ():
            if isinstance(site, dict) and "withheld" in site:
                out.append(f"step '{step}' says nothing of single sites' {name} ({site['withheld']})")
        for group in result.get("groups") or ():
            if isinstance(group, dict) and group.get("reason"):
                out.append(f"step '{step}' shows no figures of {result.get('group')}: {group.get('group')} ({group['reason']})")
    return out


def gaps(facts: Facts) -> list[Figure]:
    """The largest differences between two subgroups of a variable."""
    out: list[Figure] = []
    for step, _, result in facts.steps("subgroups"):
        for by in (result.get("gaps") or {}).values():
            for name, gap in by.items():
                out += _one(name, gap, Figure(step, name, 0.0, " against ".join(map(str, gap.get("between", ()))), kind="group"))
    return out


def _of(step: str, task: str, result: Plain) -> Iterator[Figure]:
    if task == "subgroups":
        yield from _groups(step, result)
    elif task in ("local_baseline", "local_categories"):
        for name, value in result.items():
            who = next((who for who in ALONE if name.startswith(who)), None)
            if who and _METRIC.search(name):
                yield from _one(name.removeprefix(who), value, Figure(step, name, 0.0, ALONE[who], n=_count(result), kind="alone"))
    else:
        yield from _all(result, Figure(step, "", 0.0, n=_count(result)))
        for row in result.get("groups") or ():
            group = f"{result.get('group')}: {row.get('group')} (model fitted without it)"
            yield from _all(row, Figure(step, "", 0.0, group, n=_count(row), kind="held out"))
        for name, row in (result.get("classes") or {}).items():
            yield from _all(row, Figure(step, "", 0.0, f"category {name}", n=_count(row), kind="group"))


def _groups(step: str, result: Plain) -> Iterator[Figure]:
    everybody = result.get("everybody") or {}
    for row in (everybody, *(result.get("subgroups") or ())):
        kind: Kind = "all" if row is everybody else "group"
        for name, cell in row.items():
            if isinstance(cell, dict):
                yield from _one(name, cell, Figure(step, name, 0.0, str(row.get("name", EVERYBODY)), n=_count(row), kind=kind))
    for name, site in (result.get("sites") or {}).items():
        if isinstance(site, dict) and "mean" in site:
            worst = site.get("worst_between") or (None, None)
            said = f"standard deviation {number(site.get('sd'))}; the worst site lies between {number(worst[0])} and {number(worst[1])}"
            yield Figure(step, name, float(site["mean"]), f"mean of {site['sites']} sites", note=said, kind="group")


def _all(result: Plain, like: Figure) -> Iterator[Figure]:
    for name, value in result.items():
        if name == "calibration" and isinstance(value, dict):
            ends = value.get("ci95") or (None, None)
            yield from _one("observed_over_expected", {"value": value.get("observed_over_expected"), "low": ends[0], "high": ends[1]}, like)
            for part in ("slope", "intercept"):
                at, se = value.get(part), value.get(f"{part}_se")
                ends = (at - _Z95 * se, at + _Z95 * se) if at is not None and se is not None else (None, None)
                yield from _one(f"calibration_{part}", {"value": at, "low": ends[0], "high": ends[1]}, like)
        elif _METRIC.search(name) and not name.endswith(("_bound", "_bins")):
            yield from _one(name, value, like)


def _one(name: str, cell: Any, like: Figure) -> Iterator[Figure]:
    """The figure of that name in a result's cell, a number or a table with a value, where there is a finite one."""
    cell = cell if isinstance(cell, dict) else {"value": cell}
    value = cell.get("value")
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return
    ends = cell.get("ci95_by_patient") or cell.get("ci95") or (cell.get("low"), cell.get("high"))
    said = [f"{label} {number(cell[key])}" for key, label in (("error_bound", "from binned scores, off by at most"), ("se", "standard error")) if cell.get(key)]
    if isinstance(cell.get("pairs"), int):
        said.append(f"{cell['pairs']} pairs")
    low, high = ends if None not in ends else (None, None)
    yield replace(like, name=name, value=float(value), low=low, high=high, note="; ".join(said))


def _count(row: Plain) -> int | None:
    n = row.get("n")
    return n if isinstance(n, int) and not isinstance(n, bool) else None
