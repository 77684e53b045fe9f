"""Simulated genotypes of populations that live at different hospitals: what makes a naive genome-wide study find what is not there.

Allele frequencies drift apart as Balding and Nichols (1995), Genetica 96:3, have it: Beta(f(1-F)/F, (1-f)(1-F)/F) about an ancestral f.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows


def frequencies(rng: np.random.Generator, populations: int, variants: int, fst: float, low: float = 0.05) -> NDArray[np.float64]:
    """Of the counted allele, shape (populations, variants), never quite 0 or 1; ancestral ones between low and 1 - low."""
    ancestral = rng.uniform(low, 1.0 - low, variants)
    drift = (1.0 - fst) / fst
    return np.asarray(np.clip(rng.beta(ancestral * drift, (1.0 - ancestral) * drift, (populations, variants)), 0.005, 0.995))


def populations(
    sizes: Mapping[str, tuple[int, int]],
    *,
    variants: int = 20_000,
    fst: float = 0.01,
    means: Sequence[float] = (0.0, 0.5),
    causal: Mapping[int, float] | None = None,
    missing: float = 0.0,
    seed: int = 1,
) -> tuple[dict[str, Rows], dict[str, dict[str, Any]]]:
    """Sites' rows, and the variables of their contract: genotypes, age, y (a number) and case (y above 0 with logistic noise).

    sizes: site -> (patients, population). means: of the phenotype, by population. causal: variant -> effect of each copy on y; no other
    variant has one. missing: share of genotypes not called.
    """
    rng = np.random.default_rng(seed)
    f = frequencies(rng, len(means), variants, fst)
    sites = {}
    for name, (n, population) in sizes.items():
        g = np.asarray(rng.binomial(2, f[population], (n, variants)), np.float32)
        age = rng.normal(60.0, 10.0, n)
        signal = means[population] + 0.02 * (age - 60.0) + sum(effect * g[:, at] for at, effect in (causal or {}).items())
        y, case = signal + rng.normal(size=n), (signal + rng.logistic(size=n) > 0).astype(float)
        if missing:
            g[rng.uniform(size=g.shape) < missing] = np.nan
        rows = Rows.of({"age": age, "y": y, "case": case}, patient=[f"{name}-{i}" for i in range(n)])
        sites[name] = replace(rows, arrays={"genotypes": g})
    variables: dict[str, dict[str, Any]] = {
        "genotypes": {"type": "array", "shape": [variants]},
        "age": {"minimum": 0, "maximum": 120},
        "y": {"role": "outcome"},
        "case": {"type": "boolean", "role": "outcome"},
    }
    return sites, variables


def three_populations(variants: int = 20_000, seed: int = 1) -> tuple[dict[str, Rows], dict[str, dict[str, Any]]]:
    """1,000 patients of three populations at five hospitals, whose phenotypes differ in their mean, and no variant that has an effect."""
    sizes = {"north": (250, 0), "south": (250, 1), "east": (200, 0), "west": (200, 1), "islands": (100, 2)}
    return populations(sizes, variants=variants, fst=0.02, means=(0.0, 0.36, 0.18), seed=seed)
