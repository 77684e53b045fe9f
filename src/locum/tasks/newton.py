"""Newton's method for a concave sum, one evaluation per round, with step-halving and a diagnosis of what cannot be fitted.

The coordinator knows the sum of the sites' values, gradients and information matrices at one point, and says where to
evaluate next. Everything is kept in `Progress`, so that a run may stop after any round and go on elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from locum.errors import TaskError

Floats = NDArray[np.float64]

COLLINEAR = 1e-12
"""A column whose squared distance from the others, relative to its length, is below this depends on them."""
CONSTANT = 1e-22
"""A centred column whose sum of squares, relative to the uncentred one, is below this is constant."""
DIVERGED = 1e-8
"""Information in some direction, relative to the first round, below which the likelihood has no maximum there."""
SLACK = 1e-11
"""Relative rounding error of the summed value: a drop below it is not a drop."""
MIN_FACTOR = 2.0**-40
UNKNOWN = -float(np.finfo(float).max)
"""The value before the first evaluation: finite, so that a state never holds infinity."""


@dataclass(frozen=True)
class Quadratic:
    """The objective around `at`: its value, its gradient (p,), and its information, minus the Hessian (p, p)."""

    value: float
    gradient: Floats
    information: Floats

    def penalised(self, at: Floats, ridge: Floats) -> Quadratic:
        """With the ridge penalty sum_j ridge_j at_j^2 / 2 taken off."""
        return Quadratic(self.value - float(ridge @ at**2) / 2.0, self.gradient - ridge * at, self.information + np.diag(ridge))


@dataclass(frozen=True)
class Progress:
    """Where the iteration stands.

    at: where the sites evaluate next. best, value, information: the best point so far, with its value and information.
    direction, factor: the Newton step from `best` and the share of it that is tried. first: the first round's
    information, to measure divergence. rounds, converged: as they say.
    """

    at: Floats
    best: Floats
    value: float
    direction: Floats
    factor: float
    information: Floats
    first: Floats
    rounds: int
    converged: int

    @classmethod
    def start(cls, at: Floats, rounds: int = 0) -> Self:
        p = len(at)
        return cls(at, at, UNKNOWN, np.zeros(p), 1.0, np.zeros((p, p)), np.zeros((p, p)), rounds, 0)

    def arrays(self) -> dict[str, Any]:
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @property
    def evaluated(self) -> bool:
        """Whether `best` has a value and an information yet."""
        return self.value > UNKNOWN

    @classmethod
    def of(cls, get: Callable[[str], NDArray[Any]]) -> Self:
        """Read back what `arrays` wrote, one name at a time."""
        values = {f.name: get(f.name) for f in fields(cls)}
        scalars: dict[str, Any] = {"value": float(values["value"]), "factor": float(values["factor"])}
        return cls(**{**values, **scalars, "rounds": int(values["rounds"]), "converged": int(values["converged"])})


@dataclass(frozen=True)
class Problem:
    """What the objective is about, for messages and scaling.

    names: one per coefficient. squares: sum of x^2 per column before centring (p,). tolerance: stop when the Newton
    step is at most this many standard errors long. dispersion: the variance that scales the information.
    separated: the sentence that says what a diverging coefficient means here. within: 'in the cohort' or 'within every site'.
    """

    names: Sequence[str]
    squares: Floats
    tolerance: float
    separated: str
    within: str = "in the cohort"
    dispersion: float = 1.0


def advance(old: Progress, here: Quadratic, problem: Problem) -> Progress:
    """One round: accept the point that was tried and step on from it, or halve the step. Raises `TaskError`."""
    old = replace(old, rounds=old.rounds + 1)
    fresh = not old.evaluated
    if not fresh and here.value < old.value - SLACK * (1.0 + abs(old.value)):
        return _halve(old)
    first = here.information if fresh else old.first
    if fresh:
        diagnose(here.information, problem)
    else:
        check_diverged(first, here.information, old.at - old.best, problem)
    direction = solve(here.information, here.gradient)
    length = np.sqrt(max(0.0, float(here.gradient @ direction)) / max(problem.dispersion, np.finfo(float).tiny))
    negligible = np.all(np.abs(direction) <= 1e-13 * np.abs(old.at))
    converged = int(length <= problem.tolerance or (negligible and not fresh))
    return Progress(
        at=old.at if converged else old.at + direction,
        best=old.at,
        value=here.value,
        direction=direction,
        factor=1.0,
        information=here.information,
        first=first,
        rounds=old.rounds,
        converged=converged,
    )


def fit(evaluate: Callable[[Floats], Quadratic], ridge: Floats, problem: Problem, rounds: int = 60) -> Floats | None:
    """The maximum of a penalised objective whose rows are all here, or None where it was not reached."""
    progress = Progress.start(np.zeros(len(ridge)))
    for _ in range(rounds):
        progress = advance(progress, evaluate(progress.at).penalised(progress.at, ridge), problem)
        if progress.converged:
            return progress.best
    return None


def _halve(old: Progress) -> Progress:
    factor = old.factor / 2.0
    if factor < MIN_FACTOR:
        raise TaskError(
            "The likelihood does not rise along the Newton step, however short.",
            why="The columns differ too much in size, or a site's data changed between rounds.",
            fix="standardise the features in an earlier step, or add a ridge penalty",
        )
    return replace(old, at=old.best + factor * old.direction, factor=factor)


def solve(information: Floats, rhs: Floats) -> Floats:
    """information^-1 rhs, with rows and columns scaled to a unit diagonal first."""
    d = 1.0 / np.sqrt(np.diag(information))
    scaled = rhs * (d if rhs.ndim == 1 else d[:, None])
    out = np.asarray(np.linalg.solve(information * np.outer(d, d), scaled), float)
    return out * (d if rhs.ndim == 1 else d[:, None])


def covariance(information: Floats) -> Floats:
    """The inverse of the information, symmetric."""
    inverse = solve(information, np.eye(len(information)))
    return (inverse + inverse.T) / 2.0


def diagnose(information: Floats, problem: Problem) -> None:
    """Raise `TaskError` that names a column which is constant, or which the other columns determine."""
    diagonal = np.diag(information)
    flat = [name for name, d, s in zip(problem.names, diagonal, problem.squares, strict=True) if d <= CONSTANT * s or d <= 0.0]
    if flat:
        raise _constant(flat, problem)
    found = dependent(information / np.sqrt(np.outer(diagonal, diagonal)))
    if found is None:
        return
    names = [problem.names[i] for i in found]
    if names[1:] in ([], ["(intercept)"]):
        raise _constant(names[:1], problem)
    columns = [n for n in names if n != "(intercept)"]
    raise TaskError(
        f"The columns {_list(columns)} are collinear: each is determined by the others.",
        why="Their coefficients have no unique value.",
        fix=f"drop one of them from features, for example '{columns[0]}', or set ridge",
    )


def dependent(correlation: Floats) -> list[int] | None:
    """The columns of a dependence in a unit-diagonal Gram matrix, the dependent one first; by Cholesky with diagonal pivoting.

    Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, section 10.3.
    """
    p = len(correlation)
    rest, lower = np.diag(correlation).copy(), np.zeros((p, p))
    order: list[int] = []
    taken = np.zeros(p, dtype=bool)
    for k in range(p):
        j = int(np.where(taken, -np.inf, rest).argmax())
        if rest[j] <= COLLINEAR:
            combination = np.linalg.solve(correlation[np.ix_(order, order)], correlation[order, j])
            return [j, *(order[i] for i in np.flatnonzero(np.abs(combination) > 1e-5))]
        lower[:, k] = (correlation[:, j] - lower[:, :k] @ lower[j, :k]) / np.sqrt(rest[j])
        rest -= lower[:, k] ** 2
        order.append(j)
        taken[j] = True
    return None


def check_diverged(first: Floats, now: Floats, step: Floats, problem: Problem) -> None:
    """Raise `TaskError` when the information in some direction has all but vanished since the first round.

    The last `step` then runs along the direction that has no end, and names the columns.
    """
    d = 1.0 / np.sqrt(np.diag(first))
    lower = np.linalg.cholesky(first * np.outer(d, d))
    half = np.linalg.solve(lower, now * np.outer(d, d))
    if np.linalg.eigvalsh(np.linalg.solve(lower, half.T))[0] > DIVERGED:
        return
    along = np.abs(step) / d
    names = [n for n, a in zip(problem.names, along, strict=True) if a > 0.1 * along.max()]
    shown = [n for n in names if n != "(intercept)"] or names
    raise TaskError(
        f"The likelihood has no maximum: the coefficients of {_list(shown)} grow without end.",
        why=problem.separated,
        fix="set ridge to a small value such as 1.0, drop the variable, or merge its rare categories",
    )


def _constant(names: Sequence[str], problem: Problem) -> TaskError:
    verb = "is" if len(names) == 1 else "are"
    return TaskError(
        f"{_list(names)} {verb} constant {problem.within}, so there is no coefficient to estimate.",
        why="Every usable row has the same value; for 'variable[category]' no row, or every row, is of that category.",
        fix="drop it from features, merge the category, or set ridge",
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{n}'" for n in names)


def pack(symmetric: Floats) -> Floats:
    """The upper triangle, row by row: p (p + 1) / 2 numbers."""
    return symmetric[np.triu_indices(len(symmetric))]


def unpack(triangle: NDArray[Any], p: int) -> Floats:
    """The symmetric (p, p) matrix of an upper triangle."""
    out = np.zeros((p, p))
    out[np.triu_indices(p)] = triangle
    return out + np.triu(out, 1).T
