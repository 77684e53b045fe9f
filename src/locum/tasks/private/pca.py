"""Principal components with differential privacy, from one noisy matrix of second moments, with intervals that include its noise.

Precondition   u (p,) is a record scaled by its declared ranges to [-1, 1] and cut there, z = (1, u); R^2 = 1 + p / 2, or more where there are
               booleans (u = -1 or 1), is public
Pseudocode     vector = pack(z z') / R^2, with pack the upper triangle, off the diagonal times sqrt(2); a patient's records are summed, and
               the sum is shortened to norm 1; addend = sum over patients. M = R^2 times the noisy sum, unpacked;
               n = M_00, m = M_0u / n, S = M_uu / n - m m', its negative eigenvalues raised to 0; then as without noise
Postcondition  a patient's vector has norm at most 1. |pack(z z')| = |z|^2 <= 1 + p: a record whose |z|^2 is at most R^2 is not shortened
Source         Dwork, Talwar, Thakurta and Zhang (2014), STOC (Analyze Gauss)

Standard errors: a small change of S changes an eigenvalue by tr(dS A), with A = y y' for a covariance matrix and y y' - lambda diag(y^2) for a
correlation matrix, y the eigenvector in units of u. Sampling of normal rows gives it the variance 2 tr(A S A S) / n; noise of standard
deviation s in each packed number s^2 R^4 |K|^2 / n^2, with K = [m'A m - tr(A S), -(A m)'; -A m, A]. Shares of the variance likewise.
An eigenvalue below 2 sqrt(max_i sum_j v_ij), v_ij the variance of the noise in an entry of the matrix, may be noise alone (Bandeira and van Handel, 2016,
Annals of Probability 44:2479). Derived columns are cut to a public range, so that private steps can use them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.study.manifest import Step, Study, Variable
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import Memory, State, register_private
from locum.tasks.pca import PCA, PCAParams
from locum.tasks.prepare import with_columns
from locum.tasks.private.base import PrivateTask, complete
from locum.tasks.private.moments import FLOOR, public_range, scaled

Floats = NDArray[np.float64]
WIDE = 4.0
"""Derived columns of a correlation matrix are cut at so many times sqrt(p), which no standard deviation of a component exceeds."""


@register_private
class PrivatePCA(PrivateTask[PCAParams], PCA):
    """One round. n is a noisy count of rows; a patient of several counts for less than them."""

    def __init__(self, step: Step, params: PCAParams, study: Study) -> None:
        super().__init__(step, params, study)
        if params.method == "subspace":
            raise ManifestError(f"Step '{step.name}': there is no private form of method = 'subspace'.", fix="set method = 'exact', and list fewer variables")
        self.subspace = False
        ends = np.array([public_range(self, name) for name in params.variables])
        self.middle, self.half = ends.mean(axis=1), (ends[:, 1] - ends[:, 0]) / 2.0
        booleans = sum(study.data.variables[name].type == "boolean" for name in params.variables)
        self.square = 1.0 + (self.p + booleans) / 2.0
        q = self.p + 1
        self._pack = np.where(np.eye(q, dtype=bool), 1.0, math.sqrt(2.0))[np.triu_indices(q)] / self.square

    def leaves(self) -> str:
        return f"With noise: a count, and the sums and products of {self.p} variables by their declared ranges; {self.layout({}).size} numbers in all."

    def layout(self, state: State) -> Layout:
        return Layout.of(moments=(len(self._pack),))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = complete(self, rows, self.params.part, self.params.variables)
        z = np.column_stack([np.ones(len(rows)), scaled(rows.matrix(self.params.variables), self.middle, self.half)])
        i, j = np.triu_indices(self.p + 1)
        return self.sum_over_patients(rows, {"moments": z[:, i] * z[:, j] * self._pack})

    def combine(self, state: State, total: Total) -> State:
        moments = newton.unpack(np.asarray(total["moments"], float) / self._pack, self.p + 1)
        n, noise = max(float(moments[0, 0]), 1.0), total.noise * self.square
        m = np.clip(moments[0, 1:] / n, -1.0, 1.0)
        values, vectors = np.linalg.eigh(moments[1:, 1:] / n - np.outer(m, m))
        s = (vectors * np.maximum(values, 0.0)) @ vectors.T
        least = max(FLOOR, math.sqrt(noise / n))
        sd = np.maximum(np.sqrt(np.maximum(np.diag(s), 0.0)), least)
        a = 1.0 / sd if self.params.matrix == "correlation" else self.half
        c = s * np.outer(a, a)
        if self.params.matrix == "correlation":
            np.fill_diagonal(c, 1.0)
        values, vectors = np.linalg.eigh(c)
        floor = 2.0 * noise / (n * math.sqrt(2.0)) * float(np.max(a) * np.linalg.norm(a))
        unit = self.half * sd if self.params.matrix == "correlation" else np.ones(self.p)
        state = self.merge(
            state, rows=n, mean=self.middle + self.half * m, scale=unit, sd=self.half * sd, noise=total.noise, noise_level=floor, sites=total.sites
        )
        state = self._finish(state, values[::-1], vectors[:, ::-1], float(np.trace(c)), iterations=1, residual=0.0)
        return self.merge(state, **self._errors(state, s, m, a, n, noise))

    def _errors(self, state: State, s: Floats, m: Floats, a: Floats, n: float, noise: float) -> dict[str, Floats]:
        """Standard errors of eigenvalues, shares and cumulative shares, each (k,)."""
        values, y, variance = self._values(state), a[:, None] * self._vectors(state), float(self.own(state, "variance"))
        correlation = self.params.matrix == "correlation"
        whole, together = np.zeros((self.p, self.p)) if correlation else np.diag(a**2), np.zeros((self.p, self.p))
        out: dict[str, list[float]] = {"eigenvalue_se": [], "share_se": [], "cumulative_se": []}
        for j, value in enumerate(values):
            change = np.outer(y[:, j], y[:, j]) - (value * np.diag(y[:, j] ** 2) if correlation else 0.0)
            share = (change - whole * value / variance) / variance
            together = together + share
            for name, at in zip(out, (change, share, together), strict=True):
                out[name].append(_error(at, s, m, n, noise))
        return {name: np.asarray(v) for name, v in out.items()}

    def done(self, state: State) -> bool:
        return self._found(state)

    def result(self, state: State) -> dict[str, Any]:
        state = self.merge(state, patients=0, left_out=0)
        found, level = super().result(state), float(self.own(state, "noise_level"))
        lost = [c["name"] for c in found["components"] if c["variance"] <= level]
        if lost:
            found["warnings"].append(f"{', '.join(lost)}: no more variance than noise alone could have made; take these directions for noise.")
        hidden = dict.fromkeys(("patients", "left_out", "parallel_analysis"))
        return found | hidden | {"n": round(float(self.own(state, "rows"))), "n_se": float(self.own(state, "noise")) * self.square, "noise_level": level}

    def derived(self) -> dict[str, Variable]:
        limit = self._limit
        return {name: v.model_copy(update={"minimum": -limit, "maximum": limit}) for name, v in super().derived().items()}

    def apply(self, state: State, rows: Rows) -> Rows:
        made = super().apply(state, rows)
        return with_columns(made, {name: np.clip(made.columns[name], -self._limit, self._limit) for name in self.names})

    @property
    def _limit(self) -> float:
        """What bounds a derived column: public. Of a covariance matrix the length of the box of declared ranges."""
        return WIDE * math.sqrt(self.p) if self.params.matrix == "correlation" else 2.0 * float(np.linalg.norm(self.half))


def _error(change: Floats, s: Floats, m: Floats, n: float, noise: float) -> float:
    """The standard error of a function of S whose differential is tr(dS change); see above."""
    product, away = change @ s, change @ m
    frobenius = float((change**2).sum()) + 2.0 * float(away @ away) + (float(m @ away) - float(np.trace(product))) ** 2
    return math.sqrt(max(0.0, 2.0 * float((product * product.T).sum()) / n) + (noise / n) ** 2 * frobenius)
