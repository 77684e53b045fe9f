"""Internal-external cross-validation: would the model hold in a country, or on a device, that had no part in it?

For each value g of a category (a country, a device, a period) a logistic model is fitted on the patients of all other groups, at all sites
at once, and tried on the patients of g, which it has never seen. Groups may be spread over sites, or live at one; all G fits advance
together, one vector of sums a round. Per group: AUC with DeLong's standard error, observed over expected events O/E with
se(log O/E) = sqrt((1 - O/n) / O), the calibration line (Cox, 1958), the Brier score. Over groups: a random-effects mean with a
prediction interval for a new group, of AUC on the logit scale and of O/E on the log scale.

Sources: Debray, Moons, Ahmed, Koffijberg and Riley (2013), Stat Med 32:3158; Steyerberg and Harrell (2016), J Clin Epidemiol 69:245; the scales:
Snell, Ensor, Debray, Moons and Riley (2018), Stat Methods Med Res 27:3505; Debray et al. (2017), BMJ 356:i6460, for O/E.

A group's sums follow from those of all patients less those of the others. So groups that are too small are never left out one by one (their
patients are fitted on like all others), and neither is a further group whose counts would give a small one away. Two such steps of one plan
have the same limits, so that they hide the same groups but for patients whom the one leaves out for a missing value and the other does not.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import HIDDEN, THRESHOLD, suppress
from locum.study.manifest import Step, Study, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.concordance import auc_table
from locum.tasks.design import Design, Features, linear_predictor, usable
from locum.tasks.glm import expit
from locum.tasks.held_out import NOT_UNIQUE, Fits, lines, logit, random_effects, sigmoid, transformed, without_each
from locum.tasks.newton import Problem, Quadratic
from locum.tasks.tails import Z95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SPAN = 8.0
"""Score bins cover linear predictors from -8 to 8; beyond, the outermost bins."""
MOST_NUMBERS = 1 << 22
LIMITS = ("min_group", "min_events", "min_sites", "part")
COUNTS = ("patients", "with_event", "without_event", "sites")
SCORES = ("expected", "squared_error", "fourth_power")


class LeaveOneOutParams(Features):
    """group: the category whose values are left out in turn. min_group: patients that a group needs to be left out and reported. min_events: and so
    many with and without the outcome. min_sites: and at how many sites. bins: of the score histogram; the AUC's error bound falls in proportion."""

    outcome: VariableName
    group: VariableName
    min_group: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    min_events: Annotated[int, Field(ge=1, le=1_000_000)] = THRESHOLD
    min_sites: Annotated[int, Field(ge=1, le=100_000)] = 1
    bins: Annotated[int, Field(ge=2, le=65_536)] = 512


@register
class LeaveOneOut(BaseTask[LeaveOneOutParams]):
    """Rounds: count the groups; fit, until the last model stands; score; refine the calibration lines."""

    kind = "leave_one_out"
    Config = LeaveOneOutParams

    def __init__(self, step: Step, params: LeaveOneOutParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, params, intercept=True, centred=True)
        self.require(params.outcome, params.group)
        self.groups = study.data.variables[params.group].categories
        if len(self.groups) < 2:
            raise ManifestError(f"Step '{step.name}': '{params.group}' is no category with two values or more.", fix="name a variable of type 'category'")
        if study.data.variables[params.outcome].type == "category":
            raise ManifestError(f"Step '{step.name}': the outcome '{params.outcome}' is a category, not 0 or 1.", fix="name a boolean outcome")
        for name, why in ((params.outcome, "It is the outcome."), (params.group, "A group that is left out has no coefficient of its own.")):
            if name in params.features:
                raise ManifestError(f"Step '{step.name}': '{name}' cannot be a feature.", why=why, fix="drop it from features")
        for other in (s for s in study.plan if s.task == self.kind and s.name != step.name and s.params.get("group") == params.group):
            twice = [k for k in LIMITS if other.params.get(k, type(params).model_fields[k].default) != getattr(params, k)]
            if twice:
                raise ManifestError(
                    f"Steps '{other.name}' and '{step.name}' both leave out '{params.group}', with another {twice[0]}.",
                    why="They would hide other groups, and the one's answer less the other's may give a small group away.",
                    fix="give both the same limits and the same part",
                )
        p, g = self.design.size, len(self.groups)
        largest = g * max(2 + 2 * p + p * (p + 1) // 2, 2 * params.bins + 11)
        if largest > MOST_NUMBERS:
            raise ManifestError(
                f"Step '{step.name}' would send up to {largest:,} numbers in a round; at most {MOST_NUMBERS:,}.",
                why=f"{g} groups, {p} coefficients, {params.bins} bins.",
                fix="use fewer features or bins, or a coarser group",
            )

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.outcome, self.params.group)

    def leaves(self) -> str:
        p, g = self.design.size, len(self.groups)
        return (
            f"How many patients of each of {g} groups ('{self.params.group}') the site has, with and without the outcome. Then, each round, for each group of "
            f"at least {self.params.min_group} patients in the cohort, sums of log-likelihood, gradient and information over the patients who are not of it "
            f"({p * (p + 3) // 2 + 1} numbers); then how many of its own patients have a risk in each of {self.params.bins} bins, and calibration sums. "
            f"Smaller groups, and one more where it would give them away, are never set apart after the first count, and the answer hides them."
        )

    def layout(self, state: State) -> Layout:
        p, phase = self.design.size, self._phase(state)
        if phase == "count":
            return Layout.of(left_out=(), **dict.fromkeys(COUNTS, (len(self.groups),)))
        k = len(self._fits(state, "fit" if phase == "fit" else "line").open)
        if phase == "fit":
            return Layout.of(objective=(k,), gradient=(k, p), information=(k, p * (p + 1) // 2), squares=(k, p))
        line: dict[str, tuple[int, ...]] = {"objective": (k,), "gradient": (k, 2), "information": (k, 3), "squares": (k, 2)}
        tables = (len(self._held(state)), self.params.bins)
        return Layout.of(**(dict.fromkeys(SCORES, tables[:1]) | {"positive": tables, "negative": tables} if phase == "score" else {}), **line)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        vector, phase, y = self.layout(state).zeros(), self._phase(state), used.rows.columns[self.params.outcome]
        group = self._group(used.rows, y)
        if phase == "count":
            vector["left_out"] = np.asarray(float(used.left_out))
            vector |= self._counted(used.rows, group, y)
        elif len(y) and phase == "fit":
            fits, held = self._fits(state, "fit"), self._held(state)
            vector |= without_each(self.design.matrix(state, used.rows), y, group, held[fits.open], fits.at[fits.open])
        elif len(y):
            vector |= self._tried(state, used.rows, group, y, phase == "score")
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        phase = self._phase(state)
        if phase == "count":
            return self._choose(state, total)
        name = "fit" if phase == "fit" else "line"
        fits = self._fits(state, name)
        if phase == "score":
            state = self._score(state, total)
        size, which = (self.design.size if name == "fit" else 2), fits.open
        sums = [np.asarray(total[n], float) for n in ("objective", "gradient", "information", "squares")]
        here = [Quadratic(float(v), g, newton.unpack(h, size)) for v, g, h in zip(*sums[:3], strict=True)]
        names = self.design.names if name == "fit" else ("calibration intercept", "calibration slope")
        if name == "fit":
            ridge = self.design.ridge(self.params.ridge)
            here = [q.penalised(at, ridge) for q, at in zip(here, fits.at[which], strict=True)]
        problems = [Problem(names, squares, self.params.tolerance, "") for squares in sums[3]]
        return self.merge(state, **fits.advance(which, here, problems).arrays(name))

    def done(self, state: State) -> bool:
        return self._phase(state) == "done"

    def result(self, state: State) -> dict[str, Any]:
        if self._phase(state) in ("count", "fit", "score"):
            raise TaskError(f"Step '{self.step.name}' had no round left to try its models.", fix="set rounds to 50 or more")
        reasons, held = self._reasons(state), self._held(state)
        positions = {int(g): k for k, g in enumerate(held)}
        groups = [self._one(state, name, reasons[g], positions.get(g)) for g, name in enumerate(self.groups)]
        known = [g for g in groups if g["reason"] is None]
        aucs = [g["auc"] for g in known if 0.0 < g["auc"]["value"] < 1.0 and g["auc"]["se"]]
        ratios = [g["calibration"] for g in known if g["calibration"]["log_se"]]
        slopes = [g["calibration"] for g in known if g["calibration"].get("slope_se")]
        on_logit = random_effects([logit(a["value"]) for a in aucs], [a["se"] / (a["value"] * (1.0 - a["value"])) for a in aucs])
        on_log = random_effects([math.log(c["observed_over_expected"]) for c in ratios], [c["log_se"] for c in ratios])
        return {
            "group": self.params.group,
            "part": self.params.part,
            "n": sum(g["n"] for g in known),
            "left_out": int(self.own(state, "left_out")),
            "groups": groups,
            "held_out": len(known),
            "mean_auc": float(np.mean([g["auc"]["value"] for g in known])) if known else None,
            "mean_brier": float(np.mean([g["brier"]["value"] for g in known])) if known else None,
            "random_effects": {
                "auc": transformed(on_logit, sigmoid),
                "observed_over_expected": transformed(on_log, math.exp),
                "calibration_slope": random_effects([c["slope"] for c in slopes], [c["slope_se"] for c in slopes]),
            },
            "rounds": int(self._fits(state, "fit").stacked["rounds"].max()),
            "converged": not any(g["reason"] for k, g in enumerate(groups) if k in positions),
            "warnings": self._warnings(groups),
        }

    # --- at the site ---------------------------------------------------------------------------------------------------
    def _group(self, rows: Rows, y: Floats) -> Ints:
        group, (outcome, name) = rows.columns[self.params.group], (self.params.outcome, self.params.group)
        if not np.isin(y, (0.0, 1.0)).all():
            raise TaskError(f"The outcome '{outcome}' has values other than 0 and 1.", fix="correct the mapping, or choose another outcome")
        if not np.isin(group, np.arange(len(self.groups))).all():
            raise TaskError(f"'{name}' holds a category that the contract does not list.", fix="correct the mapping, or add the category")
        return group.astype(np.int64)

    def _counted(self, rows: Rows, group: Ints, y: Floats) -> dict[str, Floats]:
        """Patients, not rows: of each group, and of those who ever had the outcome, and who at some row had not."""

        def patients(mask: NDArray[np.bool_]) -> Floats:
            pairs = np.unique(np.column_stack([rows.codes[mask], group[mask]]), axis=0)
            return np.bincount(pairs[:, 1], minlength=len(self.groups)).astype(np.float64)

        counts = [patients(mask) for mask in (np.ones(len(y), dtype=bool), y == 1.0, y == 0.0)]
        return dict(zip(COUNTS, (*counts, (counts[0] > 0).astype(np.float64)), strict=True))

    def _tried(self, state: State, rows: Rows, group: Ints, y: Floats, first: bool) -> dict[str, Floats]:
        """Each row's score by the model that left its group out, in sums by group."""
        held, best = self._held(state), self._fits(state, "fit").best
        where = np.full(len(self.groups), -1, dtype=np.int64)
        where[held] = np.where(self._fits(state, "fit").failed == 0, np.arange(len(held)), -1)
        mine, bins, k = where[group] >= 0, self.params.bins, len(held)
        at, y = where[group][mine], y[mine]
        eta = linear_predictor(self.design.matrix(state, rows)[mine], best[at])
        line = self._fits(state, "line")
        out = {n: a[line.open] for n, a in lines(eta, y, at, line.at).items()}
        if first:
            mu = expit(eta)
            cell = at * bins + np.clip(np.floor((eta + SPAN) / (2.0 * SPAN) * bins), 0, bins - 1).astype(np.int64)
            for name, values in zip(SCORES, (mu, (y - mu) ** 2, (y - mu) ** 4), strict=True):
                out[name] = np.asarray(np.bincount(at, values, minlength=k), dtype=np.float64)
            for name, mask in (("positive", y == 1.0), ("negative", y == 0.0)):
                out[name] = np.bincount(cell[mask], minlength=k * bins).reshape(k, bins).astype(np.float64)
        return out

    # --- at the coordinator --------------------------------------------------------------------------------------------
    def _choose(self, state: State, total: Total) -> State:
        """Which groups are left out in turn. The counts of the others are not kept."""
        patients, events, others, sites = (np.rint(np.asarray(total[name], float)) for name in COUNTS)
        if not patients.any():
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        if (patients > 0).sum() < 2:
            raise TaskError(
                f"All patients of the cohort are of one '{self.params.group}', so nobody is left to fit a model on.",
                fix="add sites of another one, or leave out another variable in turn, such as the device or the year",
            )
        p, there = self.params, patients > 0
        hidden = there & ((patients < p.min_group) | (np.minimum(events, others) < p.min_events) | (sites < p.min_sites))
        for counts, least in ((patients, p.min_group), (events, p.min_events), (others, p.min_events), (patients, p.min_group)):
            hidden = there & (suppress(counts, least, also=hidden) == HIDDEN)
        held = np.flatnonzero(there & ~hidden)
        if not len(held):
            raise TaskError(
                f"No '{self.params.group}' has {p.min_group} patients and {p.min_events} with and without the outcome, at {p.min_sites} sites or more.",
                fix="merge groups, ask more sites, or lower min_group, which each site has to accept",
            )
        fits, line = Fits.start(np.zeros(self.design.size), len(held)), Fits.start(np.asarray([0.0, 1.0]), len(held))
        kept = {"held": held, "patients": patients[held], "sites": sites[held], "empty": (~there).astype(np.int64), "left_out": total["left_out"]}
        return self.merge(state, **kept, **fits.arrays("fit"), **line.arrays("line"))

    def _score(self, state: State, total: Total) -> State:
        """AUC and the like; the tables of scores are not kept."""
        failed = self._fits(state, "fit").failed > 0
        tables = [np.asarray(total[name], float) for name in ("positive", "negative")]
        found = np.zeros((len(failed), 3))
        for k in np.flatnonzero(~failed):
            auc, bound, se = auc_table(tables[0][k], tables[1][k])
            found[k] = auc, bound, -1.0 if se is None else se
        scores = {name: np.asarray(total[name], float) for name in SCORES}
        self._fits(state, "line")
        rows = [table.sum(axis=1) for table in tables]
        return self.merge(state, auc=found, events=rows[0], rows=rows[0] + rows[1], **scores)

    def _phase(self, state: State) -> str:
        if self.key("held") not in state:
            return "count"
        if len(self._fits(state, "fit").open):
            return "fit"
        if self.key("auc") not in state:
            return "score"
        return "line" if len(self._fits(state, "line").open) else "done"

    def _fits(self, state: State, name: str) -> Fits:
        return Fits.of(lambda n: self.own(state, n), name)

    def _held(self, state: State) -> Ints:
        return np.asarray(self.own(state, "held"), dtype=np.int64)

    def _reasons(self, state: State) -> list[str | None]:
        p, empty, held = self.params, self.own(state, "empty"), self._held(state)
        small = f"fewer than {p.min_group} patients, {p.min_events} with or without the outcome, or {p.min_sites} sites; or it would give such a group away"
        out: list[str | None] = ["no patient" if e else small for e in empty]
        for g, failed in zip(held.tolist(), self._fits(state, "fit").failed.tolist(), strict=True):
            cause = "columns are constant or collinear" if failed == NOT_UNIQUE else "a coefficient grows without end"
            out[g] = f"without it {cause}: set ridge, or merge rare categories" if failed else None
        return out

    def _one(self, state: State, name: str, reason: str | None, k: int | None) -> dict[str, Any]:
        if reason is not None or k is None:
            return {"group": name, "n": None, "events": None, "sites": None, "reason": reason, "auc": None, "brier": None, "calibration": None}
        n, events, sites = (float(self.own(state, x)[k]) for x in ("rows", "events", "sites"))
        expected, squares, fourth = (float(self.own(state, x)[k]) for x in SCORES)
        auc, bound, se = (float(v) for v in self.own(state, "auc")[k])
        brier, ratio, log_se = squares / n, events / expected, math.sqrt((1.0 - events / n) / events)
        spread = math.sqrt(max(0.0, fourth / n - brier**2) / n)
        calibration = {
            "observed_over_expected": ratio,
            "log_se": log_se,
            "ci95": [ratio * math.exp(-Z95 * log_se), ratio * math.exp(Z95 * log_se)],
            "observed": events / n,
            "expected": expected / n,
            **self._line(state, k),
        }
        return {
            "group": name,
            "n": int(n),
            "events": int(events),
            "sites": int(sites),
            "reason": None,
            "auc": {"value": auc, "se": se if se >= 0 else None, "ci95": _interval(auc, se) if se >= 0 else None, "error_bound": bound},
            "brier": {"value": brier, "se": spread, "ci95": _interval(brier, spread)},
            "calibration": calibration,
        }

    def _line(self, state: State, k: int) -> dict[str, Any]:
        line = self._fits(state, "line")
        progress = line[k]
        if line.failed[k] or not progress.converged:
            return {"intercept": None, "slope": None, "slope_se": None, "slope_ci95": None}
        (a, b), (sa, sb) = progress.best.tolist(), np.sqrt(np.diag(newton.covariance(progress.information))).tolist()
        return {"intercept": a, "intercept_se": sa, "slope": b, "slope_se": sb, "slope_ci95": [b - Z95 * sb, b + Z95 * sb]}

    def _warnings(self, groups: list[dict[str, Any]]) -> list[str]:
        one = [g["group"] for g in groups if g["sites"] == 1]
        out = [f"{', '.join(one)}: at one site only, so what is said of the group is said of that site."] if one else []
        fits = [g for g in groups if g["reason"] and g["reason"].startswith("without it")]
        if fits:
            gone = f"{', '.join(g['group'] for g in fits[:5])}{' and others' if len(fits) > 5 else ''}: no model, {fits[0]['reason']}."
            out.append(gone)
        if not any(g["reason"] is None for g in groups):
            out.append("No model could be tried, so there are no means.")
        if self.params.ridge and self.params.standardise:
            out.append("The scale of the penalty was learned from all patients, those left out included.")
        return out


def _interval(value: float, se: float) -> list[float]:
    return [max(0.0, value - Z95 * se), min(1.0, value + Z95 * se)]
