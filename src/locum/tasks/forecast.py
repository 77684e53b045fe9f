"""Forecasts of a weekly count, 0 to 3 weeks ahead: each site's own autoregression, shrunk to the cohort's, with quantiles from the cohort's errors.

Each site is one series (a hospital, a state): a row a week. The arithmetic is in `forecast_model`. Five rounds, each a sum over the sites:

    calendar    per week the count and the population (the cohort's curve is a feature); per reporting delay, what was published then and what is known now
    moments     per horizon and fold x'x, x'y, n: the cohort's ridge coefficients, with each fold held out and with none
    errors      per horizon, the sum of |error| of held-out weeks for each model of a grid: designs (how many lags and harmonics, with the cohort's curve or
                without) and how strongly the site's own coefficients are shrunk to the cohort's (strength s: the cohort counts as s average sites; infinite:
                the cohort's own)
    scale       per horizon the normal equations of squared held-out errors on two variances, of counting and of growth
    histogram   held-out errors, each divided by its standard deviation, whose factor is the site's own (shrunk to 1)

The grid is averaged, not searched: weight exp(-sharpness (E / min E - 1)), E the cohort's held-out error (combination of forecasts: Bates and Granger,
1969, Operational Research Quarterly 20:451). The strength is thus the cohort's choice, as in empirical Bayes (Efron and Morris, 1975, JASA 70:311).
A site's coefficients and its forecast stay there: `forecast` gives them from the state and the site's own rows.

Counts that are published late (`delayed`) are first completed by the factor that such weeks gained in the last quarter: the cohort's, and the site's own
shrunk to it (gamma-Poisson). The errors that the quantiles come from are of the data as known now, so they hold no error of that completion.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import EPOCH, Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import forecast_model as model
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.forecast_model import EDGES, FOLDS, LEVELS, Floats, Series
from locum.tasks.forecast_series import LEAST, series_of

STAGES = ("calendar", "moments", "errors", "scale", "histogram")
Positive = Annotated[float, Field(gt=0)]
Form = Literal["personalised", "federated"]


class ForecastParams(Params):
    """date, value, population: a row's week (any day of it, always the same one), count and population. last: the last week that is known, as
    '2024-12-28': every site's data reach it, and nothing later is read. weeks: of the common calendar, at most; a site may have fewer, and at least a year.
    horizons: 1 forecasts the week after `last`. lags, harmonics (of the year), cohort (whether its curve is a feature): every combination is a design.
    shrinkage: strengths, beside infinite. seasonal: by how many weeks a site without season counts. sharpness: of the average over designs and strengths.
    delayed: variables with the value as published 0, 1, ... weeks after the week's end."""

    date: VariableName = "date"
    value: VariableName = "value"
    population: VariableName = "population"
    last: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    weeks: Annotated[int, Field(ge=LEAST, le=1040)] = 260
    horizons: Annotated[int, Field(ge=1, le=8)] = 4
    lags: Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=1, max_length=4)] = (2, 4)
    harmonics: Annotated[tuple[Annotated[int, Field(ge=0, le=4)], ...], Field(min_length=1, max_length=4)] = (1, 2)
    cohort: Annotated[tuple[bool, ...], Field(min_length=1, max_length=2)] = (True, False)
    shrinkage: Annotated[tuple[Positive, ...], Field(max_length=20)] = (1.0, 10.0)
    seasonal: Positive = 30.0
    sharpness: Annotated[float, Field(ge=0, le=1000)] = 5.0
    delayed: Annotated[tuple[VariableName, ...], Field(max_length=4)] = ()


@register
class Forecast(BaseTask[ForecastParams]):
    """Five rounds of sums; then each site forecasts for itself."""

    kind = "forecast"
    Config = ForecastParams
    takes = ("number", "integer", "date")

    def __init__(self, step: Step, params: ForecastParams, study: Study) -> None:
        super().__init__(step, params, study)
        try:
            self.last = (date.fromisoformat(params.last) - EPOCH).days
        except ValueError:
            raise ManifestError(f"Step '{step.name}': last = '{params.last}' is no date.", fix="write for example last = '2024-12-28'") from None
        self.require(*self.reads())
        if study.data.variables[params.date].type != "date":
            raise ManifestError(f"Step '{step.name}': '{params.date}' is not of type 'date'.", fix="name the variable of the week")
        self.dates: Floats = self.last - 7.0 * np.arange(params.weeks - 1, -1, -1, dtype=np.float64)
        self.most = max(params.lags), max(params.harmonics), any(params.cohort)
        self.names = model.names(*self.most)
        self.p, self.left_out = len(self.names), self._left_out()
        self.designs = len(self.left_out)
        self.grid = (len(params.shrinkage) + 1) * self.designs

    def reads(self) -> tuple[str, ...]:
        p = self.params
        return (p.date, p.value, p.population, *p.delayed)

    def leaves(self) -> str:
        h, w = self.params.horizons, self.params.weeks
        return (
            f"First the site's count and population in each of {w} weeks, to which those of the other sites are added. Then, for {h} horizons, sums of "
            f"squares and products of {self.p} features in {FOLDS} parts of the time; sums of errors of {self.grid} models; 6 sums of squared errors; and a "
            "histogram of errors. The site's own model and its forecast stay."
        )

    def layout(self, state: State) -> Layout:
        h, p = self.params.horizons, self.p
        return {
            "calendar": Layout.of(sites=(), count=(self.params.weeks,), people=(self.params.weeks,), delays=(2, len(self.params.delayed))),
            "moments": Layout.of(xx=(h, FOLDS, p, p), xy=(h, FOLDS, p), n=(h, FOLDS)),
            "errors": Layout.of(error=(h, self.grid), squares=(h, self.grid), rows=(h,)),
            "scale": Layout.of(gg=(h, 2, 2), gr=(h, 2)),
            "histogram": Layout.of(histogram=(h, len(EDGES) - 1)),
        }[self._stage(state)]

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        series, stage, vector = series_of(self, rows), self._stage(state), self.layout(state).zeros()
        if stage == "calendar":
            seen = np.isfinite(series.value)
            vector |= {"sites": np.asarray(1.0), "count": np.where(seen, series.value, 0.0), "people": seen * series.people, "delays": model.delays(series)}
        for h, (x, y, target) in enumerate(self._matrices(state, series) if stage != "calendar" else ()):
            use = model.complete(x, y)
            if stage == "moments":
                vector["xx"][h], vector["xy"][h], vector["n"][h] = model.sums(x, y, target)
                continue
            if f"held{h}" not in memory:
                memory[f"held{h}"] = model.predicted(x[use], self._coefficients(state, h, x, y, target)[:, model.fold(target[use])])
            held = memory[f"held{h}"]
            if stage == "errors":
                wrong = y[use] - held
                vector["error"][h], vector["squares"][h], vector["rows"][h] = np.abs(wrong).sum(axis=1), (wrong**2).sum(axis=1), use.sum()
                continue
            z = self.own(state, "weights")[h] @ held
            g, error = model.spread(z, series.per_100k), y[use] - z
            if stage == "scale":
                w = model.weigh(g)
                vector["gg"][h], vector["gr"][h] = (g * w[:, None]).T @ g, (g * w[:, None]).T @ error**2
            else:
                u = error / np.sqrt(g @ self.own(state, "variance")[h])
                inside = np.clip(u / model.own_scale(u), EDGES[0], EDGES[-1])
                vector["histogram"][h] = np.histogram(inside, EDGES)[0]
        return Contribution(vector, rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        stage, p, new = self._stage(state), self.params, dict[str, Any](total.vector)
        if stage == "calendar":
            new["factor"] = (total["delays"][0] + model.COHORT_KAPPA) / (total["delays"][1] + model.COHORT_KAPPA)
            rate = 1e5 * total["count"] / np.maximum(total["people"], 1.0)
            for d, factor in enumerate(new["factor"]):
                rate[-1 - d] *= factor
            if total["count"].sum() <= 0:
                raise TaskError("The cohort counted nothing in any week.", fix="check the mapping of the count, or choose another series")
            new["rate"] = rate
        elif stage == "moments":
            if (total["n"].sum(axis=1) <= 2 * self.p).any():
                raise TaskError("The cohort has too few weeks for a forecast so far ahead.", fix="ask for fewer horizons, or wait for a longer history")
            season = np.arange(self.p) >= self.p - 2 * self.most[1]
            penalty = np.where(self.left_out, model.OFF, np.where(season, p.seasonal, 1e-6)) * float(self.own(state, "sites"))
            new["federated"] = np.array([model.federated(total["xx"][h], total["xy"][h], penalty) for h in range(p.horizons)])
            new["mean"] = np.array([model.without(total["xx"][h]) for h in range(p.horizons)]) / self.own(state, "sites")
        elif stage == "errors":
            relative = total["error"] / total["error"].min(axis=1, keepdims=True) - 1.0
            weights = np.exp(-p.sharpness * relative)
            new["weights"] = weights / weights.sum(axis=1, keepdims=True)
        elif stage == "scale":
            new["variance"] = np.array([model.nonnegative(total["gg"][h], total["gr"][h]) for h in range(p.horizons)])
            if not (new["variance"].max(axis=1) > 0).all():
                raise TaskError("The cohort's series hold no error to learn from: they are constant.", fix="check the mapping of the count")
        return self.merge(state, stage=STAGES.index(stage) + 1, **{k: v for k, v in new.items() if k not in ("xx", "xy", "gg", "gr")})

    def done(self, state: State) -> bool:
        return self.key("histogram") in state

    def forecast(self, state: State, rows: Rows, *, form: Form = "personalised", levels: tuple[float, ...] = LEVELS) -> Floats:
        """Quantiles of the weeks after `last` from a site's own rows, shape (horizons, levels), in counts, increasing and at least 0. Stays at the site.

        form 'federated': the cohort's coefficients and scale, for comparison. Raises `TaskError`.
        """
        series, out = series_of(self, rows), np.zeros((self.params.horizons, len(levels)))
        for h, (x, y, target) in enumerate(self._matrices(state, series)):
            mix, variance, scale = self.own(state, "weights")[h], self.own(state, "variance")[h], 1.0
            if form == "federated":
                z = x[-1] @ (mix.reshape(-1, self.designs).sum(axis=0) @ self.own(state, "federated")[h, -1])
            else:
                coefficients, use = self._coefficients(state, h, x, y, target), model.complete(x, y)
                middle = mix @ model.predicted(x[use], coefficients[:, model.fold(target[use])])
                scale = model.own_scale((y[use] - middle) / np.sqrt(model.spread(middle, series.per_100k) @ variance))
                z = x[-1] @ (mix @ coefficients[:, -1])
            sd = scale * np.sqrt(model.spread(z, series.per_100k) @ variance)
            out[h] = model.back(z + sd * model.quantiles(self.own(state, "histogram")[h], levels)) * series.per_100k
        return np.asarray(np.maximum.accumulate(out, axis=1))

    def result(self, state: State) -> dict[str, Any]:
        p, n = self.params, self.own(state, "rows")
        weights, error = self.own(state, "weights"), self.own(state, "error") / n[:, None]
        strengths = [*p.shrinkage, None]
        ahead = []
        for h in range(p.horizons):
            by = weights[h].reshape(len(strengths), -1).sum(axis=1)
            designs = weights[h].reshape(len(strengths), -1).sum(axis=0)
            coefficients = designs @ self.own(state, "federated")[h, -1]
            se = np.sqrt(np.maximum(self.own(state, "squares")[h] / n[h] - error[h] ** 2, 0.0) / n[h])
            best, cohort = int(error[h].argmin()), len(by) - 1
            own = int(error[h].reshape(len(by), -1).argmin(axis=1)[cohort]) + cohort * self.designs
            ahead.append({
                "weeks_ahead": h + 1,
                "n": int(n[h]),
                "federated_coefficients": dict(zip(self.names, coefficients.tolist(), strict=True)),
                "weight_of_strength": [{"shrinkage": s, "weight": float(w)} for s, w in zip(strengths, by, strict=True)],
                "held_out_error": {"best": _about(error[h, best], se[best]), "federated": _about(error[h, own], se[own])},
                "variance": {"counting": float(self.own(state, "variance")[h, 0]), "growth": float(self.own(state, "variance")[h, 1])},
            })  # fmt: skip
        sites = int(self.own(state, "sites"))
        return {
            "sites": sites,
            "last": p.last,
            "horizons": ahead,
            "completion_factors": self.own(state, "factor").tolist(),
            "scale": "z = (100,000 count / population + 0.02)^(1/4); errors are mean absolute errors of held-out weeks on it",
            "forecasts": "Each site's own, from its own rows: Forecast.forecast(state, rows). They are not here.",
            "warnings": self._warnings(state, ahead),
        }

    def _warnings(self, state: State, ahead: list[dict[str, Any]]) -> list[str]:
        out = ["Intervals of errors take weeks as independent, so they are too narrow."]
        if float(self.own(state, "sites")) < 10:
            out.append("With fewer than ten sites the cohort's curve says much about each of them.")
        if self.most[2] and (self.own(state, "people")[-1] < self.own(state, "people").max()):
            out.append("Not every site reported the last week: the cohort's curve is of those that did.")
        if np.count_nonzero(self.own(state, "people")) < 2 * 52:
            out.append("Fewer than two years of history: the season was seen once, and quantiles are less certain than they say.")
        if all(a["weight_of_strength"][-1]["weight"] > 0.5 for a in ahead):
            out.append("Sites' own coefficients hardly help: the federated model has most of the weight.")
        return out

    # --- parts --------------------------------------------------------------------------------------------------------

    def _stage(self, state: State) -> str:
        return STAGES[min(int(state.get(self.key("stage"), np.asarray(0))), len(STAGES) - 1)]

    def _left_out(self) -> NDArray[np.bool_]:
        """Which columns each design has not, shape (designs, p)."""
        most_lags, most_waves, common = self.most
        p = self.params
        parts = [
            [False, False, *(k >= lags for k in range(1, most_lags))] + [not cohort] * (2 * common) + [k >= waves for k in range(most_waves) for _ in range(2)]
            for lags, waves, cohort in product(p.lags, p.harmonics, p.cohort)
        ]
        return np.array(parts, dtype=np.bool_)

    def _matrices(self, state: State, series: Series) -> Iterator[tuple[Floats, Floats, Any]]:
        z = model.transform(1e5 * model.completed(series, self.own(state, "factor")) / series.people)
        cohort = np.where(self.own(state, "people") > 0, model.transform(self.own(state, "rate")), np.nan) if self.most[2] else None
        for h in range(self.params.horizons):
            yield model.matrix(z, cohort, self.dates, h, self.most[0], self.most[1])

    def _coefficients(self, state: State, h: int, x: Floats, y: Floats, target: Any) -> Floats:
        """The site's coefficients of every model of the grid, with each fold held out and, last, with none: (grid, FOLDS + 1, p)."""
        xx, xy, _ = model.sums(x, y, target)
        mean, cohort = self.own(state, "mean")[h], self.own(state, "federated")[h]
        found = model.between(model.without(xx), model.without(xy), mean, cohort, self.params.shrinkage, self.left_out)
        return np.asarray(found.transpose(0, 2, 1, 3).reshape(self.grid, -1, self.p))


def _about(value: float, se: float) -> dict[str, Any]:
    return {"value": float(value), "se": float(se), "ci95": [float(value - 1.959964 * se), float(value + 1.959964 * se)]}
