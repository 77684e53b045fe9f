"""What several noisy gradients and information matrices say about one maximum, and how sure one may be.

Precondition   round t evaluated a concave sum at theta_t: a gradient g_t with independent noise of variance s^2 per coordinate, and
               an information H_t with symmetric noise of variance e^2 on the diagonal and e^2 / 2 off it
Pseudocode     H = sum_t omega_t H_t,  omega_t ~ 1 / (noise_t + length_t^2)            length_t: of theta_t - theta, in standard errors
               M_t = (1 - c_t) H + c_t H_t,  c_t = length_t^2 / (length_t^2 + noise_t) / 2           noise_t: expected squared length
               u_t = theta_t + M_t^-1 g_t                         the maximum as round t sees it; noise in H_t hardly moves it near theta
               theta = sum_t alpha_t u_t,  alpha_t ~ 1 / (noise_t + curvature_t^2)
               eigenvalues of every matrix that is inverted are raised to FLOOR times the norm that its noise is expected to have
Postcondition  without noise the last evaluations decide, and theta is Newton's answer. With noise theta averages the rounds, so k rounds
               cost about sqrt(k / (k - 1)) in precision, not sqrt(k); its covariance includes the noise. Nothing raises.
Source         Ganesh, Haghifam, Steinke and Thakurta (2023), NeurIPS, "Faster Differentially Private Convex Optimization via Second-Order
               Methods" (noisy Newton with a floor on the eigenvalues); Vu and Slavkovic (2009), ICDM workshops (intervals that include
               the noise). c_t = 1/2 is the trapezoid rule for the integral of H between theta_t and theta: its error is of third order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLOOR = 1.0
"""An eigenvalue below this many noise norms cannot be told from noise: the norm of symmetric noise is about e sqrt(2 p)."""
LONGEST = 8.0
"""No step moves a linear predictor of a row of length `radius` further than this."""
FURTHEST = 30.0
"""Nor do all steps together move it further."""
PASSES = 4
RELATIVE = 1e-10
"""Even without noise an eigenvalue below this share of the largest is zero."""
TINY = 1e-24


@dataclass(frozen=True)
class Evaluation:
    """One round: where (p,), the gradient (p,) and the information (p, p), ridge not included, with the standard deviations of their noise."""

    at: Floats
    gradient: Floats
    information: Floats
    gradient_sd: float
    information_sd: float


@dataclass(frozen=True)
class Objective:
    """What is public about the sum: ridge (p,), radius: of a typical row; curvature: the trapezoid rule's relative error at a predictor that
    is off by one (0 for a quadratic); prior: how large a coefficient in a direction that nothing is known of could be."""

    ridge: Floats
    radius: float
    curvature: float
    prior: float


@dataclass(frozen=True)
class Matrix:
    """An information matrix whose eigenvalues are at least `floor`: itself and its inverse (p, p), how many eigenvalues were raised, and
    `doubt` (p, p), the variance of what raising them hides."""

    raised: Floats
    inverse: Floats
    doubt: Floats
    floor: float
    floored: int


@dataclass(frozen=True)
class Estimate:
    """theta (p,); information: there, ridge included; noise: covariance of theta due to noise (p, p); unsettled: the last step's squared
    length in standard errors, as far as noise does not explain it."""

    theta: Floats
    information: Matrix
    noise: Floats
    unsettled: float


@dataclass(frozen=True)
class _Targets:
    """What each round sees: where the maximum is (t, p), by which inverse (p, p) each; lengths, noises (t,): squared, in standard errors."""

    at: Floats
    inverses: list[Floats]
    lengths: Floats
    noises: Floats


def estimate(rounds: Sequence[Evaluation], goal: Objective) -> Estimate:
    """The maximum from all rounds so far; at least one."""
    theta, share = rounds[-1].at, np.zeros(len(rounds))
    share[-1] = 1.0
    for _ in range(PASSES):
        mean = _mean(rounds, share, goal)
        seen = _targets(rounds, theta, share, mean, goal)
        alpha = _normalised(1.0 / (seen.noises + _bias(seen.lengths, mean, goal) + TINY))
        theta = _shorten(alpha @ seen.at, FURTHEST / goal.radius)
        share = _normalised(1.0 / (seen.noises + seen.lengths + TINY))
    final = _mean(rounds, share, goal)
    noise = np.zeros_like(final.inverse)
    for a, r, inverse in zip(alpha, rounds, seen.inverses, strict=True):
        noise += a**2 * inverse @ noise_of(r, theta) @ inverse
    step = theta - rounds[-1].at
    expected = float(np.trace(final.raised @ noise) + seen.noises[-1])
    return Estimate(theta, final, noise, max(0.0, float(step @ final.raised @ step) - 9.0 * expected))


def noise_of(r: Evaluation, theta: Floats) -> Floats:
    """Covariance (p, p) of the noise in g_t + E (theta_t - theta): the gradient's, and the information's noise E as far as it matters."""
    away = r.at - theta
    return r.gradient_sd**2 * np.eye(len(away)) + r.information_sd**2 / 2.0 * (float(away @ away) * np.eye(len(away)) + np.outer(away, away))


def _targets(rounds: Sequence[Evaluation], theta: Floats, share: Floats, mean: Matrix, goal: Objective) -> _Targets:
    lengths = np.asarray([float((r.at - theta) @ mean.raised @ (r.at - theta)) for r in rounds])
    noises = np.asarray([float(np.trace(mean.inverse @ noise_of(r, theta))) for r in rounds])
    at, inverses = [], []
    for t, (r, own) in enumerate(zip(rounds, 0.5 * lengths / (lengths + noises + TINY), strict=True)):
        weights = (1.0 - own) * share
        weights[t] += own
        inverses.append(_mean(rounds, weights, goal).inverse)
        at.append(r.at + _shorten(inverses[t] @ (r.gradient - goal.ridge * r.at), LONGEST / goal.radius))
    return _Targets(np.asarray(at), inverses, lengths, noises)


def _bias(lengths: Floats, mean: Matrix, goal: Objective) -> Floats:
    """Squared error of each target from the curvature of the gradient: relative, it grows with the squared change of the predictors."""
    rows = max(float(np.trace(mean.raised)), TINY) / goal.radius**2
    return np.asarray(lengths * (goal.curvature * lengths / rows) ** 2)


def _mean(rounds: Sequence[Evaluation], weights: Floats, goal: Objective) -> Matrix:
    """A weighted mean of the rounds' information plus ridge, with eigenvalues floored by the noise that is left in that mean."""
    matrix = np.diag(goal.ridge) + sum(w * r.information for w, r in zip(weights, rounds, strict=True))
    sd = math.sqrt(sum((w * r.information_sd) ** 2 for w, r in zip(weights, rounds, strict=True)))
    values, vectors = np.linalg.eigh(matrix)
    floor = max(FLOOR * sd * math.sqrt(2.0 * len(values)), RELATIVE * float(np.abs(values).max()), TINY)
    raised = np.maximum(values, floor)
    hidden = goal.prior * _left(1.0 - np.maximum(values, 0.0) / raised, len(rounds))
    return Matrix((vectors * raised) @ vectors.T, (vectors / raised) @ vectors.T, (vectors * hidden**2) @ vectors.T, floor, int((values < floor).sum()))


def _left(share: Floats, rounds: int) -> Floats:
    """Of the way to the maximum, what the average target of so many rounds still lacks, if each step leaves `share` of it."""
    return np.asarray(sum(share**t for t in range(1, rounds + 1)) / rounds)


def _shorten(v: Floats, longest: float) -> Floats:
    return np.asarray(v * min(1.0, longest / max(float(np.linalg.norm(v)), TINY)))


def _normalised(weights: Floats) -> Floats:
    return np.asarray(weights / weights.sum())
