"""Is the noise of the law and of the size that the accountant counts on, and is it fresh each time?

law          chi-square of integer samples against the exact probabilities (small sigma) and against equal cells of the normal law
             (large), and of their remainders modulo 64, where a sum of two tables would show a lattice.
size         the noise of a sum over exactly the guaranteed honest sites: the sum of squares over (multiplier * sensitivity)^2 is chi-square;
             too small is a violation. The sensitivity is computed here again: grid + sqrt(d).
repetition   cross-correlation at every lag (FFT) between two releases of the same input, between two sites, and of one release with
             itself: noise that repeats, also shifted, stands out; whoever sees two such releases subtracts them.
Gate         p >= 1e-6 for the first two; 7 standard errors for the last (p below 1e-6 over all lags).
Source       Pearson 1900; Gilbert, McMillan 2018 and Ding et al. 2018 (tests of an implementation's law).
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaincc, ndtr, ndtri
from scipy.stats import chi2, skellam

from locum.privacy.attacks.findings import Finding, at_least, at_most
from locum.privacy.attacks.subject import SITES, Floats, Ints, Subject
from locum.privacy.noise import DiscreteGaussian, Skellam

SMALLEST_P, LARGEST_Z = 1e-6, 7.0
MULTIPLIER = 1.0


def chi_square(counts: Floats, probabilities: Floats) -> float:
    """p of the counts (cells,) under the probabilities (cells,). Cells that expect fewer than 10 are pooled; a count where none can be gives 0."""
    expected = probabilities * counts.sum()
    if counts[expected < 1e-9].any():
        return 0.0
    order = np.argsort(-expected)
    counts, expected = counts[order], expected[order]
    kept = max(1, int(np.count_nonzero(expected >= 10)))
    if expected[kept:].sum() < 10:  # the pool itself would be too small: the last cell takes it
        kept -= 1
    counts = np.append(counts[:kept], counts[kept:].sum())
    expected = np.append(expected[:kept], expected[kept:].sum())
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    return float(gammaincc((len(counts) - 1) / 2, statistic / 2))


def check_law(subject: Subject, *, size: int = 200_000) -> list[Finding]:
    """The two samplers alone."""
    found = []
    for sigma in (0.8, 3.3):
        k = np.arange(-12 * int(sigma + 1), 12 * int(sigma + 1) + 1)
        weights = np.exp(-(k**2) / (2 * sigma**2))
        laws = (DiscreteGaussian(sigma), weights / weights.sum()), (Skellam(sigma), skellam.pmf(k, sigma**2 / 2, sigma**2 / 2))
        for noise, probabilities in laws:
            key = subject.key(f"law {noise}", 0)
            found.append(_exact(str(noise), noise.sample(key, size), k, probabilities))
    for sigma in (300.0, 70_000.0):
        x = DiscreteGaussian(sigma).sample(subject.key(f"law {sigma}", 0), size)
        found.append(_at_least(f"DiscreteGaussian(sigma={sigma:g}), cells", cells(x, sigma)))
        remainders = np.bincount(x % 64, minlength=64).astype(np.float64)
        found.append(_at_least(f"DiscreteGaussian(sigma={sigma:g}), modulo 64", chi_square(remainders, np.full(64, 1 / 64))))
    return found


def check_size(subject: Subject, *, dimension: int = 50_000) -> list[Finding]:
    """The noise that the honest sites add to a sum of nothing."""
    mechanism = subject.mechanism(MULTIPLIER, SITES, dimension)
    promised = Subject(subject.seed, subject.kind).mechanism(MULTIPLIER, SITES, dimension)
    total = _total(subject, "size", dimension)
    needed = MULTIPLIER * (mechanism.grid + dimension**0.5)
    ratio = float(np.sqrt(np.mean(total.astype(np.float64) ** 2))) / needed
    p = float(chi2.cdf(dimension * ratio**2, dimension))
    return [
        _at_least(f"{subject.kind} noise of {SITES} honest sites, {ratio:.4f} of the claimed size, being so small", p),
        _at_least("the law of that noise, in cells", cells(total, promised.std(SITES) * mechanism.grid)),
    ]


def check_repetition(subject: Subject, *, dimension: int = 50_000) -> list[Finding]:
    """Two releases of the same input, two sites, and one release with itself."""
    mechanism = subject.mechanism(MULTIPLIER, SITES, dimension)
    same = np.full(dimension, 0.5 / dimension**0.5)
    mean = np.rint(same * mechanism.grid)
    first, second, other = (
        subject.protect(mechanism, same, subject.key(release, site)) - mean for release, site in (("repeat 0", 0), ("repeat 1", 0), ("repeat 0", 1))
    )
    return [
        at_most("repetition", "highest correlation of two releases of one input, in standard errors", highest(first, second), LARGEST_Z),
        at_most("repetition", "the same of two sites", highest(first, other), LARGEST_Z),
        at_most("repetition", "the same of a release with itself, shifted", highest(first, first, own=True), LARGEST_Z),
    ]


def _total(subject: Subject, release: str, dimension: int) -> Ints:
    mechanism = subject.mechanism(MULTIPLIER, SITES, dimension)
    nothing = np.zeros(dimension)
    return np.asarray(sum(subject.protect(mechanism, nothing, subject.key(release, i)) for i in range(SITES)), dtype=np.int64)


def _exact(what: str, x: Ints, k: Ints, probabilities: Floats) -> Finding:
    inside = np.bincount(x[np.abs(x) <= k[-1]] - k[0], minlength=len(k)).astype(np.float64)
    counts = np.append(inside, len(x) - inside.sum())
    return _at_least(what, chi_square(counts, np.append(probabilities, max(0.0, 1 - probabilities.sum()))))


def cells(x: Ints, sigma: float, count: int = 100) -> float:
    """Chi-square p of integers against the normal law in cells that are nearly equal; the borders lie between integers."""
    borders = np.floor(ndtri(np.arange(1, count) / count) * sigma) + 0.5
    counts = np.bincount(np.searchsorted(borders, x), minlength=count).astype(np.float64)
    return chi_square(counts, np.diff(np.concatenate([[0.0], ndtr(borders / sigma), [1.0]])))


def highest(a: Floats, b: Floats, *, own: bool = False) -> float:
    """The highest circular correlation of a and b, (n,) each, over all lags, in standard errors. own: a is b, leave out lag 0."""
    spectrum = np.fft.rfft(a) * np.conj(np.fft.rfft(b))
    lags = np.abs(np.fft.irfft(spectrum, len(a)))
    if own:
        lags[0] = 0
    return float(lags.max() / np.sqrt((a @ a) * (b @ b)) * np.sqrt(len(a)))


def _at_least(what: str, p: float) -> Finding:
    return at_least("chi-square", f"p of {what}", p, SMALLEST_P)
