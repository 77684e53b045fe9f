"""ComBat: remove what is due to the site (scanner, laboratory, coding habits) from numbers, and keep what is due to covariates.

    y_ijg = alpha_g + x_ij beta_g + gamma_ig + delta_ig eps_ijg        site i, patient j, variable g, eps of variance sigma_g^2

Round 1 sums, within each site about its own means, X'X and X'Y: beta is that of the pooled model with an intercept for each site
(Frisch and Waugh), and alpha the mean of y - x beta over all rows. Round 2 sums the squared residuals within sites: sigma^2. From
these, each site finds its own shift gamma and scale delta by empirical Bayes over its variables, in `combat_site`; they are computed
anew from state and rows wherever they are needed, and never leave.

Sources: Johnson, Li and Rabinovic (2007), Biostatistics 8:118 (the model, empirical Bayes); Fortin et al. (2018), NeuroImage
167:104 (alpha, sigma^2 with divisor n); Chen et al. (2022), NeuroImage 248:118822 (distributed form).
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, Variable, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import Memory, Params, State, Transform, register
from locum.tasks.combat_site import Effects, effects
from locum.tasks.design import columns_of, usable
from locum.tasks.prepare import columns, with_columns

Floats = NDArray[np.float64]


class CombatParams(Params):
    """variables: the numbers that are harmonised. covariates: what may differ between sites for good reasons, and is kept. min_rows: the
    complete rows that a site needs; with fewer it declines the study's steps from here on. part: of which patients the effects are
    learned; all are harmonised."""

    variables: Annotated[tuple[VariableName, ...], Field(min_length=2, max_length=512)]
    covariates: Annotated[tuple[VariableName, ...], Field(max_length=64)] = ()
    min_rows: Annotated[int, Field(ge=2)] = 5
    part: Part = "all"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        both = [*self.variables, *self.covariates]
        twice = sorted({n for n in both if both.count(n) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' is listed twice: a variable is harmonised or a covariate, once")
        return self


@register
class Combat(Transform[CombatParams]):
    """Two rounds. Not row-wise: a patient's harmonised values depend on the site's other patients through gamma and delta."""

    kind = "combat"
    Config = CombatParams
    row_wise = False

    def __init__(self, step: Step, params: CombatParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*self.reads())
        self.contract = study.data.variables
        for name in params.variables:
            if self.contract[name].type not in ("number", "integer"):
                raise ManifestError(f"Step '{step.name}': '{name}' is no number, so it has no site effect to remove.", fix="list numbers only")
        self.columns = [c for name in params.covariates for c in columns_of(name, self.contract[name])]

    def reads(self) -> tuple[str, ...]:
        return (*self.params.variables, *self.params.covariates)

    def leaves(self) -> str:
        g, q = len(self.params.variables), len(self.columns)
        return (
            f"Sums of {g} variables and {q} covariates and of their products within the site, {self.layout({}).size} numbers; then {g} sums of squared "
            "residuals. The site's own shift and scale stay."
        )

    def layout(self, state: State) -> Layout:
        g, q = len(self.params.variables), len(self.columns)
        if self.key("alpha") in state:
            return Layout.of(rows=(), residuals=(g,))
        return Layout.of(rows=(), sum_y=(g,), sum_x=(q,), products=(q * (q + 1) // 2,), moments=(q, g), squares=(q,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = self._used(rows)
        x, y = self._covariates(used), used.matrix(self.params.variables)
        inner_x, inner_y = x - x.mean(axis=0), y - y.mean(axis=0)
        count = np.asarray(float(len(used)))
        if self.key("alpha") in state:
            residuals = inner_y - inner_x @ self._beta(state)
            return Contribution({"rows": count, "residuals": (residuals**2).sum(axis=0)}, used.patients, self.leaves())
        vector = {
            "rows": count,
            "sum_y": y.sum(axis=0),
            "sum_x": x.sum(axis=0),
            "products": newton.pack(inner_x.T @ inner_x),
            "moments": inner_x.T @ inner_y,
            "squares": (x**2).sum(axis=0),
        }
        return Contribution(vector, used.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        n = float(total["rows"])
        if self.key("alpha") in state:
            variance = np.asarray(total["residuals"], float) / n
            flat = [name for name, v in zip(self.params.variables, variance, strict=True) if v <= 0.0]
            if flat:
                raise TaskError(f"'{flat[0]}' does not vary within any site, so it has no scale.", fix=f"drop '{flat[0]}' from step '{self.step.name}'")
            return self.merge(state, variance=variance)
        q = len(self.columns)
        beta = np.zeros((q, len(self.params.variables)))
        if q:
            products = newton.unpack(total["products"], q)
            problem = newton.Problem([c.name for c in self.columns], np.asarray(total["squares"], float), 0.0, "", "within every site")
            try:
                newton.diagnose(products, problem)
            except TaskError as error:
                raise TaskError(error.what, why=error.why, fix=f"drop it from the covariates of step '{self.step.name}'") from None
            beta = newton.solve(products, np.asarray(total["moments"], float))
        return self.merge(state, alpha=(np.asarray(total["sum_y"]) - np.asarray(total["sum_x"]) @ beta) / n, beta=beta, rows=n, sites=total.sites)

    def done(self, state: State) -> bool:
        return self.key("variance") in state

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            raise TaskError(f"Step '{self.step.name}' had one round; it needs two.", fix="give it rounds = 2 or more")
        names = [c.name for c in self.columns]
        found = zip(self.params.variables, self.own(state, "alpha").tolist(), self.own(state, "variance").tolist(), self._beta(state).T.tolist(), strict=True)
        return {
            "n": int(self.own(state, "rows")),
            "sites": int(self.own(state, "sites")),
            "variables": {g: {"intercept": alpha, "sd": variance**0.5, "kept": dict(zip(names, beta, strict=True))} for g, alpha, variance, beta in found},
        }

    def derived(self) -> dict[str, Variable]:
        """Harmonised values may lie outside the range that holds for measured ones."""
        free = {"type": "number", "minimum": None, "maximum": None, "plausible": None}
        return {name: self.contract[name].model_copy(update=free) for name in self.params.variables}

    def apply(self, state: State, rows: Rows) -> Rows:
        """A value is harmonised where all covariates are known; else it becomes missing, for values of two kinds must not mix."""
        if not self.done(state):
            raise TaskError(f"Step '{self.step.name}' has not run, so there is nothing to harmonise by.", fix="keep the plan's order, and give it two rounds")
        columns(self, rows)
        mine = self.site_effects(state, rows)
        sd = np.sqrt(self.own(state, "variance"))
        kept, y = self._kept(state, rows), rows.matrix(self.params.variables)
        harmonised = ((y - kept) / sd - mine.shift) / np.sqrt(mine.scale) * sd + kept
        return with_columns(rows, dict(zip(self.params.variables, harmonised.T, strict=True)))

    def site_effects(self, state: State, rows: Rows) -> Effects:
        """This site's own shift and scale of each variable, in pooled standard deviations. They stay here."""
        used = self._used(rows)
        return effects((used.matrix(self.params.variables) - self._kept(state, used)) / np.sqrt(self.own(state, "variance")))

    def _kept(self, state: State, rows: Rows) -> Floats:
        """What the model keeps of each value, alpha + x beta, shape (n, g)."""
        return np.asarray(self.own(state, "alpha") + self._covariates(rows) @ self._beta(state))

    def _beta(self, state: State) -> Floats:
        return np.asarray(self.own(state, "beta"), float)

    def _covariates(self, rows: Rows) -> Floats:
        """Shape (n, q); a row with a missing covariate is NaN in all its columns."""
        out = np.empty((len(rows), len(self.columns)))
        for j, column in enumerate(self.columns):
            x = rows.columns[column.variable]
            out[:, j] = x if column.category is None else np.where(np.isnan(x), np.nan, x == column.category)
        return out

    def _used(self, rows: Rows) -> Rows:
        used = usable(self, rows, self.params.part).rows
        if len(used) < self.params.min_rows:
            raise TaskError(
                f"Step '{self.step.name}' needs {self.params.min_rows} complete rows of a site to tell its effects from chance.",
                why="Fewer say next to nothing about a shift and a scale.",
                fix="leave this study, or ask for a lower min_rows",
            )
        return used
