"""Does the sampler draw as it is accounted: each patient alone, at the rate, anew each round; or once in an epoch, in a fixed order?

Poisson       the number drawn, over all rounds, is Binomial(n T, q); the number in two given rounds both is Binomial(n, q^2); so are two keys.
              A sampler that always includes, that draws the same each round, or a batch of fixed size, is off in one of them: the number
              drawn in a round must also vary as it should (chi-square over the rounds).
Fixed order   each patient once in `batches` consecutive rounds, at least `band` rounds apart.
Gate          6 standard errors; p >= 1e-6.
Source        Abadi et al. 2016; Chua et al. 2024, "How private are DP-SGD implementations?" (shuffling accounted as Poisson).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from locum.privacy.attacks.findings import Finding, at_least, at_most
from locum.privacy.attacks.subject import Subject
from locum.privacy.sampler import FixedOrder, Poisson, Sampler

PATIENTS, ROUNDS, RATE = 2000, 60, 0.2
LARGEST_Z, SMALLEST_P = 6.0, 1e-6


def check(subject: Subject) -> list[Finding]:
    """Poisson and fixed order."""
    drawn = _draw(subject, Poisson(RATE), "a")
    n, q = PATIENTS, RATE
    sizes = drawn.sum(axis=1)
    spread = float(np.sum((sizes - n * q) ** 2)) / (n * q * (1 - q))
    p = float(2 * min(chi2.cdf(spread, ROUNDS), chi2.sf(spread, ROUNDS)))
    other = _draw(subject, Poisson(RATE), "b")
    both, keys = (drawn[1:] & drawn[:-1]).sum(), (drawn & other).sum()
    return [
        at_most("sampling", "Poisson: share drawn, off by standard errors", abs(_z(int(drawn.sum()), n * ROUNDS, q)), LARGEST_Z),
        at_most("sampling", "Poisson: share drawn in two rounds running, the same", abs(_z(int(both), n * (ROUNDS - 1), q * q)), LARGEST_Z),
        at_most("sampling", "Poisson: share drawn by two keys, the same", abs(_z(int(keys), n * ROUNDS, q * q)), LARGEST_Z),
        at_least("sampling", "Poisson: p of how the number drawn varies", p, SMALLEST_P),
        _fixed(subject),
    ]


def _fixed(subject: Subject) -> Finding:
    sampler = FixedOrder(batches=6, band=3)
    drawn = _draw(subject, sampler, "c")
    epochs = drawn.reshape(-1, sampler.batches, PATIENTS).sum(axis=1)
    close = sum(int((drawn[lag:] & drawn[:-lag]).sum()) for lag in range(1, sampler.band))
    return at_most("sampling", "fixed order: patients twice in an epoch, never, or within the band", float(np.count_nonzero(epochs != 1) + close), 0)


def _draw(subject: Subject, sampler: Sampler, name: str) -> NDArray[np.bool_]:
    """(ROUNDS, PATIENTS)."""
    patients, key = np.arange(PATIENTS).astype(str), subject.draw_key(f"sampling {name}")
    return np.stack([subject.draw(sampler, patients, t, key) for t in range(ROUNDS)])


def _z(count: int, n: int, p: float) -> float:
    return float((count - n * p) / np.sqrt(n * p * (1 - p)))
