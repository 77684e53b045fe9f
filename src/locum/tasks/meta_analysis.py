"""Meta-analysis of the sites' own treatment effects: only sums of weights and weighted effects leave.

Site i estimates an effect y_i with variance v_i from its own rows (`effects`), and with w_i = 1 / (v_i + tau2) releases the sums over
j = 1, 2, 3 and m = 0, 1, 2 of w_i^j y_i^m, and of log(v_i + tau2), at the values of tau2 that the coordinator asks for. From these

    mu = sum wy / sum w,  se^2 = 1 / sum w,  Q(tau2) = sum wy^2 - mu sum wy,  k sites
    DerSimonian and Laird (1986), Control Clin Trials 7:177:  tau2 = max(0, (Q(0) - k + 1) / (sum w - sum w^2 / sum w)) at w = 1 / v
    Paule and Mandel (1982), J Res NBS 87:377:                 Q(tau2) = k - 1
    REML, Viechtbauer (2005), J Educ Behav Stat 30:261:        sum w - sum w^2 / sum w = sum w^2 (y - mu)^2, by Newton
    Hartung and Knapp (2001), Stat Med 20:3875; Sidik and Jonkman (2002):  se^2 = Q(tau2) / ((k - 1) sum w), Student t with k - 1
    prediction interval, Higgins, Thompson and Spiegelhalter (2009), JRSS A 172:137, eq. 12:  mu -+ t_(k-2) sqrt(tau2 + se^2)

A 0/1 outcome also gives the Mantel-Haenszel estimate, and Peto's for the odds ratio: they need no continuity correction, for they are
sums over tables (`two_by_two`). With few sites, sums at several values of tau2 determine each site's effect and variance: ask for
`methods = []` or `["DL"]` where that matters; the result says when the sums held more than two numbers a site.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import two_by_two
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.design import usable
from locum.tasks.effects import Effect, adjusted, mean_difference, model_of
from locum.tasks.tails import Z95, chi_square_upper, normal_two_sided, student_95, student_two_sided
from locum.tasks.variance import Search

Floats = NDArray[np.float64]
Method = Literal["DL", "PM", "REML"]
Measure = Literal["risk_difference", "log_odds_ratio", "log_risk_ratio", "mean_difference", "coefficient"]
RATIOS: dict[str, str] = {"log_odds_ratio": "odds_ratio", "log_risk_ratio": "risk_ratio"}
COEFFICIENT_RATIOS: dict[str, str] = {"logistic": "odds_ratio", "poisson": "rate_ratio"}
COUNTS = ("sites_used", "sites_without_information", "sites_corrected", "left_out", "n", "treated", "outcome_treated", "outcome_control")


class MetaAnalysisParams(Params):
    """treatment: 0/1 (any number for a coefficient). measure: of the effect. model, adjust: of each site's own regression, for measure
    'coefficient'. continuity: added to all four cells of a site's table that has an empty cell; with 0 such a site is left out. methods:
    by which the variance between sites is estimated."""

    treatment: VariableName
    outcome: VariableName
    measure: Measure
    model: Literal["linear", "logistic", "poisson"] | None = None
    adjust: Annotated[tuple[VariableName, ...], Field(max_length=64)] = ()
    continuity: Annotated[float, Field(ge=0, le=1)] = 0.5
    methods: Annotated[tuple[Method, ...], Field(max_length=3)] = ("DL", "PM", "REML")
    tolerance: Annotated[float, Field(gt=0, le=1e-3)] = 1e-10
    part: Part = "all"


@register
class MetaAnalysis(BaseTask[MetaAnalysisParams]):
    """The first round is at tau2 = 0; later ones at the value of each method, until they stand."""

    kind = "meta_analysis"
    Config = MetaAnalysisParams

    def __init__(self, step: Step, params: MetaAnalysisParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.require(*self.reads())
        self.tables = params.measure in two_by_two.MEASURES
        if (params.model is not None) != (params.measure == "coefficient"):
            raise ManifestError(f"Step '{step.name}': model goes with measure = 'coefficient'.", fix="give both, or neither")
        if params.adjust and params.model is None:
            raise ManifestError(f"Step '{step.name}': a {params.measure} is not adjusted.", fix="set measure = 'coefficient' and a model, or drop adjust")
        names = (params.treatment, params.outcome, *params.adjust)
        if len(set(names)) < len(names):
            raise ManifestError(f"Step '{step.name}' names a variable twice among treatment, outcome and adjust.", fix="name each once")
        if len(study.data.variables[params.treatment].categories) not in (0, 2):
            raise ManifestError(f"Step '{step.name}': the treatment '{params.treatment}' has more than two categories.", fix="name a 0/1 variable")
        if study.data.variables[params.outcome].type == "category" and (not self.tables or len(study.data.variables[params.outcome].categories) != 2):
            raise ManifestError(f"Step '{step.name}': the outcome '{params.outcome}' is a category, not a number.", fix="name a numeric or boolean outcome")
        self.model = model_of(step, params.model, (params.treatment, *params.adjust), params.outcome, study) if params.model else None
        self.ratio = RATIOS.get(params.measure, COEFFICIENT_RATIOS.get(params.model or "", ""))

    def reads(self) -> tuple[str, ...]:
        return (self.params.treatment, self.params.outcome, *self.params.adjust)

    def leaves(self) -> str:
        more = "sums over its two-by-two table, " if self.tables else ""
        points = max(1, len(self.params.methods))
        most = max(10 + len(COUNTS) + two_by_two.SIZE * self.tables, 10 * points)
        return (
            "Each round: powers of the weight of the site's own effect, times that effect and its square, at no more than "
            f"{points} variances between sites; {more}and counts: at most {most} numbers."
        )

    def layout(self, state: State) -> Layout:
        k = len(self._points(state))
        first = {} if self._started(state) else {**dict.fromkeys(COUNTS, ()), **({"tables": (two_by_two.SIZE,)} if self.tables else {})}
        return Layout.of(**first, powers=(k, 3, 3), logs=(k,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        vector = self.layout(state).zeros()
        treated, y = self._arms(used.rows)
        effect = self._effect(state, used.rows, treated, y)
        if not self._started(state):
            known, one = effect.variance > 0.0, treated == 1
            facts = (known, len(y) > 0 and not known, effect.corrected, used.left_out, len(y), one.sum(), y[one].sum(), y[~one].sum())
            vector |= {name: np.asarray(float(v)) for name, v in zip(COUNTS, facts, strict=True)}
            if self.tables:
                vector["tables"] = two_by_two.sums(two_by_two.cells(treated, y), self.params.measure)
        if effect.variance > 0.0:
            total = effect.variance + self._points(state)
            powers = (1.0 / total)[:, None] ** np.arange(1, 4)
            vector["powers"] = powers[:, :, None] * effect.value ** np.arange(3)
            vector["logs"] = np.log(total)
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        powers, logs = np.asarray(total["powers"], float), np.asarray(total["logs"], float)
        if self._started(state):
            k, rounds = float(self.own(state, "sites_used")), int(self.own(state, "rounds")) + 1
            searches = [self._search(state, m).advance(*_score(m, k, p), self.params.tolerance) for m, p in zip(self.params.methods, powers, strict=True)]
        else:
            k, rounds = float(total["sites_used"]), 1
            if not k:
                raise TaskError(
                    f"No site has an effect of '{self.params.treatment}' for step '{self.step.name}'.",
                    why="It takes patients in both arms, and outcomes that differ" + (" or a continuity correction." if self.tables else "."),
                    fix="analyse all patients in one model with site intercepts instead",
                )
            state = self.merge(state, common=powers[0], common_log=logs[0], **{n: total[n] for n in (*COUNTS, *(("tables",) if self.tables else ()))})
            start = _dersimonian_laird(powers[0], k)
            searches = [Search(start, converged=int(m == "DL")) for m in self.params.methods]
        finished = k < 2 or not searches or (rounds > 1 and all(s.converged for s in searches))
        found = {name: value for m, s in zip(self.params.methods, searches, strict=True) for name, value in s.arrays(m).items()}
        return self.merge(state, rounds=rounds, powers=powers, logs=logs, finished=int(finished), **found)

    def done(self, state: State) -> bool:
        return self._started(state) and bool(self.own(state, "finished"))

    def result(self, state: State) -> dict[str, Any]:
        counts = {name: float(self.own(state, name)) for name in COUNTS}
        k, common = int(counts["sites_used"]), np.asarray(self.own(state, "common"), float)
        q, n1 = _heterogeneity(common), counts["treated"]
        random = self._random(state, k)
        out: dict[str, Any] = {
            "measure": self.params.measure,
            "n": int(counts["n"]),
            "left_out": int(counts["left_out"]),
            "sites": {name.removeprefix("sites_"): int(counts[name]) for name in COUNTS[:3]},
            "continuity": self.params.continuity if self.tables else None,
            "fixed": self._normal(*_mean(common)),
            "heterogeneity": {"Q": q, "df": k - 1, "p": chi_square_upper(q, k - 1), "I2": max(0.0, 1.0 - (k - 1) / q) if q > 0 else 0.0} if k > 1 else None,
            "random": random,
            "rounds": int(self.own(state, "rounds")),
            "converged": self.done(state),
            "warnings": self._warnings(state, k),
        }
        if self.params.measure != "coefficient":
            arms = (("control", counts["n"] - n1), ("treated", n1))
            out["arms"] = {name: {"n": int(n), "mean": counts[f"outcome_{name}"] / n if n else None} for name, n in arms}
        if self.tables:
            pooled = two_by_two.pooled(np.asarray(self.own(state, "tables"), float), self.params.measure)
            out |= {name: None if found is None else self._normal(*found) for name, found in pooled.items()}
        return out

    def _random(self, state: State, k: int) -> dict[str, Any] | None:
        """One entry per method. A method whose last point was not evaluated, for want of rounds, is left out."""
        if k < 2 or int(self.own(state, "rounds")) < 2:
            return None
        out: dict[str, Any] = {}
        for method, powers in zip(self.params.methods, np.asarray(self.own(state, "powers"), float), strict=True):
            search = self._search(state, method)
            if search.converged:
                (mean, se), tau2 = _mean(powers), search.at
                hksj = math.sqrt(max(0.0, _heterogeneity(powers)) / (k - 1)) * se
                reach = student_95(k - 2) * math.sqrt(tau2 + se**2) if k > 2 else None
                out[method] = {
                    "tau2": tau2,
                    **self._normal(mean, se),
                    "hartung_knapp": self._student(mean, hksj, k - 1),
                    "prediction_interval95": None if reach is None else [mean - reach, mean + reach],
                }
        return out

    def _normal(self, mean: float, se: float) -> dict[str, Any]:
        return {"estimate": mean, "se": se, "z": mean / se, "p": normal_two_sided(mean / se), **self._interval(mean, Z95 * se)}

    def _student(self, mean: float, se: float, df: int) -> dict[str, Any] | None:
        if se <= 0.0:
            return None
        return {"se": se, "df": df, "t": mean / se, "p": student_two_sided(mean / se, df), **self._interval(mean, student_95(df) * se)}

    def _interval(self, mean: float, reach: float) -> dict[str, Any]:
        ends = [mean - reach, mean + reach]
        ratio = {self.ratio: _exp(mean), f"{self.ratio}_ci95": [_exp(e) for e in ends]} if self.ratio else {}
        return {"ci95": ends, **ratio}

    def _warnings(self, state: State, k: int) -> list[str]:
        out, numbers = [], 10 * (1 + (int(self.own(state, "rounds")) - 1) * len(self.params.methods))
        if k < 2:
            out.append("One site contributes: nothing can be said about differences between sites.")
        elif k < 5:
            out.append(f"{k} sites contribute: the variance between sites is hardly known; prefer the Hartung-Knapp interval.")
        if not self.done(state):
            out.append("The rounds ended before every method had converged: give the step more rounds.")
        without, corrected = int(self.own(state, "sites_without_information")), int(self.own(state, "sites_corrected"))
        if without:
            out.append(f"{without} sites have no effect of their own (one arm is empty, outcomes are all alike, or too few rows) and add nothing.")
        if corrected:
            rest = "biases the estimates towards no effect; Mantel-Haenszel needs none"
            out.append(f"{self.params.continuity:g} was added to each cell of {corrected} sites' tables that had an empty cell, which {rest}.")
        if numbers >= 2 * k:
            out.append(f"{numbers} sums were released for {k} sites: whoever knows them all could work out single sites' effects.")
        return out

    def _effect(self, state: State, rows: Rows, treated: Floats, y: Floats) -> Effect:
        if self.tables:
            return two_by_two.effect(two_by_two.cells(treated, y), self.params.measure, self.params.continuity)
        if self.model is None:
            return mean_difference(treated, y)
        return adjusted(self.model, state, rows)

    def _arms(self, rows: Rows) -> tuple[Floats, Floats]:
        treated, y = rows.columns[self.params.treatment], rows.columns[self.params.outcome]
        binary = {self.params.treatment: treated} if self.model is None else {}
        for name, values in {**binary, **({self.params.outcome: y} if self.tables else {})}.items():
            if not np.isin(values, (0.0, 1.0)).all():
                raise TaskError(f"'{name}' has values other than 0 and 1.", fix="correct the mapping, or choose another measure")
        return treated, y

    def _started(self, state: State) -> bool:
        return self.key("rounds") in state

    def _search(self, state: State, method: str) -> Search:
        return Search.of(lambda name: self.own(state, name), method)

    def _points(self, state: State) -> Floats:
        """The values of tau2 at which sums are asked for."""
        return np.asarray([self._search(state, m).at for m in self.params.methods] if self._started(state) else [0.0])


def _mean(powers: Floats) -> tuple[float, float]:
    """The weighted mean and its standard error, from sums of w^j y^m, shape (3, 3)."""
    return float(powers[0, 1] / powers[0, 0]), float(1.0 / np.sqrt(powers[0, 0]))


def _about(powers: Floats) -> Floats:
    """sum w^j (y - mu)^2 for j = 1, 2, 3."""
    mean = powers[0, 1] / powers[0, 0]
    return np.asarray(powers[:, 2] - 2.0 * mean * powers[:, 1] + mean**2 * powers[:, 0])


def _heterogeneity(powers: Floats) -> float:
    return max(0.0, float(_about(powers)[0]))


def _dersimonian_laird(powers: Floats, k: float) -> float:
    scale = powers[0, 0] - powers[1, 0] / powers[0, 0]
    return max(0.0, float((_heterogeneity(powers) - (k - 1.0)) / scale)) if scale > 0 else 0.0


def _score(method: str, k: float, powers: Floats) -> tuple[float, float, float]:
    """A function of tau2 that falls through zero at the method's estimate, minus its slope, and a standard error of tau2."""
    (s1, s2, s3), about, mean = powers[:, 0], _about(powers), powers[0, 1] / powers[0, 0]
    unit = float(1.0 / np.sqrt(max((s2 - 2.0 * s3 / s1 + (s2 / s1) ** 2) / 2.0, 1e-300)))
    if method != "REML":
        return float(about[0] - (k - 1.0)), float(about[1]), unit
    tilt = powers[1, 1] - mean * s2
    slope = (-s2 + 2.0 * s3 / s1 - (s2 / s1) ** 2) / 2.0 + about[2] - tilt**2 / s1
    return float(-s1 + s2 / s1 + about[1]) / 2.0, float(slope), unit


def _exp(x: float) -> float | None:
    return math.exp(x) if x < 700.0 else None
