"""How well a model of a 0/1 outcome predicts in each declared subgroup, and how much that differs between sites.

A subgroup is a value of a category or boolean variable, or a band of a number; who has no value, or one outside the bands, is in a level of
its own, so that the levels of one variable together are everybody. One round: counts by level and score bin, from which come all the figures
of `subgroup_figures`. Only groups that may be shown enter the state, which every site gets: the tables stay at the coordinator.

Sites: each adds its own AUC, accuracy and Brier score, their squares, and whether they miss a stated floor. From k sites' mean and standard
deviation s (with divisor k) the worst lies between mean - s sqrt(k - 1) and mean - s / sqrt(k - 1) (Samuelson, 1968, JASA 63:1522). Nothing is
said of fewer than FEWEST_RANKED sites: of three, one could solve for the other two.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Part, Rows
from locum.errors import ManifestError, TaskError
from locum.privacy.disclosure import THRESHOLD
from locum.study.manifest import Name, Step, Study, Variable, VariableName
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register
from locum.tasks.concordance import pairs
from locum.tasks.design import earlier, usable
from locum.tasks.evaluate_binary import SPAN, check_unseen
from locum.tasks.glm import Logistic, expit
from locum.tasks.subgroup_figures import COUNTS, FEWEST_SITES, described, figures, gaps, shown

Floats = NDArray[np.float64]
OF_SITES = {"auc": 1.0, "accuracy": 1.0, "brier": -1.0}
"""The figures of single sites, and whether more of one is better."""
SITE_SUMS = ("sites_ranked", "sites_sum", "sites_squares", "sites_missing")
FEWEST_RANKED = 5
NOT_RECORDED, OUTSIDE = "not recorded", "outside the bands"


class SubgroupsParams(Params):
    """model: the earlier step whose model is judged. by: variable -> the edges of a number's bands, nothing for a category or boolean: each band
    holds its lower edge, the last also its upper. cutoff: the risk from which on the outcome is predicted. threshold: patients with
    the outcome, and without it, that a group which is shown has at least; 11 where the rules of the CMS hold. floor: figure of a site -> what it
    must reach (of the Brier score: stay below). site_patients: below so many a site is not ranked. bins: of the score.
    """

    model: Name
    part: Part = "test"
    by: Annotated[dict[VariableName, tuple[float, ...]], Field(min_length=1, max_length=20)]
    cutoff: Annotated[float, Field(gt=0, lt=1)] = 0.5
    threshold: Annotated[int, Field(ge=3, le=1_000_000)] = THRESHOLD
    floor: dict[Literal["auc", "accuracy", "brier"], Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    site_patients: Annotated[int, Field(ge=10, le=10**9)] = 20
    bins: Annotated[int, Field(ge=16, le=65_536)] = 1024


@register
class Subgroups(BaseTask[SubgroupsParams]):
    """One round."""

    kind = "subgroups"
    Config = SubgroupsParams

    def __init__(self, step: Step, params: SubgroupsParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.model: Logistic = earlier(self, params.model, "model", "logistic", "sgd", "boosted_trees", "elastic_net")
        check_unseen(self, self.model)
        if not getattr(self.model, "binary", True):
            raise ManifestError(f"Step '{step.name}': the model '{params.model}' predicts a number, not a 0/1 outcome.", fix="name a logistic model")
        if getattr(self.model.params, "site_intercepts", False):
            raise ManifestError(
                f"Step '{step.name}': the model '{params.model}' gives no probabilities outside its sites.", fix="set site_intercepts = false there"
            )
        self.require(*params.by)
        self.levels = {name: self._levels(name, study.data.variables[name], edges) for name, edges in params.by.items()}
        self.names = [(variable, level) for variable, levels in self.levels.items() for level in levels]

    def _levels(self, name: str, variable: Variable, edges: tuple[float, ...]) -> list[str]:
        if variable.type in ("category", "boolean"):
            if edges:
                raise ManifestError(f"Step '{self.step.name}': '{name}' is a {variable.type}, which has no bands.", fix=f"write by = {{ {name} = [] }}")
            return [*(variable.categories or ("no", "yes")), NOT_RECORDED]
        if len(edges) < 2 or any(not a < b for a, b in pairwise(edges)):
            raise ManifestError(
                f"Step '{self.step.name}': the bands of '{name}' need at least two edges that increase.",
                fix=f"for example by = {{ {name} = [0, 50, 70, 120] }}",
            )
        said = [variable.written(e) for e in edges]
        bands = [f"{a} to under {b}" for a, b in pairwise(said)]
        return [*bands[:-1], f"{said[-2]} to {said[-1]}", OUTSIDE, NOT_RECORDED]

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.model.reads(), *self.params.by)))

    def leaves(self) -> str:
        return (
            f"For everybody and each of {len(self.names)} subgroups: how many patients with and without the outcome have a predicted risk in each of "
            f"{self.params.bins} bins, and {len(COUNTS)} counts and sums; this site's own {', '.join(OF_SITES)} as addends. A subgroup that only one site has "
            f"is that site's; of patients at fewer than {FEWEST_SITES} sites, or fewer than {self.params.threshold} with or without the outcome, none is shown."
        )

    def layout(self, state: State) -> Layout:
        rows = 1 + len(self.names)
        tables = {"positive": (rows, self.params.bins), "negative": (rows, self.params.bins)}
        return Layout.of(left_out=(), **dict.fromkeys(COUNTS, (rows,)), **tables, **dict.fromkeys(SITE_SUMS, (len(OF_SITES),)))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        for name in self.params.by:
            if name not in rows.columns:
                raise TaskError(f"Step '{self.step.name}' reads '{name}', which this site's rows do not have.", fix="map that variable, or leave the study")
        used = usable(self, rows, self.params.part, getattr(self.model, "needed", None) or self.model.reads())
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(used.left_out))
        if len(used.rows):
            eta, y = self.model.scores(state, used.rows), used.rows.columns[self.model.params.outcome]
            problem = self.model.outcome_error(y)
            if problem:
                raise TaskError(f"The outcome '{self.model.params.outcome}' {problem}.", fix="correct the mapping")
            for k, mask in enumerate([np.ones(len(y), dtype=bool), *self._masks(used.rows)]):
                if mask.any():
                    self._add(vector, k, used.rows.take(mask), eta[mask], y[mask])
            self._rank(vector, eta, y)
        return Contribution(vector, used.rows.patients, self.leaves())

    def _masks(self, rows: Rows) -> list[NDArray[np.bool_]]:
        """Who is in each of `names`."""
        out: list[NDArray[np.bool_]] = []
        for name, edges in self.params.by.items():
            values = rows.columns[name]
            if edges:
                where = np.searchsorted(edges, values, side="right") - 1
                where[values == edges[-1]] -= 1
                known = ~np.isnan(values)
                inside = known & (where >= 0) & (where < len(edges) - 1)
                out += [inside & (where == k) for k in range(len(edges) - 1)] + [known & ~inside, ~known]
            else:
                out += [values == k for k in range(len(self.levels[name]) - 1)] + [np.isnan(values)]
        return out

    def _add(self, vector: dict[str, Floats], k: int, rows: Rows, eta: Floats, y: Floats) -> None:
        mu, event, said = expit(eta), y == 1.0, expit(eta) >= self.params.cutoff
        where = np.clip(np.floor((eta + SPAN) / (2.0 * SPAN) * self.params.bins), 0, self.params.bins - 1).astype(np.int64)
        error = (y - mu) ** 2
        counts = {
            "n": len(y), "events": event.sum(), "patients": rows.patients, "sites": 1,
            "patients_with": len(np.unique(rows.codes[event])), "patients_without": len(np.unique(rows.codes[~event])),
            "true_positive": (said & event).sum(), "true_negative": (~said & ~event).sum(),
            "squared_error": error.sum(), "fourth_power": (error**2).sum(), "expected": mu.sum(),
        }  # fmt: skip
        for name, value in counts.items():
            vector[name][k] = float(value)
        for name, mask in (("positive", event), ("negative", ~event)):
            vector[name][k] = np.bincount(where[mask], minlength=self.params.bins)

    def _rank(self, vector: dict[str, Floats], eta: Floats, y: Floats) -> None:
        event, least = y == 1.0, self.params.threshold
        if len(y) < self.params.site_patients or min(event.sum(), (~event).sum()) < least:
            return
        mu = expit(eta)
        own = {
            "auc": pairs(eta[event], eta[~event]) / float(event.sum() * (~event).sum()),
            "accuracy": float(((mu >= self.params.cutoff) == event).mean()),
            "brier": float(((y - mu) ** 2).mean()),
        }
        for k, (name, better) in enumerate(OF_SITES.items()):
            limit = self.params.floor.get(name)  # type: ignore[call-overload]
            misses = limit is not None and better * own[name] < better * limit
            for field, value in zip(SITE_SUMS, (1.0, own[name], own[name] ** 2, float(misses)), strict=True):
                vector[field][k] = value

    def combine(self, state: State, total: Total) -> State:
        get = {name: np.asarray(total[name], dtype=np.float64) for name in (*COUNTS, "positive", "negative", *SITE_SUMS)}
        if min(get["patients_with"][0], get["patients_without"][0]) < self.params.threshold:
            raise TaskError(
                f"Fewer than {self.params.threshold} patients of part '{self.params.part}' have the outcome '{self.model.params.outcome}', or have it not.",
                fix="use a larger test share, another outcome, or part = 'all'",
            )
        chosen: list[tuple[int, ...]] = [(0,)]
        first = 1
        for levels in self.levels.values():
            cells = {name: get[name][first : first + len(levels)] for name in COUNTS}
            chosen += [tuple(first + k for k in group) for group in shown(cells, self.params.threshold)]
            first += len(levels)
        members = np.zeros((len(chosen), first))
        for g, group in enumerate(chosen):
            members[g, list(group)] = 1.0
        counts = {name: members @ get[name] for name in COUNTS}
        found = np.stack([
            figures({name: float(counts[name][g]) for name in COUNTS}, members[g] @ get["positive"], members[g] @ get["negative"], SPAN)
            for g in range(len(chosen))
        ])  # fmt: skip
        known = np.isfinite(found)
        empty = np.flatnonzero(get["n"] == 0).astype(np.float64)
        own = {"members": members, "figures": np.where(known, found, 0.0), "known": known.astype(np.float64), "empty": empty, "sites": self._spread(get)}
        return self.merge(
            state, **own, left_out=total["left_out"], n=counts["n"], events=counts["events"], of_sites=counts["sites"] * (members.sum(axis=1) == 1)
        )

    def _spread(self, get: dict[str, Floats]) -> Floats:
        """Per figure of a site: sites, mean, standard deviation, and between how many and how many miss the floor; zeros where nothing is said."""
        out = np.zeros((len(OF_SITES), 5))
        for k in range(len(OF_SITES)):
            n, total, squares, missing = (float(get[name][k]) for name in SITE_SUMS)
            if n >= FEWEST_RANKED:
                few = FEWEST_SITES - 1
                low, high = (1.0, float(few)) if 0 < missing <= few else (n - few, n - 1) if 0 < n - missing <= few else (missing, missing)
                out[k] = n, total / n, math.sqrt(max(0.0, squares / n - (total / n) ** 2)), low, high
        return out

    def done(self, state: State) -> bool:
        return self.key("members") in state

    def result(self, state: State) -> dict[str, Any]:
        members = np.asarray(self.own(state, "members")) > 0
        table = np.where(np.asarray(self.own(state, "known")) > 0, np.asarray(self.own(state, "figures"), float), np.nan)
        counts = {name: np.asarray(self.own(state, name)).astype(int).tolist() for name in ("n", "events", "of_sites")}
        rows = []
        for g in range(len(members)):
            inside = [self.names[k - 1] for k in np.flatnonzero(members[g]) if k > 0]
            label = f"{inside[0][0]}: {' or '.join(level for _, level in inside)}" if inside else "everybody"
            head = {"name": label, "variable": inside[0][0] if inside else "", "levels": [level for _, level in inside]}
            sites = {} if len(inside) > 1 else {"sites": counts["of_sites"][g]}
            rows.append({**head, "n": counts["n"][g], "events": counts["events"][g], **sites, **described(table[g])})
        groups = rows[1:]
        return {
            "part": self.params.part,
            "n": counts["n"][0],
            "positives": counts["events"][0],
            "left_out": int(self.own(state, "left_out")),
            "cutoff": self.params.cutoff,
            "threshold": self.params.threshold,
            "everybody": rows[0],
            "subgroups": groups,
            "withheld": self._withheld(members, np.asarray(self.own(state, "empty"), int)),
            "gaps": {name: gaps([g for g in groups if g["variable"] == name]) for name in self.levels},
            "sites": {name: self._site(name, row) for name, row in zip(OF_SITES, np.asarray(self.own(state, "sites"), float).tolist(), strict=True)},
        }

    def _withheld(self, members: NDArray[np.bool_], empty: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Levels without figures of their own, by variable."""
        alone = {int(np.flatnonzero(row)[0]) for row in members if row.sum() == 1}
        together = {int(k) for row in members if row.sum() > 1 for k in np.flatnonzero(row)}
        out = []
        for variable in self.levels:
            hidden = [k for k, (v, _) in enumerate(self.names, 1) if v == variable and k not in alone and k not in empty]
            if hidden:
                why = f"fewer than {self.params.threshold} patients with or without the outcome, or fewer than {FEWEST_SITES} sites; or hidden with one"
                out.append({"variable": variable, "levels": [self.names[k - 1][1] for k in hidden], "joined": all(k in together for k in hidden), "why": why})
        return out

    def _site(self, name: str, row: list[float]) -> dict[str, Any]:
        n, mean, sd, low, high = row
        if not n:
            return {"withheld": f"fewer than {FEWEST_RANKED} sites have {self.params.site_patients} patients, and enough of them with and without the outcome"}
        far, near, sign = sd * math.sqrt(n - 1), sd / math.sqrt(n - 1), OF_SITES[name]
        worst = sorted(min(1.0, max(0.0, mean - sign * d)) for d in (far, near))
        out: dict[str, Any] = {"sites": int(n), "mean": mean, "sd": sd, "worst_between": worst}
        floor = self.params.floor.get(name)  # type: ignore[call-overload]
        return out if floor is None else out | {"floor": floor, "sites_missing_it": [int(low), int(high)]}
