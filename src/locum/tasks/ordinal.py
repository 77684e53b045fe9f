"""Ordinal regression: the proportional-odds cumulative logit model, by exact Newton steps on summed scores and information.

Source: McCullagh (1980), Regression models for ordinal data, JRSS B 42:109, section 2. For levels 0 < 1 < ... < J in the
contract's order, and F the logistic distribution function,

    P(Y <= j | x) = F(z_j),   z_j = theta_j - x'b,   theta_0 < theta_1 < ... < theta_{J-1}

so exp(b) is the ratio of the odds of being above any threshold, per unit of x. Because F(u) - F(l) = F(u) F(-l) (1 - e^-(u-l)),
a row with level y adds

    log F(z_y) + log F(-z_{y-1}) + log(1 - e^-(theta_y - theta_{y-1}))      without what lies outside 0..J-1

a sum of concave functions of (theta, b) (Burridge 1981, JRSS B 43:41). With r_j = 1[y = j] F(-z_j) - 1[y = j+1] F(z_j),
w_j = 1[y = j or j+1] F(z_j) F(-z_j), and for a level with a threshold on both sides, d apart, g = 1 / (e^d - 1), h = g (1 + g),
the derivative by the vector z is r, + g at z_y and - g at z_{y-1}; minus the second derivative is diag(w), + h on these two
diagonal places and - h between them. The chain rule to (theta, b) makes score and observed information, which are summed.
Thresholds stay in order by shortening a step that would cross them, before anybody is asked for the next round.

Proportional odds are tested by the score test against one b_j per threshold (Peterson and Harrell 1990, Applied Statistics
39:205): one more round sums, at the fit, the score U of all (theta_j, b_j) and the expected information I, which is the one above
with the fitted probabilities in place of the indicators. For the directions D that the null forbids, and the C that it allows,

    chi2 = (D'U)' (D'ID - D'IC (C'IC)^-1 C'ID)^-1 D'U,   with as many degrees of freedom as D has columns
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.study.vector import Array, Total
from locum.tasks import newton
from locum.tasks.base import State, register
from locum.tasks.categorical import Categorical, CategoricalParams, ratio
from locum.tasks.design import INTERCEPT
from locum.tasks.glm import expit
from locum.tasks.newton import Progress, Quadratic
from locum.tasks.tails import Z95, chi_square_upper

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class OrdinalParams(CategoricalParams):
    """test: whether a last round tests proportional odds."""

    test: bool = True


@register
class Ordinal(Categorical):
    """Odds ratios of a higher category. Parameters: the thresholds (J,), then b (p,); no intercept besides the thresholds."""

    kind = "ordinal"
    Config = OrdinalParams
    ordered = True
    separated = "Some combination of these columns divides the categories perfectly (separation), so odds ratios are infinite."

    @property
    def thresholds(self) -> int:
        """Their number J."""
        return len(self.levels) - 1

    @property
    def size(self) -> int:
        return self.thresholds + self.design.size - 1

    @property
    def names(self) -> tuple[str, ...]:
        return (INTERCEPT,) * self.thresholds + self.design.names[1:]

    @property
    def penalty(self) -> Floats:
        return np.concatenate([np.zeros(self.thresholds), self.design.ridge(self.params.ridge)[1:]])

    @property
    def tested(self) -> bool:
        """Whether proportional odds are to be tested. With a ridge the score is not zero at the fit, so they are not."""
        return bool(self.params.test) and not self.params.ridge

    def leaves(self) -> str:
        m = self.thresholds * self.design.size
        last = f" After the fit, once: the score ({m} numbers) and the information ({m * (m + 1) // 2} numbers) of the test of proportional odds."
        return super().leaves() + (last if self.tested else "")

    def start(self, counts: Floats) -> Floats:
        below = np.cumsum(counts)[:-1]
        return np.concatenate([np.log(below / (counts.sum() - below)), np.zeros(self.design.size - 1)])

    def quadratic(self, x: Floats, y: Ints, at: Floats) -> Quadratic:
        value, residual, blocks = cumulative(self._predictors(x, at), at[: self.thresholds], self._indicators(y))
        c = self._proportional()
        return Quadratic(value, c.T @ (residual.T @ x).reshape(-1), c.T @ information(x, *blocks) @ c)

    def by_column(self, information: Floats) -> Floats:
        """All thresholds moved as one: only then the gaps between them, whose information is positive, do not change."""
        t = np.zeros((self.size, self.design.size))
        t[: self.thresholds, 0] = 1.0
        t[self.thresholds :, 1:] = np.eye(self.design.size - 1)
        return np.asarray(t.T @ information @ t)

    def within_reach(self, progress: Progress) -> Progress:
        while not (np.diff(progress.at[: self.thresholds]) > 0.0).all():
            factor = progress.factor / 2.0
            if factor < newton.MIN_FACTOR:
                raise TaskError(
                    f"The thresholds of step '{self.step.name}' meet, however short the step.",
                    why="A category between two others has next to no rows, or the columns differ too much in size.",
                    fix="merge it with a neighbour by merge = [[...]], or standardise the features in an earlier step",
                )
            progress = replace(progress, factor=factor, at=progress.best + factor * progress.direction)
        return progress

    def on_original_scale(self, state: State) -> Floats:
        a, out = self.design.original(state), np.eye(self.size)
        out[: self.thresholds, self.thresholds :] = -a[0, 1:]
        out[self.thresholds :, self.thresholds :] = a[1:, 1:]
        return out

    def probabilities(self, state: State, rows: Rows) -> Floats:
        """P(Y = k | x) of each row and level, shape (n, K)."""
        return probabilities(self._predictors(self.design.matrix(state, rows), self.fitted(state)))

    # --- the round that tests proportional odds ---
    def shapes(self, state: State) -> dict[str, tuple[int, ...]]:
        m = self.thresholds * self.design.size
        return {"score": (m,), "expected_information": (m * (m + 1) // 2,)} if self._testing(state) else super().shapes(state)

    def sums(self, state: State, x: Floats, y: Ints) -> dict[str, Array]:
        if not self._testing(state):
            return super().sums(state, x, y)
        at = self.progress(state).best
        z, theta = self._predictors(x, at), at[: self.thresholds]
        _, residual, _ = cumulative(z, theta, self._indicators(y))
        _, _, blocks = cumulative(z, theta, probabilities(z))
        return {"score": (residual.T @ x).reshape(-1), "expected_information": newton.pack(information(x, *blocks))}

    def update(self, state: State, total: Total) -> State:
        if not self._testing(state):
            return super().update(state, total)
        score = np.asarray(total["score"], float)
        expected = newton.unpack(total["expected_information"], len(score))
        columns = np.arange(1, self.design.size)
        by_variable = [np.flatnonzero([c.variable == v for c in self.design.columns]) + 1 for v in self.design.variables]
        tests = [score_test(score, expected, self._proportional(), self._free(which)) for which in (columns, *by_variable)]
        return self.merge(state, tests=tests)

    def done(self, state: State) -> bool:
        return super().done(state) and not self._testing(state)

    def answer(self, state: State, estimate: Floats, variance: Floats) -> dict[str, Any]:
        se, j = np.sqrt(np.diag(variance)), self.thresholds
        cuts = [
            {"between": [self.levels[k], self.levels[k + 1]], "coef": float(t), "se": float(s), "ci95": [float(t - Z95 * s), float(t + Z95 * s)]}
            for k, (t, s) in enumerate(zip(estimate[:j], se[:j], strict=True))
        ]
        coefficients = [
            {"name": name, **ratio(float(b), float(s), "odds_ratio")} for name, b, s in zip(self.design.names[1:], estimate[j:], se[j:], strict=True)
        ]
        return {"order": list(self.levels), "coefficients": coefficients, "thresholds": cuts, "proportional_odds": self._proportional_odds(state)}

    def warnings(self, counts: Floats, found: dict[str, Any]) -> list[str]:
        out, test = super().warnings(counts, found), found["proportional_odds"]
        if test is None and self.tested and found["converged"]:
            out.append("No round was left to test proportional odds.")
        if test is not None and test["p"] < 0.05:
            named = [t["variable"] for t in test["variables"] if t["p"] < 0.05]
            which = f", most clearly for {', '.join(named)}" if named else ""
            out.append(f"The odds ratios differ between thresholds (score test, p = {test['p']:.2g}){which}: one odds ratio is an average over them.")
        return out

    def _proportional_odds(self, state: State) -> dict[str, Any] | None:
        if self.key("tests") not in state:
            return None
        rows = [{"chi_square": float(c), "df": int(df), "p": chi_square_upper(float(c), int(df))} for c, df in self.own(state, "tests")]
        return {**rows[0], "variables": [{"variable": v, **row} for v, row in zip(self.design.variables, rows[1:], strict=True)]}

    def _testing(self, state: State) -> bool:
        return self.tested and super().done(state) and self.key("tests") not in state

    def _indicators(self, y: Ints) -> Floats:
        return np.asarray(y[:, None] == np.arange(len(self.levels)), dtype=np.float64)

    def _predictors(self, x: Floats, at: Floats) -> Floats:
        """z, shape (n, J)."""
        return np.asarray(at[: self.thresholds] - (x[:, 1:] @ at[self.thresholds :])[:, None])

    def _proportional(self) -> Floats:
        """C (J p, J + p - 1): from (theta, b) to each threshold's own coefficients of x, (theta_j, -b) one after another."""
        j, q = self.thresholds, self.design.size
        out = np.zeros((j, q, self.size))
        for k in range(j):
            out[k, 0, k] = 1.0
            out[k, 1:, j:] = -np.eye(q - 1)
        return out.reshape(j * q, self.size)

    def _free(self, columns: Ints) -> Floats:
        """D: a coefficient of its own for each of the `columns` at each threshold but the first."""
        q = self.design.size
        return np.eye(self.thresholds * q)[:, [k * q + c for k in range(1, self.thresholds) for c in columns]]


def cumulative(z: Floats, theta: Floats, share: Floats) -> tuple[float, Floats, tuple[Floats, Floats]]:
    """Log-likelihood, its derivative by z (n, J), and minus its second: the diagonal (n, J), and what stands between neighbours with a minus (n, J - 1).

    share (n, K): 1 at the row's level for what was observed, or probabilities for what is expected.
    """
    lower, upper, inner = share[:, :-1], share[:, 1:], share[:, 1:-1]
    f, rest = expit(z), expit(-z)
    gap = np.diff(theta)
    g = np.exp(-gap) / -np.expm1(-gap)
    value = -float((lower * np.logaddexp(0.0, -z) + upper * np.logaddexp(0.0, z)).sum()) + float(inner.sum(axis=0) @ np.log(-np.expm1(-gap)))
    residual, weight, between = lower * rest - upper * f, (lower + upper) * f * rest, inner * (g * (1.0 + g))
    residual[:, 1:] += inner * g
    residual[:, :-1] -= inner * g
    weight[:, 1:] += between
    weight[:, :-1] += between
    return value, residual, (weight, between)


def information(x: Floats, weight: Floats, between: Floats) -> Floats:
    """The information (J p, J p) of each threshold's own coefficients of x (n, p): block-tridiagonal."""
    j, p = weight.shape[1], x.shape[1]
    out = np.zeros((j, p, j, p))
    for k in range(j):
        out[k, :, k] = x.T @ (x * weight[:, [k]])
        if k:
            out[k, :, k - 1] = out[k - 1, :, k] = -(x.T @ (x * between[:, [k - 1]]))
    return out.reshape(j * p, j * p)


def probabilities(z: Floats) -> Floats:
    """P(Y = k) of each row and level (n, K), from the predictors z (n, J)."""
    return np.diff(expit(z), axis=1, prepend=0.0, append=1.0)


def score_test(score: Floats, expected: Floats, allowed: Floats, forbidden: Floats) -> tuple[float, float]:
    """Rao's score statistic and its degrees of freedom; see the head of this file."""
    across = newton.solve(allowed.T @ expected @ allowed, allowed.T @ np.column_stack([expected @ forbidden, score]))
    left = forbidden - allowed @ across[:, :-1]
    u, variance = left.T @ score, left.T @ expected @ left
    return max(0.0, float(u @ newton.solve(variance, u))), float(forbidden.shape[1])
