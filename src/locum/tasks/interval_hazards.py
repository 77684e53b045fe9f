"""What the survival models by intervals of follow-up share: the cuts, the rule for intervals without events, the fit and its answer.

Every interval k has a baseline parameter a_k of its own, and the columns share coefficients b, so the log-likelihood is a sum over
patients: one patient at a site adds as much as that patient would among thousands, where a risk set needs others to compare with.

A first round counts the events and what was at risk in each interval (start, end], and finds the columns' means, from which they are then
measured. An interval without events has no baseline of its own: it is joined with the ones after it up to the next that has events, and
at the end with the one before. That is decided on the cohort's counts alone, so it is the same for any split of the patients. Then
Newton's method from the maximum without covariates, the null model. No two baselines meet in one patient-interval, so their block of
the information is diagonal, and only that diagonal, the cross block and the columns' block travel.

At a site of one patient the sums are that patient's values, so it is the sum over the cohort that protects: such a study should mask. And its own
intercept would fit that patient perfectly (Neyman and Scott, 1948, Econometrica 16:1), so there are none.

At the columns' means H(t) = sum of the cumulative baseline up to t, S = e^-H, and the delta method on log H gives
H e^(+-1.96 se), with se^2 = g' C g / H^2, g_k = dH/da_k and C the baselines' block of the inverse information.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State
from locum.tasks.design import INTERCEPT, Design, linear_predictor, usable
from locum.tasks.event_times import EventTimes, checked_event
from locum.tasks.intervals import Cuts, Floats, IntervalParams, Ints, Spells, join, label
from locum.tasks.newton import Problem, Progress, Quadratic
from locum.tasks.tails import Z95, chi_square_upper, normal_two_sided

Sums = tuple[float, tuple[Floats, Floats], tuple[Floats, Floats, Floats]]
"""Log-likelihood; gradient by a (K,) and b (p,); information: the diagonal of a's block (K,), the cross block (K, p), and b's block (p, p)."""
LIMIT = 200.0
"""Linear predictors beyond this are cut, so that their exponential, its square and their sums are finite; a step that leads there is halved."""
SEPARATED = "Some category or combination of columns has no events at all, or nothing else, so its ratio is zero or infinite."
FEW_EVENTS = 10
"""Events per coefficient below which intervals and tests are known to be unreliable: Peduzzi et al. (1995), J Clin Epidemiol 48:1503."""


class IntervalHazards(BaseTask[IntervalParams]):
    """What the models share. Subclasses give the likelihood of patients by intervals and what the baseline means."""

    Config: ClassVar[type[Any]] = IntervalParams
    open_ended: ClassVar[bool]
    """Whether the last interval needs no end."""
    facts: ClassVar[tuple[str, ...]]
    """What is counted for each interval in the first round; `counted` says it in words."""
    counted: ClassVar[str]

    def __init__(self, step: Step, params: IntervalParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, params, intercept=False, centred=True)
        self.times: EventTimes | None = None  # for a later evaluate_survival, which then compares within sites, or has times of its own
        self.require(params.time, params.event)
        for name in (params.time, params.event):
            if name in params.features:
                raise ManifestError(f"Step '{step.name}': '{name}' is both a feature and the outcome.", fix="drop it from features")
        if params.site_intercepts:
            raise ManifestError(
                f"Step '{step.name}': '{self.kind}' has no site intercepts.",
                why="At a site of one patient its own intercept would fit that patient perfectly, and nothing would be left to learn from.",
                fix="add a feature that describes the sites, or, where sites are large, use 'cox' with strata = 'site'",
            )
        self.cuts = Cuts(self, params, open_ended=self.open_ended)

    @property
    def ratio(self) -> str:
        """What e^coefficient is called."""
        return "hazard_ratio"

    def counts(self, spells: Spells) -> dict[str, Floats]:
        """What is counted for each interval in the first round, the events among it, shapes (K,)."""
        raise NotImplementedError

    def joined(self, counts: dict[str, Floats], starts: Ints, stop: int) -> dict[str, Floats]:
        """The counts of the intervals that start at these, of which the last one ends before `stop`."""
        return {name: np.add.reduceat(c[:stop], starts) for name, c in counts.items()}

    def last_usable(self, counts: dict[str, Floats]) -> int:
        """How many intervals from the first on can have a baseline."""
        return len(counts["events"])

    def null(self, counts: dict[str, Floats]) -> Floats:
        """The baseline of largest likelihood without covariates, shape (K,)."""
        raise NotImplementedError

    def quadratic(self, x: Floats, spells: Spells, a: Floats, b: Floats) -> Sums:
        """The sums over these patients at baseline a (K,) and coefficients b (p,); x (n, p)."""
        raise NotImplementedError

    def cumulative(self, a: Floats, edges: Floats, t: Floats) -> tuple[Floats, Floats]:
        """The cumulative baseline H at times t (m,), shape (m,), and its derivative by a, shape (m, K)."""
        raise NotImplementedError

    def baseline(self, a: float, se: float, k: int, state: State) -> dict[str, Any]:
        """What the answer says of one interval's baseline."""
        raise NotImplementedError

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.time, self.params.event)

    def leaves(self) -> str:
        p, k = self.design.size, self.cuts.most
        return (
            f"First, for each of {k} intervals of follow-up: {self.counted}; and of {p} columns the sums and sums of squares. Then, each round: the site's "
            f"sums of the log-likelihood, its gradient ({k + p} numbers) and its information ({k + k * p + p * (p + 1) // 2} numbers)."
        )

    def layout(self, state: State) -> Layout:
        p, k = self.design.size, len(self.edges(state)) - 1
        if self.key("edges") not in state:
            return Layout.of(rows=(), left_out=(), no_follow_up=(), sums=(p,), squares=(p,), **dict.fromkeys(self.facts, (k,)))
        return Layout.of(objective=(), gradient_a=(k,), gradient_b=(p,), information_a=(k,), information_ab=(k, p), information_b=(p * (p + 1) // 2,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        time, event = self._follow_up(used.rows)
        seen = time > 0
        kept, vector = used.rows.take(seen), self.layout(state).zeros()
        x, spells = self.design.matrix(state, kept), Spells.of(self.edges(state), time[seen], event[seen])
        if self.key("edges") not in state:
            numbers = {"rows": float(len(x)), "left_out": float(used.left_out), "no_follow_up": float((~seen).sum())}
            vector |= {**{k: np.asarray(v) for k, v in numbers.items()}, "sums": x.sum(axis=0), "squares": (x**2).sum(axis=0), **self.counts(spells)}
        elif len(x):
            a, b = self._split(self._progress(state).at)
            value, gradient, information = self.quadratic(x - self.own(state, "mean"), spells, a, b)
            vector |= {"objective": np.asarray(value), "gradient_a": gradient[0], "gradient_b": gradient[1]}
            vector |= {"information_a": information[0], "information_ab": information[1], "information_b": newton.pack(information[2])}
        return Contribution(vector, kept.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if self.key("edges") not in state:
            return self._begin(state, total)
        progress, p = self._progress(state), self.design.size
        cross = np.asarray(total["information_ab"], float)
        information = np.block([[np.diag(total["information_a"]), cross], [cross.T, newton.unpack(total["information_b"], p)]])
        here = Quadratic(float(total["objective"]), np.r_[total["gradient_a"], total["gradient_b"]], information)
        first = self.own(state, "null_value") if self.key("null_value") in state else here.value
        names, squares = [INTERCEPT] * len(cross) + list(self.design.names), np.r_[np.zeros(len(cross)), self.own(state, "squares")]
        following = newton.advance(progress, here.penalised(progress.at, self._ridge(len(cross))), Problem(names, squares, self.params.tolerance, SEPARATED))
        return self.merge(state, **following.arrays(), null_value=first)

    def done(self, state: State) -> bool:
        return self.key("at") in state and bool(self._progress(state).converged)

    def result(self, state: State) -> dict[str, Any]:
        if self.key("at") not in state or not self._progress(state).evaluated:
            raise TaskError(f"Step '{self.step.name}' had no round left for its first Newton step.", fix="set rounds to 20 or more")
        progress, edges, original = self._progress(state), self.edges(state), self.design.original(state)
        covariance, (a, b), k = newton.covariance(progress.information), self._split(progress.best), len(edges) - 1
        estimate, se, se_a = original @ b, np.sqrt(np.diag(original @ covariance[k:, k:] @ original.T)), np.sqrt(np.diag(covariance)[:k])
        value = progress.value + float(self.params.ridge * b @ b) / 2.0
        statistic = max(0.0, 2.0 * (value - float(self.own(state, "null_value"))))
        centre, scale = self.design.location(state)
        reference = centre + scale * self.own(state, "mean")
        ends = [float(e) if np.isfinite(e) else None for e in edges[1:]]
        return {
            "coefficients": [ratio_row(name, float(c), float(s), self.ratio) for name, c, s in zip(self.design.names, estimate, se, strict=True)],
            "baseline": {
                "reference": {name: float(v) for name, v in zip(self.design.names, reference, strict=True)},
                "intervals": [{"start": float(edges[j]), "end": ends[j], **self.baseline(float(a[j]), float(se_a[j]), j, state)} for j in range(k)],
            },
            "survival": self._curve(a, covariance[:k, :k], edges),
            "n": int(self.own(state, "rows")),
            "sites": int(self.own(state, "sites")),
            "events": int(self.own(state, "events").sum()),
            "left_out": int(self.own(state, "left_out")),
            "no_follow_up": int(self.own(state, "no_follow_up")),
            "log_likelihood": value,
            "likelihood_ratio": {"chi_square": statistic, "df": self.design.size, "p": chi_square_upper(statistic, self.design.size)},
            "iterations": progress.rounds,
            "converged": bool(progress.converged),
            "warnings": self._warnings(state, edges),
        }

    def coefficients(self, state: State) -> Floats:
        """The columns' fitted coefficients on the scale of `design.matrix`; raises `TaskError` before the fit."""
        if self.key("best") not in state:
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        return self._split(np.asarray(self.own(state, "best"), float))[1]

    def scores(self, state: State, rows: Rows) -> Floats:
        """The linear predictor of each row without the baseline, shape (n,): higher means an earlier event."""
        return linear_predictor(self.design.matrix(state, rows), self.coefficients(state))

    def edges(self, state: State) -> Floats:
        """Where the intervals begin and end, shape (K + 1,): as declared before the first round, as joined after it."""
        return self.cuts.ended(np.asarray(self.own(state, "edges"), float)) if self.key("edges") in state else self.cuts.edges(state)

    def _begin(self, state: State, total: Total) -> State:
        counts, n = {name: np.asarray(total[name], float) for name in self.facts}, float(total["rows"])
        if not counts["events"].sum():
            raise TaskError(
                f"There is no event in '{self.params.event}' among the usable rows and the declared follow-up.",
                fix="check the mapping, the unit of cuts and horizon, or look for a feature that is missing everywhere",
            )
        edges, stop = self.edges(state), self.last_usable(counts)
        starts = join(counts["events"][:stop])
        if not len(starts):
            raise TaskError(
                f"Nobody at risk outlives the interval {label(edges[0], edges[stop + 1])}, the first with events, so there is nobody to compare with.",
                fix="use earlier and more cuts",
            )
        fewer = len(starts) < stop
        if self.params.empty == "refuse" and fewer:
            none = [label(edges[j], edges[j + 1]) for j in range(stop) if not counts["events"][j]]
            raise TaskError(
                f"No event lies in {', '.join(none)}, so the baseline there cannot be estimated.",
                fix="drop cuts around it, or set empty = 'join' to join it with the next",
            )
        lost = label(edges[stop], edges[-1]) if stop < len(edges) - 1 else ""
        counts = self.joined(counts, starts, stop)
        kept = np.r_[edges[starts], edges[stop]]
        at = np.r_[self.null(counts), np.zeros(self.design.size)]
        facts = {k: total[k] for k in ("rows", "left_out", "no_follow_up", "squares")}
        new = self.merge(state, **facts, **counts, mean=total["sums"] / n, sites=total.sites, joined=int(fewer), unused=edges[stop] if lost else 0.0)
        return self.merge(new, edges=kept[np.isfinite(kept)], **Progress.start(at, rounds=1).arrays())

    def _curve(self, a: Floats, covariance: Floats, edges: Floats) -> dict[str, Any]:
        """At the columns' means, after each interval that ends. There the coefficients do not matter: columns are measured from the means."""
        times = edges[1:][np.isfinite(edges[1:])]
        h, slope = self.cumulative(a, edges, times)
        se = np.sqrt(np.einsum("tk,kl,tl->t", slope, covariance, slope))
        low, high = (np.exp(-h * np.exp(sign * Z95 * se / h)) for sign in (1.0, -1.0))
        survival = np.exp(-h)
        columns: dict[str, Floats] = {"times": times, "survival": survival, "se": survival * se, "ci95_low": low, "ci95_high": high}
        return {name: values.tolist() for name, values in columns.items()}

    def _warnings(self, state: State, edges: Floats) -> list[str]:
        out, events = [], float(self.own(state, "events").sum())
        if self.own(state, "joined"):
            kept = ", ".join(label(s, e) for s, e in pairwise(edges))
            out.append(f"Intervals without events were joined with a neighbour: the baseline is constant over {kept}.")
        if self.own(state, "unused"):
            out.append(f"Follow-up after {float(self.own(state, 'unused')):g} is not used: nobody at risk there outlives the next interval.")
        if events < FEW_EVENTS * self.design.size:
            out.append(f"There are fewer than {FEW_EVENTS} events per coefficient, so intervals and p-values are rough.")
        if not self._progress(state).converged:
            out.append("The fit had not converged when its rounds were used up.")
        return out

    def _follow_up(self, rows: Rows) -> tuple[Floats, NDArray[np.bool_]]:
        time, event = rows.columns[self.params.time], checked_event(rows.columns[self.params.event])
        if (time < 0).any():
            raise TaskError(f"Some times of '{self.params.time}' are negative.", fix="correct them at their source, or give them a missing code")
        if self.params.at_least:
            time = np.maximum(time, self.params.at_least)
        if (event & (time == 0)).any():
            raise TaskError(
                f"Some events of '{self.params.event}' happen at time 0, where nobody has been at risk yet.",
                fix="set at_least to half of the unit in which times are recorded, for example at_least = 0.5 for days",
            )
        return time, event

    def _split(self, theta: Floats) -> tuple[Floats, Floats]:
        k = len(theta) - self.design.size
        return theta[:k], theta[k:]

    def _ridge(self, k: int) -> Floats:
        return np.asarray(np.r_[np.zeros(k), self.design.ridge(self.params.ridge)])

    def _progress(self, state: State) -> Progress:
        return Progress.of(lambda name: self.own(state, name))


def ratio_row(name: str, b: float, se: float, ratio: str) -> dict[str, Any]:
    """One coefficient with its 95 % interval and test, and e^ of it under the name `ratio`."""
    low, high = b - Z95 * se, b + Z95 * se
    value, interval = math.exp(min(b, 700.0)), [math.exp(min(low, 700.0)), math.exp(min(high, 700.0))]
    return {"name": name, "coef": b, "se": se, "z": b / se, "p": normal_two_sided(b / se), ratio: value, "ci95": interval, "coef_ci95": [low, high]}
