"""The effect of a binary treatment A on an outcome y, adjusted for confounders x by the propensity score e(x) = P(A = 1 | x).

An earlier logistic step gives e. With w_1 = h / e and w_0 = h / (1 - e), where h = 1 (ATE: all patients), e (ATT: the treated) or e (1 - e) (ATO: the
overlap), the mean outcome under arm a is (Li, Morgan and Zaslavsky, 2018, JASA 113:390, section 2 and table 1; normalised as Hajek's)
    IPW    mu_a = sum w_a 1[A = a] y / sum w_a 1[A = a].
With an outcome model m_a(x) as well (Robins, Rotnitzky and Zhao, 1994, JASA 89:846), consistent if either model is right,
    AIPW   mu_a = mean of m_a + w_a 1[A = a] (y - m_a), for the ATE.
Standard errors: all models and means solve sum psi = 0 together (Lunceford and Davidian, 2004, Statistics in Medicine 23:2937). With the models'
scores s and information I, the means' equations u, D = sum du / d(models' coefficients) and N = -sum du / dmu, the means have the variance
M (sum psi psi') M' with psi = (s, u) and M = [D I^-1, 1] / N. A patient's rows are added up before they are squared. Each model's sum runs over
its own complete cases. Taken as given are which patients are trimmed (Crump et al., 2009, Biometrika 96:187), and the scale on which a ridge acts.
Balance: (mean_1 - mean_0) / sqrt((s_1^2 + s_0^2) / 2), s without weights. Effective size of an arm: (sum w)^2 / sum w^2.

Small cells of the propensity histogram are not shown, nor how many were trimmed where that would give one away (`locum.privacy.disclosure`). As
everywhere in exact studies, means and standard errors have no such rule.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import HIDDEN, THRESHOLD, shown, suppress
from locum.study.manifest import Name, Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton, treatment_report
from locum.tasks.arm_models import ARMS, ArmModels
from locum.tasks.balancing import Estimand, Outcome, Sample, balancing, complete
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import earlier, linear_predictor, usable
from locum.tasks.glm import GLM, Logistic, expit
from locum.tasks.prepare import with_columns

Floats = NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
EXTREME = 1e-8
"""A propensity this close to 0 or 1 gives no weight that means anything."""
CONSTANT = 1e-26
"""Squared deviations below this share of the squared size are rounding error."""


class TreatmentEffectParams(Params):
    """treatment, outcome: a 0/1 variable, and a 0/1 variable or a number. propensity: the earlier logistic step that predicts the treatment.

    estimand: in whom the effect is averaged. outcome_model: for aipw, an earlier linear or logistic step that predicts the outcome with the treatment
    among its features; or, with per_arm, without it: then its columns and ridge are used here to fit one model in each arm. trim: leave out
    patients whose propensity is outside these limits. bins, threshold: of the propensity histogram, and how many patients a cell needs to be shown;
    bins = 0 shows neither it nor how many are trimmed, for a second analysis whose counts could be subtracted from the first one's.
    """

    treatment: VariableName
    outcome: VariableName
    propensity: Name
    method: Literal["ipw", "aipw"] = "ipw"
    estimand: Estimand = "ate"
    outcome_model: Name | None = None
    per_arm: bool = False
    trim: tuple[Share, Share] | None = None
    bins: Annotated[int, Field(ge=0, le=1000)] = 20
    threshold: Annotated[int, Field(ge=0, le=1_000_000)] = THRESHOLD
    part: Part = "all"


@register
class TreatmentEffect(BaseTask[TreatmentEffectParams]):
    """Rounds: Newton steps of the arms' outcome models, with per_arm; one for the means; one for their variance."""

    kind = "treatment_effect"
    Config = TreatmentEffectParams

    def __init__(self, step: Step, params: TreatmentEffectParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(params.treatment, params.outcome)
        self.model: Logistic = earlier(self, params.propensity, "propensity", "logistic")
        self.outcome: GLM | None = earlier(self, params.outcome_model, "outcome_model", "linear", "logistic") if params.outcome_model else None
        self.arms = ArmModels(self.outcome, self.key("")) if self.outcome and params.per_arm else None
        self.binary = study.data.variables[params.outcome].type in ("boolean", "category")
        self._check()
        self._check_counts()
        self.p = self.model.design.size
        self.q = self.p + (self.outcome.design.size * (2 if self.arms else 1) if self.outcome else 0)

    def _check(self) -> None:
        p, name = self.params, f"Step '{self.step.name}'"
        contract = self.study.data.variables[p.outcome]
        if contract.type == "category" and len(contract.categories) != 2:
            raise ManifestError(f"{name}: the outcome '{p.outcome}' is a category, not a number.", fix="name a numeric or boolean outcome")
        if p.outcome in (p.treatment, *self.model.params.features):
            raise ManifestError(f"{name}: the outcome '{p.outcome}' is also the treatment or a confounder.", fix=f"drop it from step '{p.propensity}'")
        if p.trim and not p.trim[0] < p.trim[1]:
            raise ManifestError(f"{name}: trim has to be two increasing limits.", fix="for example trim = [0.05, 0.95]")
        if (p.method == "aipw") != bool(p.outcome_model) or (p.per_arm and not p.outcome_model):
            raise ManifestError(f"{name}: method 'aipw' needs an outcome_model, and no other method uses one or per_arm.", fix="give both, or neither")
        if p.method == "aipw" and p.estimand != "ate":
            raise ManifestError(f"{name}: 'aipw' estimates the effect in all patients.", fix="set estimand = 'ate', or method = 'ipw'")
        self._check_model(self.model, p.treatment)
        if self.outcome:
            self._check_model(self.outcome, p.outcome)
            if (p.treatment in self.outcome.params.features) == p.per_arm:
                what = "has the treatment among its features, which is constant in each arm" if p.per_arm else "does not have the treatment among its features"
                raise ManifestError(f"{name}: the outcome model '{p.outcome_model}' {what}.", fix=f"set per_arm = {str(not p.per_arm).lower()}, or change it")

    def _check_counts(self) -> None:
        """Raise `ManifestError` where the propensities of an earlier step are counted in other cells, or on other complete cases."""
        for step in takewhile(lambda s: s.name != self.step.name, self.study.plan):
            if step.task != self.kind or step.params.get("propensity") != self.params.propensity:
                continue
            other = TreatmentEffectParams.parse(step.params)
            if (self.params.threshold or other.threshold) and self.params.bins and other.bins and self._counted(self.params) != self._counted(other):
                raise ManifestError(
                    f"The steps '{step.name}' and '{self.step.name}' count the propensities of '{other.propensity}' in different cells or patients.",
                    why="One answer minus the other could give away a suppressed cell.",
                    fix=f"set bins = 0 in '{self.step.name}', which then shows no such counts; its effect stays the same",
                )

    def _counted(self, params: TreatmentEffectParams) -> tuple[Any, ...]:
        """In which cells, and on whose complete cases, a step counts."""
        features = {s.name: s.params.get("features", ()) for s in self.study.plan}
        return params.bins, params.trim, {*self.model.reads(), params.outcome, *features.get(params.outcome_model or "", ())}

    def _check_model(self, model: GLM, variable: str) -> None:
        name, step = f"Step '{self.step.name}'", model.step.name
        if model.params.outcome != variable:
            raise ManifestError(f"{name}: the step '{step}' predicts '{model.params.outcome}', not '{variable}'.", fix=f"set outcome = '{variable}' there")
        if model.params.site_intercepts:
            why = "An intercept per site never leaves it, and a site whose patients are all in one arm has none."
            raise ManifestError(f"{name}: the model '{step}' has an intercept per site.", why=why, fix="set site_intercepts = false there")
        if model.params.part != self.params.part:
            raise ManifestError(
                f"{name} is about part '{self.params.part}', but the model '{step}' is fitted on part '{model.params.part}'.",
                why="The standard error accounts for the model as it was estimated on the same patients.",
                fix="set the same part in both",
            )
        if [t.step.name for t in model.transforms] != [t.step.name for t in self.transforms]:
            raise ManifestError(f"{name}: the rows are changed after the model '{step}' was fitted on them.", fix=f"put the step that does so before '{step}'")

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.model.reads(), self.params.outcome, *(self.outcome.reads() if self.outcome else ()))))

    def leaves(self) -> str:
        first = f"each round, the log-likelihood, gradient and information of an outcome model ({self.arms.k} coefficients); " if self.arms else ""
        return (
            f"Of each arm: {first}once, how many rows and patients have a propensity in each of {self.params.bins} bins or are trimmed, and sums of weights, "
            f"outcomes and {self.p} columns; and once, those columns' sums of squares and the sums of products of {self.q + 4} estimating functions."
        )

    def layout(self, state: State) -> Layout:
        if self.arms and not self.arms.done(state):
            return self.arms.layout()
        p, size, pair = self.p, self.q + 4, (2,)
        if self.key("mean") in state:
            return Layout.of(size=pair, count=pair, products=(size * (size + 1) // 2,), slope=(2, self.q), x_squares=(2, p))
        cells = (2, self.params.bins + 1)
        counts: dict[str, tuple[int, ...]] = {"rows": (), "left_out": (), "extreme": (), "cells": cells, "patients": cells, "count": pair, "outcome": pair}
        return Layout.of(**counts, size=pair, value=pair, weights=pair, weight_squares=pair, x=(2, p), weighted_x=(2, p))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        usable(self, rows, self.params.part)  # a missing column or an infinite value is said here
        rows = usable(self, rows, self.params.part, ()).rows
        vector, behind = self.layout(state).zeros(), 0
        if len(rows):
            s = self._sample(state, rows)
            behind = rows.take(np.asarray(np.column_stack([s.arm, s.score, s.modelled]).any(axis=1))).patients
            if self.arms and not self.arms.done(state):
                vector |= self.arms.sums(state, [(s.z[i][s.modelled[:, i]], s.y[s.modelled[:, i]]) for i in (0, 1)])
            else:
                vector |= self._second(state, s) if self.key("mean") in state else self._first(state, s)
        return Contribution({n: np.asarray(v, dtype=np.float64) for n, v in vector.items()}, behind, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if self.arms and not self.arms.done(state):
            return {**state, **self.arms.combine(state, total)}
        t = {f.name: np.asarray(total[f.name], float) for f in self.layout(state).fields}
        return self._variance(state, t) if self.key("mean") in state else self._means(state, t, total.sites)

    def done(self, state: State) -> bool:
        return self.key("covariance") in state

    def result(self, state: State) -> dict[str, Any]:
        if not self.done(state):
            raise TaskError(f"Step '{self.step.name}' had no round left for its standard errors.", fix="set rounds to 20 or more")
        p, of = self.params, {n: np.asarray(self.own(state, n), float) for n in ("mean", "crude", "covariance", "cells", "arm_rows", "ess")}
        n, ess, covariance = shown(of["arm_rows"]), [None if e == HIDDEN else float(e) for e in of["ess"]], of["covariance"]
        trimmed = shown(of["cells"][:, -1])
        analysed = [None if a is None or t is None else a - t for a, t in zip(n, trimmed, strict=True)]
        arms = {
            arm: {
                "n": n[i],
                "trimmed": trimmed[i],
                "analysed": analysed[i],
                "effective_sample_size": ess[i],
                **treatment_report.mean(float(of["mean"][i]), float(covariance[i, i]) ** 0.5),
            }
            for i, arm in enumerate(ARMS)
        }
        histogram = {"edges": np.linspace(0.0, 1.0, p.bins + 1).tolist() if p.bins else [], **{arm: shown(of["cells"][i, :-1]) for i, arm in enumerate(ARMS)}}
        means = (np.asarray(self.own(state, name), float) for name in ("x_mean", "weighted_x_mean", "x_sd"))
        balance = treatment_report.balance(self.model.design.names, *means)
        crude = {arm: treatment_report.mean(float(of["crude"][i]), float(covariance[i + 2, i + 2]) ** 0.5) for i, arm in enumerate(ARMS)}
        return {
            "method": p.method, "estimand": p.estimand, "treatment": p.treatment, "outcome": p.outcome,
            "effect": treatment_report.contrasts(of["mean"], covariance[:2, :2], self.binary),
            "arms": arms,
            "crude": crude | treatment_report.contrasts(of["crude"], covariance[2:, 2:], self.binary),
            "n": int(self.own(state, "rows")), "left_out": int(self.own(state, "left_out")), "sites": int(self.own(state, "sites")),
            "trim": list(p.trim) if p.trim else None,
            "balance": balance,
            "propensities": histogram | {"threshold": p.threshold},
            "warnings": treatment_report.warnings(arms, balance, histogram, self.binary),
        }  # fmt: skip

    def _sample(self, state: State, rows: Rows) -> Sample:
        """Who takes part in what, and with which numbers."""
        p, model = self.params, self.model
        b = model.coefficients(state)
        if not int(model.own(state, "converged")):
            raise TaskError(f"The propensity model '{p.propensity}' has not converged, so there are no weights.", fix="give that step more rounds")
        fitted, used = complete(rows, model.reads()), complete(rows, self.reads())
        a, y = (np.nan_to_num(rows.columns[name]) for name in (p.treatment, p.outcome))
        for name, values in ((p.treatment, a), (p.outcome, y)):
            if (name == p.treatment or self.binary) and not np.isin(values, (0.0, 1.0)).all():
                raise TaskError(f"'{name}' has values other than 0 and 1.", fix="correct the mapping")
        x = np.where(fitted[:, None], model.design.matrix(state, rows), 0.0)
        eta = linear_predictor(x, b)
        e, f = expit(eta), expit(-eta)
        low, high = p.trim or (0.0, 1.0)
        arm, inside = np.column_stack([a == 0.0, a == 1.0]), used & (e >= low) & (e <= high)
        extreme, z, modelled = inside & (np.minimum(e, f) < EXTREME), np.zeros((2, len(rows), 0)), np.zeros(len(rows), dtype=bool)
        if self.outcome:
            modelled = complete(rows, (*self.outcome.reads(), p.treatment))
            under = [with_columns(rows, {p.treatment: np.full(len(rows), float(i))}) for i in (0, 1)]
            z = np.array([np.where(modelled[:, None], self.outcome.design.matrix(state, r), 0.0) for r in under])
        score, kept = x * np.where(fitted, a - e, 0.0)[:, None], arm & (inside & ~extreme)[:, None]
        return Sample(rows, x, score, e, f, y, arm & used[:, None], kept, extreme, z, arm & modelled[:, None])

    def _at(self, state: State) -> list[tuple[GLM, Floats, Floats]]:
        """Each model with its coefficients and its information, in the order of the estimating functions."""
        found: list[tuple[GLM, Floats, Floats]] = []
        for model in (self.model, self.outcome):
            if model is self.outcome and self.arms and model:
                found += [(model, at.best, at.information) for at in (self.arms.progress(state, i) for i in (0, 1))]
            elif model:
                if not int(model.own(state, "converged")):
                    raise TaskError(f"The model '{model.step.name}' has not converged.", fix="give that step more rounds")
                found.append((model, model.coefficients(state), np.asarray(model.own(state, "information"), float)))
        return found

    def _predicted(self, state: State, s: Sample) -> Outcome | None:
        """The outcome model at its coefficients: the same for both arms, or one in each."""
        if not self.outcome:
            return None
        n, k, q = len(s.y), self.outcome.design.size, self.q - self.p
        mean, gradient, score = np.zeros((n, 2)), np.zeros((2, n, q)), np.zeros((n, q))
        for i in (0, 1):
            place = slice(i * k, i * k + k) if self.arms else slice(0, k)
            b = self._at(state)[1 + i if self.arms else 1][1]
            _, residual, slope = self.outcome.likelihood(np.zeros(n), linear_predictor(s.z[i], b))
            mean[:, i], gradient[i][:, place] = -residual, s.z[i] * slope[:, None]
            score[:, place] += s.z[i] * np.where(s.modelled[:, i], s.y + residual, 0.0)[:, None]
        return Outcome(mean, gradient, score)

    def _first(self, state: State, s: Sample) -> dict[str, Any]:
        """The sums for the means."""
        bins, o, w, y = self.params.bins, self._predicted(state, s), balancing(self.params.estimand, s)[0], s.y[:, None]
        used, inside = s.arm.any(axis=1), s.inside[:, None]
        where = np.where((inside[:, 0] | s.extreme) & (bins > 0), np.minimum((s.e * bins).astype(np.int64), bins - 1), bins)
        cells, patients = np.zeros((2, bins + 1)), np.zeros((2, bins + 1))
        for i in (0, 1):
            member = s.arm[:, i]
            pairs = np.unique(np.column_stack([s.rows.codes, where])[member], axis=0)
            cells[i], patients[i] = (np.bincount(of, minlength=bins + 1) for of in (where[member], pairs[:, 1]))
        size, value = (w, w * y) if o is None else (inside * np.ones(2), inside * o.mean + w * (y - o.mean))
        return {
            "rows": used.sum(), "left_out": (~used).sum(), "extreme": s.extreme.sum(), "cells": cells, "patients": patients,
            "count": s.arm.sum(axis=0), "outcome": (s.arm * y).sum(axis=0), "size": size.sum(axis=0), "value": value.sum(axis=0),
            "weights": w.sum(axis=0), "weight_squares": (w**2).sum(axis=0), "x": s.arm.T.astype(np.float64) @ s.x, "weighted_x": w.T @ s.x,
        }  # fmt: skip

    def _means(self, state: State, t: dict[str, Floats], sites: int) -> State:
        if not t["rows"]:
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        for what, sums, fix in (("among the complete cases", "count", "check the mapping"), ("with a usable propensity", "weights", "widen trim")):
            if sums == "weights" and t["extreme"]:
                raise TaskError(
                    "Some propensities are 0 or 1, to eight digits.",
                    why="Such patients are all treated, or all untreated: nobody in the other arm stands for them (no positivity).",
                    fix=f"set trim, for example [0.05, 0.95], or drop what decides the treatment from step '{self.params.propensity}'",
                )
            for i, arm in enumerate(ARMS):
                if not t[sums][i]:
                    raise TaskError(f"There is no {arm} patient {what}, so there is nothing to compare.", fix=fix)
        few = (t["patients"] > 0) & (t["patients"] < self.params.threshold)
        cells = np.array([suppress(c, self.params.threshold, also=small) for c, small in zip(t["cells"], few, strict=True)])
        n = suppress(t["count"], self.params.threshold, also=(cells == HIDDEN).all(axis=1))
        cells = cells if self.params.bins else np.full_like(cells, HIDDEN)
        ess = t["weights"] ** 2 / t["weight_squares"]
        if self.params.estimand == "att" and cells[1, -1] == HIDDEN:
            ess[1] = HIDDEN  # the treated have weight 1, so it would say how many are left
        facts = {"rows": t["rows"], "left_out": t["left_out"], "sites": sites, "arm_rows": n, "cells": cells}
        x_mean, weighted = t["x"] / t["count"][:, None], t["weighted_x"] / t["weights"][:, None]
        return self.merge(state, **facts, ess=ess, mean=t["value"] / t["size"], crude=t["outcome"] / t["count"], x_mean=x_mean, weighted_x_mean=weighted)

    def _second(self, state: State, s: Sample) -> dict[str, Any]:
        """The sums for the variance, at the means."""
        o, (w, by_eta), y = self._predicted(state, s), balancing(self.params.estimand, s), s.y[:, None]
        mean, crude, x_mean = (np.asarray(self.own(state, name), float) for name in ("mean", "crude", "x_mean"))
        inside = s.inside[:, None] * np.ones(2)
        about = mean if o is None else o.mean
        u = w * (y - about) + (0.0 if o is None else inside * (o.mean - mean))
        slope = np.zeros((2, self.q))
        slope[:, : self.p] = (by_eta * (y - about)).T @ s.x
        if o is not None:
            slope[:, self.p :] = np.einsum("na,anq->aq", inside - w, o.gradient)
        psi = np.column_stack([s.score, *([] if o is None else [o.score]), u, s.arm * (y - crude)])
        each = np.zeros((s.rows.patients, psi.shape[1]))
        np.add.at(each, s.rows.codes, psi)
        x_squares = np.array([((s.x - x_mean[i])[s.arm[:, i]] ** 2).sum(axis=0) for i in (0, 1)])
        size = (w if o is None else inside).sum(axis=0)
        return {"size": size, "count": s.arm.sum(axis=0), "products": newton.pack(each.T @ each), "slope": slope, "x_squares": x_squares}

    def _variance(self, state: State, t: dict[str, Floats]) -> State:
        q, products, n = self.q, newton.unpack(t["products"], self.q + 4), t["count"]
        if np.trace(products[q + 2 :, q + 2 :]) <= CONSTANT * (n @ np.asarray(self.own(state, "crude")) ** 2):
            raise TaskError(f"The outcome '{self.params.outcome}' is constant in each arm, so it has no error to estimate.", fix="check the mapping")
        to, pull, begin = np.eye(4, q + 4, q), np.zeros(q + 4), 0
        for model, b, information in self._at(state):
            place = slice(begin, begin + len(b))
            to[:2, place] = newton.solve(information, t["slope"][:, place].T).T
            pull[place] = model.design.ridge(model.params.ridge) * b  # what the penalty takes from the score, in equal shares
            begin = place.stop
        to /= np.r_[t["size"], n][:, None]
        covariance = to @ (products - np.outer(pull, pull) / n.sum()) @ to.T
        variance = t["x_squares"] / np.maximum(n - 1.0, 1.0)[:, None]
        return self.merge(state, covariance=covariance, x_sd=np.sqrt(variance.mean(axis=0)))
