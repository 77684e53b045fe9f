"""Linear, logistic and Poisson regression by exact Newton steps on summed gradients and Fisher information.

Source: McCullagh and Nelder (1989), Generalized Linear Models, section 2.5 (canonical links: Newton is IRLS).

Site intercepts are profiled out: at given coefficients b each site maximises its own log-likelihood over its intercept
a(b), afresh at each visit. The profiled log-likelihood is a sum over sites; its gradient is X'(y - mu) at a(b), by the
envelope theorem, and its information is the Schur complement X'WX - X'W1 (1'W1)^-1 1'WX, so b, its standard errors and
the log-likelihood are those of the pooled model with one dummy per site, and no intercept leaves its site. A site whose
outcomes are all alike (logistic) or all zero (Poisson) has a limit intercept and adds exactly nothing to these sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.design import Design, Features, linear_predictor, usable
from locum.tasks.newton import Problem, Progress, Quadratic
from locum.tasks.tails import Z95, normal_two_sided, student_95, student_two_sided

Floats = NDArray[np.float64]
LIMIT = 300.0
"""|x b| beyond this is cut: e^300 is still finite, and a step that leads there is halved."""


class GLMParams(Features):
    """outcome: the variable explained. site_intercepts: each site has its own intercept, which stays there."""

    outcome: VariableName
    intercept: bool = True
    site_intercepts: bool = False


class PoissonParams(GLMParams):
    """offset: a variable added to the linear predictor as it is, for example the logarithm of follow-up time."""

    offset: VariableName | None = None


class GLM(BaseTask[GLMParams]):
    """What the three families share. Subclasses give the likelihood and the profiled intercept."""

    Config = GLMParams
    ratio: ClassVar[str] = ""
    """What e^coefficient is called, if it means something."""
    separated: ClassVar[str] = ""

    def __init__(self, step: Step, params: GLMParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, params, intercept=self.has_intercept, centred=params.intercept or params.site_intercepts)
        self.offset: str | None = getattr(params, "offset", None)
        outcome = (params.outcome, self.offset) if self.offset else (params.outcome,)
        self.require(*outcome)
        for name in outcome:
            if name in params.features:
                raise ManifestError(f"Step '{step.name}': '{name}' is both a feature and the outcome or offset.", fix="drop it from features")
        if study.data.variables[params.outcome].type == "category" and len(study.data.variables[params.outcome].categories) != 2:
            raise ManifestError(f"Step '{step.name}': the outcome '{params.outcome}' is a category, not a number.", fix="name a numeric or boolean outcome")

    @property
    def has_intercept(self) -> bool:
        """Whether one intercept is shared by all sites."""
        return self.params.intercept and not self.params.site_intercepts

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.outcome, *((self.offset,) if self.offset else ()))

    def leaves(self) -> str:
        p = self.design.size
        return (
            f"Each round: the site's sums of the log-likelihood, its gradient ({p} numbers) and its information ({p * (p + 1) // 2} numbers), "
            f"and counts of rows; {self.layout({}).size} numbers in all."
        )

    def layout(self, state: State) -> Layout:
        p = self.design.size
        return Layout.of(
            rows=(), left_out=(), uninformative_rows=(), intercepts=(), outcome=(), objective=(), gradient=(p,), information=(p * (p + 1) // 2,), squares=(p,)
        )

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(used.left_out))
        if len(used.rows):
            x, y, offset = self.design.matrix(state, used.rows), self._outcome(used.rows), self._offset(used.rows)
            here = self._quadratic(x, y, offset, self._progress(state).at)
            informative = not self.params.site_intercepts or self.profiled(y, offset) is not None
            vector |= {
                "rows": np.asarray(float(len(y))),
                "uninformative_rows": np.asarray(0.0 if informative else float(len(y))),
                "intercepts": np.asarray(float(self.params.site_intercepts)),
                "outcome": np.asarray(y.sum()),
                "objective": np.asarray(here.value),
                "gradient": here.gradient,
                "information": newton.pack(here.information),
                "squares": (x**2).sum(axis=0),
            }
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        n = float(total["rows"])
        if not n:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        progress, here = self._progress(state), Quadratic(float(total["objective"]), np.asarray(total["gradient"], float), self._information(total))
        facts = {k: total[k] for k in ("rows", "left_out", "uninformative_rows", "intercepts", "outcome")}
        start = self.first_step(progress, here)
        if start is not None:
            return self.merge(state, **facts, **start.arrays())
        ridge = self.design.ridge(self.params.ridge)
        problem = self.problem(np.asarray(total["squares"], float), n, here.value)
        return self.merge(state, **facts, **newton.advance(progress, here.penalised(progress.at, ridge), problem).arrays())

    def done(self, state: State) -> bool:
        return bool(self._progress(state).converged)

    def result(self, state: State) -> dict[str, Any]:
        progress, n = self._progress(state), float(self.own(state, "rows"))
        if not progress.evaluated:
            raise TaskError(f"Step '{self.step.name}' had no round left for its first Newton step.", fix="set rounds to 20 or more")
        a = self.design.original(state)
        estimate = a @ progress.best
        variance = a @ newton.covariance(progress.information) @ a.T * self.dispersion(state)
        se, df = np.sqrt(np.diag(variance)), self._residual_df(state)
        return {
            "coefficients": [self._row(name, float(b), float(s), df) for name, b, s in zip(self.design.names, estimate, se, strict=True)],
            "n": int(n),
            "left_out": int(self.own(state, "left_out")),
            "rows_without_information": int(self.own(state, "uninformative_rows")),
            "site_intercepts": int(self.own(state, "intercepts")),
            "outcome_sum": float(self.own(state, "outcome")),
            "log_likelihood": self.log_likelihood(state),
            "iterations": progress.rounds,
            "converged": bool(progress.converged),
        }

    def coefficients(self, state: State) -> Floats:
        """The fitted coefficients on the scale of `design.matrix`, for a later step; raises `TaskError` before the fit."""
        if self.key("best") not in state:
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        return np.asarray(self.own(state, "best"), float)

    def scores(self, state: State, rows: Rows) -> Floats:
        """The linear predictor of each row, shape (n,)."""
        return linear_predictor(self.design.matrix(state, rows), self.coefficients(state)) + self._offset(rows)

    def fit_here(self, state: State, rows: Rows, ridge: float) -> Floats | None:
        """Coefficients from these rows alone with a ridge penalty; None where there is no answer. For local baselines."""
        x, y, offset = self.design.matrix(state, rows), self._outcome(rows), self._offset(rows)
        problem = self.problem((x**2).sum(axis=0), len(y), -1.0)
        try:
            return newton.fit(lambda b: self._quadratic(x, y, offset, b), self.design.ridge(ridge), problem)
        except TaskError:
            return None

    def likelihood(self, y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        """Log-likelihood (up to a public scale), residual y - mu (n,), and weight dmu/deta (n,) at linear predictor eta."""
        raise NotImplementedError

    def profiled(self, y: Floats, eta: Floats) -> float | None:
        """The site's own best intercept on top of eta, or None where it is infinite."""
        raise NotImplementedError

    def outcome_error(self, y: Floats) -> str:
        """What is wrong with the outcome, or ''."""
        return ""

    def first_step(self, progress: Progress, here: Quadratic) -> Progress | None:
        """A better starting point than zero, from the first round's sums; None to go on with Newton."""
        return None

    def problem(self, squares: Floats, n: float, value: float) -> Problem:
        within = "within every site" if self.params.site_intercepts else "in the cohort"
        return Problem(self.design.names, squares, self.params.tolerance, self.separated, within)

    def dispersion(self, state: State) -> float:
        return 1.0

    def log_likelihood(self, state: State) -> float:
        return self._unpenalised(state)

    def _unpenalised(self, state: State) -> float:
        progress = self._progress(state)
        return progress.value + float(self.design.ridge(self.params.ridge) @ progress.best**2) / 2.0

    def _quadratic(self, x: Floats, y: Floats, offset: Floats, b: Floats) -> Quadratic:
        eta = linear_predictor(x, b) + offset
        if self.params.site_intercepts:
            own = self.profiled(y, eta)
            if own is None:
                return Quadratic(0.0, np.zeros(len(b)), np.zeros((len(b), len(b))))
            eta = eta + own
        value, residual, w = self.likelihood(y, eta)
        gradient = x.T @ residual
        if self.params.site_intercepts:
            x = x - (w @ x) / w.sum()
        return Quadratic(value, gradient, x.T @ (x * w[:, None]))

    def _outcome(self, rows: Rows) -> Floats:
        y = rows.columns[self.params.outcome]
        problem = self.outcome_error(y)
        if problem:
            raise TaskError(f"The outcome '{self.params.outcome}' {problem}.", fix="correct the mapping, or choose another task for this outcome")
        return y

    def _offset(self, rows: Rows) -> Floats:
        return rows.columns[self.offset] if self.offset else np.zeros(len(rows))

    def _progress(self, state: State) -> Progress:
        if self.key("at") not in state:
            return Progress.start(np.zeros(self.design.size))
        return Progress.of(lambda name: self.own(state, name))

    def _information(self, total: Total) -> Floats:
        return newton.unpack(total["information"], self.design.size)

    def _residual_df(self, state: State) -> float | None:
        return None

    def _row(self, name: str, b: float, se: float, df: float | None) -> dict[str, Any]:
        z = b / se
        p, q = (normal_two_sided(z), Z95) if df is None else (student_two_sided(z, df), student_95(df))
        low, high = b - q * se, b + q * se
        row: dict[str, Any] = {"name": name, "coef": b, "se": se, "z" if df is None else "t": z, "p": p, "ci95": [low, high]}
        if self.ratio:
            row |= {self.ratio: _exp(b), f"{self.ratio}_ci95": [_exp(low), _exp(high)]}
        return row


@register
class Linear(GLM):
    """Least squares; the objective is minus half the residual sum of squares."""

    kind = "linear"

    def likelihood(self, y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        residual = y - eta
        return -float(residual @ residual) / 2.0, residual, np.ones_like(y)

    def profiled(self, y: Floats, eta: Floats) -> float | None:
        return float((y - eta).mean())

    def problem(self, squares: Floats, n: float, value: float) -> Problem:
        base = super().problem(squares, n, value)
        return Problem(base.names, squares, base.tolerance, "", base.within, dispersion=-2.0 * value / n)

    def dispersion(self, state: State) -> float:
        found = -2.0 * self._unpenalised(state) / self._residual_df(state)
        if not found > 0.0:
            raise TaskError(
                f"Step '{self.step.name}': every outcome lies exactly on the model, so its errors have no size.",
                why=f"'{self.params.outcome}' is constant, or made of the features.",
                fix="choose another outcome, or leave the feature out that it is made of",
            )
        return found

    def log_likelihood(self, state: State) -> float:
        n, rss = float(self.own(state, "rows")), max(-2.0 * self._unpenalised(state), np.finfo(float).tiny)
        return -n / 2.0 * (math.log(2.0 * math.pi * rss / n) + 1.0)

    def result(self, state: State) -> dict[str, Any]:
        return {**super().result(state), "residual_sd": math.sqrt(self.dispersion(state)), "residual_df": int(self._residual_df(state))}

    def _residual_df(self, state: State) -> float:
        df = float(self.own(state, "rows")) - self.design.size - float(self.own(state, "intercepts"))
        if df <= 0:
            raise TaskError(
                f"Step '{self.step.name}' has as many coefficients as rows.", why="No residual variance is left to estimate.", fix="use fewer features"
            )
        return df


@register
class Logistic(GLM):
    """Logistic regression of a 0/1 outcome."""

    kind = "logistic"
    ratio = "odds_ratio"
    separated = "Some combination of these columns predicts the outcome perfectly (separation), so odds ratios are infinite."

    def likelihood(self, y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        mu = expit(eta)
        return float((y * eta - np.logaddexp(0.0, eta)).sum()), y - mu, mu * expit(-eta)

    def profiled(self, y: Floats, eta: Floats) -> float | None:
        if y.min() == y.max():
            return None
        middle = math.log(y.mean() / (1.0 - y.mean()))
        return _root(lambda a: _score(a, y, eta), middle - float(eta.max()), middle - float(eta.min()))

    def outcome_error(self, y: Floats) -> str:
        return "" if np.isin(y, (0.0, 1.0)).all() else "has values other than 0 and 1"


@register
class Poisson(GLM):
    """Poisson regression of a count, with an optional offset."""

    kind = "poisson"
    Config = PoissonParams
    ratio = "rate_ratio"
    separated = "Some category or combination of columns has no events at all, so its rate ratio is zero or infinite."

    def likelihood(self, y: Floats, eta: Floats) -> tuple[float, Floats, Floats]:
        eta = np.clip(eta, -LIMIT, LIMIT)
        mu = np.exp(eta)
        factorials = sum(math.lgamma(v + 1.0) for v in y)
        return float((y * eta - mu).sum()) - factorials, y - mu, mu

    def profiled(self, y: Floats, eta: Floats) -> float | None:
        if not y.any():
            return None
        top = float(eta.max())
        return math.log(y.sum()) - math.log(np.exp(eta - top).sum()) - top

    def first_step(self, progress: Progress, here: Quadratic) -> Progress | None:
        """Start at the overall rate: at zero, information of the intercept is sum(mu) and its gradient sum(y) - sum(mu)."""
        if progress.rounds or not self.has_intercept:
            return None
        expected = float(here.information[0, 0])
        observed = expected + float(here.gradient[0])
        if observed <= 1e-9 * expected:
            raise TaskError(f"The outcome '{self.params.outcome}' is zero in every row of the cohort.", fix="there is nothing to explain; check the mapping")
        return Progress.start(np.r_[math.log(observed / expected), np.zeros(self.design.size - 1)], rounds=1)

    def outcome_error(self, y: Floats) -> str:
        return "has negative values" if (y < 0).any() else ""


def expit(eta: Floats) -> Floats:
    """1 / (1 + e^-eta) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -eta)))


def _score(a: float, y: Floats, eta: Floats) -> tuple[float, float]:
    mu = expit(eta + a)
    return float((y - mu).sum()), -float((mu * expit(-eta - a)).sum())


def _root(f: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """The zero of a decreasing function given with its slope, between low and high: Newton, kept in the bracket."""
    a = (low + high) / 2.0
    for _ in range(200):
        value, slope = f(a)
        low, high = (a, high) if value > 0 else (low, a)
        step = a - value / slope if slope < 0 else low
        following = step if low < step < high else (low + high) / 2.0
        if abs(following - a) <= 4e-16 * max(1.0, abs(a)):
            return following
        a = following
    return a


def _exp(x: float) -> float | None:
    """e^x, or None where it would not be a finite number."""
    return math.exp(x) if x < 700.0 else None
