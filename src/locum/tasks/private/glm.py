"""Logistic and linear regression with differential privacy, and intervals that include its noise.

Precondition   x is a row of `ScaledDesign` (public scaling), y is 0 or 1 (logistic) or in [-1, 1] by its declared range (linear; values
               outside are cut); theta is public; a^2 + b^2 + q^2 + (d^2 + e^2) + c^2 = 1; R is public. m: records of a patient
Pseudocode     logistic, each round, with mu = expit(x theta), v = mu (1 - mu):
                   G = sum_i max(mu, 1 - mu) |x| / R,  V = sum_i 4 v |x|^2 / R^2                              over the patient's records
                   w = min(1, sqrt((1 - c^2) / (a^2 G^2 + (b^2 + q^2) V^2)))
                   vector = [a w sum_i (y - mu) x / R,  b w sum_i pack(4 v x x') / R^2,  q w^2 V,  c]
               linear, once:  G = sum_i |x| / R,  V = sum_i |x|^2 / R^2,
                   w = min(1, sqrt((1 - c^2) / (a^2 G^2 + (b^2 + q^2) V^2 + (d^2 + e^2) m^2)))
                   vector = [a w sum_i y x / R,  b w sum_i pack(x x') / R^2,  q w^2 V,  d w sum_i y^2,  e w m,  c]
               pack: the upper triangle, off the diagonal times sqrt(2), so that its norm is the matrix's Frobenius norm
               addend = sum over patients of these vectors; the coordinator solves by `noisy_newton`
Postcondition  a patient's vector has norm at most 1 whatever y is, so adding or removing a patient moves the addend by at most 1 in L2. The
               weight w depends on features, public theta and m alone, never on y: weighted score equations stay unbiased (Mallows), which
               clipping by the residual would not leave them. Where w = 1 and there is no noise the answer is the exact one.
Source         Ganesh, Haghifam, Steinke and Thakurta (2023), NeurIPS (second-order); Vu and Slavkovic (2009), ICDM workshops; Wang (2018),
               UAI (AdaSSP); Foulds et al. (2016), UAI (sufficient statistics); Carroll and Pederson (1993), JRSS B 55 (Mallows weights)

Variance: V = H^-1 (k H s^2 + noise) H^-1 + what the floor hides, with H = sum w v x x', s^2 the residual variance (1 for logistic) and
k = sum w^2 v |x|^2 / sum w v |x|^2, which turns H into sum w^2 v x x', the variance of the weighted score, in trace.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.clipping import factors
from locum.privacy.sampler import Request
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import Memory, State, register_private
from locum.tasks.design import linear_predictor
from locum.tasks.glm import GLM, GLMParams, Linear, Logistic, expit
from locum.tasks.private.base import PrivateTask, complete
from locum.tasks.private.noisy_newton import Estimate, Evaluation, Objective, estimate
from locum.tasks.private.scaled import ScaledDesign, interval, need_range

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
COUNT = 0.1
"""c: the count's part of the vector; it costs the rest c^2 / 2 = 0.5 %."""
SQUARED = 0.1
"""q."""
OUTCOME, WEIGHTS = 0.3, 0.15
"""d and e."""
UNSETTLED = 0.01
"""Squared standard errors: a last step longer than a tenth of one, beyond what noise explains, says that rounds were too few."""
TRUST = 2.0
"""A noisy total that is divided by is at least so many standard deviations of its noise."""
LEAST_KEPT = 0.05
WEAK = 1.5
"""Information below so many floors may be noise: no interval is given that rests on it."""
DOMINATED = 0.5


class PrivateLinearParams(GLMParams):
    """radius: R, the length of a row that about fits a patient's bound (default: from the design). split: b^2, the information's share of
    the bound. tolerance is not used: the number of rounds is fixed in advance."""

    radius: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    split: Annotated[float, Field(ge=0.01, le=0.8)] = 0.2


class PrivateLogisticParams(PrivateLinearParams):
    """steps: how many rounds of Newton's method."""

    steps: Annotated[int, Field(ge=2, le=100)] = 5


class PrivateGLM(PrivateTask[Any], GLM):
    """What both share: the weights, the rounds so far in the state, and the result, whose n is a noisy count of patients, not of rows."""

    sums: ClassVar[str]
    peak: ClassVar[float]
    """The largest weight v of a record in the information."""
    other: ClassVar[float] = 0.0
    """d^2 + e^2."""
    curvature: ClassVar[float] = 0.0
    prior: ClassVar[float] = 1.0
    """How large the coefficient of a feature in [-1, 1] could well be where the data say nothing."""
    unit: float = 1.0
    """What one unit of the outcome as fitted is in the contract's."""

    def __init__(self, step: Step, params: PrivateLinearParams, study: Study) -> None:
        super().__init__(step, params, study)
        if params.site_intercepts:
            raise ManifestError(
                f"Step '{step.name}': there is no form of site_intercepts with differential privacy.",
                why="A site's own intercept depends on all of its patients at once.",
                fix="set site_intercepts = false",
            )
        self.design: ScaledDesign = ScaledDesign(self, params, intercept=params.intercept)
        self.radius = params.radius or self.design.radius
        self.a, self.b = math.sqrt(1.0 - params.split - SQUARED**2 - self.other - COUNT**2), math.sqrt(params.split)

    @property
    def rounds(self) -> int:
        """How many sums it releases, whatever they say."""
        return min(int(getattr(self.params, "steps", 1)), self.step.rounds)

    def request(self) -> Request:
        return self.releases(self.rounds)

    def leaves(self) -> str:
        often = f"Each of {self.rounds} rounds" if self.rounds > 1 else "Once"
        return f"{often}: {self.sums}, and a count of patients; {self.layout({}).size} numbers. Each patient's part has length at most 1; noise is added."

    def layout(self, state: State) -> Layout:
        p = self.design.size
        return Layout.of(gradient=(p,), information=(p * (p + 1) // 2,), squared=(), patients=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        rows = complete(self, rows, self.params.part, self.reads())
        fits = self.fits(rows.columns[self.params.outcome])
        rows = rows if fits.all() else rows.take(fits)
        vector = self.addends(state, self.design.matrix(state, rows), rows.columns[self.params.outcome], rows.codes)
        return self.addend(vector, rows.patients)

    def combine(self, state: State, total: Total) -> State:
        here = {f.name: np.asarray(total[f.name], dtype=np.float64) for f in self.layout(state).fields}
        here |= {"noise": np.asarray(total.noise), "at": self.at(state)}
        state = self.merge(state, **{name: np.concatenate([*self._before(state, name), a[None]]) for name, a in here.items()})
        return self.merge(state, best=self.in_units(self.fitted(state).theta))

    def done(self, state: State) -> bool:
        return self.key("at") in state and len(self.own(state, "at")) >= self.rounds

    def result(self, state: State) -> dict[str, Any]:
        if self.key("at") not in state:
            raise TaskError(f"Step '{self.step.name}' has had no round.", fix="set rounds to 1 or more")
        fit, basis = self.fitted(state), self.design.original(state) * self.unit
        inverse, raised = fit.information.inverse, fit.information.raised
        sampling = basis @ inverse @ raised @ inverse @ basis.T * (self.kept(state) * self.residual_variance(state, fit))
        privacy = basis @ (fit.noise + fit.information.doubt) @ basis.T
        se = np.sqrt(np.maximum(np.diag(sampling + privacy), np.finfo(float).tiny))
        share = np.diag(privacy) / se**2
        assumed = 2.0 * np.diag(basis @ self._unseen(fit) @ basis.T) > se**2
        n, n_se = self.count(state)
        converged = not self.curvature or fit.unsettled <= UNSETTLED
        figures = zip(self.design.names, self.design.original(state) @ self.in_units(fit.theta), se, share, assumed, strict=True)
        return {
            "coefficients": [self._line(name, float(b), float(s), self.df(n), float(v), bool(blind)) for name, b, s, v, blind in figures],
            "n": round(n),
            "n_se": n_se,
            "iterations": len(self.own(state, "at")),
            "converged": converged,
            "weight": self.kept(state),
            "floor": fit.information.floor if fit.information.floored else None,
            "floored": fit.information.floored,
            "warnings": self._warnings(share, fit, converged, [n for n, blind in zip(self.design.names, assumed, strict=True) if blind]),
        }

    def _unseen(self, fit: Estimate) -> Floats:
        """The variance (p, p) that coefficients of the expected size have in the directions that noise may have made up."""
        values, vectors = np.linalg.eigh(fit.information.raised)
        weak = vectors[:, values < WEAK * fit.information.floor]
        return np.asarray(self.prior**2 * weak @ weak.T)

    def _line(self, name: str, b: float, s: float, df: float | None, share: float, blind: bool) -> dict[str, Any]:
        """What is said of a coefficient; no interval where it would rest on what was assumed rather than on what was seen."""
        row = {**self._row(name, b, s, df), "privacy_share": share}
        hidden = {"se", "z", "t", "p", "ci95", *((f"{self.ratio}_ci95",) if self.ratio else ())}
        return {key: None if blind and key in hidden else value for key, value in row.items()}

    def addends(self, state: State, x: Floats, y: Floats, codes: Codes) -> dict[str, Floats]:
        """The sum over patients of their vectors, from rows x (n, p), outcomes (n,) and who they are (n,)."""
        raise NotImplementedError

    def fits(self, y: Floats) -> NDArray[np.bool_]:
        """Which rows have an outcome of the right kind; of the others nothing is said."""
        return np.ones(len(y), dtype=bool)

    def at(self, state: State) -> Floats:
        """Where the sites evaluate next."""
        return np.asarray(self.own(state, "best"), float) if self.key("best") in state else np.zeros(self.design.size)

    def in_units(self, theta: Floats) -> Floats:
        """Coefficients for the outcome as the contract has it."""
        return theta

    def df(self, n: float) -> float | None:
        """Degrees of freedom of Student's t, or None for the normal distribution."""
        return None

    def residual_variance(self, state: State, fit: Estimate) -> float:
        """Of the outcome as fitted."""
        return 1.0

    def fitted(self, state: State) -> Estimate:
        """What the rounds so far say, for the outcome as fitted."""
        g, h = self.radius / self.a, self.peak * self.radius**2 / self.b
        history = zip(*(self.own(state, name) for name in ("at", "gradient", "information", "noise")), strict=True)
        rounds = [Evaluation(at, gradient * g, _unpack(packed) * h, float(s) * g, float(s) * h) for at, gradient, packed, s in history]
        return estimate(rounds, Objective(self.design.ridge(self.params.ridge), self.design.radius, self.curvature, self.prior))

    def weigh(self, reach: Floats, v: Floats, x: Floats, codes: Codes) -> tuple[Floats, dict[str, Floats]]:
        """Each record's weight (n,), and what does not depend on the outcome. reach (n,): the largest that |score| / |x| can be; v (n,)."""
        length = np.sqrt(np.einsum("ij,ij->i", x, x)) / self.radius
        g, h, m = (np.bincount(codes, a) for a in (reach * length, v / self.peak * length**2, np.ones(len(x))))
        bound = np.sqrt((self.a * g) ** 2 + (self.b**2 + SQUARED**2) * h**2 + self.other * m**2)
        w = factors(bound, math.sqrt(1.0 - COUNT**2))
        each = w[codes]
        packed = _pack((x * (each * v)[:, None]).T @ x) * self.b / self.peak / self.radius**2
        return each, {
            "information": packed,
            "squared": np.asarray(SQUARED * float(np.where(w > 0.0, w**2 * h, 0.0).sum())),
            "patients": np.asarray(COUNT * len(w)),
        }

    def score(self, x: Floats, residual: Floats) -> Floats:
        return np.asarray(x.T @ residual * self.a / self.radius)

    def sd(self, state: State) -> float:
        """Standard deviation of the noise in the mean over the rounds of one released number."""
        noise = self.own(state, "noise")
        return float(np.sqrt((noise**2).sum())) / len(noise)

    def count(self, state: State) -> tuple[float, float]:
        """The noisy number of patients, never negative, and its standard error."""
        return max(0.0, float(self.own(state, "patients").mean()) / COUNT), self.sd(state) / COUNT

    def kept(self, state: State) -> float:
        """k: by how much weights below 1 shrink the variance of the score, relative to the information; at most 1."""
        squared = float(self.own(state, "squared").mean()) / SQUARED
        trace = float(np.trace(_unpack(self.own(state, "information").mean(axis=0)))) / self.b
        noise = self.sd(state) * (1.0 / SQUARED + math.sqrt(self.design.size) / self.b)
        return min(1.0, max(LEAST_KEPT, squared / trace)) if trace > TRUST * noise else 1.0

    def _before(self, state: State, name: str) -> list[Floats]:
        return [self.own(state, name)] if self.key(name) in state else []

    def _warnings(self, share: Floats, fit: Estimate, converged: bool, blind: list[str]) -> list[str]:
        out = []
        if blind:
            out.append(f"There is no interval for {', '.join(blind)}: noise drowns what the rows say. Tighter ranges in the contract, or fewer features, help.")
        drowned = [name for name, v in zip(self.design.names, share, strict=True) if v > DOMINATED]
        if drowned:
            out.append(f"The noise for privacy is more than half of the variance of {', '.join(drowned)}: more patients, fewer features or more eps help.")
        if fit.information.floored:
            out.append(
                f"In {fit.information.floored} of {len(share)} directions the information is too weak to be told from noise: "
                f"coefficients are drawn to 0 there, and intervals widened for it."
            )
        if not converged:
            out.append("The last step was longer than noise explains, so the coefficients are not settled: set steps higher, or ridge.")
        return out


@register_private
class PrivateLogistic(PrivateGLM, Logistic):
    """Noisy Newton steps; every round counts for the answer."""

    Config = PrivateLogisticParams
    sums = "weighted sums of the log-likelihood's gradient and information"
    peak = 0.25
    curvature = 1.0 / 12.0
    """The trapezoid rule's error is |mu'''| / 12 of a unit change, and |mu'''| is at most mu'."""
    prior = 2.5

    def fits(self, y: Floats) -> NDArray[np.bool_]:
        return np.isin(y, (0.0, 1.0))

    def addends(self, state: State, x: Floats, y: Floats, codes: Codes) -> dict[str, Floats]:
        eta = linear_predictor(x, self.at(state))
        mu = expit(eta)
        w, fixed = self.weigh(expit(np.abs(eta)), mu * expit(-eta), x, codes)
        return {"gradient": self.score(x, np.where(w > 0.0, w * (y - mu), 0.0)), **fixed}


@register_private
class PrivateLinear(PrivateGLM, Linear):
    """Least squares from noisy sufficient statistics, in one round."""

    Config = PrivateLinearParams
    sums = "weighted sums of squares and products of the features and the outcome"
    peak = 1.0
    other = OUTCOME**2 + WEIGHTS**2

    def __init__(self, step: Step, params: PrivateLinearParams, study: Study) -> None:
        super().__init__(step, params, study)
        variable = study.data.variables[params.outcome]
        need_range(self, params.outcome, variable)
        self.middle, self.unit = interval(variable, centred=params.intercept)

    def layout(self, state: State) -> Layout:
        return Layout((*super().layout(state).fields, *Layout.of(outcome=(), weights=()).fields))

    def addends(self, state: State, x: Floats, y: Floats, codes: Codes) -> dict[str, Floats]:
        y = np.clip((y - self.middle) / self.unit, -1.0, 1.0)
        w, fixed = self.weigh(np.ones(len(y)), np.ones(len(y)), x, codes)
        return {"gradient": self.score(x, w * y), "outcome": np.asarray(OUTCOME * float(w @ y**2)), "weights": np.asarray(WEIGHTS * w.sum()), **fixed}

    def at(self, state: State) -> Floats:
        return np.zeros(self.design.size)

    def in_units(self, theta: Floats) -> Floats:
        out = theta * self.unit
        if self.design.intercept:
            out[0] += self.middle
        return out

    def df(self, n: float) -> float | None:
        return max(1.0, round(n) - self.design.size)

    def residual_variance(self, state: State, fit: Estimate) -> float:
        """The weighted residual sum of squares over the sum of weights, both no smaller than their noise, and with n - p for n."""
        s, b, g, h = self.sd(state), fit.theta, self.radius / self.a, self.radius**2 / self.b
        gradient, gram = self.own(state, "gradient")[0] * g, _unpack(self.own(state, "information")[0]) * h
        rss = float(self.own(state, "outcome")[0]) / OUTCOME - 2.0 * float(b @ gradient) + float(b @ gram @ b)
        noise = s * math.sqrt(OUTCOME**-2 + 4.0 * g**2 * float(b @ b) + h**2 * float(b @ b) ** 2)
        weights = max(float(self.own(state, "weights")[0]) / WEIGHTS, TRUST * s / WEIGHTS, 1.0)
        n, n_se = self.count(state)
        n = max(n, TRUST * n_se, 1.0)
        return min(1.0, max(rss, noise, 0.0) / weights * n / max(n - self.design.size, n / 2.0))

    def result(self, state: State) -> dict[str, Any]:
        out = super().result(state)
        return {**out, "residual_sd": math.sqrt(self.residual_variance(state, self.fitted(state))) * self.unit, "residual_df": int(self.df(out["n"]) or 1)}


def _pack(symmetric: Floats) -> Floats:
    """The upper triangle with its off-diagonal times sqrt(2): as long as the matrix's Frobenius norm."""
    return newton.pack(symmetric * _folds(len(symmetric)))


def _unpack(packed: Floats) -> Floats:
    p = math.isqrt(2 * len(packed))
    return newton.unpack(packed, p) / _folds(p)


def _folds(p: int) -> Floats:
    return np.where(np.eye(p, dtype=bool), 1.0, math.sqrt(2.0))
