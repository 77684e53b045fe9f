"""Multinomial (softmax) logistic regression of a category by exact Newton steps on summed scores and information.

Sources: McFadden (1974), Conditional logit analysis of qualitative choice behavior; Agresti (2013), Categorical Data Analysis,
section 8.1. With category 0 as the reference and eta_k = x'b_k, eta_0 = 0:

    P(Y = k | x) = exp(eta_k) / sum_m exp(eta_m)
    l = sum_i (eta_{y_i} - log sum_m exp(eta_im))                        concave in all b_k together
    dl/db_k = sum_i (1[y_i = k] - p_ik) x_i
    -d2l/db_k db_m' = sum_i p_ik (1[k = m] - p_im) x_i x_i'              ((K-1)p, (K-1)p), not block-diagonal

Newton starts at the log shares, the maximum of the model without features. exp(b_kj) is the relative-risk ratio: what one more
unit of x_j multiplies P(Y = k) / P(Y = reference) by.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.document import nearest
from locum.tasks import newton
from locum.tasks.base import State, register
from locum.tasks.categorical import Categorical, CategoricalParams, ratio, wald
from locum.tasks.design import INTERCEPT
from locum.tasks.newton import Problem, Quadratic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class MultinomialParams(CategoricalParams):
    """reference: the category that all others are compared with; by default the contract's first."""

    reference: str | None = None


@register
class Multinomial(Categorical):
    """Relative-risk ratios of each category against the reference. Parameters: b_k (p,) of each other level in order, one after another.

    A ridge penalty is on these contrasts, so that with it the fit depends on the reference.
    """

    kind = "multinomial"
    Config = MultinomialParams
    ordered = False
    separated = "Some combination of these columns rules one of the categories out or makes it certain (separation), so relative-risk ratios are infinite."

    @cached_property
    def reference(self) -> int:
        """The position of the reference among the levels."""
        name = self.params.reference
        if name is None:
            return 0
        categories = self.study.data.variables[self.params.outcome].categories
        if name not in (*self.levels, *categories):
            raise ManifestError(f"Step '{self.step.name}': '{self.params.outcome}' has no category '{name}'.", fix=nearest(name, [*self.levels]))
        return self.levels.index(name) if name in self.levels else int(self._level[categories.index(name)])

    @cached_property
    def others(self) -> tuple[int, ...]:
        return tuple(k for k in range(len(self.levels)) if k != self.reference)

    @property
    def size(self) -> int:
        return len(self.others) * self.design.size

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c if c == INTERCEPT else f"{c} for {self.levels[k]}" for k in self.others for c in self.design.names)

    @property
    def penalty(self) -> Floats:
        return np.tile(self.design.ridge(self.params.ridge), len(self.others))

    def start(self, counts: Floats) -> Floats:
        at = np.zeros((len(self.others), self.design.size))
        at[:, 0] = np.log(counts[list(self.others)] / counts[self.reference])
        return at.reshape(-1)

    def quadratic(self, x: Floats, y: Ints, at: Floats) -> Quadratic:
        return quadratic(x, y, at, self.others, len(self.levels))

    def by_column(self, information: Floats) -> Floats:
        """At the start the information is (diag(s) - s s') times x'x, Kronecker, with the shares s."""
        return information[: self.design.size, : self.design.size]

    def on_original_scale(self, state: State) -> Floats:
        return np.asarray(np.kron(np.eye(len(self.others)), self.design.original(state)))

    def probabilities(self, state: State, rows: Rows) -> Floats:
        """P(Y = k | x) of each row and level, shape (n, K)."""
        return np.asarray(np.exp(log_probabilities(self.design.matrix(state, rows), self.fitted(state), self.others, len(self.levels))))

    def answer(self, state: State, estimate: Floats, variance: Floats) -> dict[str, Any]:
        se, q = np.sqrt(np.diag(variance)), self.design.size
        coefficients = [
            {"name": f"{self.levels[k]}: {column}", "outcome": self.levels[k], "column": column, **ratio(float(b), float(s), "relative_risk_ratio")}
            for (k, column), b, s in zip(product(self.others, self.design.names), estimate, se, strict=True)
        ]
        blocks = np.arange(len(self.others))[:, None] * q
        tests = []
        for v in self.design.variables:
            index = (blocks + np.flatnonzero([c.variable == v for c in self.design.columns]) + 1).reshape(-1)
            tests.append({"variable": v, **wald(estimate[index], variance[np.ix_(index, index)])})
        return {"reference": self.levels[self.reference], "coefficients": coefficients, "variables": tests}

    def fit_here(self, state: State, rows: Rows, ridge: float) -> OwnSoftmax | None:
        """The model of these rows alone, with the categories that they have; None where they have fewer than two, or no maximum."""
        seen, y = np.unique(self.observed(rows), return_inverse=True)
        if len(seen) < 2:
            return None
        x, others, k = self.design.matrix(state, rows), tuple(range(1, len(seen))), len(seen)
        names = tuple(c for _ in others for c in self.design.names)
        problem = Problem(names, np.zeros(len(names)), 1e-6, self.separated, within="at this site")
        try:
            b = newton.fit(lambda at: quadratic(x, y.reshape(-1), at, others, k), np.tile(self.design.ridge(ridge), len(others)), problem)
        except TaskError:
            return None
        return None if b is None else OwnSoftmax(self, b, seen)


@dataclass(frozen=True)
class OwnSoftmax:
    """A site's own model: b ((k - 1) p,) for the categories `seen` (k,), of which the first is the reference. The others have probability 0."""

    task: Multinomial
    b: Floats
    seen: Ints

    def probabilities(self, state: State, rows: Rows) -> Floats:
        """Shape (n, K), as those of the task."""
        out, k = np.zeros((len(rows), len(self.task.levels))), len(self.seen)
        out[:, self.seen] = np.exp(log_probabilities(self.task.design.matrix(state, rows), self.b, tuple(range(1, k)), k))
        return out


def quadratic(x: Floats, y: Ints, at: Floats, others: tuple[int, ...], levels: int) -> Quadratic:
    """The likelihood of rows x (n, p) with levels y (n,) at b (len(others) p,): the head of this file."""
    log_p = log_probabilities(x, at, others, levels)
    p, observed, q = np.exp(log_p)[:, list(others)], (y[:, None] == others).astype(np.float64), x.shape[1]
    information = np.empty((len(at), len(at)))
    for k in range(len(others)):
        for m in range(k, len(others)):
            block = x.T @ (x * (p[:, k] * (float(k == m) - p[:, m]))[:, None])
            information[k * q : (k + 1) * q, m * q : (m + 1) * q] = block
            information[m * q : (m + 1) * q, k * q : (k + 1) * q] = block.T
    value = float(np.take_along_axis(log_p, y[:, None], axis=1).sum())
    return Quadratic(value, ((observed - p).T @ x).reshape(-1), information)


def log_probabilities(x: Floats, at: Floats, others: tuple[int, ...], levels: int) -> Floats:
    """log P(Y = k | x), shape (n, levels)."""
    eta = np.zeros((len(x), levels))
    eta[:, list(others)] = x @ at.reshape(len(others), -1).T
    eta -= eta.max(axis=1, keepdims=True)
    return np.asarray(eta - np.log(np.exp(eta).sum(axis=1, keepdims=True)))
