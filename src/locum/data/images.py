"""Images as arrays of one shape: resampling, cropping, padding, windows. Pure numpy; any number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def resize(image: Image, size: Sequence[int]) -> Image:
    """The image on a grid of `size`, axis by axis: area averages where an axis shrinks, linear interpolation where it grows.

    Both keep a constant constant; an area average also keeps the mean. The corners of the two grids coincide, so the
    proportions of the image change where `size` has others.
    """
    for axis, n in enumerate(size):
        if image.shape[axis] != n:
            image = np.moveaxis(np.moveaxis(image, axis, -1) @ _weights(image.shape[axis], n).T, -1, axis)
    return np.ascontiguousarray(image, dtype=np.float32)


def _weights(old: int, new: int) -> NDArray[np.float32]:
    """Weights of the `old` samples in each of the `new` ones, shape (new, old); every row sums to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    if new < old:  # the overlap of each new cell with each old one
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = np.clip(overlap, 0, None)
    else:
        centres = np.clip((edges[1:] + edges[:-1]) / 2 - 0.5, 0, old - 1)
        weights = np.clip(1 - np.abs(centres[:, None] - pixels), 0, None)
    shares: Image = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def at_spacing(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """The size at which an image of `shape` with samples `spacing` mm apart has them `wanted` mm apart."""
    return [max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, wanted, strict=True)]


def crop_pad(image: Image, size: Sequence[int], fill: float = 0.0) -> Image:
    """The middle of the image, or the image in the middle of a frame of `fill`, axis by axis."""
    cut = tuple(slice(max(0, (old - new) // 2), max(0, (old - new) // 2) + min(old, new)) for old, new in zip(image.shape, size, strict=True))
    pad = [((new - min(old, new)) // 2, new - min(old, new) - (new - min(old, new)) // 2) for old, new in zip(image.shape, size, strict=True)]
    return np.pad(image[cut], pad, constant_values=fill).astype(np.float32, copy=False)


def window(image: Image, centre: float, width: float, function: str = "LINEAR") -> Image:
    """Values of a window as 0 to 1 (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3); beyond it 0 or 1. `width` must be > 0, for LINEAR >= 1."""
    if function == "SIGMOID":
        exponent = np.clip(-4 * (image.astype(np.float64) - centre) / width, -60, 60)
        return (1 / (1 + np.exp(exponent))).astype(np.float32)
    if function == "LINEAR_EXACT":
        low, span = centre - width / 2, width
    else:
        low, span = centre - 0.5 - (width - 1) / 2, width - 1
    if span <= 0:
        return (image > low).astype(np.float32)
    unit: Image = np.clip((image - np.float32(low)) / np.float32(span), 0, 1).astype(np.float32)
    return unit


def full_range(image: Image) -> Image:
    """Least to greatest value as 0 to 1; a constant image is 0."""
    low, high = float(image.min()), float(image.max())
    unit: Image = ((image - low) / (high - low) if high > low else np.zeros_like(image)).astype(np.float32)
    return unit
