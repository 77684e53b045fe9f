"""Negative binomial regression (NB2) of an overdispersed count: log mu = x b + offset, variance mu + alpha mu^2.

Source: Lawless (1987), Negative binomial and mixed Poisson regression, Canadian Journal of Statistics 15:209, section 2.
With t = alpha mu, a row's log-likelihood, which no gamma function enters, so that it stays exact as alpha goes to 0:
    l = sum_{0 <= j < y} log(1 + alpha j) - log y! + y log mu - (y + 1/alpha) log(1 + t)
and with G(t) = log(1 + t) - t / (1 + t) and theta = log alpha, which keeps alpha positive:
    dl/d eta = (y - mu) / (1 + t)                            -d2l/d eta2 = (mu + y t) / (1 + t)^2
    dl/d theta = sum_j alpha j / (1 + alpha j) + G / alpha - y t / (1 + t)
    -d2l/d eta d theta = (y - mu) t / (1 + t)^2
    -d2l/d theta2 = (G - t^2 / (1 + t)^2) / alpha + y t / (1 + t)^2 - sum_j alpha j / (1 + alpha j)^2

Stage 1 is Poisson regression. At its fit the score for alpha at 0 is sum((y - mu)^2 - y) / 2: where that is not positive the
likelihood falls as alpha leaves 0, and the Poisson fit is the answer. Else stage 2 is Newton's method on (b, theta) jointly,
with observed information, from that fit and one scoring step in alpha: sum((y - mu)^2 - y) / sum(mu^2).
alpha = 0 lies on the edge of what is possible, so twice the gain in log-likelihood is there 0 with probability 1/2 and else
chi-square with 1 degree of freedom (Lawless, section 3; Self and Liang, 1987, JASA 82:605, case 5).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import Memory, State, register
from locum.tasks.design import linear_predictor, usable
from locum.tasks.glm import LIMIT, Poisson, PoissonParams
from locum.tasks.newton import Problem, Progress, Quadratic
from locum.tasks.tails import Z95, chi_square_upper

Floats = NDArray[np.float64]
MOST = 2_000_000
"""No count may be larger: sums over all smaller counts are tabulated."""
FLOOR = 1e-7
"""Where alpha times the typical mean is below this, the variance exceeds Poisson's by less than can be told, and the fit is Poisson."""
STRIDE = 2.0
"""log alpha moves by this much a round at most."""
SERIES = 0.1
"""Below this t, G(t) is summed as a series: there its two terms nearly cancel."""
NO_GAIN = (
    "No overdispersion: at the Poisson fit the outcome varies {how} its mean says, so the likelihood is largest at alpha = 0. "
    "Estimates and standard errors are those of Poisson regression."
)


@register
class NegativeBinomial(Poisson):
    """Poisson's fit first, then coefficients and dispersion jointly. The interval of alpha is estimate +- 1.96 standard errors, cut at 0."""

    kind = "negative_binomial"
    Config = PoissonParams

    def __init__(self, step: Step, params: PoissonParams, study: Study) -> None:
        super().__init__(step, params, study)
        if params.site_intercepts:
            raise ManifestError(
                f"Step '{step.name}': '{self.kind}' has no site intercepts.",
                why="With one intercept for each of many small sites alpha would be estimated far too small.",
                fix="leave site_intercepts out, or use the task 'poisson'",
            )

    def leaves(self) -> str:
        p = self.design.size
        return (
            f"Each round: the site's sums of the log-likelihood, its gradient ({p} coefficients and the dispersion) and its information "
            f"({(p + 1) * (p + 2) // 2} numbers), and counts of rows; {self.layout({}).size} numbers in all."
        )

    def layout(self, state: State) -> Layout:
        return Layout((*super().layout(state).fields, *Layout.of(cross=(self.design.size,), alpha_gradient=(), alpha_information=()).fields))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        made = super().visit(state, rows, memory, rng)
        used, vector, joint = usable(self, rows, self.params.part).rows, dict(made.vector), self._joint(state)
        if len(used):
            x, y, p = self.design.matrix(state, used), self._outcome(used), self.design.size
            if joint is None:
                mu = np.minimum(np.exp(np.clip(linear_predictor(x, self._progress(state).at) + self._offset(used), -LIMIT, LIMIT)), MOST)
                score, curvature = float(((y - mu) ** 2 - y).sum()) / 2.0, float((mu**2).sum()) / 2.0
            else:
                here = nb2(x, y, linear_predictor(x, joint.at[:p]) + self._offset(used), float(joint.at[p]))
                score, curvature = float(here.gradient[p]), float(here.information[p, p])
                vector |= {"objective": np.asarray(here.value), "gradient": here.gradient[:p], "information": newton.pack(here.information[:p, :p])}
                vector["cross"] = here.information[p, :p]
            vector |= {"alpha_gradient": np.asarray(score), "alpha_information": np.asarray(curvature)}
        return Contribution(vector, made.rows, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        joint = self._joint(state)
        if joint is not None:
            return self._advance(self.merge(state, sites=total.sites), joint, total)
        state = self.merge(super().combine(state, total), sites=total.sites)
        poisson = self._progress(state)
        if not poisson.converged:
            return state
        score, half = float(total["alpha_gradient"]), float(total["alpha_information"])
        size, start = 2.0 * half / float(total["outcome"]), score / half
        if start * size < FLOOR:
            return self.merge(state, score=score, at_zero=1)
        joint = Progress.start(np.r_[poisson.best, math.log(start)], rounds=poisson.rounds)
        return self.merge(state, score=score, size=size, **{f"joint_{k}": v for k, v in joint.arrays().items()})

    def _advance(self, state: State, old: Progress, total: Total) -> State:
        p = self.design.size
        information = np.zeros((p + 1, p + 1))
        information[:p, :p] = self._information(total)
        information[p, :p] = information[:p, p] = np.asarray(total["cross"], float)
        information[p, p] = float(total["alpha_information"])
        here = Quadratic(float(total["objective"]), np.r_[np.asarray(total["gradient"], float), float(total["alpha_gradient"])], information)
        here = steady(here.penalised(old.at, np.r_[self.design.ridge(self.params.ridge), 0.0]))
        if old.evaluated:  # information about log alpha falls with alpha, which is no sign of divergence
            first = old.first.copy()
            first[p, :p] = first[:p, p] = 0.0
            first[p, p] = here.information[p, p]
            old = replace(old, first=first)
        problem = Problem((*self.design.names, "log alpha"), np.r_[np.asarray(total["squares"], float), 0.0], self.params.tolerance, self.separated)
        new = newton.advance(old, here, problem)
        if math.exp(new.best[p]) * float(self.own(state, "size")) < FLOOR:
            return self.merge(state, at_zero=1)
        return self.merge(state, **{f"joint_{k}": v for k, v in new.arrays().items()})

    def done(self, state: State) -> bool:
        joint = self._joint(state)
        return self._at_zero(state) or (joint is not None and bool(joint.converged))

    def result(self, state: State) -> dict[str, Any]:
        out = super().result(state)
        for name in ("rows_without_information", "site_intercepts"):
            out.pop(name)
        out |= {"sites": int(self.own(state, "sites")), "poisson_log_likelihood": out["log_likelihood"]}
        joint = self._joint(state)
        if self._at_zero(state):
            how = "no more than" if float(self.own(state, "score")) <= 0.0 else "hardly more than"
            out |= {"alpha": {"estimate": 0.0, "se": None, "ci95": None, "at_boundary": True}, "converged": True}
            return out | {"overdispersion_test": self._test(0.0), "warnings": [NO_GAIN.format(how=how)]}
        if joint is None or not joint.evaluated:
            raise TaskError(f"Step '{self.step.name}' had no round left for the dispersion.", fix="set rounds to 30 or more")
        p, variance = self.design.size, newton.covariance(joint.information)
        a = self.design.original(state)
        estimate, errors = a @ joint.best[:p], np.sqrt(np.diag(a @ variance[:p, :p] @ a.T))
        log_alpha, se = float(joint.best[p]), math.sqrt(variance[p, p])
        alpha = math.exp(log_alpha)
        value = joint.value + float(self.design.ridge(self.params.ridge) @ joint.best[:p] ** 2) / 2.0
        return out | {
            "coefficients": [self._row(name, float(b), float(s), None) for name, b, s in zip(self.design.names, estimate, errors, strict=True)],
            "alpha": {"estimate": alpha, "se": alpha * se, "ci95": [max(0.0, alpha - Z95 * alpha * se), alpha * (1.0 + Z95 * se)], "at_boundary": False},
            "log_likelihood": value,
            "overdispersion_test": self._test(2.0 * (value - out["log_likelihood"])),
            "iterations": joint.rounds,
            "converged": bool(joint.converged),
            "warnings": self._warnings(joint),
        }

    def coefficients(self, state: State) -> Floats:
        joint = self._joint(state)
        return super().coefficients(state) if joint is None or self._at_zero(state) else joint.best[: self.design.size]

    def _test(self, statistic: float) -> dict[str, Any] | None:
        """The likelihood-ratio test of alpha = 0; with a penalty there is none."""
        if self.params.ridge:
            return None
        statistic = max(0.0, statistic)
        p = chi_square_upper(statistic, 1) / 2.0 if statistic else 1.0
        return {"null": "alpha = 0 (Poisson)", "statistic": statistic, "p": p, "reference": "0 with probability 1/2, else chi-square, 1 degree of freedom"}

    def _warnings(self, joint: Progress) -> list[str]:
        found = []
        if not joint.converged:
            found.append("The rounds were used up before convergence: raise rounds.")
        if self.params.ridge:
            found.append("With a ridge penalty there is no likelihood-ratio test, and intervals are not centred at the truth.")
        return found

    def _outcome(self, rows: Rows) -> Floats:
        y = rows.columns[self.params.outcome]
        negative, broken, large = int((y < 0).sum()), int((y != np.floor(y)).sum()), int((y > MOST).sum())
        for count, what in ((negative, "negative"), (broken, "not whole numbers"), (large, f"above {MOST}")):
            if count:
                raise TaskError(
                    f"The outcome '{self.params.outcome}' has values that are {what}, so they are no counts that '{self.kind}' can explain.",
                    fix="correct the mapping, or choose another task for this outcome; a rate is its count, with an offset",
                    local=f"{count} of {len(y)} rows",
                )
        return y

    def _joint(self, state: State) -> Progress | None:
        """Where stage 2 stands; None in stage 1."""
        return Progress.of(lambda name: self.own(state, f"joint_{name}")) if self.key("joint_at") in state else None

    def _at_zero(self, state: State) -> bool:
        return self.key("at_zero") in state


def nb2(x: Floats, y: Floats, eta: Floats, log_alpha: float) -> Quadratic:
    """The log-likelihood, its gradient (p + 1,) and its observed information in coefficients and log alpha, summed over rows."""
    alpha, p = math.exp(log_alpha), x.shape[1]
    eta = np.clip(eta, -LIMIT, LIMIT)
    mu = np.exp(eta)
    t = alpha * mu
    rest = 1.0 / (1.0 + t)
    share, g = t * rest, gap(t)
    k, whole = np.arange(y.max()), y.astype(np.int64)
    j = alpha * k

    def below(terms: Floats) -> float:
        """The sum over rows of the first y terms."""
        return float(np.r_[0.0, np.cumsum(terms)][whole].sum())

    logs = np.log1p(t)
    value = below(np.log1p(j) - np.log(k + 1.0)) + float((y * (eta - logs)).sum()) - float(logs.sum()) / alpha
    information = np.zeros((p + 1, p + 1))
    information[:p, :p] = x.T @ (x * ((mu * rest + y * share) * rest)[:, None])
    information[p, :p] = information[:p, p] = x.T @ ((y - mu) * rest * share)
    information[p, p] = float((g - share**2).sum()) / alpha + float((y * share * rest).sum()) - below(j / (1.0 + j) ** 2)
    score = below(j / (1.0 + j)) + float(g.sum()) / alpha - float((y * share).sum())
    return Quadratic(value, np.r_[x.T @ ((y - mu) * rest), score], information)


def gap(t: Floats) -> Floats:
    """G(t) = log(1 + t) - t / (1 + t) = t^2 / 2 - 2 t^3 / 3 + 3 t^4 / 4 - ..., to full relative precision for t >= 0."""
    small = np.minimum(t, SERIES)
    series = np.zeros_like(t)
    for k in range(20, 1, -1):
        series = (1.0 - 1.0 / k) - small * series
    return np.where(t < SERIES, small**2 * series, np.log1p(t) - t / (1.0 + t))


def steady(here: Quadratic) -> Quadratic:
    """With an information matrix that is positive definite and moves log alpha by STRIDE at most; the observed one near the maximum."""
    information, slope = here.information.copy(), max(abs(float(here.gradient[-1])) / STRIDE, 1e-300)
    information[-1, -1] = max(information[-1, -1], slope)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    try:
        np.linalg.cholesky(information * np.outer(scale, scale))
    except np.linalg.LinAlgError:
        information[-1, :-1] = information[:-1, -1] = 0.0
        information[-1, -1] = max(abs(here.information[-1, -1]), slope)
    return replace(here, information=information)
