"""One site's rows as a weekly series on the study's calendar, or why they are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.tasks.forecast_model import Series

if TYPE_CHECKING:
    from locum.tasks.forecast import Forecast

LEAST = 52
"""Weeks of history without which no forecast is made. Of US influenza admissions, with a year the federated model beat the hub's baseline (weighted
interval score .91 of it) and a state's own did not (1.17); with 26 weeks both failed (2.0 and 5.7)."""
MOST_MISSING = 0.25


def series_of(task: Forecast, rows: Rows) -> Series:
    """The weeks up to the study's last one, NaN before the site's first. Raises `TaskError`."""
    p = task.params
    for name in task.reads():
        if name not in rows.columns:
            raise TaskError(f"Step '{task.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
    days = rows.columns[p.date]
    if not np.isfinite(days).all():
        raise TaskError("A row has no date.", fix="leave it out, or give the date of its week")
    rows = rows.take(days <= task.last)
    order = np.argsort(rows.columns[p.date], kind="stable")
    rows = rows.take(order)
    back = (task.last - rows.columns[p.date]) / 7.0
    _check_weeks(task, back)
    value, people = rows.columns[p.value], rows.columns[p.population]
    _check_counts(task, value, people)
    weeks = np.rint(back).astype(np.int64)
    keep = weeks < p.weeks

    def spread(x: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.full(p.weeks, np.nan)
        out[p.weeks - 1 - weeks[keep]] = x[keep]
        return out

    delayed = [spread(rows.columns[name]) for name in p.delayed]
    if any((d < 0).any() or np.isinf(d).any() for d in delayed):
        raise TaskError("A count as it was first published is negative or infinite.", fix="correct it at its source")
    return Series(spread(value), float(people[-1]), np.array(delayed).reshape(len(delayed), p.weeks))


def _check_weeks(task: Forecast, back: NDArray[Any]) -> None:
    """back: weeks before the last one, from the earliest row to the latest."""
    if not len(back) or back[-1] >= 1:
        raise TaskError(
            f"A forecast is asked beyond its data: this site has no row for the week of {task.params.last}.",
            why="A forecast from older data would be of other weeks than those of the other sites.",
            fix="bring the rows up to that week, or set 'last' to a week that every site has",
        )
    if (np.abs(back - np.rint(back)) > 1e-9).any():
        raise TaskError(f"A row's date is not a whole number of weeks before {task.params.last}.", fix="name each week by the same day")
    step = -np.diff(back)
    if (step < 0.5).any():
        raise TaskError("Two rows are of the same week.", why="Each site is one series.", fix="add them up, or make each series a site of its own")
    if (step > 1.5).any():
        raise TaskError("Weeks are absent between the first row and the last.", fix="give each week a row, its count missing where nothing was reported")
    if len(back) < LEAST:
        raise TaskError(
            f"This site has less than a year of history: a forecast needs {LEAST} weeks.",
            why="With half a year neither a site's own model nor the federated one was any good: see docs/scenarios/flu.md.",
            fix="wait, or bring earlier weeks",
        )


def _check_counts(task: Forecast, value: NDArray[np.float64], people: NDArray[np.float64]) -> None:
    seen = value[np.isfinite(value)]
    if np.isinf(value).any() or (seen < 0).any():
        raise TaskError(f"A count in '{task.params.value}' is negative or infinite.", fix="correct it at its source, or leave it missing")
    if not np.isfinite(value[-max(2, *task.params.lags):]).all():  # fmt: skip
        raise TaskError("A count of the last weeks is missing, and the forecast starts from them.", fix="wait for the report, or set 'last' to an earlier week")
    if np.isnan(value).mean() > MOST_MISSING or len(seen) < LEAST * (1 - MOST_MISSING):
        raise TaskError("More than a quarter of the weeks have no count.", fix="bring the missing weeks, or start the series later")
    if not seen.any():
        raise TaskError("Every count of this site is 0.", why="It says nothing of growth or of season.", fix="check the mapping, or leave the study")
    if not (np.isfinite(people) & (people > 0)).all():
        raise TaskError(f"'{task.params.population}' is missing, 0 or negative in a row.", fix="give the population that the counts are of")
