"""Cox regression by exact Newton steps on summed risk-set terms.

Source: Cox (1972), JRSS B 34:187; ties after Efron (1977), JASA 72:557, or Breslow (1974), Biometrics 30:89.

At each distinct event time t_j the cohort's sums over the risk set, S0 = sum w, S1 = sum w x, S2 = sum w x x' with
w = e^(x b), and over the events there, D0, D1, D2, are all that the partial likelihood needs. With d_j events and
phi_l = S0 - (l/d_j) D0, l = 0 ... d_j - 1 (Breslow: phi_l = S0), the sums over l of 1/phi, (l/d)/phi and their squares
give the gradient and the information without ever forming a tied risk set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study.manifest import Name, Step, Study, VariableName
from locum.study.vector import Array, Contribution, Layout, Total
from locum.tasks import newton
from locum.tasks.base import BaseTask, Memory, State, register
from locum.tasks.design import Design, Features, earlier, linear_predictor, usable
from locum.tasks.event_times import EventTimes, Timeline, own_timeline
from locum.tasks.newton import Problem, Progress, Quadratic
from locum.tasks.tails import Z95, chi_square_upper, normal_two_sided

Floats = NDArray[np.float64]
Ties = Literal["efron", "breslow"]
LIMIT = 200.0
"""|x b| beyond this is cut, so that e^(x b), its square and their sums are finite; a step that leads there is halved."""
SEPARATED = "The event is predicted perfectly in order (monotone likelihood), for example no event in one category, so hazard ratios are infinite."


class CoxParams(Features):
    """time, event: follow-up and 0/1 indicator. times: the earlier event_times step (not for strata = 'site').

    ties: how tied event times count. strata = 'site': each site has its own baseline hazard, and only the sums of
    gradient, information and log-likelihood leave it.
    """

    time: VariableName
    event: VariableName
    times: Name | None = None
    ties: Ties = "efron"
    strata: Literal["site"] | None = None


@dataclass(frozen=True)
class RiskSets:
    """Sums at K event times: over those at risk and over the events, of w, w x and the upper triangle of w x x'.

    risk0 (K,), risk1 (K, p), risk2 (K, p(p+1)/2), tied0, tied1, tied2 likewise, events (K,), event_sum (p,) = sum of x
    over the events. Breslow's ties need no tied sums.
    """

    risk0: Floats
    risk1: Floats
    risk2: Floats
    tied0: Floats
    tied1: Floats
    tied2: Floats
    events: Floats
    event_sum: Floats

    @classmethod
    def of(cls, x: Floats, eta: Floats, timeline: Timeline, position: NDArray[np.int64], happened: NDArray[np.bool_]) -> RiskSets:
        """The sums over rows with columns x (n, p) and log-hazards eta (n,)."""
        seen = position > 0
        last, x, happened = position[seen] - 1, x[seen], happened[seen]
        w = np.exp(np.clip(eta[seen], -LIMIT, LIMIT))
        k, p = len(timeline), x.shape[1]
        upper = list(zip(*np.triu_indices(p), strict=True))

        def at_last(mask: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
            where, wx, xs = last[mask], w[mask, None] * x[mask], x[mask]
            one = np.column_stack([_binned(where, wx[:, a], k) for a in range(p)])
            two = np.column_stack([_binned(where, wx[:, a] * xs[:, b], k) for a, b in upper])
            return _binned(where, w[mask], k), one, two

        risk0, risk1, risk2 = (np.cumsum(s[::-1], axis=0)[::-1] for s in at_last(np.ones(len(last), dtype=bool)))
        events = _binned(last[happened], np.ones(int(happened.sum())), k)
        return cls(risk0, risk1, risk2, *at_last(happened), events, x[happened].sum(axis=0))

    def quadratic(self, b: Floats, ties: Ties) -> Quadratic:
        """The log partial likelihood at b, its gradient and its information."""
        p = len(b)
        d = np.rint(self.events).astype(np.int64)
        when = np.repeat(np.arange(len(d)), d)
        share = (np.arange(len(when)) - np.repeat(np.cumsum(d) - d, d)) / np.repeat(np.maximum(d, 1), d)
        share = share if ties == "efron" else np.zeros_like(share)
        phi = self.risk0[when] - share * self.tied0[when]

        def per_time(values: Floats) -> Floats:
            return _binned(when, values, len(d))

        a, c = per_time(1 / phi), per_time(share / phi)
        aa, ac, cc = per_time(1 / phi**2), per_time(share / phi**2), per_time(share**2 / phi**2)
        risk, tied = self.risk1, self.tied1
        cross = risk.T @ (ac[:, None] * tied)
        mean_squares = newton.unpack(a @ self.risk2 - c @ self.tied2, p)
        outer = risk.T @ (aa[:, None] * risk) - cross - cross.T + tied.T @ (cc[:, None] * tied)
        return Quadratic(float(self.event_sum @ b - np.log(phi).sum()), self.event_sum - (a @ risk - c @ tied), mean_squares - outer)


@register
class Cox(BaseTask[CoxParams]):
    """Hazard ratios. Pooled: a first round finds a common centre for the columns, for the sums' precision; then Newton."""

    kind = "cox"
    Config = CoxParams

    def __init__(self, step: Step, params: CoxParams, study: Study) -> None:
        super().__init__(step, params, study)
        self.design = Design(self, params, intercept=False, centred=True)
        self.require(params.time, params.event)
        for name in (params.time, params.event):
            if name in params.features:
                raise ManifestError(f"Step '{step.name}': '{name}' is both a feature and the outcome.", fix="drop it from features")
        if params.strata is None and params.times is None:
            raise ManifestError(
                f"Step '{step.name}' does not say where the event times come from.",
                fix="add an 'event_times' step and times = '<its name>', or strata = 'site'",
            )
        self.times: EventTimes | None = earlier(self, params.times, "times", "event_times") if params.times else None

    @property
    def pooled(self) -> bool:
        return self.params.strata is None

    def reads(self) -> tuple[str, ...]:
        return (*self.params.features, self.params.time, self.params.event)

    def leaves(self) -> str:
        p = self.design.size
        if not self.pooled:
            size = self.layout({}).size
            return f"Each round: the site's log partial likelihood, its gradient ({p} numbers), its information, and counts; {size} numbers in all."
        tied = "and again over the events there, " if self.params.ties == "efron" else ""
        sums = 1 + p + p * (p + 1) // 2
        return f"Each round, at every distinct event time of the cohort: the number of events, and over the patients still at risk {tied}{sums} weighted sums."

    def layout(self, state: State) -> Layout:
        p = self.design.size
        q = p * (p + 1) // 2
        counts: dict[str, tuple[int, ...]] = {"rows": (), "left_out": (), "event_count": (), "squares": (p,)}
        if not self.pooled:
            return Layout.of(**counts, objective=(), gradient=(p,), information=(q,))
        assert self.times is not None  # noqa: S101 - checked when the step was read
        k = len(self.times.timeline(state))
        sums = {"risk0": (k,), "risk1": (k, p), "risk2": (k, q), "events": (k,), "event_sum": (p,)}
        tied = {"tied0": (k,), "tied1": (k, p), "tied2": (k, q)} if self.params.ties == "efron" else {}
        return Layout.of(**counts, **sums, **tied)

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        used = usable(self, rows, self.params.part)
        vector = self.layout(state).zeros()
        vector["left_out"] = np.asarray(float(used.left_out))
        if len(used.rows):
            x, event = self.design.matrix(state, used.rows), used.rows.columns[self.params.event]
            vector |= {"rows": np.asarray(float(len(x))), "event_count": np.asarray(event.sum()), "squares": (x**2).sum(axis=0)}
            b = self._progress(state).at
            vector |= self._risk_sets(state, used.rows, x, b, vector) if self.pooled else self._stratum(used.rows, x, b)
        return Contribution(vector, used.rows.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if not float(total["event_count"]):
            raise TaskError(
                f"There is no event in '{self.params.event}' among the usable rows.", fix="check the mapping, or look for a feature that is missing everywhere"
            )
        facts = {k: total[k] for k in ("rows", "left_out", "event_count")}
        progress = self._progress(state)
        if self.pooled and not self._has_centre(state):
            first = int(np.argmax(np.asarray(total["risk0"]) > 0))
            return self.merge(state, **facts, centre=total["risk1"][first] / total["risk0"][first])
        here = self._here(total, progress.at)
        null = self.own(state, "null") if self.key("null") in state else here.value
        within = "in the cohort" if self.pooled else "within every site"
        problem = Problem(self.design.names, np.asarray(total["squares"], float), self.params.tolerance, SEPARATED, within)
        following = newton.advance(progress, here.penalised(progress.at, self.design.ridge(self.params.ridge)), problem)
        new = self.merge(state, **facts, **following.arrays(), null=null)
        if self.pooled and np.array_equal(following.best, progress.at):
            risk, events = np.asarray(total["risk0"], float), np.asarray(total["events"], float)
            new = self.merge(new, hazard=np.divide(events, risk, out=np.zeros_like(risk), where=events > 0))
        return new

    def done(self, state: State) -> bool:
        return bool(self._progress(state).converged)

    def result(self, state: State) -> dict[str, Any]:
        progress, a = self._progress(state), self.design.original(state)
        if not progress.evaluated:
            raise TaskError(f"Step '{self.step.name}' had no round left for its first Newton step.", fix="set rounds to 20 or more")
        estimate, se = a @ progress.best, np.sqrt(np.diag(a @ newton.covariance(progress.information) @ a.T))
        value, null = progress.value + float(self.params.ridge * progress.best @ progress.best) / 2.0, float(self.own(state, "null"))
        statistic = max(0.0, 2.0 * (value - null))
        out: dict[str, Any] = {
            "coefficients": [_row(name, float(b), float(s)) for name, b, s in zip(self.design.names, estimate, se, strict=True)],
            "n": int(self.own(state, "rows")),
            "events": int(self.own(state, "event_count")),
            "left_out": int(self.own(state, "left_out")),
            "log_likelihood": value,
            "likelihood_ratio": {"chi_square": statistic, "df": self.design.size, "p": chi_square_upper(statistic, self.design.size)},
            "ties": self.params.ties,
            "iterations": progress.rounds,
            "converged": bool(progress.converged),
        }
        return {**out, "baseline": self._baseline(state)} if self.pooled else out

    def coefficients(self, state: State) -> Floats:
        """The fitted coefficients on the scale of `design.matrix`; raises `TaskError` before the fit."""
        if self.key("best") not in state:
            raise TaskError(f"Step '{self.step.name}' has not run, so there is no model to use.", fix="keep the plan's order")
        return np.asarray(self.own(state, "best"), float)

    def scores(self, state: State, rows: Rows) -> Floats:
        """The log relative hazard of each row, shape (n,)."""
        return linear_predictor(self.design.matrix(state, rows), self.coefficients(state))

    def _risk_sets(self, state: State, rows: Rows, x: Floats, b: Floats, layout: Mapping[str, Array]) -> dict[str, Array]:
        assert self.times is not None  # noqa: S101
        timeline = self.times.timeline(state)
        position, happened = timeline.place(rows.columns[self.params.time], rows.columns[self.params.event], self.times.step.name)
        x = x - (self.own(state, "centre") if self._has_centre(state) else 0.0)
        sets = RiskSets.of(x, linear_predictor(x, b), timeline, position, happened)
        return {name: getattr(sets, name) for name in RiskSets.__dataclass_fields__ if name in layout}

    def _stratum(self, rows: Rows, x: Floats, b: Floats) -> dict[str, Array]:
        here = self._local(rows, x, b)
        return {"objective": np.asarray(here.value), "gradient": here.gradient, "information": newton.pack(here.information)}

    def _local(self, rows: Rows, x: Floats, b: Floats) -> Quadratic:
        """The partial likelihood of these rows alone. It does not change when x or x b is shifted, so both are, for precision."""
        time, event = rows.columns[self.params.time], rows.columns[self.params.event]
        timeline = own_timeline(time, event)
        if not len(timeline):
            return Quadratic(0.0, np.zeros(len(b)), np.zeros((len(b), len(b))))
        x = x - x.mean(axis=0)
        position, happened = timeline.place(time, event, self.step.name)
        return RiskSets.of(x, linear_predictor(x, b), timeline, position, happened).quadratic(b, self.params.ties)

    def _here(self, total: Total, b: Floats) -> Quadratic:
        if not self.pooled:
            return Quadratic(float(total["objective"]), np.asarray(total["gradient"], float), newton.unpack(total["information"], len(b)))
        zero = np.zeros(1)
        sums = {n: np.asarray(total.vector.get(n, zero), float) for n in RiskSets.__dataclass_fields__}
        if self.params.ties == "breslow":
            sums |= {f"tied{i}": np.zeros_like(sums[f"risk{i}"]) for i in range(3)}
        return RiskSets(**sums).quadratic(b, self.params.ties)

    def _baseline(self, state: State) -> dict[str, Any]:
        """Breslow's cumulative baseline hazard at the reference values of the columns."""
        assert self.times is not None  # noqa: S101
        centre, scale = self.design.location(state)
        reference = centre + scale * np.asarray(self.own(state, "centre"), float)
        return {
            "reference": {name: float(v) for name, v in zip(self.design.names, reference, strict=True)},
            "times": [float(t) for t in self.times.timeline(state).times],
            "cumulative_hazard": [float(h) for h in np.cumsum(self.own(state, "hazard"))],
        }

    def _has_centre(self, state: State) -> bool:
        return self.key("centre") in state

    def _progress(self, state: State) -> Progress:
        if self.key("at") not in state:
            return Progress.start(np.zeros(self.design.size))
        return Progress.of(lambda name: self.own(state, name))


def _binned(where: NDArray[np.int64], values: Floats, size: int) -> Floats:
    """The sum of values per bin."""
    return np.asarray(np.bincount(where, values, size), dtype=np.float64)


def _row(name: str, b: float, se: float) -> dict[str, Any]:
    low, high = b - Z95 * se, b + Z95 * se
    ratio, interval = math.exp(min(b, 700.0)), [math.exp(min(low, 700.0)), math.exp(min(high, 700.0))]
    return {"name": name, "coef": b, "se": se, "z": b / se, "p": normal_two_sided(b / se), "hazard_ratio": ratio, "ci95": interval, "coef_ci95": [low, high]}
