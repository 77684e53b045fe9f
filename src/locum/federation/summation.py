"""The sum over a cohort: sequential, in roster order, in float64. Both engines use it, so they agree to the last bit.

Floating-point addition does not commute across orders, so the order is part of the definition: sites sorted by name,
starting from zero. Elements are independent, hence any chunking gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

import numpy as np

from locum.errors import TaskError
from locum.study.vector import Array, Field, Layout, Total

WEIGHT = "weight"
CHUNK = 1 << 18
"""Scalars added at a time: 2 MiB of float64, which stays in cache."""


def wire_layout(layout: Layout) -> Layout:
    """What travels: the task's layout with the site's weight appended, for weights are summed like everything else."""
    if any(f.name == WEIGHT for f in layout.fields):
        raise TaskError(f"A task's layout may not use the name '{WEIGHT}'.")
    return Layout((*layout.fields, Field(WEIGHT, ())))


def sum_vectors(layout: Layout, vectors: Iterable[dict[str, Array]]) -> Total:
    """The sum of vectors of wire layout `layout`, given in roster order."""
    acc = {f.name: np.zeros(f.shape, _wide(f)) for f in layout.fields}
    sites = 0
    for vector in vectors:
        for name, a in acc.items():
            np.add(a, vector[name], out=a)
        sites += 1
    return _total(layout, acc, sites)


def sum_files(layout: Layout, files: Sequence[BinaryIO]) -> Total:
    """The same sum from open wire files in roster order; memory is one vector and one chunk, whatever the number of files.

    Raises `TaskError` if a file is not of this layout.
    """
    for f in files:
        if f.read(len(layout.header)) != layout.header:
            raise TaskError("An update is not of the round's layout.")
    out: dict[str, Array] = {}
    for field in layout.fields:
        wire = np.dtype(field.dtype).newbyteorder("<")
        flat = np.empty(field.size, field.dtype)
        acc = np.empty(min(CHUNK, field.size), _wide(field))
        for start in range(0, field.size, CHUNK):
            n = min(CHUNK, field.size - start)
            acc[:n] = 0
            for f in files:
                raw = f.read(n * wire.itemsize)
                if len(raw) != n * wire.itemsize:
                    raise TaskError("An update is shorter than the round's layout.")
                np.add(acc[:n], np.frombuffer(raw, wire), out=acc[:n])
            flat[start : start + n] = acc[:n]
        out[field.name] = flat.reshape(field.shape)
    return _total(layout, out, len(files))


def _wide(field: Field) -> str:
    return "int64" if field.dtype == "int64" else "float64"


def _total(layout: Layout, acc: dict[str, Array], sites: int) -> Total:
    vector = {f.name: acc[f.name].astype(f.dtype, copy=False) for f in layout.fields if f.name != WEIGHT}
    return Total(vector, float(acc[WEIGHT]), sites)
