"""Shoulder exercises seen by a smart watch: ten people, each with a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.catalog.base import DataSet, File, arrays, mapping, npz, number, spec

EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
WIDTH, STEP = 100, 50
"""Samples of a window and from one window to the next: 2 s, every second."""


def windows(series: NDArray[Any], width: int = WIDTH, step: int = STEP) -> NDArray[Any]:
    """Windows of a series of shape (time, channels), as (windows, channels, width); what is left at its end is no window."""
    if len(series) < width:
        return np.empty((0, series.shape[1], width), dtype=series.dtype)
    return np.lib.stride_tricks.sliding_window_view(series, width, axis=0)[::step]


def _read(paths: Mapping[str, Path]) -> pl.DataFrame:
    """One row a window, in the order of the series."""
    found = npz(paths["watch.npz"])
    parts = [windows(s) for s in np.split(found["x"], np.cumsum(found["length"])[:-1])]
    series = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    return pl.DataFrame(
        {
            "subject": found["subject"][series],
            "series": series,
            "side": found["side"].astype(np.int64)[series],
            "exercise": np.asarray(EXERCISES)[found["y"]][series],
            "motion": arrays("motion", np.concatenate(parts)),
        }
    )


WATCH = DataSet(
    name="watch",
    title="Smart-watch motion in 7 shoulder exercises: 10 people, windows of 2 s at 50 Hz",
    licence="BSD-3-Clause (seglearn)",
    citation="Burns, Leung, Hardisty, Whyne, Henry, McLachlin, Physiol Meas 39(7):075007, 2018; arXiv 1802.01489",
    published="https://github.com/dmbee/seglearn",
    folder="watch_exercises",
    files=(File("watch.npz", "659b4c497b68adee99b11d458683f5178a67e5790b572fe5ca9ecdfc3782fd25", 5360701),),
    read=_read,
    sites={"subject": pl.format("subject-{}", number("subject", 2))},
    note="seglearn ships the data pickled, which is never read; this is the same without pickle. Windows overlap by half, so split people, not windows.",
    data=spec(
        subject={"role": "patient"},
        series={"type": "integer", "role": "group", "label": "the series that the window is of", "minimum": 0},
        side={"type": "boolean", "label": "arm, as the authors code it"},
        exercise={"type": "category", "role": "outcome", "categories": [*EXERCISES], "max_missing": 0},
        motion={"type": "array", "shape": [6, WIDTH], "label": "acceleration and rotation: ax ay az wx wy wz"},
    ),
    mapping=mapping(),
)
