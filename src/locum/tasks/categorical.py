"""A model of a category outcome by exact Newton steps: what the multinomial and the ordinal one share.

The first round only counts the categories. So a category that nobody is in is named before anything is fitted, and Newton
starts at the maximum of the model without features, which these counts give. Then each round sums the log-likelihood, its
gradient and its information at one point; see `newton`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.document import nearest
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Array, Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State
from locum.tasks.design import Design, Features, usable
from locum.tasks.newton import Problem, Progress, Quadratic
from locum.tasks.tails import Z95, chi_square_upper, normal_two_sided

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_PARAMETERS = 2000
"""Their information has two million numbers."""
FEW = 10
"""Fewer rows than this per coefficient in the rarest category, and intervals may be too narrow (Peduzzi et al. 1996, for two categories)."""


class CategoricalParams(Features):
    """outcome: a category variable. merge: lists of its categories that count as one, called 'a+b'."""

    outcome: VariableName
    merge: tuple[tuple[str, ...], ...] = ()


class Categorical(BaseTask[Any]):
    """A model of a category outcome: counts first, then Newton rounds. Subclasses give the likelihood and its parameters, flat, shape (size,)."""

    separated: ClassVar[str]
    ordered: ClassVar[bool]

    def __init__(self, step: Step, params: CategoricalParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, params, intercept=True, centred=True)
        self.require(params.outcome)
        if params.outcome in params.features:
            raise ManifestError(f"Step '{step.name}': '{params.outcome}' is both a feature and the outcome.", fix="drop it from features")
        variable = study.data.variables[params.outcome]
        if variable.type != "category":
            fix = "use task 'logistic'" if variable.type == "boolean" else "name an outcome of type 'category', or use task 'linear' or 'poisson'"
            raise ManifestError(f"Step '{step.name}': the outcome '{params.outcome}' is of type '{variable.type}', not a category.", fix=fix)
        self.levels, self._level = merged(step.name, variable.categories, params.merge, ordered=self.ordered)
        if len(self.levels) < 3:
            raise ManifestError(f"Step '{step.name}': '{params.outcome}' has {len(self.levels)} categories, not three or more.", fix="use task 'logistic'")
        if self.size > MOST_PARAMETERS:
            raise ManifestError(f"Step '{step.name}' has {self.size} coefficients; at most {MOST_PARAMETERS}.", fix="use fewer features, or merge categories")

    # --- what a subclass gives ---
    @property
    def size(self) -> int:
        """Number of parameters."""
        raise NotImplementedError

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, for messages; '(intercept)' for each that belongs to no feature."""
        raise NotImplementedError

    @property
    def penalty(self) -> Floats:
        """The ridge per parameter, shape (size,)."""
        raise NotImplementedError

    def start(self, counts: Floats) -> Floats:
        """The maximum of the model without features, from the count of each level."""
        raise NotImplementedError

    def quadratic(self, x: Floats, y: Ints, at: Floats) -> Quadratic:
        """The likelihood of rows x (n, p) with levels y (n,)."""
        raise NotImplementedError

    def by_column(self, information: Floats) -> Floats:
        """The part of the information (p, p) that is singular at the start only where x'x is."""
        raise NotImplementedError

    def within_reach(self, progress: Progress) -> Progress:
        """`progress` with its step shortened until the point is one of the model."""
        return progress

    def on_original_scale(self, state: State) -> Floats:
        """The matrix (size, size) that takes parameters as fitted to the features' own units."""
        raise NotImplementedError

    def answer(self, state: State, estimate: Floats, variance: Floats) -> dict[str, Any]:
        """The subclass's part of the result."""
        raise NotImplementedError

    # --- what they share ---
    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.outcome)

    def leaves(self) -> str:
        m = self.size
        return (
            f"How many of the site's rows are in each of the {len(self.levels)} categories and how many lack a value, and a sum of squares per column; "
            f"then, each round, the sums of the log-likelihood, its gradient ({m} numbers) and its information ({m * (m + 1) // 2} numbers)."
        )

    def layout(self, state: State) -> Layout:
        return Layout.of(counts=(len(self.levels),), left_out=(), squares=(self.design.size,), **self.shapes(state))

    def shapes(self, state: State) -> dict[str, tuple[int, ...]]:
        """What leaves in this round beside the counts."""
        m = self.size
        return {"objective": (), "gradient": (m,), "information": (m * (m + 1) // 2,)} if self.started(state) else {}

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(used.left_out))
        if len(used.rows):
            x, y = self.design.matrix(state, used.rows), self._outcome(used.rows)
            vector |= {"counts": np.bincount(y, minlength=len(self.levels)).astype(np.float64), "squares": (x**2).sum(axis=0)}
            if self.started(state):
                vector |= self.sums(state, x, y)
        return Contribution(vector, used.rows.patients, self.leaves())

    def sums(self, state: State, x: Floats, y: Ints) -> dict[str, Array]:
        """The tensors of `shapes`."""
        here = self.quadratic(x, y, self.progress(state).at)
        return {"objective": np.asarray(here.value), "gradient": here.gradient, "information": newton.pack(here.information)}

    def combine(self, state: State, total: Total) -> State:
        counts = np.asarray(total["counts"], float)
        self._check(counts)
        state = self.merge(state, counts=counts, left_out=total["left_out"], sites=total.sites)
        if not self.started(state):
            return self.merge(state, **Progress.start(self.start(counts), rounds=1).arrays())
        return self.update(state, total)

    def update(self, state: State, total: Total) -> State:
        """One Newton round."""
        progress, squares = self.progress(state), np.asarray(total["squares"], float)
        sums = Quadratic(float(total["objective"]), np.asarray(total["gradient"], float), newton.unpack(total["information"], self.size))
        here = sums.penalised(progress.at, self.penalty)
        if not progress.evaluated:
            newton.diagnose(self.by_column(here.information), Problem(self.design.names, squares, self.params.tolerance, self.separated))
        problem = Problem(self.names, np.zeros(self.size), self.params.tolerance, self.separated)
        return self.merge(state, **self.within_reach(newton.advance(progress, here, problem)).arrays())

    def done(self, state: State) -> bool:
        return self.started(state) and bool(self.progress(state).converged)

    def result(self, state: State) -> dict[str, Any]:
        if not self.started(state) or not self.progress(state).evaluated:
            raise TaskError(f"Step '{self.step.name}' had no round left for its first Newton step.", fix="set rounds to 20 or more")
        progress, a, counts = self.progress(state), self.on_original_scale(state), np.asarray(self.own(state, "counts"), float)
        value, n = progress.value + float(self.penalty @ progress.best**2) / 2.0, counts.sum()
        null, df = float(counts @ np.log(counts / n)), self.size - (len(self.levels) - 1)
        statistic = max(0.0, 2.0 * (value - null))
        found = {
            **self.answer(state, a @ progress.best, a @ newton.covariance(progress.information) @ a.T),
            "n": int(n),
            "sites": int(self.own(state, "sites")),
            "counts": {name: int(c) for name, c in zip(self.levels, counts, strict=True)},
            "left_out": int(self.own(state, "left_out")),
            "log_likelihood": value,
            "log_likelihood_null": null,
            "iterations": progress.rounds,
            "converged": bool(progress.converged),
        }
        if not self.params.ridge:
            found["likelihood_ratio"] = {"chi_square": statistic, "df": df, "p": chi_square_upper(statistic, df)}
        return {**found, "warnings": self.warnings(counts, found)}

    def warnings(self, counts: Floats, found: dict[str, Any]) -> list[str]:
        """What a reader of the result should know, in plain sentences."""
        rare, p, out = int(counts.argmin()), self.design.size - 1, []
        if not found["converged"]:
            out.append("The rounds ended before the fit converged: the figures are those of the last step.")
        if self.params.ridge:
            out.append("A ridge penalty draws coefficients to zero; intervals are of the penalised likelihood, and there is no likelihood-ratio test.")
        elif counts[rare] < FEW * p:
            out.append(f"Only {int(counts[rare])} rows have '{self.levels[rare]}', fewer than {FEW} for each of {p} coefficients: intervals may be too narrow.")
        return out

    def progress(self, state: State) -> Progress:
        return Progress.of(lambda name: self.own(state, name))

    def started(self, state: State) -> bool:
        """Whether the categories have been counted."""
        return self.key("at") in state

    @property
    def categories(self) -> tuple[str, ...]:
        """What is predicted: the columns of `probabilities`."""
        return self.levels

    def probabilities(self, state: State, rows: Rows) -> Floats:
        """P(Y = k | x) of each row and level, shape (n, K)."""
        raise NotImplementedError

    def observed(self, rows: Rows) -> Ints:
        """The level of each row, shape (n,). Raises `TaskError` for a value that is no category."""
        return self._outcome(rows)

    def fitted(self, state: State) -> Floats:
        """The parameters as fitted, shape (size,), for a later step; raises `TaskError` before the fit."""
        if not self.started(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        return np.asarray(self.own(state, "best"), float)

    def _outcome(self, rows: Rows) -> Ints:
        y = rows.columns[self.params.outcome]
        if not np.isin(y, np.arange(len(self._level))).all():
            raise TaskError(f"The outcome '{self.params.outcome}' has values that are none of its categories.", fix="correct the mapping")
        return self._level[y.astype(np.int64)]

    def _check(self, counts: Floats) -> None:
        n, name = counts.sum(), self.params.outcome
        if not n:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        empty = [level for level, c in zip(self.levels, counts, strict=True) if not c]
        if empty:
            other = "a neighbour" if self.ordered else "another"
            raise TaskError(
                f"No usable row of the cohort has {name} = {', '.join(repr(e) for e in empty)}.",
                why="What nobody has cannot be modelled.",
                fix=f"merge it with {other} by merge = [['{self.levels[0]}', ...]], or drop it from the data contract",
            )
        if n <= self.size and not self.params.ridge:
            fix = "use fewer features, merge categories, or set ridge"
            raise TaskError(f"Step '{self.step.name}' has {self.size} coefficients and only {int(n)} rows.", fix=fix)


def merged(step: str, categories: Sequence[str], groups: Sequence[Sequence[str]], *, ordered: bool) -> tuple[tuple[str, ...], Ints]:
    """The outcome's levels, and the level of each category (len(categories),). A merged level stands where its first category does."""
    taken: dict[str, int] = {}
    for g, group in enumerate(groups):
        for name in group:
            if name not in categories:
                raise ManifestError(f"Step '{step}': merge names '{name}', which is no category of the outcome.", fix=nearest(name, [*categories]))
            if name in taken:
                raise ManifestError(f"Step '{step}': merge names '{name}' twice.", fix="name it once")
            taken[name] = g
        at = sorted(categories.index(name) for name in group)
        if len(at) < 2 or (ordered and at[-1] - at[0] != len(at) - 1):
            what = "are not neighbours in the contract's order" if len(at) > 1 else "is fewer than two categories"
            raise ManifestError(f"Step '{step}': merge = {list(group)} {what}.", fix="list two or more categories that stand side by side")
    keys = [("group", taken[c]) if c in taken else ("single", i) for i, c in enumerate(categories)]
    order = list(dict.fromkeys(keys))
    names = tuple("+".join(c for c, key in zip(categories, keys, strict=True) if key == level) for level in order)
    return names, np.asarray([order.index(key) for key in keys], dtype=np.int64)


def ratio(b: float, se: float, called: str) -> dict[str, Any]:
    """A coefficient with its 95 % interval, and e to the power of both; None where that is no finite number."""
    low, high = b - Z95 * se, b + Z95 * se
    powers = [math.exp(v) if v < 700.0 else None for v in (b, low, high)]
    return {"coef": b, "se": se, "z": b / se, "p": normal_two_sided(b / se), "ci95": [low, high], called: powers[0], f"{called}_ci95": powers[1:]}


def wald(estimate: Floats, variance: Floats) -> dict[str, Any]:
    """The Wald test that all of `estimate` (k,) is zero."""
    statistic = float(estimate @ newton.solve(variance, estimate))
    return {"chi_square": statistic, "df": len(estimate), "p": chi_square_upper(statistic, len(estimate))}
