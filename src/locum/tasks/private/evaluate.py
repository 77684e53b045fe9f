"""How well a model of a binary outcome predicts, from one round of noisy counts by score bin and outcome.

Each record lies in one of 2 B + 1 cells: its bin of the linear predictor with or without the outcome, or left out. The AUC is the
ratio of two noisy sums and approximately unbiased: A = sum_b p_b (n_1 + .. + n_(b-1) + n_b / 2) / (P N). The variance of its noise
(deviation s in each count) is to first order  s^2 (sum_b (x_b - A)^2 / P^2 + sum_b (y_b - A)^2 / N^2),  x_b, y_b the share of the other
class that bin b is concordant with. The patients' own variance is DeLong's. Both are of the counts projected to what counts
can be; the figures themselves are not, for a projection is biased. A bin's risk is that of its middle. There is no calibration line.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, State, register_private
from locum.tasks.concordance import auc_table
from locum.tasks.design import earlier
from locum.tasks.evaluate_binary import EvaluateParams, check_unseen
from locum.tasks.glm import expit
from locum.tasks.private.base import PrivateTask
from locum.tasks.private.histogram import cell_sums, of_part

Floats = NDArray[np.float64]
SPAN = 6.0
"""The bins cover linear predictors from -6 to 6, risks from 0.25 % to 99.75 %; beyond, the outermost bins."""
CLEAR = 3.0
"""With a class below so many standard deviations of its noise, the standard error is 1/2: nothing is known."""
TABLES = ("positive", "negative")


class PrivateEvaluateParams(EvaluateParams):
    """bins: of the score histogram, an even number; more of them are finer and hold more noise together."""

    bins: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)] = 64


@register_private
class PrivateEvaluateBinary(PrivateTask[PrivateEvaluateParams]):
    """One round, for any model task with `scores` (n,), linear predictors, and an outcome."""

    kind = "evaluate_binary"
    Config: ClassVar[type[Any]] = PrivateEvaluateParams

    def __init__(self, step: Step, params: PrivateEvaluateParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Any = earlier(self, params.model, "model", "logistic", "sgd")
        check_unseen(self, self.model)
        if not getattr(self.model, "binary", True):
            raise ManifestError(
                f"Step '{step.name}': the model '{params.model}' explains a number, so it gives no probabilities.", fix="evaluate a logistic model"
            )
        if getattr(self.model.params, "site_intercepts", False):
            raise ManifestError(
                f"Step '{step.name}': the model '{params.model}' has an intercept per site, which never leaves it, so it gives no probabilities.",
                fix="evaluate a model with site_intercepts = false",
            )

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.model.reads(), self.model.params.outcome)))

    def leaves(self) -> str:
        return (
            f"With noise: how many patients with and without the outcome have a predicted risk in each of {self.params.bins} bins, and how many are "
            f"left out; {self.layout({}).size} counts in all."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(**dict.fromkeys(TABLES, (self.params.bins,)), left_out=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows, bins = of_part(self, rows, self.params.part), self.params.bins
        cells = np.full(len(rows), 2 * bins, dtype=np.int64)
        usable: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows.matrix(self.reads())), axis=1)
        cells[usable] = self._cells(state, rows.take(usable))
        counts = cell_sums(cells, rows.codes, 2 * bins + 1)
        return self.addend({"positive": counts[:bins], "negative": counts[bins:-1], "left_out": np.asarray(counts[-1])}, rows.patients)

    def combine(self, state: State, total: Total) -> State:
        positive, negative = (np.asarray(total[name], float) for name in TABLES)
        left_out = max(0.0, float(total["left_out"]))
        auc, bound, se = noisy_auc(positive, negative, total.noise)
        figures = {name: ratio(*form, np.r_[positive, negative], total.noise) for name, form in self._ratios().items()}
        flat = {f"{name}_{part}": value for name, pair in figures.items() for part, value in zip(("value", "noise"), pair, strict=True)}
        n, positives = max(0.0, float(positive.sum() + negative.sum())), max(0.0, float(positive.sum()))
        return self.merge(state, rows=n, positives=positives, left_out=left_out, auc=auc, auc_bound=bound, auc_se=se, noise=total.noise, **flat)

    def done(self, state: State) -> bool:
        return self.key("auc") in state

    def result(self, state: State) -> dict[str, Any]:
        def of(name: str) -> float:
            return float(self.own(state, name))

        noise = of("noise")
        return {
            "part": self.params.part,
            "n": round(of("rows")),
            "positives": round(of("positives")),
            "left_out": round(of("left_out")),
            "auc": {"value": of("auc"), "error_bound": of("auc_bound"), "se": of("auc_se")},
            "accuracy": of("accuracy_value"),
            "brier": of("brier_value"),
            "calibration": {"observed_over_expected": of("observed_over_expected_value")},
            "noise_sd": {
                "n": noise * (2.0 * self.params.bins) ** 0.5,
                "positives": noise * self.params.bins**0.5,
                "left_out": noise,
                **{name: of(f"{name}_noise") for name in self._ratios()},
            },
        }

    def _cells(self, state: State, rows: Rows) -> NDArray[np.int64]:
        """The cell of each complete row; a score that is not a number is left out."""
        eta, bins = np.asarray(self.model.scores(state, rows), float), self.params.bins
        where = np.clip(np.floor((np.clip(np.nan_to_num(eta), -SPAN, SPAN) + SPAN) / (2.0 * SPAN) * bins), 0, bins - 1)
        negative = rows.columns[self.model.params.outcome] < 0.5
        return np.where(np.isnan(eta), 2 * bins, where + bins * negative).astype(np.int64)

    def _ratios(self) -> dict[str, tuple[Floats, Floats]]:
        """Numerator and denominator of each figure as weights of the counts (2 B,), those with the outcome first."""
        bins = self.params.bins
        risk = expit((np.arange(bins) + 0.5) / bins * 2.0 * SPAN - SPAN)
        high, one, none = (risk > 0.5).astype(float), np.ones(2 * bins), np.zeros(bins)
        return {
            "accuracy": (np.r_[high, 1.0 - high], one),
            "brier": (np.r_[(1.0 - risk) ** 2, risk**2], one),
            "observed_over_expected": (np.r_[1.0 + none, none], np.r_[risk, risk]),
        }


def noisy_auc(positive: Floats, negative: Floats, noise: float) -> tuple[float, float, float]:
    """AUC, an estimate of what binning may cost, and a standard error that includes the noise, from noisy counts (B,).

    The value is within [0, 1] and the standard error at most 1/2, whatever the noise.
    """
    p, n = max(1.0, float(positive.sum())), max(1.0, float(negative.sum()))
    auc = float(np.clip(positive @ (np.cumsum(negative) - negative / 2.0) / (p * n), 0.0, 1.0))
    clean_p, clean_n = to_simplex(positive, p), to_simplex(negative, n)
    x = (np.cumsum(clean_n) - clean_n / 2.0) / n
    y = (p - np.cumsum(clean_p) + clean_p / 2.0) / p
    added = noise**2 * (float(((x - auc) ** 2).sum()) / p**2 + float(((y - auc) ** 2).sum()) / n**2)
    _, bound, own = auc_table(clean_p, clean_n)
    if own is None or min(p, n) < CLEAR * noise * len(positive) ** 0.5:
        return auc, bound, 0.5
    return auc, bound, min(0.5, float(np.sqrt(added + own**2)))


def ratio(a: Floats, b: Floats, counts: Floats, noise: float) -> tuple[float, float]:
    """a @ counts / b @ counts, at least 0, and the standard deviation of its noise to first order."""
    below = max(1.0, float(b @ counts))
    value = max(0.0, float(a @ counts)) / below
    return value, noise * float(np.linalg.norm(a - value * b)) / below


def to_simplex(counts: Floats, total: float) -> Floats:
    """The nearest counts of at least 0 with the given sum (Held, Wolfe and Crowder, 1974, Mathematical Programming 6:62)."""
    down = np.sort(counts)[::-1]
    excess = (np.cumsum(down) - total) / np.arange(1.0, len(down) + 1.0)
    level = float(excess[np.flatnonzero(down > excess)[-1]])
    return np.maximum(0.0, counts - level)
