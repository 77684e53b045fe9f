"""Score tests of very many variants: what a site sums block by block, and what follows from the sums.

Null model of a site: residual r = y - mu, weight w = dmu/deta (W its diagonal), covariates X. For a variant with dosages g
    score                U = g'r - g'WX H^-1 X'r,   H = X'WX;  X'r is zero at the null model's maximum
    its variance         V = g'Wg - g'WX H^-1 X'Wg
    test                 U^2 / (phi V), chi-square with one degree of freedom;  one-step effect U/V, its standard error sqrt(phi/V)
with phi = 1 (logistic) or the null model's residual variance (linear, where U/V is the least-squares effect itself). Each term is a sum
over patients. With an intercept of each site, X and g are centred by the site's own weighted means, which is the Schur complement that
takes the site dummies out: what differs between sites alone cancels.

A genotype that was not called counts as the mean dosage of the stratum: the site where each has its intercept, else the cohort,
whose mean is known only from the sum; so the terms of the missing places travel apart, and are added mean times (its square for g'Wg).

Hardy-Weinberg: H heterozygotes among n, a and b copies of the alleles. Given a and b, E H = ab/(2n-1) and
E H(H-1) = ab(a-1)(b-1)/((2n-1)(2n-3)); (sum of H - E H)^2 / (sum of variances) is chi-square with one degree of freedom, over strata too.

Sources: Rao (1948), Proc. Camb. Phil. Soc. 44:50 (score test); Cox and Hinkley (1974), section 9.3; Haldane (1954), J. Genetics 52:631 (moments
of H); Devlin and Roeder (1999), Biometrics 55:997 (genomic inflation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.errors import TaskError
from locum.study.vector import Array, Layout
from locum.tasks.newton import solve

Floats = NDArray[np.float64]
MEDIAN = 0.45493642311957283
"""Of a chi-square variable with one degree of freedom."""
CELLS = 1 << 17
"""Genotypes of one block: three float64 matrices of this size are held at a time."""
HARD = 0.1
"""A dosage this near to a whole number is a called genotype, as plink --hard-call-threshold has it."""
DETERMINED = 1e-9
"""Variance of a score below this share of what the rarer allele's copies could give: rounding error."""


@dataclass(frozen=True)
class Null:
    """The null model at one site. residual, weight: shape (n,). x: (n, p). centre: whether the site has an intercept of its own; then
    `x` is centred already."""

    residual: Floats
    weight: Floats
    x: Floats
    centre: bool

    @classmethod
    def of(cls, x: Floats, residual: Floats, weight: Floats, *, centre: bool) -> Null:
        return cls(residual, weight, x - (weight @ x) / weight.sum() if centre else x, centre)


def fields(variants: int, columns: int, *, centre: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what `site_sums` gives."""
    shapes: dict[str, tuple[int, ...]] = {"called": (variants,), "alleles": (variants,), "score": (variants,), "squares": (variants,)}
    shapes |= {"cross": (variants, columns)}
    if centre:
        return shapes | {"hwe_excess": (variants,), "hwe_variance": (variants,)}
    apart: dict[str, tuple[int, ...]] = {"missing_score": (variants,), "missing_squares": (variants,), "missing_cross": (variants, columns)}
    return shapes | apart | {"hard": (variants,), "het": (variants,), "hom": (variants,)}


def block_size(patients: int) -> int:
    """How many variants of so many patients make a block."""
    return max(16, CELLS // max(1, patients))


def site_sums(blocks: Iterable[Array], null: Null, variants: int) -> dict[str, Floats]:
    """The sums of all blocks in order. A block has shape (n, some variants): whole numbers with -1 for missing, or dosages with NaN.

    Memory is that of the answer and of one block. Raises `TaskError` where a block holds what is no dosage.
    """
    out = Layout.of(**fields(variants, null.x.shape[1], centre=null.centre)).zeros()
    at = 0
    for block in blocks:
        if at + block.shape[1] > variants or block.shape[0] != len(null.residual):
            raise TaskError("The genotypes are not of the data contract's shape.", fix="correct the mapping: one array a patient, one number a variant")
        for name, values in block_sums(block, null).items():
            out[name][at : at + block.shape[1]] = values
        at += block.shape[1]
    if at != variants:
        raise TaskError(f"The genotypes end after {at} of {variants} variants.", fix="map the variants that the data contract lists, in its order")
    return out


def block_sums(block: Array, null: Null) -> dict[str, Floats]:
    """The sums of one block, by two products of matrices."""
    missing = block < 0 if block.dtype.kind == "i" else np.isnan(block)
    g = block.astype(np.float64)
    some = bool(missing.any())
    if some:
        g[missing] = 0.0
    if g.size and (g.min() < 0.0 or g.max() > 2.0):
        raise TaskError("A genotype is no dosage between 0 and 2.", fix="count copies of one allele, and write NaN where a genotype is missing")
    w, x = null.weight, null.x
    right = np.column_stack([np.ones(len(w)), null.residual, w, x * w[:, None]])
    linear = g.T @ right
    of_squares = np.multiply(g, g).T @ right[:, [0, 2]]
    called = np.full(g.shape[1], float(len(w)))
    apart = missing.T.astype(np.float64) @ right if some else np.zeros_like(linear)
    called -= apart[:, 0]
    alleles = linear[:, 0].copy()
    hard, het, hom = _calls(g, missing, called, alleles, of_squares[:, 0])
    out = {"called": called, "alleles": alleles}
    if not null.centre:
        out |= {"score": linear[:, 1], "squares": of_squares[:, 1], "cross": linear[:, 3:]}
        out |= {"missing_score": apart[:, 1], "missing_squares": apart[:, 2], "missing_cross": apart[:, 3:]}
        return out | {"hard": hard, "het": het, "hom": hom}
    mean = alleles / np.maximum(called, 1.0)
    linear += mean[:, None] * apart
    squares = of_squares[:, 1] + mean**2 * apart[:, 2] - linear[:, 2] ** 2 / w.sum()
    excess, variance = hardy_weinberg(hard, het, hom)
    return out | {"score": linear[:, 1], "squares": np.maximum(0.0, squares), "cross": linear[:, 3:], "hwe_excess": excess, "hwe_variance": variance}


def _calls(g: Floats, missing: NDArray[np.bool_], called: Floats, total: Floats, squares: Floats) -> tuple[Floats, Floats, Floats]:
    """Called genotypes, heterozygotes and homozygotes of the counted allele, each per variant."""
    nearest = np.rint(g)
    if np.array_equal(nearest, g):
        return called, 2.0 * total - squares, (squares - total) / 2.0
    sure = (np.abs(g - nearest) <= HARD) & ~missing
    return sure.sum(axis=0, dtype=float), (sure & (nearest == 1.0)).sum(axis=0, dtype=float), (sure & (nearest == 2.0)).sum(axis=0, dtype=float)


def hardy_weinberg(n: Floats, het: Floats, hom: Floats) -> tuple[Floats, Floats]:
    """Heterozygotes beyond those expected, and the variance of that, given the alleles' counts."""
    a = 2.0 * hom + het
    b = 2.0 * n - a
    expected = a * b / np.maximum(2.0 * n - 1.0, 1.0)
    pairs = expected * (a - 1.0) * (b - 1.0) / np.maximum(2.0 * n - 3.0, 1.0)
    return het - expected, np.where(n >= 2.0, np.maximum(0.0, pairs + expected - expected**2), 0.0)


@dataclass(frozen=True)
class Tests:
    """Per variant: score and its variance (not yet times phi), alleles counted and called genotypes, and Hardy-Weinberg chi-square (0
    where it cannot be tested). least: the variance below which a variant tells nothing."""

    score: Floats
    variance: Floats
    alleles: Floats
    called: Floats
    hwe: Floats
    least: Floats

    @property
    def minor(self) -> Floats:
        """Copies of the rarer allele."""
        return np.minimum(self.alleles, 2.0 * self.called - self.alleles)

    @classmethod
    def of(cls, total: Mapping[str, Any], information: Floats, gradient: Floats, weight: float, rows: float, *, centre: bool) -> Tests:
        """From the cohort's sums. information, gradient: X'WX (p, p) and X'r (p,). weight: the sum of all rows' weights."""
        called, alleles, score, squares, cross = (np.asarray(total[k], float) for k in ("called", "alleles", "score", "squares", "cross"))
        if centre:
            excess, spread = np.asarray(total["hwe_excess"], float), np.asarray(total["hwe_variance"], float)
        else:
            mean = alleles / np.maximum(called, 1.0)
            score = score + mean * total["missing_score"]
            squares = squares + mean**2 * total["missing_squares"]
            cross = cross + mean[:, None] * total["missing_cross"]
            excess, spread = hardy_weinberg(*(np.asarray(total[k], float) for k in ("hard", "het", "hom")))
        explained = solve(information, cross.T)
        variance = squares - np.einsum("vp,pv->v", cross, explained)
        hwe = np.divide(excess**2, spread, out=np.zeros_like(excess), where=spread > 1e-6)
        made = cls(score - gradient @ explained, variance, alleles, called, hwe, np.zeros(0))
        return cls(made.score, variance, alleles, called, hwe, DETERMINED * weight / max(rows, 1.0) * made.minor)


def p_values(chi2: Floats) -> Floats:
    """P(X >= chi2), X chi-square with one degree of freedom."""
    from scipy.special import ndtr  # it takes a while to import

    return np.asarray(2.0 * ndtr(-np.sqrt(chi2)))


def minus_log10_p(chi2: Floats) -> Floats:
    """-log10 of `p_values`, also where those are too small for a float."""
    from scipy.special import log_ndtr

    return np.asarray(np.maximum(0.0, -(np.log(2.0) + log_ndtr(-np.sqrt(chi2))) / np.log(10.0)) + 0.0)


def inflation(chi2: Floats) -> float | None:
    """Genomic inflation lambda_GC: the median over that of a chi-square variable; None of nothing."""
    return float(np.median(chi2)) / MEDIAN if len(chi2) else None
