"""Logistic regression with a random intercept for each site, by maximum likelihood.

    logit P(y_ij = 1) = x_ij b + sd z_i,   z_i ~ N(0, 1)            site i, patient j

A site's likelihood is an integral over its own z. The site evaluates it by Gauss-Hermite quadrature, centred and scaled at the mode of its
integrand (adaptive: Pinheiro and Bates, 1995, J Comput Graph Stat 4:12, section 2.4), and with the weights p_k of the nodes z_k its gradient
and information by b and sd (Louis, 1982, JRSS B 44:226):

    gradient = sum p_k s_k,   s_k = [X z_k]'(y - mu_k)            information = sum p_k [X z_k]'W_k [X z_k] - sum p_k (s_k - s)(s_k - s)'

These are addends, so Newton's method on their sums gives the pooled estimates. The likelihood is even in sd, so zero is no boundary of the
search: an estimate there says that sites do not differ. The site's own z never leaves, nor is it kept.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.design import Design, Features, linear_predictor, usable
from locum.tasks.glm import Logistic, expit
from locum.tasks.newton import Problem, Progress, Quadratic
from locum.tasks.tails import Z95, normal_two_sided

Floats = NDArray[np.float64]
START, FEW = 0.5, 10
"""The first sd: of a size that sites often have. Sites below which the normal interval is too short to pass without a word."""
ZERO = 1e-4
"""An sd below this is zero: the likelihood is flat there."""
COUNTS = ("rows", "left_out", "sites", "outcome")


class MixedLogisticParams(Features):
    """outcome: 0/1. nodes: of the quadrature. An intercept is always in the model."""

    features: Annotated[tuple[VariableName, ...], Field(max_length=512)] = ()
    outcome: VariableName
    nodes: Annotated[int, Field(ge=9, le=99)] = 31


@register
class MixedLogistic(BaseTask[MixedLogisticParams]):
    """The parameters are the coefficients of the design and, last, sd."""

    kind = "mixed_logistic"
    Config: ClassVar[type[Any]] = MixedLogisticParams

    def __init__(self, step: Step, params: MixedLogisticParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, params, intercept=True, centred=True)
        self.require(params.outcome)
        if params.outcome in params.features:
            raise ManifestError(f"Step '{step.name}': '{params.outcome}' is both a feature and the outcome.", fix="drop it from features")
        if len(study.data.variables[params.outcome].categories) not in (0, 2):
            raise ManifestError(f"Step '{step.name}': the outcome '{params.outcome}' has more than two categories.", fix="name a boolean outcome")
        self.size = self.design.size + 1

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.outcome)

    def leaves(self) -> str:
        return (
            f"Each round: the site's marginal log-likelihood, its gradient ({self.size} numbers) and its information ({self.size * (self.size + 1) // 2} "
            f"numbers), and counts; {self.layout({}).size} numbers in all. The site's own intercept stays."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(
            **dict.fromkeys(COUNTS, ()), objective=(), gradient=(self.size,), information=(self.size * (self.size + 1) // 2,), squares=(self.size - 1,)
        )

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(used.left_out))
        if len(used.rows):
            y = used.rows.columns[self.params.outcome]
            if not np.isin(y, (0.0, 1.0)).all():
                raise TaskError(f"The outcome '{self.params.outcome}' has values other than 0 and 1.", fix="correct the mapping, or choose another task")
            x = self.design.matrix(state, used.rows)
            here = marginal(x, y, self._progress(state).at, *self._rule)
            vector |= {
                "rows": np.asarray(float(len(y))),
                "sites": np.asarray(1.0),
                "outcome": np.asarray(y.sum()),
                "objective": np.asarray(here.value),
                "gradient": here.gradient,
                "information": newton.pack(here.information),
                "squares": (x**2).sum(axis=0),
            }
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        n, sites = float(total["rows"]), float(total["sites"])
        if not n:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        if sites < 2 or n <= sites:
            which = "Only one site has usable rows" if sites < 2 else "No site has more than one usable row"
            raise TaskError(f"{which}, so what differs between sites cannot be told from chance.", fix="use the task 'logistic'")
        progress, p = self._progress(state), self.size - 1
        information, squares = newton.unpack(np.asarray(total["information"], float), self.size), np.asarray(total["squares"], float)
        problem = Problem((*self.design.names, "(site sd)"), np.r_[squares, 0.0], self.params.tolerance, Logistic.separated)
        if not progress.evaluated:
            newton.diagnose(information[:p, :p], Problem(self.design.names, squares, self.params.tolerance, ""))
        ridge = np.r_[self.design.ridge(self.params.ridge), 0.0]
        here = Quadratic(float(total["objective"]), np.asarray(total["gradient"], float), information).penalised(progress.at, ridge)
        climbing = Quadratic(here.value, here.gradient, _definite(here.information))
        return self.merge(state, **{k: total[k] for k in COUNTS}, **newton.advance(progress, climbing, problem).arrays())

    def done(self, state: State) -> bool:
        return bool(self._progress(state).converged)

    def result(self, state: State) -> dict[str, Any]:
        progress = self._progress(state)
        if not progress.evaluated:
            raise TaskError(f"Step '{self.step.name}' had no round left for its first Newton step.", fix="set rounds to 20 or more")
        a, p = self.design.original(state), self.size - 1
        covariance = newton.covariance(progress.information)
        b, se = a @ progress.best[:p], np.sqrt(np.diag(a @ covariance[:p, :p] @ a.T))
        sd, sd_se, sites = abs(float(progress.best[p])), float(np.sqrt(covariance[p, p])), int(self.own(state, "sites"))
        known, share = sd > ZERO, sd**2 / (sd**2 + math.pi**2 / 3.0)
        reach = math.exp(min(Z95 * sd_se / sd, 600.0)) if known else 0.0
        return {
            "coefficients": [_row(name, float(v), float(s)) for name, v, s in zip(self.design.names, b, se, strict=True)],
            "site_sd": {"estimate": sd, "se": sd_se if known else None, "ci95": [sd / reach, sd * reach] if known else None},
            "icc": share,
            "median_odds_ratio": math.exp(math.sqrt(2.0) * sd * 0.6744897501960817),
            "n": int(self.own(state, "rows")),
            "sites": sites,
            "left_out": int(self.own(state, "left_out")),
            "outcome_sum": float(self.own(state, "outcome")),
            "log_likelihood": progress.value + float(np.r_[self.design.ridge(self.params.ridge), 0.0] @ progress.best**2) / 2.0,
            "iterations": progress.rounds,
            "converged": bool(progress.converged),
            "warnings": [
                *(["The estimated variance between sites is zero: the fit is that of logistic regression."] if not known else []),
                *([f"{sites} sites: the variance between them is hardly known, and intervals are too short."] if sites < FEW else []),
                *(["The rounds ended before the fit had converged: give the step more rounds."] if not progress.converged else []),
            ],
        }

    @cached_property
    def _rule(self) -> tuple[Floats, Floats]:
        """Nodes t and log weights plus t^2 of Gauss-Hermite quadrature."""
        t, w = np.polynomial.hermite.hermgauss(self.params.nodes)
        return np.asarray(t, float), np.asarray(np.log(w) + t**2, float)

    def _progress(self, state: State) -> Progress:
        if self.key("at") not in state:
            return Progress.start(np.r_[np.zeros(self.size - 1), START])
        return Progress.of(lambda name: self.own(state, name))


def marginal(x: Floats, y: Floats, at: Floats, t: Floats, log_weight: Floats) -> Quadratic:
    """One site's log-likelihood, z integrated out, with gradient and information by the coefficients and sd. x: (n, p), at: (p + 1,)."""
    fixed, sd = linear_predictor(x, at[:-1]), float(at[-1])
    mode, spread = _peak(fixed, y, sd)
    z = mode + math.sqrt(2.0) * spread * t
    eta = fixed[:, None] + sd * z
    logs = (y[:, None] * eta - np.logaddexp(0.0, eta)).sum(axis=0) - z**2 / 2.0 + log_weight
    top = float(logs.max())
    p = np.exp(logs - top)
    value = top + math.log(float(p.sum()) * spread / math.sqrt(math.pi))
    p /= p.sum()
    mu = expit(eta)
    residual, weight = y[:, None] - mu, mu * expit(-eta)
    scores = np.vstack([x.T @ residual, z * residual.sum(axis=0)])
    gradient = scores @ p
    flat, tilted, square = (weight @ (p * z**k) for k in range(3))
    inner = x.T @ tilted
    expected = np.block([[x.T @ (x * flat[:, None]), inner[:, None]], [inner[None, :], np.array([[square.sum()]])]])
    away = scores - gradient[:, None]
    return Quadratic(value, gradient, expected - (away * p) @ away.T)


def _peak(fixed: Floats, y: Floats, sd: float) -> tuple[float, float]:
    """Mode and spread of the integrand in z: concave, by Newton with steps of at most 2."""
    z, curvature = 0.0, 1.0
    for _ in range(100):
        mu = expit(fixed + sd * z)
        curvature = 1.0 + sd**2 * float((mu * expit(-fixed - sd * z)).sum())
        step = (sd * float((y - mu).sum()) - z) / curvature
        z += max(-2.0, min(2.0, step))
        if abs(step) < 1e-12 * (1.0 + abs(z)):
            break
    return z, 1.0 / math.sqrt(curvature)


def _definite(information: Floats) -> Floats:
    """The information where it is positive definite; else with its eigenvalues' signs, on the scale of a unit diagonal, made so."""
    d = np.sqrt(np.maximum(np.abs(np.diag(information)), 1e-8 * np.abs(information).max()))
    values, vectors = np.linalg.eigh(information / np.outer(d, d))
    if values[0] > 1e-10:
        return information
    return np.asarray((vectors * np.maximum(np.abs(values), 1e-3)) @ vectors.T * np.outer(d, d))


def _row(name: str, b: float, se: float) -> dict[str, Any]:
    ends = [b - Z95 * se, b + Z95 * se]
    ratio = [math.exp(min(v, 700.0)) for v in (b, *ends)]
    return {"name": name, "coef": b, "se": se, "z": b / se, "p": normal_two_sided(b / se), "ci95": ends, "odds_ratio": ratio[0], "odds_ratio_ci95": ratio[1:]}
