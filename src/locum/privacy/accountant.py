"""What a plan of releases costs: epsilon and delta, mu, and what an attacker could detect.

Precondition   every release is a sum over units of vectors clipped to norm 1, under the one adjacency (`adjacency`), with noise whose
               standard deviation is `multiplier` times the clip, from the honest sites alone. The plan was fixed before any of it ran.
Pseudocode     nothing Poisson-sampled: the whole plan is one Gaussian release with mu^2 = sum of squared sensitivity / multiplier^2, exactly
               something Poisson-sampled: privacy loss distributions, discretised upwards (connect the dots), composed by FFT
               some Skellam noise, or delta under 1e-10: Renyi divergences at integer orders, converted
Postcondition  epsilon(plan, delta) is an upper bound for adding as well as for removing a unit. It is never the central-limit approximation of
               Gaussian DP, which reports less than the truth.

dp-accounting takes a second to import, and is imported only where something is sampled.

Sources: Balle & Wang 2018 (the analytic Gaussian); Dong, Roth & Su 2022 (mu, and trade-offs of error rates); Doroshenko et al. 2022
(connect the dots); Mironov, Talwar & Zhang 2019 (Renyi divergence of the sampled Gaussian; its theorem 5 needs only that the two
distributions mirror each other, which symmetric noise gives: Skellam too, at integer orders); Canonne, Kamath & Steinke 2020, proposition 12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb, erfc, exp, expm1, inf, isfinite, log, log1p, nextafter, pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from locum.privacy import sampler as samplers
from locum.privacy.adjacency import Adjacency, Unit
from locum.privacy.errors import PrivacyError
from locum.privacy.sampler import Noise, Request, Sampler, check_multiplier, check_rounds

if TYPE_CHECKING:
    from dp_accounting.pld import PLDAccountant

__all__ = ["Noise", "Request"]  # defined with the samplers, so that a task can ask without importing an accountant

Floats = NDArray[np.float64]
GRID = 1e-4
"""The step of a privacy loss distribution; coarser ones are looser, never wrong."""
_GRIDS = (1e-3, 5e-4, 2e-4, 1e-4)
_SMALLEST_DELTA = 1e-10  # below it the rounding of the FFT is no longer small beside delta
_HOPELESS = 50.0  # an epsilon above which the loss distribution is too wide to be worth its memory
_INTEGERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)
_FEW = (*range(2, 33), 40, 48, 64, 128, 256)  # enough to compare levers
_FRACTIONS = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024)
_TOLERANCE = 5e-4
_ROUNDING = 1e-15  # of a sampled release's Renyi divergence, a round


@dataclass(frozen=True, slots=True)
class Release:
    """`rounds` noisy sums of one step. multiplier: noise of the honest sites over the L2 sensitivity, after every inflation."""

    step: str
    sampler: Sampler
    multiplier: float
    rounds: int
    noise: Noise = "gaussian"

    def __post_init__(self) -> None:
        check_multiplier(self.multiplier)
        check_rounds(self.rounds)
        if self.noise not in ("gaussian", "skellam"):
            raise PrivacyError(f"Noise of the kind {self.noise!r} has no accountant.", why="its cost is unknown", fix='use "gaussian" or "skellam"')

    @property
    def mu2(self) -> float:
        """mu^2 of all its rounds, as if nothing were sampled."""
        return self.sampler.square(self.rounds) / self.multiplier**2

    def plain(self) -> dict[str, Any]:
        """For a file; `Plan.read` takes it back."""
        return {"step": self.step, "sampler": self.sampler.plain(), "multiplier": self.multiplier, "rounds": self.rounds, "noise": self.noise}


@dataclass(frozen=True, slots=True)
class Plan:
    """All releases of a study, in order. Hashable, so that what was computed about it is kept."""

    releases: tuple[Release, ...] = ()

    @property
    def amplified(self) -> bool:
        return any(r.sampler.amplified for r in self.releases)

    @property
    def skellam(self) -> bool:
        return any(r.noise == "skellam" for r in self.releases)

    @property
    def rounds(self) -> int:
        return sum(r.rounds for r in self.releases)

    def plain(self) -> list[dict[str, Any]]:
        """For a file; `read` takes it back."""
        return [r.plain() for r in self.releases]

    @classmethod
    def read(cls, plain: Sequence[Mapping[str, Any]]) -> Plan:
        """The plan that `plain()` wrote. Raises `PrivacyError` if it is not one."""
        keys = {"step", "sampler", "multiplier", "rounds", "noise"}
        for line in plain:
            if set(line) != keys:
                raise PrivacyError("A release of the plan is not one.", why=f"it has the keys {sorted(line)}", fix=f"give {sorted(keys)}")
        return cls(tuple(Release(**{**line, "sampler": samplers.read(line["sampler"])}) for line in plain))


# --- what may be asked ---


def check_epsilon(epsilon: float | None) -> float:
    """Raises `PrivacyError` unless epsilon is positive and finite."""
    if not isinstance(epsilon, int | float) or isinstance(epsilon, bool) or not isfinite(epsilon) or epsilon <= 0:
        raise PrivacyError(
            "Epsilon is missing." if epsilon is None else f"An epsilon of {epsilon} is not one.",
            why="it bounds how much more likely any answer becomes with one unit more",
            fix="give a positive, finite epsilon, such as 3 for a study",
        )
    return float(epsilon)


def check_delta(delta: float | None, patients: int | None = None, *, unit: Unit = "patient") -> float:
    """Raises `PrivacyError` unless 0 < delta < 1, and at most 0.1 / patients where their (public) number is given, or the sites' if those are the unit."""
    if not isinstance(delta, int | float) or isinstance(delta, bool) or not 0 < delta < 1:
        raise PrivacyError(
            "Delta is missing." if delta is None else f"A delta of {delta} is not one.",
            why="it is the probability with which the promise may fail outright",
            fix="give a delta above 0 and far below one over the number of patients, such as 1e-6",
        )
    if patients is not None and patients < 1:
        raise PrivacyError(f"{patients} {unit}s are not a number of {unit}s.", why="delta is judged against it", fix=f"give the public number of {unit}s")
    if patients is not None and delta > largest_delta(patients) * (1 + 1e-9):
        raise PrivacyError(
            f"A delta of {delta:g} is too large for {patients} {unit}s.",
            why=f"at one over the number of {unit}s, publishing one {unit} at random would keep the promise",
            fix=f"give a delta of at most {largest_delta(patients):g}",
        )
    return float(delta)


def largest_delta(patients: int) -> float:
    """0.1 / N."""
    return 0.1 / patients


def default_delta(patients: int) -> float:
    """min(1e-6, 0.1 / N)."""
    return min(1e-6, largest_delta(patients))


# --- one Gaussian, exactly ---


def delta_gaussian(mu: float, epsilon: float) -> float:
    """The least delta of a Gaussian release with sensitivity / noise = mu. epsilon >= 0."""
    return exp(_log_delta(mu, epsilon)) if mu > 0 else 0.0


def epsilon_gaussian(mu: float, delta: float) -> float:
    """The least epsilon of a Gaussian release with sensitivity / noise = mu, rounded up at the last digit."""
    goal = log(check_delta(delta))
    if mu <= 0 or _log_delta(mu, 0) <= goal:
        return 0.0
    high = 1.0
    while _log_delta(mu, high) > goal:
        high *= 2
        if high > 1e300:
            return inf
    return _bisect(lambda eps: _log_delta(mu, eps) <= goal, high, 0.0)


def mu_gaussian(epsilon: float, delta: float) -> float:
    """The largest mu at which a Gaussian release keeps (epsilon, delta), rounded down at the last digit."""
    check_epsilon(epsilon)
    goal = log(check_delta(delta))
    high = 1.0
    while _log_delta(high, epsilon) <= goal:
        high *= 2
    return _bisect(lambda mu: _log_delta(mu, epsilon) <= goal, 0.0, high)


def _log_delta(mu: float, epsilon: float) -> float:
    """log of Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu): Balle & Wang 2018, theorem 8."""
    if mu <= 0:
        return -inf
    first, second = _log_phi(mu / 2 - epsilon / mu), epsilon + _log_phi(-mu / 2 - epsilon / mu)
    return first + log(-expm1(second - first)) if second < first else -inf


def _log_phi(x: float) -> float:
    """log of the normal distribution function, to about 1e-12."""
    if x > -37:
        return log1p(-erfc(x / sqrt(2)) / 2) if x > 0 else log(erfc(-x / sqrt(2)) / 2)
    square = 1 / (x * x)  # the asymptotic series; its next term is 945 / x^10, under 1e-12
    return -x * x / 2 - log(-x * sqrt(2 * pi)) + log1p(-square * (1 - square * (3 - square * (15 - square * 105))))


def _bisect(good: Callable[[float], bool], inside: float, outside: float) -> float:
    """The good end of an interval of two neighbouring numbers, of which one is good."""
    while nextafter(inside, outside) != outside:
        middle = inside + (outside - inside) / 2
        if middle in (inside, outside):
            break
        inside, outside = (middle, outside) if good(middle) else (inside, middle)
    return inside


# --- a plan ---


def mu(plan: Plan) -> float | None:
    """mu of the whole plan as one Gaussian release; None where something is Poisson-sampled or has Skellam noise."""
    return None if plan.amplified or plan.skellam else sqrt(sum(r.mu2 for r in plan.releases))


def epsilon(plan: Plan, delta: float, *, grid: float = GRID) -> float:
    """The epsilon of the whole plan at delta, an upper bound. Raises `PrivacyError` for a delta that is not one."""
    check_delta(delta)
    exact = mu(plan)
    if exact is not None:
        return epsilon_gaussian(exact, delta)
    if plan.skellam or delta < _SMALLEST_DELTA:
        return epsilon_rdp(plan, delta)
    rough = _epsilon_rdp(plan, delta, _INTEGERS)
    tight = float(_pld(plan, grid).get_epsilon(delta)) if rough < _HOPELESS else rough
    return tight if isfinite(tight) else rough


def epsilon_rdp(plan: Plan, delta: float) -> float:
    """The epsilon by Renyi divergences: looser, additive, and what a Renyi filter goes by."""
    return _epsilon_rdp(plan, check_delta(delta), _INTEGERS if plan.skellam else _FRACTIONS)


def delta(plan: Plan, epsilon: float) -> float:
    """The delta of the whole plan at epsilon >= 0, an upper bound."""
    return float(_deltas(plan, [epsilon], GRID)[0])


def rdp(plan: Plan, order: float) -> float:
    """The Renyi divergence of the whole plan at one order above 1; an integer where Skellam noise is sampled."""
    if not order > 1 or (plan.skellam and plan.amplified and order != int(order)):
        raise PrivacyError(f"The Renyi order {order} cannot be used here.", why="bounds are known above 1, and at integers for Skellam", fix="use 4")
    return float(_rdp(plan, (order,))[0])


def tpr(plan: Plan, fpr: float = 0.01, *, grid: float = _GRIDS[1]) -> float:
    """The largest true-positive rate of any test of one unit's participation at this false-positive rate, an upper bound.

    One Gaussian: Phi(mu + Phi^-1(fpr)). Otherwise each (epsilon, delta) of the plan bounds it twice, and the least bound counts.
    """
    if not 0 < fpr < 1:
        raise PrivacyError(f"A false-positive rate of {fpr} is not one.", why="it is a share of those who did not take part", fix="give 0.01")
    exact = mu(plan)
    if exact is not None:
        return NormalDist().cdf(exact + NormalDist().inv_cdf(fpr))
    epsilons = np.concatenate([np.linspace(0, 8, 161), np.linspace(8.1, 50, 100)])
    deltas = _deltas(plan, epsilons.tolist(), grid)
    bounds = np.minimum(fpr * np.exp(epsilons) + deltas, 1 - np.exp(-epsilons) * np.maximum(1 - fpr - deltas, 0))
    return float(min(1.0, bounds.min()))


def shares(plan: Plan, delta: float) -> tuple[float, ...]:
    """The part of the budget that each release takes, adding to 1: of mu^2, or of the Renyi divergence at the order that decides."""
    if mu(plan) is not None:
        parts = [r.mu2 for r in plan.releases]
    else:
        orders = np.asarray(_INTEGERS, np.float64)
        curves = [_rdp(Plan((r,)), _INTEGERS) for r in plan.releases]
        best = int(np.argmin(_converted(orders, np.sum(curves, axis=0), check_delta(delta))))
        parts = [float(curve[best]) for curve in curves]
    total = sum(parts)
    return tuple(part / total for part in parts) if total > 0 and isfinite(total) else tuple(1 / len(parts) for _ in parts)


def records(mu: float, count: int) -> float:
    """mu for a patient with `count` records where each record is clipped on its own: count * mu (group privacy of a Gaussian)."""
    return count * mu


def hospitals(mu: float, count: int, *, shared: bool) -> float:
    """mu for a patient who is at `count` hospitals, each of which protects them with mu.

    shared: their vectors are added in one sum with one noise (mu grows by count); otherwise the noises are independent (by its root).
    """
    return mu * (count if shared else sqrt(count))


def at_hospitals(plan: Plan, delta: float, count: int, *, shared: bool) -> float:
    """epsilon for a patient who is at `count` hospitals of the plan, each of which clips and draws them on its own. Seconds where sampled.

    shared: in each round all their vectors meet in one sum: how many were drawn is binomial, and moves the sum by that many clips
    (a mixture of Gaussians: Choquette-Choo et al. 2023, "Privacy amplification for matrix mechanisms"). Otherwise each hospital's sums are
    releases of their own. Raises `PrivacyError` for a shared sum of sampled Skellam noise, for which no bound is known.
    """
    if count < 1:
        raise PrivacyError(f"{count} hospitals are not a number of hospitals.", why="a patient is somewhere", fix="give at least 1")
    exact = mu(plan)
    if exact is not None:
        return epsilon_gaussian(hospitals(exact, count, shared=shared), check_delta(delta))
    if not shared:
        return epsilon(Plan(plan.releases * count), delta)
    if plan.skellam:
        raise PrivacyError("No bound is known for sampled Skellam noise here.", why="a mixture needs Gaussian noise", fix="use Gaussian noise")
    return _epsilon_mixed(plan, check_delta(delta), count)


# --- how much noise ---


def calibrate(requests: Sequence[Request], epsilon: float, delta: float, *, spare: int = 0) -> Plan:
    """The plan with the least noise that keeps (epsilon, delta) with `spare` repeated rounds of any step, tight to 0.1 %. Raises `PrivacyError`.

    One dial turns all steps together. At each setting a step's mu^2, by the rule of thumb mu^2 = rate^2 rounds (e^(1/z^2) - 1) for a sampled one,
    is in proportion to its weight: for much noise, z ~ rate sqrt(rounds / weight). The thumb only divides; the accountant decides.
    """
    check_epsilon(epsilon)
    check_delta(delta)
    if not requests:
        return Plan()
    goal = mu_gaussian(epsilon, delta) ** 2
    unit = _at(requests, 1.0)
    exact = mu(with_spare(unit, spare))
    if exact is not None:  # mu^2 is proportional to the dial; the hair keeps room for a ledger that rounds each round's price up
        return _at(requests, goal / exact**2 * (1 - 1e-6))
    start = log(goal / sum(r.weight for r in requests))

    def at(dial: float) -> Plan:
        return with_spare(_at(requests, exp(dial)), spare)

    rough = _climb(lambda dial: _excess(_epsilon_rdp(at(dial), delta, _INTEGERS), epsilon), start)
    if unit.skellam or delta < _SMALLEST_DELTA or epsilon >= _HOPELESS:
        return _at(requests, exp(rough))
    grid = _grid(unit.rounds, epsilon)
    return _at(requests, exp(_climb(lambda dial: _excess(_epsilon(at(dial), delta, grid), epsilon), rough)))


def with_spare(plan: Plan, spare: int) -> Plan:
    """The plan with room for `spare` repeated rounds, of whichever steps fail: what was priced in advance covers any choice.

    Steps that sample get `spare` rounds more each. The others share one slot a repetition, at the price of the dearest of their rounds
    (a whole epoch's in a fixed order): a Gaussian of more noise is dominated by one of less.
    """
    if spare < 0:
        raise PrivacyError(f"{spare} spare rounds are not a number of rounds.", why="a repeated round is a release", fix="give 0 or more")
    if spare == 0 or not plan.releases:
        return plan
    grown = tuple(replace(r, rounds=r.rounds + spare) if r.sampler.amplified else r for r in plan.releases)
    dearest = max((r.sampler.square(1) / r.multiplier**2 for r in plan.releases if not r.sampler.amplified), default=0.0)
    if dearest == 0.0:
        return Plan(grown)
    return Plan((*grown, Release("spare", samplers.FullBatch(), 1 / sqrt(dearest), spare, "skellam" if plan.skellam else "gaussian")))


@dataclass(frozen=True, slots=True)
class Lever:
    """One change to the step that takes most of the budget.

    epsilon: of the whole plan over what it is now, if only this changes and the noise stays. multiplier: the step's at today's epsilon.
    ratio: noise against the largest signal at today's epsilon, over what it is now: below 1 is better. free: it needs no more patients.
    """

    name: str
    step: str
    epsilon: float
    multiplier: float
    ratio: float
    free: bool


def levers(plan: Plan, delta: float) -> tuple[Lever, ...]:
    """Rounds halved, sampling halved and doubled, cohort doubled, clip halved; the best first. Before and after are taken by one accountant:
    exactly where nothing is sampled, else by Renyi divergences, which give the multiplier to about 5 %.

    Halving the clip halves the noise, and the largest signal too: what it gains depends on the data, at which a quote does not look.
    """
    check_delta(delta)
    if not plan.releases:
        return ()
    index = int(np.argmax(shares(plan, delta)))
    main = plan.releases[index]
    made = [Lever("cohort doubled", main.step, 1.0, main.multiplier, 0.5, False), Lever("clip halved", main.step, 1.0, main.multiplier, 1.0, True)]
    made += [_lever(name, plan, index, changed, delta) for name, changed in _changes(main)]
    return tuple(sorted(made, key=lambda lever: lever.ratio))


def _lever(name: str, plan: Plan, index: int, changed: Release, delta: float) -> Lever:
    main, then = plan.releases[index], _with(plan, index, changed)
    exact = mu(plan) is not None and mu(then) is not None

    def cost(plan: Plan) -> float:
        return epsilon_gaussian(mu(plan) or 0.0, delta) if exact else _epsilon_rdp(plan, delta, _FEW)

    def excess(x: float) -> float:
        return _excess(cost(_with(plan, index, replace(changed, multiplier=exp(-x / 2)))), now)

    now = cost(plan)
    multiplier = exp(-_climb(excess, -2 * log(main.multiplier)) / 2)
    ratio = multiplier / main.multiplier * main.sampler.rate / changed.sampler.rate
    return Lever(name, main.step, cost(then) / now if now > 0 else 1.0, multiplier, ratio, True)


def _changes(main: Release) -> list[tuple[str, Release]]:
    out = []
    if main.rounds > 1:
        out.append(("rounds halved", replace(main, rounds=-(-main.rounds // 2))))
    if isinstance(main.sampler, samplers.FixedOrder):
        return out
    rate = main.sampler.rate
    out.append(("sampling rate halved", replace(main, sampler=samplers.Poisson(rate / 2))))
    if rate < 1:
        out.append(("sampling rate doubled" if rate <= 0.5 else "no sampling", replace(main, sampler=samplers.Poisson(min(1.0, 2 * rate)))))
    return out


def _with(plan: Plan, index: int, release: Release) -> Plan:
    return Plan((*plan.releases[:index], release, *plan.releases[index + 1 :]))


def _at(requests: Sequence[Request], dial: float) -> Plan:
    return Plan(tuple(Release(r.step, r.sampler, _multiplier(r, dial), r.rounds, r.noise) for r in requests))


def _multiplier(request: Request, dial: float) -> float:
    sampler, part = request.sampler, dial * request.weight
    if sampler.amplified:
        return 1 / sqrt(log1p(part / (sampler.rate**2 * request.rounds)))
    return sqrt(sampler.square(request.rounds) / part)


def grid_for(plan: Plan, delta: float) -> float:
    """The coarsest step of the loss distribution that still gives epsilon at delta to 0.1 %: what a quote uses, for it is quick."""
    return GRID if mu(plan) is not None else _grid(plan.rounds, 0.8 * _epsilon_rdp(plan, check_delta(delta), _INTEGERS))


def _grid(rounds: int, epsilon: float) -> float:
    """The coarsest step that adds under 0.05 % to epsilon. Connecting dots adds a variance of about 0.2 grid^2 a round to the loss, whose
    own is about (epsilon / 4)^2: measured, an upper estimate from epsilon 0.1 to 8.
    """
    return next((grid for grid in _GRIDS if 1.5 * grid * grid * rounds <= _TOLERANCE * epsilon * epsilon), GRID)


def _excess(value: float, goal: float) -> float:
    return max(-20.0, min(20.0, log(max(value, 1e-12) / goal)))


def _climb(excess: Callable[[float], float], x: float) -> float:
    """An x with -tolerance <= excess(x) <= 0, for an increasing function of a slope near 1/2 (epsilon goes as the root of the dial)."""
    good: tuple[float, float] | None = None
    bad: tuple[float, float] | None = None
    for _ in range(80):
        y = excess(x)
        if -_TOLERANCE <= y <= 0:
            return x
        if y < 0:
            good = (x, y)
        else:
            bad = (x, y)
        if good and bad:
            part = (-_TOLERANCE / 2 - good[1]) / (bad[1] - good[1])
            x = good[0] + (bad[0] - good[0]) * min(0.95, max(0.05, part))
        else:
            x -= max(-2.0, min(2.0, 2 * (y + _TOLERANCE / 2)))
    if good is None:
        raise PrivacyError(
            "No amount of noise keeps this promise.", why="the accountant finds no plan for it", fix="ask for a larger epsilon or delta, or fewer rounds"
        )
    return good[0]


# --- dp-accounting ---


def _epsilon(plan: Plan, delta: float, grid: float) -> float:
    return epsilon(plan, delta, grid=grid)


def _epsilon_rdp(plan: Plan, delta: float, orders: tuple[float, ...]) -> float:
    return float(_converted(np.asarray(orders, np.float64), _rdp(plan, orders), delta).min())


def _converted(orders: Floats, divergence: Floats, delta: float) -> Floats:
    """Epsilon by each order. Not the library's own: it takes a divergence that rounding made negative for epsilon 0."""
    out = divergence + np.log1p(-1 / orders) - (log(delta) + np.log(orders)) / (orders - 1)
    return np.maximum(out, 0.0)


def _rdp(plan: Plan, orders: tuple[float, ...]) -> Floats:
    """Renyi divergence by order, (orders,)."""
    total = np.zeros(len(orders))
    for release in plan.releases:
        if release.sampler.amplified:
            total += release.rounds * _rdp_round(release.sampler, release.multiplier, orders)
        else:
            total += np.asarray(orders) * release.mu2 / 2
    return total


@lru_cache(maxsize=1024)
def _rdp_round(sampler: Sampler, multiplier: float, orders: tuple[float, ...]) -> Floats:
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders, Adjacency().relation)
    with np.errstate(all="ignore"):
        accountant.compose(sampler.event(multiplier, 1))
    found = np.asarray(accountant.rdp, np.float64)
    return np.asarray(np.where(np.isfinite(found) & (found >= 0), found + _ROUNDING, inf), np.float64)


@lru_cache(maxsize=4)
def _pld(plan: Plan, grid: float) -> PLDAccountant:
    from dp_accounting import ComposedDpEvent, GaussianDpEvent
    from dp_accounting.pld import PLDAccountant

    sampled: dict[tuple[Sampler, float], int] = {}
    plain = 0.0
    for r in plan.releases:
        if r.sampler.amplified:
            sampled[r.sampler, r.multiplier] = sampled.get((r.sampler, r.multiplier), 0) + r.rounds
        else:
            plain += r.mu2
    events = [sampler.event(multiplier, rounds) for (sampler, multiplier), rounds in sampled.items()]
    if plain > 0:
        events.append(GaussianDpEvent(1 / sqrt(plain)))
    return PLDAccountant(Adjacency().relation, grid).compose(ComposedDpEvent(events))


def drawn(count: int, rate: float, k: int) -> float:
    """The probability that k of `count` independent draws at `rate` fall on one patient."""
    return comb(count, k) * rate**k * (1 - rate) ** (count - k)


def _epsilon_mixed(plan: Plan, delta: float, count: int) -> float:
    from dp_accounting import ComposedDpEvent, GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
    from dp_accounting.pld import PLDAccountant

    sampled = [r for r in plan.releases if r.sampler.amplified]
    plain = sum(r.mu2 for r in plan.releases if not r.sampler.amplified)
    events = [GaussianDpEvent(1 / (count * sqrt(plain)))] if plain > 0 else []
    for r in sampled:
        chances = [drawn(count, r.sampler.rate, k) for k in range(count + 1)]
        events.append(SelfComposedDpEvent(MixtureOfGaussiansDpEvent(r.multiplier, list(range(count + 1)), chances), r.rounds))
    return float(PLDAccountant(Adjacency().relation, _GRIDS[0]).compose(ComposedDpEvent(events)).get_epsilon(delta))


def _deltas(plan: Plan, epsilons: list[float], grid: float) -> Floats:
    exact = mu(plan)
    if exact is not None:
        return np.array([delta_gaussian(exact, eps) for eps in epsilons])
    orders = _INTEGERS if plan.skellam else _FRACTIONS
    if not plan.skellam and _epsilon_rdp(plan, 1e-6, _INTEGERS) < _HOPELESS:
        return np.asarray(_pld(plan, grid).get_delta(epsilons), np.float64)
    alpha, divergence = np.asarray(orders, np.float64), _rdp(plan, orders)
    logs = [((alpha - 1) * (divergence - eps + np.log1p(-1 / alpha)) - np.log(alpha)).min() for eps in epsilons]
    return np.asarray(np.exp(np.minimum(np.array(logs), 0.0)), np.float64)
