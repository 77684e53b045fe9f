"""What a plan promises and what it costs, in numbers and in words, before anything runs and from public numbers alone.

Precondition   the plan's multipliers are reached by the noise of `honest` sites. `patients` and the dimensions are public.
Pseudocode     noise_s  = multiplier_s sqrt(cohort / honest)            the sum's standard deviation at a coordinate, in clips
               signal_s = units * rate_s / sqrt(d_s)                    what so many vectors of norm 1, all alike, add up to at a coordinate
               ratio_s  = noise_s / signal_s                            the noise against the largest signal there can be
Postcondition  nothing here depends on a private row. The sentence claims what the accountant bounds, rounded up.

Sources: Dong, Roth & Su 2022 (detection at a false-positive rate); spec of the sentence: docs/privacy.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, isfinite, sqrt
from typing import Any, Literal, get_args

from locum.privacy import accountant
from locum.privacy.accountant import Lever, Plan, Release, check_delta
from locum.privacy.adjacency import Unit, check_unit
from locum.privacy.errors import PrivacyError

View = Literal["the coordinator's view", "the released model"]
FPR = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """One step of the plan. noise, signal: per coordinate of the round's sum, in clips. share: of the budget, without spare rounds."""

    step: str
    sampler: str
    rounds: int
    multiplier: float
    share: float
    dimension: int
    noise: float
    signal: float

    @property
    def ratio(self) -> float:
        """Noise over the largest signal; what is averaged over rounds, or over coordinates, is better by the root of their number."""
        return self.noise / self.signal


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """epsilon for one who is at `count` hospitals of the study, if their vectors meet in one noisy sum, or in sums with noises of their own.

    Only where nothing is sampled: `accountant.at_hospitals` gives the others, in seconds.
    """

    count: int
    shared: float
    independent: float


@dataclass(frozen=True, slots=True)
class Quote:
    """A plan's promise. mu: None where patients are sampled. tpr: detection at a false-positive rate of 1 %. levers: the best first."""

    epsilon: float
    delta: float
    mu: float | None
    tpr: float
    unit: Unit
    view: View
    honest: int
    cohort: int
    patients: int
    spare: int
    rows: tuple[Row, ...]
    levers: tuple[Lever, ...]
    elsewhere: Elsewhere | None

    @property
    def sentence(self) -> str:
        """The promise for a person to read."""
        who = "any one patient at this site, including all their records" if self.unit == "patient" else "any one site, including all its patients"
        least = "site" if self.honest == 1 else "sites"
        hidden = "that the site took part, " if self.unit == "patient" else ""
        return (
            f"For {who}, someone who sees {self.view} and knows everyone else's data can detect their participation at a 1 % false-positive rate "
            f"at most {percent(self.tpr)} of the time. It assumes at least {self.honest} honest {least}; it does not hide facts about the population, "
            f"{hidden}or harm from a correct inference."
        )

    @property
    def best(self) -> str:
        """Which lever lowers the noise most at this epsilon."""
        if not self.levers:
            return ""
        first = self.levers[0]
        free = next((lever for lever in self.levers if lever.free and lever.ratio < 1), None)
        if first.ratio >= 1:
            return f"No lever lowers the noise of '{first.step}' at this epsilon."
        text = f"What lowers the noise of '{first.step}' most at this epsilon: {first.name}, to {first.ratio:.2f} of the ratio."
        if not first.free and free is not None:
            text += f" Without more patients: {free.name}, to {free.ratio:.2f}."
        return text

    def text(self) -> str:
        """The quote as a page of text."""
        gaussian = f", mu {self.mu:.4g}" if self.mu is not None else ""
        spare = f", with {self.spare} spare round{'s' * (self.spare > 1)}" if self.spare else ""
        lines = [f"epsilon {up(self.epsilon)}, delta {self.delta:g}{gaussian}, for each {self.unit}, over the whole study{spare}", "", self.sentence]
        if self.elsewhere is not None:
            lines.append(
                f"For one who is at {self.elsewhere.count} hospitals of the study, epsilon is {up(self.elsewhere.shared)} if both add to one sum "
                f"with one noise, {up(self.elsewhere.independent)} if each sum has a noise of its own, unless their records are linked."
            )
        lines += ["", *_columns([("step", "sampler", "rounds", "multiplier", "budget", "noise", "largest signal", "ratio"), *map(_cells, self.rows)])]
        lines.append("noise and signal: per coordinate of one round's sum over the cohort, in clips")
        if self.levers:
            head = ("lever", "epsilon, same noise", "ratio, same epsilon")
            lines += ["", *_columns([head, *((x.name, f"x {x.epsilon:.3g}", f"x {x.ratio:.3g}") for x in self.levers)])]
            lines += ["clip halved: the noise halves, and so does the largest signal; vectors under the new clip lose nothing", "", self.best]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The quote as one JSON object."""
        plain: dict[str, Any] = asdict(self) | {"sentence": self.sentence, "best": self.best, "fpr": FPR}
        for row, made in zip(plain["rows"], self.rows, strict=True):
            row["ratio"] = made.ratio
        return json.dumps(_finite(plain), allow_nan=False, sort_keys=True)


def quote(
    plan: Plan,
    delta: float,
    *,
    honest: int,
    cohort: int,
    patients: int,
    dimensions: Mapping[str, int],
    unit: Unit = "patient",
    view: View = "the coordinator's view",
    spare: int = 0,
) -> Quote:
    """The quote of a plan. patients: their public number in the whole cohort. dimensions: numbers in a round's vector, by step.

    Where sites are the unit, `cohort` is their number. Raises `PrivacyError`.
    """
    check_unit(unit)
    units = patients if unit == "patient" else cohort
    check_delta(delta, units, unit=unit)
    _check(plan, honest, cohort, dimensions, view)
    whole = accountant.with_spare(plan, spare)
    shares = accountant.shares(plan, delta) if plan.releases else ()
    rows = tuple(_row(r, share, dimensions[r.step], units, sqrt(cohort / honest)) for r, share in zip(plan.releases, shares, strict=True))
    grid = accountant.grid_for(whole, delta)
    promise = (accountant.epsilon(whole, delta, grid=grid), delta, accountant.mu(whole), accountant.tpr(whole, FPR, grid=grid))
    return Quote(*promise, unit, view, honest, cohort, patients, spare, rows, accountant.levers(plan, delta), _elsewhere(whole, delta, unit, cohort))


def percent(share: float) -> str:
    """A share in per cent, rounded up at its second digit: a promise is not rounded in its own favour."""
    if share >= 0.1:
        return f"{min(100.0, ceil(share * 1000 - 1e-9) / 10):.1f} %"
    return f"{ceil(share * 10000 - 1e-9) / 100:.2f} %"


def up(epsilon: float) -> str:
    """An epsilon with two decimals, rounded up; below 0.1, with four."""
    if not isfinite(epsilon):
        return "infinite"
    digits = 2 if epsilon >= 0.1 else 4
    return f"{ceil(epsilon * 10**digits - 1e-4) / 10**digits:.{digits}f}"


def _row(release: Release, share: float, dimension: int, units: int, excess: float) -> Row:
    signal = units * release.sampler.rate / sqrt(dimension)
    return Row(release.step, release.sampler.words, release.rounds, release.multiplier, share, dimension, release.multiplier * excess, signal)


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (f"{row.multiplier:.4g}", f"{100 * row.share:.1f} %", f"{row.noise:.4g}", f"{row.signal:.4g}", f"{row.ratio:.3g}")
    return (row.step, row.sampler, str(row.rounds), *numbers)


def _elsewhere(plan: Plan, delta: float, unit: Unit, cohort: int, count: int = 2) -> Elsewhere | None:
    mu = accountant.mu(plan)
    if mu is None or unit == "site" or cohort < count:
        return None
    both = (accountant.epsilon_gaussian(accountant.hospitals(mu, count, shared=shared), delta) for shared in (True, False))
    return Elsewhere(count, *both)


def _check(plan: Plan, honest: int, cohort: int, dimensions: Mapping[str, int], view: str) -> None:
    if not 1 <= honest <= cohort:
        raise PrivacyError(
            f"At least {honest} honest sites cannot be guaranteed in a cohort of {cohort}.",
            why="the noise is shared among the honest sites that are sure to be there",
            fix=f"set the honest minimum between 1 and {cohort}" if cohort >= 1 else "give the cohort",
        )
    missing = sorted({r.step for r in plan.releases if dimensions.get(r.step, 0) < 1})
    if missing:
        raise PrivacyError(f"The length of the vector of step '{missing[0]}' is not given.", why="noise is added to each number", fix="give its dimension")
    if view not in get_args(View):
        raise PrivacyError(f"The view {view!r} is not known.", why="a promise must say who looks", fix=f"use one of: {'; '.join(get_args(View))}")


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value
