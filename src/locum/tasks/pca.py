"""Principal components from summed products about the federated means, as derived columns `pc1`, `pc2`, ... for later steps.

    round 1      n, sum x                  -> the means m (and a rough scale s, by which the next sums are well conditioned)
    round 2      d = sum z, S = sum z z', z = (x - m) / s       -> covariance s (S - d d' / n) s / (n - 1)
    last round   sum over patients of g_j^2, h_j^2, k_j^2       -> standard errors of variances and shares

Two passes keep the digits that one pass would lose, and d corrects what rounding left of the mean (Chan, Golub and LeVeque, 1983, The American
Statistician 37:242, eq. 1.7). The eigen-decomposition of the covariance or correlation matrix C is done once, at the coordinator.

Many variables (`method = "subspace"`): instead of C, only C Q = sum z (z' Q) for an orthonormal Q (p, l) is summed, l = components + oversample.
Q is random at first and then goes on with Q = orth(C Q) (Halko, Martinsson and Tropp, 2011, SIAM Review 53:217, algorithm 4.4). The Ritz pairs
are taken over what earlier rounds saw too, up to 3 l directions, which needs fewer rounds (block Krylov: Musco and Musco, 2015, NeurIPS), until
|C v - lambda v| <= tolerance * lambda. So p l numbers leave a round, not p^2 / 2.

Standard errors hold for any distribution with fourth moments: they are those of the influence functions of an eigenvalue (Critchley, 1985,
Biometrika 72:627), with u = v' z, z centred: of a covariance matrix g = u^2 - lambda; of a correlation matrix, z in standard deviations,
g = u^2 - lambda sum_a v_a^2 z_a^2. Shares of the total variance follow by the chain rule. A patient's rows are added before squaring.
How many components to keep: Horn's parallel analysis (1965, Psychometrika 30:179), at the 95 % point.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import Step, Study, Variable, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import Memory, Params, State, Transform, register
from locum.tasks.design import midpoint, usable
from locum.tasks.moments import CONSTANT
from locum.tasks.pca_advice import log_interval, logit_interval, overlapping, parallel_analysis
from locum.tasks.prepare import columns, with_columns

Floats = NDArray[np.float64]
MOST_EXACT = 2000
"""Variables beyond which `method = "auto"` sums images of a subspace, and not all products."""
ROUNDING = 1e-14
"""What rounding leaves of a residual, as a share of the largest eigenvalue."""
RANK = 1e-12
"""An eigenvalue below this share of the largest is zero."""
TIED = 1e-6
"""Loadings whose sizes differ by less, relatively, count as equal when the sign is chosen: rounding must not decide it."""


class PCAParams(Params):
    """variables: numbers and booleans. components: how many. matrix: 'correlation' (each variable in standard deviations) or 'covariance' (in
    its own unit). prefix: of the derived columns' names. method: 'exact' sums all products, 'subspace' images of a subspace; 'auto' by the
    number of variables. oversample: further directions of the subspace. tolerance: of its residuals. part: of which patients the
    components are learned; all get them."""

    variables: Annotated[tuple[VariableName, ...], Field(min_length=2, max_length=4096)]
    components: Annotated[int, Field(ge=1, le=100)] = 2
    matrix: Literal["correlation", "covariance"] = "correlation"
    prefix: Annotated[VariableName, Field(max_length=32)] = "pc"
    method: Literal["auto", "exact", "subspace"] = "auto"
    oversample: Annotated[int, Field(ge=0, le=500)] = 10
    tolerance: Annotated[float, Field(gt=0, le=1e-2)] = 1e-10
    part: Part = "all"


@register
class PCA(Transform[PCAParams]):
    """Three rounds; by subspace as many as it takes. Row-wise: a patient's components depend on own values and the public state."""

    kind = "pca"
    Config = PCAParams
    takes = ("number", "integer", "boolean", "date")
    row_wise = True

    def __init__(self, step: Step, params: PCAParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.p, self.k = len(params.variables), params.components
        self.require(*params.variables)
        if len(set(params.variables)) < self.p:
            raise ManifestError(f"Step '{step.name}' lists a variable twice.", fix="list it once")
        if self.k > self.p:
            raise ManifestError(f"Step '{step.name}' asks for {self.k} components of {self.p} variables.", fix=f"ask for at most {self.p}")
        self.names = tuple(f"{params.prefix}{j + 1}" for j in range(self.k))
        taken = [name for name in self.names if name in study.data.variables]
        if taken:
            raise ManifestError(f"Step '{step.name}': '{taken[0]}' is a variable already.", fix="give another prefix")
        self.subspace = params.method == "subspace" or (params.method == "auto" and self.p > MOST_EXACT)
        self.width = min(self.p, self.k + params.oversample)

    def reads(self) -> tuple[str, ...]:
        return self.params.variables

    def leaves(self) -> str:
        then = f"{self.p} x {self.width} sums of products with public directions" if self.subspace else f"{self.p * (self.p + 1) // 2} sums of their products"
        return f"Counts and sums of {self.p} variables; then {then}; then, for each of {self.k} components, three sums of squares of deviations."

    def layout(self, state: State) -> Layout:
        if self.key("mean") not in state:
            return Layout.of(rows=(), patients=(), left_out=(), total=(self.p,), squares=(self.p,))
        if self._found(state):
            return Layout.of(eigenvalue=(self.k,), share=(self.k,), cumulative=(self.k,))
        if self.subspace:
            return Layout.of(rows=(), total=(self.p,), squares=(self.p,), image=(self.p, self.width))
        return Layout.of(rows=(), total=(self.p,), products=(self.p * (self.p + 1) // 2,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        x, count = used.rows.matrix(self.params.variables), np.asarray(float(len(used.rows)))
        if self.key("mean") not in state:
            x = x - self._shift
            facts = {"rows": count, "patients": np.asarray(float(used.rows.patients)), "left_out": np.asarray(float(used.left_out))}
            return Contribution({**facts, "total": x.sum(axis=0), "squares": (x**2).sum(axis=0)}, used.rows.patients, self.leaves())
        z = (x - self.own(state, "mean")) / self.own(state, "scale")
        if self._found(state):
            return Contribution(self._influence(state, z, used.rows.codes), used.rows.patients, self.leaves())
        vector = {"rows": count, "total": z.sum(axis=0)}
        if self.subspace:
            vector |= {"squares": (z**2).sum(axis=0), "image": z.T @ (z @ self._basis(state))}
        else:
            vector["products"] = newton.pack(z.T @ z)
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if self.key("mean") not in state:
            return self._means(state, total)
        if self._found(state):
            n = float(self.own(state, "rows"))
            return self.merge(
                state, **{f"{name}_se": np.sqrt(np.asarray(total[name], float) / (n * (n - 1.0))) for name in ("eigenvalue", "share", "cumulative")}
            )
        n, d = float(total["rows"]), np.asarray(total["total"], float)
        if self.subspace:
            return self._iterate(state, n, d, np.asarray(total["squares"], float), np.asarray(total["image"], float))
        covariance = (newton.unpack(np.asarray(total["products"], float), self.p) - np.outer(d, d) / n) / (n - 1.0)
        state, a = self._scales(state, d / n, np.diag(covariance))
        c = covariance * np.outer(a, a)
        values, vectors = np.linalg.eigh((c + c.T) / 2.0)
        return self._finish(state, values[::-1], vectors[:, ::-1], float(np.trace(c)), iterations=1, residual=0.0)

    def done(self, state: State) -> bool:
        return self.key("eigenvalue_se") in state

    def derived(self) -> dict[str, Variable]:
        return {name: Variable(type="number", label=f"principal component {j + 1} of step '{self.step.name}'") for j, name in enumerate(self.names)}

    def apply(self, state: State, rows: Rows) -> Rows:
        """A row where one of the variables is missing has no components."""
        if not self._found(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there are no components.", fix="keep the plan's order, and give it more rounds")
        columns(self, rows)
        z = (rows.matrix(self.params.variables) - self.own(state, "mean")) / self.own(state, "scale")
        vectors = self._vectors(state)
        return with_columns(rows, {name: np.ascontiguousarray(z * vectors[:, j]).sum(axis=1) for j, name in enumerate(self.names)})

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            far = f"The last residual was {float(self.own(state, 'residual')):.1e}." if self.key("residual") in state else ""
            raise TaskError(
                f"Step '{self.step.name}' had too few rounds for its components.", why=far, fix="give it more rounds, a larger oversample or tolerance"
            )
        p, n, unit = self.params, int(self.own(state, "rows")), self._units(state)
        values, shares = self._values(state), self._values(state) / float(self.own(state, "variance"))
        parts = [self._component(state, j, values[j], shares) for j in range(self.k)]
        known = p.matrix == "correlation" and not self.subspace
        advice = parallel_analysis(np.asarray(self.own(state, "spectrum"), float), int(self.own(state, "patients")), self.study.seed) if known else None
        return {
            "matrix": p.matrix,
            "n": n,
            "patients": int(self.own(state, "patients")),
            "left_out": int(self.own(state, "left_out")),
            "sites": int(self.own(state, "sites")),
            "variables": {name: {"mean": float(m), "sd": float(s)} for name, m, s in zip(p.variables, self.own(state, "mean"), unit, strict=True)},
            "total_variance": float(self.own(state, "variance")),
            "components": parts,
            "parallel_analysis": advice,
            "method": "subspace" if self.subspace else "exact",
            "iterations": int(self.own(state, "iterations")),
            "residual": float(self.own(state, "residual")),
            "converged": True,
            "warnings": self._warnings(state, parts, values),
        }

    def _component(self, state: State, j: int, value: float, shares: Floats) -> dict[str, Any]:
        vector, unit = self._vectors(state)[:, j], 1.0 if self.params.matrix == "correlation" else self._units(state)
        loading = vector * np.sqrt(value) / unit
        se, share_se, sum_se = (float(self.own(state, f"{name}_se")[j]) for name in ("eigenvalue", "share", "cumulative"))
        share, together = float(shares[j]), float(min(1.0, shares[: j + 1].sum()))
        return {
            "name": self.names[j],
            "variance": float(value),
            "se": se,
            "ci95": log_interval(float(value), se),
            "share": share,
            "share_se": share_se,
            "share_ci95": logit_interval(share, share_se),
            "cumulative": together,
            "cumulative_se": sum_se,
            "cumulative_ci95": logit_interval(together, sum_se),
            "weights": dict(zip(self.params.variables, vector.tolist(), strict=True)),
            "loadings": dict(zip(self.params.variables, loading.tolist(), strict=True)),
        }

    def _warnings(self, state: State, parts: list[dict[str, Any]], values: Floats) -> list[str]:
        out = [f"'{a}' and '{b}' explain about as much: their directions may turn into each other in another sample." for a, b in overlapping(parts)]
        none = [part["name"] for part, value in zip(parts, values, strict=True) if value <= RANK * values[0]]
        if none:
            out.append(f"From '{none[0]}' on there is no variance left: the variables determine each other, and the direction is arbitrary.")
        if self.own(state, "rows") < 5 * self.p:
            out.append(f"{int(self.own(state, 'rows'))} rows for {self.p} variables are few: the first eigenvalues are too large on average.")
        return out

    def _means(self, state: State, total: Total) -> State:
        n = float(total["rows"])
        if float(total["patients"]) < THRESHOLD or n <= self.k:
            raise TaskError(
                f"Too few complete rows for step '{self.step.name}'.",
                why=f"Components of fewer than {THRESHOLD} patients, or of no more rows than components, would describe single patients.",
                fix="look for a variable that is missing nearly everywhere, or ask for a larger cohort",
            )
        away = np.asarray(total["total"], float) / n
        mean = self._shift + away
        rough = np.sqrt(np.maximum(np.asarray(total["squares"], float) / n - away**2, 0.0))
        scale = np.where(rough > 1e-6 * np.abs(away), rough, np.maximum(np.abs(mean), np.finfo(float).tiny))
        facts = {name: total[name] for name in ("rows", "patients", "left_out")}
        return self.merge(state, **facts, sites=total.sites, mean=mean, scale=np.where(scale > np.finfo(float).tiny, scale, 1.0), iterations=0)

    def _scales(self, state: State, away: Floats, variance: Floats) -> tuple[State, Floats]:
        """The means corrected, the final units, and a: what rows and columns of the covariance of z are multiplied with. away: mean of z."""
        old = np.asarray(self.own(state, "scale"), float)
        mean, sd = self.own(state, "mean") + old * away, old * np.sqrt(np.maximum(variance, 0.0))
        for name, m, s in zip(self.params.variables, mean, sd, strict=True):
            if s <= CONSTANT * abs(m):
                raise TaskError(f"'{name}' is constant in the cohort, so it is part of no component.", fix=f"drop '{name}' from step '{self.step.name}'")
        scale = sd if self.params.matrix == "correlation" else np.ones(self.p)
        return self.merge(state, mean=mean, scale=scale, sd=sd), old / scale

    def _iterate(self, state: State, n: float, d: Floats, squares: Floats, image: Floats) -> State:
        """One round of subspace iteration. The first one only finds units and a start; from then on z is in them."""
        q, iterations = self._basis(state), int(self.own(state, "iterations")) + 1
        image = (image - np.outer(d, d @ q) / n) / (n - 1.0)
        if iterations == 1:
            variance = (squares - d**2 / n) / (n - 1.0)
            state, a = self._scales(state, d / n, variance)
            return self.merge(state, basis=np.linalg.qr(a[:, None] * image)[0], iterations=iterations, variance=(a**2 * variance).sum())
        if self.key("span") in state:
            q, image = np.hstack([self.own(state, "span"), q]), np.hstack([self.own(state, "span_image"), image])
        small, last = q.T @ image, image[:, -self.width :]
        values, turn = (a[..., ::-1] for a in np.linalg.eigh((small + small.T) / 2.0))
        vectors, image = q @ turn, image @ turn
        errors = np.linalg.norm(image - vectors * values, axis=0)[: self.k]
        residual = float((errors / np.maximum(values[: self.k], ROUNDING * values[0] / self.params.tolerance)).max())
        if residual <= self.params.tolerance or self.width == self.p:
            return self._finish(state, values, vectors, float(self.own(state, "variance")), iterations, residual)
        keep = min(2 * self.width, self.p - self.width)
        span = vectors[:, :keep]
        known = vectors if vectors.shape[1] + self.width <= self.p else span
        basis = orthonormal(orthonormal(last, known), known)  # twice is enough (Parlett, 1980, section 6.9)
        return self.merge(state, basis=basis, span=span, span_image=image[:, :keep], residual=residual, iterations=iterations)

    def _finish(self, state: State, values: Floats, vectors: Floats, variance: float, iterations: int, residual: float) -> State:
        values, vectors = np.maximum(values, 0.0), vectors[:, : self.k]
        size = np.abs(vectors)
        first = np.argmax(size >= (1.0 - TIED) * size.max(axis=0), axis=0)  # the sign: the largest weight is positive
        vectors = vectors * np.sign(vectors[first, np.arange(self.k)])
        facts = {"variance": variance, "iterations": iterations, "residual": residual}
        own = {n: a for n, a in state.items() if n not in map(self.key, ("basis", "span", "span_image"))}
        return self.merge(own, values=values[: self.k], spectrum=values, vectors=vectors, **facts)

    def _influence(self, state: State, z: Floats, codes: NDArray[np.int64]) -> dict[str, Floats]:
        """Sums over patients of squared influence functions of eigenvalues, their shares and cumulative shares."""
        values, vectors, variance = self._values(state), self._vectors(state), float(self.own(state, "variance"))
        if self.params.matrix == "correlation":
            g, whole = (z @ vectors) ** 2 - values * (z**2 @ vectors**2), np.zeros(len(z))
        else:
            g, whole = (z @ vectors) ** 2 - values, (z**2).sum(axis=1) - variance
        share = (g - np.outer(whole, values / variance)) / variance
        out = {}
        for name, each in (("eigenvalue", g), ("share", share), ("cumulative", np.cumsum(share, axis=1))):
            sums = np.zeros((int(codes.max()) + 1 if len(codes) else 0, self.k))
            np.add.at(sums, codes, each)
            out[name] = (sums**2).sum(axis=0)
        return out

    @property
    def _shift(self) -> Floats:
        return np.asarray([midpoint(self.study.data.variables[name]) for name in self.params.variables])

    def _basis(self, state: State) -> Floats:
        """The directions of this round, (p, l): at first random ones, of the study's public seed."""
        if self.key("basis") in state:
            return np.asarray(self.own(state, "basis"), float)
        rng = np.random.default_rng([self.study.seed, self.p, self.width])
        return np.asarray(np.linalg.qr(rng.standard_normal((self.p, self.width)))[0])

    def _found(self, state: State) -> bool:
        return self.key("vectors") in state

    def _values(self, state: State) -> Floats:
        return np.asarray(self.own(state, "values"), float)

    def _vectors(self, state: State) -> Floats:
        return np.asarray(self.own(state, "vectors"), float)

    def _units(self, state: State) -> Floats:
        return np.asarray(self.own(state, "sd"), float)


def orthonormal(columns_: Floats, known: Floats) -> Floats:
    """An orthonormal basis of the columns, of which what lies in the orthonormal `known` is taken away."""
    return np.asarray(np.linalg.qr(columns_ - known @ (known.T @ columns_))[0])
