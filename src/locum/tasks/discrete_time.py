"""Discrete-time survival: the probability of the event in each interval among those who reach it, by logit or complementary log-log.

Sources: Allison (1982), Sociological Methodology 13:61 (the likelihood of one 0/1 outcome per patient and interval); Prentice and Gloeckler
(1978), Biometrics 34:57 (complementary log-log: the coefficients are those of a proportional hazard in continuous time, grouped).

Patient i, at risk in interval k, has the event there with probability h_ik, link(h_ik) = a_k + x_i b:

    log L = sum_i sum_k [ y_ik log h_ik + (1 - y_ik) log(1 - h_ik) ]      over the intervals in which i is at risk.

Times are grouped, so it does not matter how many are tied. Who is censored inside an interval counts there or not (`censored`): as having left
at its start, which needs no assumption about the rest of it (Prentice and Gloeckler), or at its end (Allison). Information is the expected one
(Fisher scoring), as in any generalised linear model: weights h(1 - h) for the logit, and u^2 / (e^u - 1), u = e^(a + x b), for the complementary
log-log. One interval after the other is gone through over the patients at risk: rows by patient and interval are never made.

An interval that nobody at risk outlives has the hazard 1 whatever b is: it adds nothing to the likelihood, and follow-up ends before it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from locum.tasks.base import State, register
from locum.tasks.design import linear_predictor
from locum.tasks.glm import expit
from locum.tasks.interval_hazards import LIMIT, IntervalHazards, Sums
from locum.tasks.intervals import Floats, IntervalParams, Ints, Spells
from locum.tasks.tails import Z95

Link = Literal["logit", "cloglog"]
SMALL = 700.0
"""e^u is finite up to here."""


class DiscreteTimeParams(IntervalParams):
    """cuts: the end of each interval; follow-up after the last one is not used. link: of the hazard. censored: when those leave who are censored
    inside an interval: at its start or its end."""

    link: Link = "logit"
    censored: Literal["start", "end"] = "start"


@register
class DiscreteTime(IntervalHazards):
    """Odds ratios (logit) or hazard ratios (complementary log-log), and the probability of the event in each interval."""

    kind = "discrete_time"
    Config = DiscreteTimeParams
    open_ended = False
    facts: ClassVar[tuple[str, ...]] = ("events", "reached", "outlived")
    counted = "the number of events, of patients who reach it and of those who outlive it"
    params: DiscreteTimeParams

    @property
    def ratio(self) -> str:
        return "odds_ratio" if self.params.link == "logit" else "hazard_ratio"

    def counts(self, spells: Spells) -> dict[str, Floats]:
        ending, whole = spells.sums(np.ones(len(spells.k))), spells.sums(spells.whole * 1.0)
        reached = np.cumsum(ending[::-1])[::-1]
        return {"events": spells.sums(spells.event * 1.0), "reached": reached, "outlived": reached - ending + whole}

    def joined(self, counts: dict[str, Floats], starts: Ints, stop: int) -> dict[str, Floats]:
        ends = np.r_[starts[1:], stop] - 1
        return {"events": super().joined(counts, starts, stop)["events"], "reached": counts["reached"][starts], "outlived": counts["outlived"][ends]}

    def last_usable(self, counts: dict[str, Floats]) -> int:
        """Up to the last interval that somebody at risk outlives: nobody is at risk after one where nobody did."""
        return int((self.at_risk(counts) > counts["events"]).sum())

    def null(self, counts: dict[str, Floats]) -> Floats:
        h = counts["events"] / self.at_risk(counts)
        return np.asarray(np.log(h) - np.log1p(-h) if self.params.link == "logit" else np.log(-np.log1p(-h)))

    def at_risk(self, counts: dict[str, Floats]) -> Floats:
        """Patients at risk in each interval, shape (K,)."""
        return counts["reached"] if self.params.censored == "end" else counts["events"] + counts["outlived"]

    def quadratic(self, x: Floats, spells: Spells, a: Floats, b: Floats) -> Sums:
        xb, value = linear_predictor(x, b), 0.0
        residual, weight = np.zeros(len(x)), np.zeros(len(x))
        gradient, diagonal, cross = np.zeros(len(a)), np.zeros(len(a)), np.zeros((len(a), len(b)))
        counted = spells.event | spells.whole | (self.params.censored == "end")
        last = np.where(counted, spells.k, spells.k - 1)
        for k in range(len(a)):
            (i,) = np.nonzero(last >= k)
            y = spells.event[i] & (spells.k[i] == k)
            log_likelihood, r, w = bernoulli(y, np.clip(a[k] + xb[i], -LIMIT, LIMIT), self.params.link)
            value += float(log_likelihood.sum())
            gradient[k], diagonal[k], cross[k] = r.sum(), w.sum(), w @ x[i]
            residual[i] += r
            weight[i] += w
        return value, (gradient, x.T @ residual), (diagonal, cross, x.T @ (x * weight[:, None]))

    def cumulative(self, a: Floats, edges: Floats, t: Floats) -> tuple[Floats, Floats]:
        each, slope = (np.logaddexp(0.0, a), expit(a)) if self.params.link == "logit" else (np.exp(a), np.exp(a))
        past = (edges[1:] <= t[:, None]) * 1.0
        return np.asarray(past @ each), np.asarray(past * slope)

    def baseline(self, a: float, se: float, k: int, state: State) -> dict[str, Any]:
        hazard, slope = self._hazard(a)
        counts = {name: np.asarray(self.own(state, name), float) for name in self.facts}
        return {
            "events": int(counts["events"][k]),
            "at_risk": int(self.at_risk(counts)[k]),
            "hazard": hazard,
            "se": slope * se,
            "ci95": [self._hazard(a - Z95 * se)[0], self._hazard(a + Z95 * se)[0]],
        }

    def result(self, state: State) -> dict[str, Any]:
        return {**super().result(state), "link": self.params.link, "censored": self.params.censored}

    def _hazard(self, a: float) -> tuple[float, float]:
        """The hazard at a and its derivative."""
        if self.params.link == "logit":
            h = float(expit(np.asarray(a)))
            return h, h * (1.0 - h)
        u = math.exp(min(a, LIMIT))
        return -math.expm1(-u), u * math.exp(-u)


def bernoulli(y: NDArray[np.bool_], eta: Floats, link: Link) -> tuple[Floats, Floats, Floats]:
    """Log-likelihood, score by eta, and expected information of 0/1 outcomes y, each of shape (n,)."""
    if link == "logit":
        mu = expit(eta)
        return y * eta - np.logaddexp(0.0, eta), y - mu, mu * expit(-eta)
    u = np.exp(eta)
    r = u / np.expm1(np.minimum(u, SMALL))  # the score of an event
    log_hazard = np.where(u > 1.0, np.log1p(-np.exp(-np.maximum(u, 1.0))), np.log(-np.expm1(-u)))
    return np.where(y, log_hazard, -u), np.where(y, r, -u), u * r
