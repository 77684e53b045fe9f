"""Linear mixed model with a random intercept for each site, by maximum likelihood (ML) or restricted maximum likelihood (REML).

    y_ij = x_ij b + u_i + e_ij,   u_i ~ N(0, lambda sigma^2),   e_ij ~ N(0, sigma^2)            site i of n_i rows, patient j

The covariance of a site's rows is sigma^2 V, V = I + lambda 11'. With s = 1'[X r], the column sums of X and of r = y - X b0 (b0: the last
round's b), Woodbury's identity gives the site's addends and their derivatives by lambda, in closed form:

    G = [X r]' V^-1 [X r] = [X r]'[X r] - c s s',   c = lambda / (1 + lambda n),   c' = (1 + lambda n)^-2,   c'' = -2n (1 + lambda n)^-3
    L = log|V| = log(1 + lambda n)

From the sums the coordinator has A = X'V^-1 X, b = b0 + A^-1 X'V^-1 r, and q = r'V^-1 r - (b - b0)' A (b - b0). The likelihood, profiled
over b and sigma^2, is -2 l = M log(2 pi q / M) + M + L + [REML: log|A|], M = N for ML and N - p for REML, sigma^2 = q / M. Its score and
curvature in lambda follow from the derivatives of G and L; `variance.Search` finds the zero of the score from lambda = 0 upwards. One more
round at the end leaves each site its own predicted intercept (BLUP), lambda / (1 + lambda n) 1'(y - X b), in memory, and nowhere else.

With few sites, sums at several lambda determine each site's n and column sums; the result says when so many were released.

Sources: Laird and Ware (1982), Biometrics 38:963; Lindstrom and Bates (1988), JASA 83:1014, section 2. The test of lambda = 0: Self and
Liang (1987), JASA 82:605, case 5.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Array, Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.design import Design, Features, linear_predictor, midpoint, usable
from locum.tasks.mixed_profile import LEAST, Profile, profile
from locum.tasks.newton import Problem
from locum.tasks.tails import Z95, chi_square_upper, normal_two_sided
from locum.tasks.variance import Search

Floats = NDArray[np.float64]
COUNTS = ("rows", "left_out", "sites", "outcome")
EXACT = 1e-20
"""A residual sum of squares below this share of the outcome's is rounding."""
FEW = 10
"""Sites below which intervals by the normal distribution are too short to pass without a word."""


class MixedParams(Features):
    """outcome: the number explained. method: by which the variances are estimated. An intercept is always in the model."""

    features: Annotated[tuple[VariableName, ...], Field(max_length=512)] = ()
    outcome: VariableName
    method: Literal["reml", "ml"] = "reml"


@register
class Mixed(BaseTask[MixedParams]):
    """Each round at one lambda; the first one at 0, which is least squares."""

    kind = "mixed"
    Config: ClassVar[type[Any]] = MixedParams

    def __init__(self, step: Step, params: MixedParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, params, intercept=True, centred=True)
        self.require(params.outcome)
        if params.outcome in params.features:
            raise ManifestError(f"Step '{step.name}': '{params.outcome}' is both a feature and the outcome.", fix="drop it from features")
        if study.data.variables[params.outcome].type == "category":
            raise ManifestError(f"Step '{step.name}': the outcome '{params.outcome}' is a category, not a number.", fix="name a numeric outcome")
        if params.ridge:
            raise ManifestError(f"Step '{step.name}': a mixed model has no ridge penalty.", fix="leave ridge out")

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.outcome)

    def leaves(self) -> str:
        p = self.design.size
        return (
            f"Each round, at one ratio of variances: weighted sums of products of {p} columns and the residual, with two derivatives, log-determinants, and "
            f"counts; {self.layout({}).size} numbers in all. The site's own intercept stays."
        )

    def layout(self, state: State) -> Layout:
        p = self.design.size
        return Layout.of(**dict.fromkeys(COUNTS, ()), products=(3, (p + 1) * (p + 2) // 2), logs=(3,), squares=(p + 1,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(used.left_out))
        n, ratio = len(used.rows), self._ratio(state)
        if n:
            z = self._columns(state, used.rows)
            memory["site_effect"] = np.asarray(self._shrunk(ratio, z))
            s, d = z.sum(axis=0), 1.0 + ratio * n
            inner, outer = z.T @ z, np.outer(s, s)
            y = used.rows.columns[self.params.outcome]
            vector |= {
                "rows": np.asarray(float(n)),
                "sites": np.asarray(1.0),
                "outcome": np.asarray(y.sum()),
                "products": np.stack([newton.pack(m) for m in (inner - ratio / d * outer, -outer / d**2, 2.0 * n * outer / d**3)]),
                "logs": np.array([math.log(d), n / d, -((n / d) ** 2)]),
                "squares": np.r_[(z[:, :-1] ** 2).sum(axis=0), ((y - self._midpoint) ** 2).sum()],
            }
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        first = not self._started(state)
        if first:
            self._check(total)
        products = np.asarray(total["products"], float)
        here = self._profile(products, total["logs"], total["rows"])
        if here.variance <= max(EXACT * float(np.asarray(total["squares"])[-1]), LEAST):
            raise TaskError(
                f"The columns explain '{self.params.outcome}' exactly, so no variance is left to divide.", fix="use fewer features, or check the outcome"
            )
        b = self._b(state) + here.step
        found = {**{n: total[n] for n in COUNTS}, "products": products, "logs": total["logs"], "coefficients": b, "evaluated": self._ratio(state)}
        if first:
            found |= {"null": here.value, "finished": 0, "rounds": 1}
            search = Search(0.0)
        else:
            search, rounds = self._search(state), int(self.own(state, "rounds")) + 1
            found |= {"rounds": rounds, "finished": search.converged}
        search = search.advance(here.score, here.curvature, here.unit, self.params.tolerance)
        if search.endless:
            raise TaskError(
                f"'{self.params.outcome}' hardly varies within sites: the ratio of variances has no maximum.",
                fix="check whether the outcome is measured per patient",
            )
        return self.merge(state, **found, **search.arrays("ratio"))

    def done(self, state: State) -> bool:
        return self._started(state) and bool(self.own(state, "finished"))

    def result(self, state: State) -> dict[str, Any]:
        if int(self.own(state, "rounds")) < 2:
            raise TaskError(f"Step '{self.step.name}' had no round left for its variances.", fix="set rounds to 20 or more")
        here, search = self._profile(*(self.own(state, name) for name in ("products", "logs", "rows"))), self._search(state)
        a = self.design.original(state)
        estimate = a @ np.asarray(self.own(state, "coefficients"), float)
        se = np.sqrt(np.diag(a @ newton.covariance(here.information) @ a.T) * here.variance)
        scale = float(np.log(self.design.location(state)[1]).sum()) if self._reml else 0.0
        gain, sites = 2.0 * (here.value - float(self.own(state, "null"))), int(self.own(state, "sites"))
        return {
            "method": self.params.method,
            "coefficients": [_row(name, float(b), float(s)) for name, b, s in zip(self.design.names, estimate, se, strict=True)],
            **self._variances(here, float(self.own(state, "evaluated"))),
            "site_variance_test": {"chi_square": max(0.0, gain), "p": chi_square_upper(gain, 1) / 2.0 if gain > 0 else 1.0},
            "n": int(self.own(state, "rows")),
            "sites": sites,
            "left_out": int(self.own(state, "left_out")),
            "log_likelihood": here.value - scale,
            "iterations": int(self.own(state, "rounds")),
            "converged": bool(search.converged),
            "warnings": self._warnings(state, search, sites),
        }

    def coefficients(self, state: State) -> Floats:
        """The fixed effects on the scale of `design.matrix`, for a later step; raises `TaskError` before the fit."""
        if not self._started(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        return np.asarray(self.own(state, "coefficients"), float)

    def site_effect(self, state: State, rows: Rows) -> float:
        """The site's own predicted intercept (BLUP), above the common one, by a finished fit: computed anew at the site, where it stays."""
        rows = usable(self, rows, self.params.part).rows
        return self._shrunk(float(self.own(state, "evaluated")), self._columns(state, rows)) if len(rows) else 0.0

    def _variances(self, here: Profile, ratio: float) -> dict[str, Any]:
        """Each variance with its standard error by the delta method, and an interval on the log scale (of the share: logit)."""
        variance, out = here.variance, {}
        covariance = here.covariance(ratio)
        share = ratio / (1.0 + ratio)
        slopes = {
            "site_variance": (ratio * variance, (variance, ratio)),
            "residual_variance": (variance, (0.0, 1.0)),
            "icc": (share, (1.0 / (1.0 + ratio) ** 2, 0.0)),
        }
        for name, (value, slope) in slopes.items():
            square = float(np.asarray(slope) @ covariance @ np.asarray(slope))
            se = math.sqrt(square) if square > 0.0 and value > 0.0 else None
            out[name] = {"estimate": value, "se": se, "ci95": _positive(value, se, share=name == "icc") if se else None}
        return out

    def _warnings(self, state: State, search: Search, sites: int) -> list[str]:
        out = []
        if not search.converged:
            out.append("The rounds ended before the fit had converged: give the step more rounds.")
        elif search.at == 0.0:
            out.append("The estimated variance between sites is zero, on the boundary: the fit is that of least squares, and its interval is unknown.")
        asked = 3 * int(self.own(state, "rounds"))
        if asked >= 2 * sites:
            out.append(f"{asked} sums of each kind were released for {sites} sites: whoever knows them all could work out single sites' column sums.")
        if sites < FEW:
            out.append(f"{sites} sites: intervals by the normal distribution are too short for what differs between sites only.")
        return out

    def _check(self, total: Total) -> None:
        n, sites, p = float(total["rows"]), float(total["sites"]), self.design.size
        if not n:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        if sites < 2 or n <= sites:
            which = "Only one site has usable rows" if sites < 2 else "No site has more than one usable row"
            raise TaskError(f"{which}, so what differs between sites cannot be told from what differs between patients.", fix="use the task 'linear'")
        if n <= p + 1:
            raise TaskError(f"Step '{self.step.name}' has as many coefficients as rows.", fix="use fewer features")
        products, squares = newton.unpack(np.asarray(total["products"], float)[0], p + 1), np.asarray(total["squares"], float)
        newton.diagnose(products[:p, :p], Problem(self.design.names, squares[:p], self.params.tolerance, ""))

    @property
    def _reml(self) -> bool:
        return self.params.method == "reml"

    @property
    def _midpoint(self) -> float:
        return midpoint(self.study.data.variables[self.params.outcome])

    def _profile(self, products: Array, logs: Array, rows: Array) -> Profile:
        packed = np.asarray(products, float)
        return profile([newton.unpack(m, self.design.size + 1) for m in packed], np.asarray(logs, float), float(rows), self._reml)

    def _columns(self, state: State, rows: Rows) -> Floats:
        """The design and, last, the residual at the state's coefficients."""
        x = self.design.matrix(state, rows)
        return np.column_stack([x, rows.columns[self.params.outcome] - linear_predictor(x, self._b(state))])

    @staticmethod
    def _shrunk(ratio: float, z: Floats) -> float:
        return float(ratio / (1.0 + ratio * len(z)) * z[:, -1].sum())

    def _started(self, state: State) -> bool:
        return self.key("rounds") in state

    def _search(self, state: State) -> Search:
        return Search.of(lambda name: self.own(state, name), "ratio")

    def _ratio(self, state: State) -> float:
        return self._search(state).at if self._started(state) else 0.0

    def _b(self, state: State) -> Floats:
        return self.coefficients(state) if self._started(state) else np.r_[self._midpoint, np.zeros(self.design.size - 1)]


def _row(name: str, b: float, se: float) -> dict[str, Any]:
    return {"name": name, "coef": b, "se": se, "z": b / se, "p": normal_two_sided(b / se), "ci95": [b - Z95 * se, b + Z95 * se]}


def _positive(value: float, se: float, *, share: bool) -> list[float]:
    """A 95 % interval that is symmetric on the log scale, or for a share on the logit scale."""
    odds = value / (1.0 - value) if share else value
    reach = math.exp(min(Z95 * se / (value * (1.0 - value) if share else value), 600.0))
    ends = [odds / reach, odds * reach]
    return [e / (1.0 + e) for e in ends] if share else ends
