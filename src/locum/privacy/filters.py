"""Which studies still fit in a site's budget when each is chosen after seeing the last: costs that add, and a limit.

Precondition   the filter, epsilon and delta are fixed when the ledger is created. Each release's multiplier may depend on all before it.
Pseudocode     admit a release iff spent + cost <= limit(epsilon, delta)
               gdp   cost mu^2      limit: the largest mu^2 whose Gaussian keeps (epsilon, delta)
               zcdp  cost mu^2 / 2  limit: the largest rho whose conversion keeps it
               rdp   cost: the Renyi divergence at one order         limit: the divergence that converts to epsilon
Postcondition  all that was admitted together is (epsilon, delta)-DP, however the studies were chosen.

A Poisson-sampled release has no useful mu or rho: only the Renyi filter takes it. Skellam noise is known by its divergences alone, so the
GDP filter refuses it.

Sources: Koskela, Tobaben & Honkela 2022 (GDP); Whitehouse et al. 2023 (zCDP); Feldman & Zrnic 2021 (Renyi, one order).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, log1p
from typing import Literal, get_args

from locum.privacy import accountant
from locum.privacy.accountant import Plan, Release, check_delta, check_epsilon
from locum.privacy.errors import PrivacyError
from locum.privacy.sampler import FixedOrder

Kind = Literal["gdp", "zcdp", "rdp"]


@dataclass(frozen=True, slots=True)
class Filter:
    """One way of adding costs. order: an integer of at least 2, for "rdp" alone. Raises `PrivacyError`."""

    kind: Kind = "gdp"
    order: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise PrivacyError(f"A filter {self.kind!r} is not known.", why="a ledger adds costs in one way", fix=f"use one of {', '.join(get_args(Kind))}")
        if self.kind != "rdp" and self.order is not None:
            raise PrivacyError(f"A {self.kind} filter has no order.", why="only the Renyi filter fixes one", fix='drop the order, or use "rdp"')
        if self.kind == "rdp" and self.order is None:
            object.__setattr__(self, "order", 4)
        if self.order is not None and not (self.order >= 2 and self.order == int(self.order)):
            raise PrivacyError(f"The Renyi order {self.order} cannot be a filter's.", why="bounds for sampled noise hold at integers", fix="use 4")

    @property
    def _order(self) -> int:
        return int(self.order or 4)

    def cost(self, release: Release, iteration: int) -> float:
        """What one round costs. iteration: its index in the step, from 0.

        `FixedOrder`: an epoch's whole cost is paid at its first round. Raises `PrivacyError` where this filter cannot price the release.
        """
        self.check(release)
        sampler = release.sampler
        if isinstance(sampler, FixedOrder):
            return self._of_mu2(sampler.norm2 / release.multiplier**2) if iteration % sampler.batches == 0 else 0.0
        return self._round(release)

    def retry(self, release: Release) -> float:
        """What it costs to give a round once more with fresh noise. In a fixed order too: one more row, which a patient moves by at most a clip."""
        self.check(release)
        return self._round(release)

    def costliest(self, release: Release) -> float:
        """The most that one round of it can cost, retried or not."""
        return max(self.cost(release, 0), self.retry(release))

    def total(self, plan: Plan) -> float:
        """What the whole plan costs. Raises `PrivacyError` where this filter cannot price it."""
        for release in plan.releases:
            self.check(release)
        if self.kind == "rdp":
            return accountant.rdp(plan, self._order)
        return sum(self._of_mu2(release.mu2) for release in plan.releases)

    def limit(self, epsilon: float, delta: float) -> float:
        """The largest cost that keeps (epsilon, delta). Raises `PrivacyError` where there is none: a Renyi order that is too low for them."""
        check_epsilon(epsilon)
        check_delta(delta)
        if self.kind == "gdp":
            return accountant.mu_gaussian(epsilon, delta) ** 2
        if self.kind == "zcdp":
            return self._largest_rho(epsilon, delta)
        limit = epsilon - _conversion(self._order, delta)
        if limit <= 0:
            raise PrivacyError(
                f"A Renyi filter of order {self._order} has no room at epsilon {epsilon:g} and delta {delta:g}.",
                why="the conversion at this order alone costs as much",
                fix=f"fix the order at {_best_order(epsilon, delta)}",
            )
        return limit

    def epsilon(self, cost: float, delta: float) -> float:
        """The epsilon of a cost at delta."""
        check_delta(delta)
        if cost <= 0:
            return 0.0
        if self.kind == "gdp":
            return accountant.epsilon_gaussian(cost**0.5, delta)
        if self.kind == "zcdp":
            return _epsilon_of_rho(cost, delta)
        return max(0.0, cost + _conversion(self._order, delta))

    def check(self, release: Release) -> None:
        """Raises `PrivacyError` where this filter cannot price the release."""
        if self.kind != "rdp" and release.sampler.amplified:
            raise PrivacyError(
                f"Step {release.step!r} samples patients, which a {self.kind} filter cannot price.",
                why="a Poisson-sampled sum has no exact mu or rho",
                fix='create the ledger with an "rdp" filter, or run the step on every patient or in a fixed order',
            )
        if self.kind == "gdp" and release.noise == "skellam":
            raise PrivacyError(
                f"Step {release.step!r} adds Skellam noise, which a gdp filter cannot price.",
                why="only its Renyi divergences are bounded by a Gaussian's",
                fix='create the ledger with an "rdp" filter, or use discrete Gaussian noise',
            )

    def _round(self, release: Release) -> float:
        if release.sampler.amplified:
            return accountant.rdp(Plan((Release(release.step, release.sampler, release.multiplier, 1, release.noise),)), self._order)
        return self._of_mu2(1 / release.multiplier**2)

    def _of_mu2(self, mu2: float) -> float:
        return {"gdp": mu2, "zcdp": mu2 / 2, "rdp": self._order * mu2 / 2}[self.kind]

    def _largest_rho(self, epsilon: float, delta: float) -> float:
        low, high = 0.0, epsilon + 1
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if _epsilon_of_rho(middle, delta) <= epsilon else (low, middle)
        return low


def _conversion(order: float, delta: float) -> float:
    """What must be added to a Renyi divergence to give epsilon: Canonne, Kamath & Steinke 2020, proposition 12."""
    return log1p(-1 / order) - (log(delta) + log(order)) / (order - 1)


def _epsilon_of_rho(rho: float, delta: float) -> float:
    """The least over orders 1 + e^t, t by golden section: any order gives a bound, so a search that misses the best is only looser."""
    if rho <= 0:
        return 0.0

    def at(t: float) -> float:
        order = 1 + exp(t)
        return order * rho + _conversion(order, delta)

    ratio, low, high = (5**0.5 - 1) / 2, -12.0, 30.0
    for _ in range(90):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if at(a) <= at(b) else (a, high)
    return max(0.0, at((low + high) / 2))


def _best_order(epsilon: float, delta: float) -> int:
    """The order that leaves a Gaussian release the most room."""
    return max(range(2, 1025), key=lambda order: (epsilon - _conversion(order, delta)) / order)
