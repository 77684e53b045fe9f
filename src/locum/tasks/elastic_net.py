"""Lasso and elastic net for a number or a 0/1 outcome, over a path of penalties, by proximal Newton steps on sums.

Source: Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models via coordinate descent,
Journal of Statistical Software 33(1), sections 2 and 3; the line search is that of Lee, Sun and Saunders (2014), SIAM Journal on
Optimization 24:1420, section 2.3. For each lambda this is minimised, over coefficients b on the scale that is fitted:
    F(b) = loss(b) / n + lambda (l1_ratio |b|_1 + (1 - l1_ratio) |b|_2^2 / 2),    the intercept without a penalty,
with loss = sum of (y - x b)^2 / 2, or minus the log-likelihood. scikit-learn calls that ElasticNet(alpha=lambda, l1_ratio) and
LogisticRegression(C=1 / (n lambda), l1_ratio), whose objective is n C F.

Sites add up the loss, its gradient g and its information A = X'WX. The coordinator minimises the quadratic with these, plus the
penalty, by coordinate descent; once the signs are settled it solves for the selected coefficients exactly. All lambdas advance in
the same rounds, so a path costs as many rounds as its hardest lambda: the first step from the null model goes down the path with
warm starts, and each later one starts where its lambda stands.

Which lambda: the least BIC = deviance + df log n, with df the number of coefficients that are not zero (Zou, Hastie and Tibshirani,
2007, Annals of Statistics 35:2173; for a ridge share it is an upper bound) and, of a number, deviance n log(RSS / n); EBIC adds
2 gamma log(p choose df) (Chen and Chen, 2008, Biometrika 95:759); or the least deviance on the test patients.
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
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.design import Design, Features, linear_predictor, usable
from locum.tasks.glm import GLM, GLMParams, Linear, Logistic
from locum.tasks.proximal import Penalty, minimise

Floats = NDArray[np.float64]
LARGEST = 8_000_000
"""Numbers that one site may send a round."""
ARMIJO = 1e-4
"""The share of the decrease that the quadratic promises which a step has to bring."""
FITS: dict[str, type[GLM]] = {"linear": Linear, "logistic": Logistic}
OBJECTIVE = {
    "linear": "sum((y - xb)^2) / (2n) + lambda * (l1_ratio * |b|_1 + (1 - l1_ratio) / 2 * |b|_2^2); scikit-learn: ElasticNet(alpha=lambda, l1_ratio)",
    "logistic": "-log-likelihood / n + lambda * (l1_ratio * |b|_1 + (1 - l1_ratio) / 2 * |b|_2^2); scikit-learn: LogisticRegression(C=1/(n*lambda), l1_ratio)",
}
NO_INTERVALS = (
    "None are given: the same data chose the variables, so the usual intervals and p-values would be too optimistic. "
    "To estimate effects, fit the selected variables on patients that played no part in the choice."
)


class ElasticNetParams(Features):
    """family: 'linear' or 'logistic'. l1_ratio: 1 is the lasso, towards 0 it is ridge regression. lambdas: one or several; without
    them a path of `path` values on a logarithmic scale, from the least that selects nothing down to `smallest` times it. choose: how
    one of several is chosen. gamma: of EBIC."""

    family: Literal["linear", "logistic"]
    outcome: VariableName
    intercept: bool = True
    l1_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    lambdas: Annotated[tuple[Annotated[float, Field(gt=0, le=1e12)], ...], Field(min_length=1, max_length=200)] | None = None
    path: Annotated[int, Field(ge=2, le=200)] = 30
    smallest: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    choose: Literal["bic", "ebic", "test"] = "bic"
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.5
    site_intercepts: ClassVar[bool] = False


@register
class ElasticNet(BaseTask[ElasticNetParams]):
    """Stage 0 finds the null model, stage 1 its gradient and with it the path, stage 2 goes on until every lambda has converged."""

    kind = "elastic_net"
    Config = ElasticNetParams

    def __init__(self, step: Step, params: ElasticNetParams, study: Study) -> None:
        super().__init__(step, params, study)
        if params.ridge:
            raise ManifestError(f"Step '{step.name}': '{self.kind}' takes no ridge.", fix="its ridge share is lambda * (1 - l1_ratio): lower l1_ratio")
        if params.lambdas is None and params.l1_ratio < 1e-3:
            raise ManifestError(f"Step '{step.name}': without a lasso share no lambda selects nothing, so no path begins.", fix="give lambdas, or l1_ratio")
        if params.choose == "test" and params.part != "train":
            raise ManifestError(
                f"Step '{step.name}' chooses by the test patients, but is fitted on part '{params.part}'.",
                why="The choice would be too good.",
                fix="set part = 'train', or choose = 'bic'",
            )
        shared = {k: getattr(params, k) for k in ("features", "standardise", "part", "outcome", "intercept")}
        self.fit = FITS[params.family](step, GLMParams(**shared), study)
        self.design: Design = self.fit.design
        self.likelihood, self.outcome_error, self.binary = self.fit.likelihood, self.fit.outcome_error, params.family == "logistic"
        self.lambdas = sorted(set(params.lambdas or ()), reverse=True)
        self.count = len(self.lambdas) or params.path
        p = self.design.size
        self.matrices = self.count if self.binary else 1  # the information of a linear model does not depend on where it is taken
        if self.matrices * p * (p + 1) // 2 > LARGEST:
            raise ManifestError(
                f"Step '{step.name}': {self.count} lambdas with {p} coefficients each are more than {LARGEST} numbers a round.",
                fix="use fewer lambdas or features",
            )

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.outcome)

    def leaves(self) -> str:
        p, test = self.design.size, ", its log-likelihood on test patients" if self.params.choose == "test" else ""
        return (
            f"Each round, for each of {self.count} penalties: the site's sums of the log-likelihood{test} and its gradient ({p} numbers); "
            f"{self.matrices} information matrices; and counts of rows; {self.layout({}).size} numbers in all."
        )

    def layout(self, state: State) -> Layout:
        k, p = self.count, self.design.size
        test: dict[str, tuple[int, ...]] = {"test_rows": (), "test_value": (k,)} if self.params.choose == "test" else {}
        return Layout.of(rows=(), left_out=(), outcome=(), value=(k,), gradient=(k, p), information=(self.matrices, p * (p + 1) // 2), **test)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used, vector = usable(self, rows, self.params.part), self.layout(state).zeros()
        vector["left_out"], patients, points = np.asarray(float(used.left_out)), used.rows.patients, self._open(state)
        if len(used.rows):
            x, y = self.design.matrix(state, used.rows), self._outcome(used.rows)
            vector |= {"rows": np.asarray(float(len(y))), "outcome": np.asarray(y.sum())}
            for i, (k, b) in enumerate(points.items()):
                vector["value"][k], residual, w = self.likelihood(y, linear_predictor(x, b))
                vector["gradient"][k] = x.T @ residual
                if i < self.matrices:
                    vector["information"][min(k, self.matrices - 1)] = newton.pack(x.T @ (x * w[:, None]))
        if self.params.choose == "test":
            test = usable(self, rows, "test").rows
            patients += test.patients
            if len(test):
                x, y = self.design.matrix(state, test), self._outcome(test)
                vector["test_rows"] = np.asarray(float(len(y)))
                for k, b in points.items():
                    vector["test_value"][k] = self.likelihood(y, linear_predictor(x, b))[0]
        return Contribution(vector, patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        n, stage = float(total["rows"]), self._stage(state)
        if not n:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        if self.params.choose == "test" and not float(total["test_rows"]):
            raise TaskError(f"No site has a usable test row for step '{self.step.name}'.", fix="set choose = 'bic', or a larger share of test patients")
        facts = {"rows": n, "left_out": total["left_out"], "outcome": total["outcome"], "sites": total.sites, "rounds": self._rounds(state) + 1}
        facts |= {"test_rows": total["test_rows"]} if self.params.choose == "test" else {}
        if stage == 0:
            facts |= self._null(total, n)
            if self.params.intercept:
                return self.merge(state, stage=1, **facts)
        state = self.merge(state, stage=2, **facts)
        return self._begin(state, total, n) if stage < 2 else self._advance(state, total, n)

    def _null(self, total: Total, n: float) -> dict[str, Any]:
        """The null model, and the columns that are constant, which no penalty can select."""
        information, s = newton.unpack(total["information"][0], self.design.size), float(total["outcome"])
        own, null, first = np.diag(information).copy(), np.zeros(self.design.size), int(self.params.intercept)
        if self.binary and s in (0.0, n):
            raise TaskError(f"The outcome '{self.params.outcome}' is the same in every row of the cohort.", fix="check its mapping")
        if self.params.intercept:
            null[0] = math.log(s / (n - s)) if self.binary else s / n
            own[1:] -= information[0, 1:] ** 2 / information[0, 0]
        constant = own <= newton.COLLINEAR * np.diag(information)
        if constant[first:].all():
            raise TaskError("Every feature is constant in the cohort, so there is nothing to select.", fix="check the mapping, or name other features")
        constant[:first] = False
        return {"null": null, "constant": constant.astype(np.int64), "loss_at_zero": -float(total["value"][0]) / n}

    def _begin(self, state: State, total: Total, n: float) -> State:
        """From the gradient at the null model: the path, and the first step of every lambda, each from the solution before it."""
        null, k = np.asarray(self.own(state, "null"), float), self.count
        gradient, information = -np.asarray(total["gradient"], float)[0] / n, newton.unpack(total["information"][0], len(null)) / n
        loss = -float(total["value"][0]) / n
        if loss <= newton.CONSTANT * float(self.own(state, "loss_at_zero")):
            raise TaskError(f"The outcome '{self.params.outcome}' is the same in every row of the cohort.", fix="check its mapping")
        free = (np.arange(len(null)) >= int(self.params.intercept)) & ~self._constant(state)
        largest = float(np.abs(gradient[free]).max())
        if largest <= 1e-12 * math.sqrt(loss * float(np.diag(information)[free].max())):
            raise TaskError(f"No feature is related to '{self.params.outcome}' at all.", fix="there is nothing to select; check the mapping")
        grid = self.lambdas or np.geomspace(1.0, self.params.smallest, k) * largest / max(self.params.l1_ratio, 1e-300)
        none, at = np.zeros(k), np.tile(null, (k, 1))
        path = {"loss": none + loss, "test": none, "factor": none + 1.0, "kkt": none, "converged": np.zeros(k, np.int64), "best": at.copy()}
        state = self.merge(state, lambdas=np.asarray(grid, float), null_loss=loss, null_gradient=largest, **path)
        slope, b = np.zeros(k), null
        for i in range(k):
            penalty = self._penalty(state, i)
            b = minimise(information, information @ null - gradient, penalty, b)
            at[i], slope[i] = b, float(gradient @ (b - null)) + penalty.value(b) - penalty.value(null)
        return self.merge(state, at=at, slope=slope)

    def _advance(self, state: State, total: Total, n: float) -> State:
        """One round of every open lambda: accept the point that was tried and step on, or halve the step."""
        a = {name: np.array(self.own(state, name)) for name in ("at", "best", "loss", "test", "factor", "slope", "kkt", "converged")}
        for k in self._open(state):
            penalty = self._penalty(state, k)
            loss, gradient = -float(total["value"][k]) / n, -np.asarray(total["gradient"], float)[k] / n
            before = a["loss"][k] + penalty.value(a["best"][k])
            if loss + penalty.value(a["at"][k]) > before + ARMIJO * a["factor"][k] * a["slope"][k] + newton.SLACK * (1.0 + abs(before)):
                self._halve(a, k)
                continue
            at = a["at"][k].copy()
            information = newton.unpack(total["information"][min(k, self.matrices - 1)], len(at)) / n
            target = minimise(information, information @ at - gradient, penalty, at)
            step = target - at
            spread = 1.0 if self.binary else max(2.0 * loss, np.finfo(float).tiny)
            length = math.sqrt(max(0.0, n * float(step @ information @ step)) / spread)
            a["converged"][k] = int(length <= self.params.tolerance or np.all(np.abs(step) <= 1e-13 * np.abs(at)))
            a["best"][k], a["at"][k], a["loss"][k], a["factor"][k] = at, at if a["converged"][k] else target, loss, 1.0
            a["slope"][k] = float(gradient @ step) + penalty.value(target) - penalty.value(at)
            a["kkt"][k] = penalty.violation(gradient, at) / float(self.own(state, "null_gradient"))
            if self.params.choose == "test":
                a["test"][k] = -float(total["test_value"][k]) / float(total["test_rows"])
        return self.merge(state, **a)

    def _halve(self, a: dict[str, Floats], k: int) -> None:
        a["factor"][k] /= 2.0
        if a["factor"][k] < newton.MIN_FACTOR:
            raise TaskError(
                "The objective does not fall along the proximal Newton step, however short.",
                why="The columns differ too much in size, or a site's data changed between rounds.",
                fix="standardise the features in an earlier step",
            )
        a["at"][k] = (a["at"][k] + a["best"][k]) / 2.0

    def done(self, state: State) -> bool:
        return self._stage(state) == 2 and not self._open(state)

    def result(self, state: State) -> dict[str, Any]:
        if self._stage(state) < 2:
            raise TaskError(f"Step '{self.step.name}' had no round left for its first step.", fix="set rounds to 20 or more")
        n, chosen, a = float(self.own(state, "rows")), self.chosen(state), self.design.original(state)
        path = [self._row(state, k) for k in range(self.count)]
        best = self.coefficients(state)
        named = zip(self.design.names, (a @ best).tolist(), best.tolist(), strict=True)
        return {
            "family": self.params.family,
            "objective": OBJECTIVE[self.params.family],
            "l1_ratio": self.params.l1_ratio,
            "lambda": path[chosen]["lambda"],
            "chosen_by": self.params.choose if self.count > 1 else "given",
            "selected": path[chosen]["selected"],
            "coefficients": [{"name": name, "coef": b, "fitted": f, "selected": f != 0.0} for name, b, f in named],
            "intervals": None,
            "intervals_note": NO_INTERVALS,
            "scale": self._scale(),
            "path": path,
            "n": int(n),
            "left_out": int(self.own(state, "left_out")),
            "sites": int(self.own(state, "sites")),
            "outcome_sum": float(self.own(state, "outcome")),
            "iterations": self._rounds(state),
            "converged": bool(self.own(state, "converged").all()),
            "warnings": self._warnings(state, path, chosen),
        }

    def chosen(self, state: State) -> int:
        """The position on the path of the lambda that is chosen; of equals the largest."""
        if self.count == 1:
            return 0
        figure = "test_deviance" if self.params.choose == "test" else self.params.choose
        return min(range(self.count), key=lambda k: (math.inf if (v := self._row(state, k)[figure]) is None else v, k))

    def coefficients(self, state: State) -> Floats:
        """The chosen model's coefficients on the scale of `design.matrix`, for a later step; raises `TaskError` before the fit."""
        if self._stage(state) < 2:
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        chosen: Floats = np.asarray(self.own(state, "best"), float)[self.chosen(state)]
        return chosen

    def scores(self, state: State, rows: Rows) -> Floats:
        """The linear predictor of each row, shape (n,)."""
        return linear_predictor(self.design.matrix(state, rows), self.coefficients(state))

    def _row(self, state: State, k: int) -> dict[str, Any]:
        """One lambda of the path."""
        n, loss, null = (float(v) for v in (self.own(state, "rows"), self.own(state, "loss")[k], self.own(state, "null_loss")))
        first = int(self.params.intercept)
        names = [name for name, b in zip(self.design.names[first:], self.own(state, "best")[k][first:], strict=True) if b != 0.0]
        df, features = len(names), self.design.size - first
        saturated = not self.binary and (df + first >= n or loss <= 1e-12 * null)
        fit = 2.0 * n * loss if self.binary else n * math.log(max(2.0 * loss, 1e-300))
        bic = None if saturated else fit + df * math.log(n)
        choices = math.lgamma(features + 1.0) - math.lgamma(df + 1.0) - math.lgamma(features - df + 1.0)
        return {
            "lambda": float(self.own(state, "lambdas")[k]),
            "df": df,
            "selected": names,
            "objective": loss + self._penalty(state, k).value(np.asarray(self.own(state, "best")[k], float)),
            "deviance": 2.0 * n * loss,
            "deviance_explained": 1.0 - loss / null,
            "bic": bic,
            "ebic": None if bic is None else bic + 2.0 * self.params.gamma * choices,
            "test_deviance": 2.0 * float(self.own(state, "test")[k]) if self.params.choose == "test" else None,
            "optimality_gap": float(self.own(state, "kkt")[k]),
            "converged": bool(self.own(state, "converged")[k]),
        }

    def _scale(self) -> str:
        by = self.params.standardise
        numbers = f"numbers as step '{by}' scales them" if by else "numbers in their own units"
        return f"The penalty falls on 'fitted': {numbers}, yes/no and category indicators as 0 and 1, the intercept free. 'coef' is per original unit."

    def _warnings(self, state: State, path: list[dict[str, Any]], chosen: int) -> list[str]:
        found = [] if all(row["converged"] for row in path) else ["The rounds were used up before every lambda converged: raise rounds."]
        constant = [name for name, c in zip(self.design.names, self.own(state, "constant"), strict=True) if c]
        if constant:
            found.append(f"Constant in the cohort, so never selected: {', '.join(constant)}.")
        if not self.params.standardise and any(c.category is None for c in self.design.columns):
            found.append("The features are not standardised, so which are selected depends on their units.")
        if self.count > 1 and chosen == self.count - 1:
            found.append("The smallest lambda of the path was chosen: the best one may be smaller still.")
        if self.count > 1 and self.params.choose != "test" and path[chosen]["df"] > float(self.own(state, "rows")) / 3.0:
            found.append("The chosen model has nearly as many coefficients as rows, where BIC and EBIC mislead: choose = 'test', or a larger smallest.")
        if not path[chosen]["selected"]:
            found.append("No variable was selected.")
        return found

    def _outcome(self, rows: Rows) -> Floats:
        y = rows.columns[self.params.outcome]
        problem = self.outcome_error(y)
        if problem:
            raise TaskError(f"The outcome '{self.params.outcome}' {problem}.", fix="correct the mapping, or choose another family for this outcome")
        return y

    def _penalty(self, state: State, k: int) -> Penalty:
        each, ratio = self.design.ridge(float(self.own(state, "lambdas")[k])), self.params.l1_ratio
        return Penalty(ratio * each, (1.0 - ratio) * each, self._constant(state))

    def _constant(self, state: State) -> NDArray[np.bool_]:
        return np.asarray(self.own(state, "constant"), bool)

    def _stage(self, state: State) -> int:
        return int(state.get(self.key("stage"), np.asarray(0)))

    def _rounds(self, state: State) -> int:
        return int(state.get(self.key("rounds"), np.asarray(0)))

    def _open(self, state: State) -> dict[int, Floats]:
        """The points that the sites evaluate next, by position on the path."""
        stage = self._stage(state)
        if stage < 2:
            return {0: np.asarray(self.own(state, "null"), float) if stage else np.zeros(self.design.size)}
        at = np.asarray(self.own(state, "at"), float)
        return {k: at[k] for k, converged in enumerate(self.own(state, "converged")) if not converged}
