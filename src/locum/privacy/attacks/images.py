"""Pictures to steal: smooth, procedural, each different; and how well a stolen one matches.

PSNR is 10 log10(1 / mean squared error) for grey values in [0, 1]: above 30 dB a person sees the same picture, a grey square
reaches about 15 dB, noise about 6 dB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pictures(n: int, side: int, rng: np.random.Generator) -> Floats:
    """(n, side * side) grey values in [0, 1]: five blobs on a slope, scaled to the whole range and then darkened by a gamma."""
    y, x = np.mgrid[0:side, 0:side] / side
    slope = rng.normal(size=(n, 2, 1, 1))
    out = slope[:, 0] * x + slope[:, 1] * y
    for _ in range(5):
        cx, cy, width, height = (v[:, None, None] for v in rng.uniform([0, 0, 0.05, -2], [1, 1, 0.25, 2], size=(n, 4)).T)
        out = out + height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
    low, high = out.min(axis=(1, 2), keepdims=True), out.max(axis=(1, 2), keepdims=True)
    gamma = rng.uniform(0.5, 2, size=(n, 1, 1))
    return np.asarray(((out - low) / (high - low)) ** gamma, dtype=np.float64).reshape(n, side * side)


def psnr(guesses: Floats, truth: Floats) -> Floats:
    """(g, t) dB: each of `guesses`, (g, pixels), against each of `truth`, (t, pixels). Values are cut to [0, 1] first; 400 dB if equal."""
    cut = np.clip(np.nan_to_num(guesses), 0, 1)
    error = np.array([np.mean((cut - t) ** 2, axis=1) for t in truth]).T
    return np.asarray(-10 * np.log10(np.maximum(error, 1e-40)))
