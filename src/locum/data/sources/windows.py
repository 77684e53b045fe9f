"""Fixed-length windows of sampled signals: resampling, cutting, choosing leads, and frames of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.sources.base import Tally, Unusable
from locum.errors import TooLarge

MAX_SAMPLES = 1 << 28
"""Of one recording, over its leads: a gigabyte as float32."""
SIGNAL = "signal"
_CHUNK_CELLS = 1 << 24
Signal = NDArray[np.float32]


def resample(signal: Signal, fs: float, to: float) -> Signal:
    """A signal (leads, n) at another rate (Hz), by a polyphase low-pass filter; what was NaN is NaN again."""
    from scipy.signal import resample_poly

    ratio = Fraction(to / fs).limit_denominator(2000)
    if ratio == 1 or not signal.size:
        return signal
    if signal.size * ratio > MAX_SAMPLES or ratio.numerator > 100 * ratio.denominator:
        raise Unusable("a recording that would become too long at that rate")
    return np.stack([_resampled(lead, ratio, resample_poly) for lead in signal])


def _resampled(lead: Signal, ratio: Fraction, resample_poly: Any) -> Signal:
    gaps = np.isnan(lead)
    if gaps.all():
        return np.full(-(-len(lead) * ratio.numerator // ratio.denominator), np.nan, np.float32)
    if gaps.any():
        lead = np.interp(np.arange(len(lead)), np.flatnonzero(~gaps), lead[~gaps]).astype(np.float32)
    out: Signal = resample_poly(lead, ratio.numerator, ratio.denominator, padtype="line").astype(np.float32)
    if gaps.any():
        out[gaps[np.minimum((np.arange(len(out)) / float(ratio)).astype(np.intp), len(gaps) - 1)]] = np.nan
    return out


def starts(n: int, length: int, step: int) -> range:
    """The first samples of the windows of a signal of n samples; a shorter rest at its end gives none."""
    return range(0, n - length + 1, max(1, step))


def choose(labels: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The places of the leads asked for, each "MLII" or "MLII|V5" for the first that is there; without any, all. Raises `Unusable`."""
    known: dict[str, int] = {}
    for at, label in enumerate(labels):
        known.setdefault(label.strip().lower(), at)
    places = [next((known[o.strip().lower()] for o in one.split("|") if o.strip().lower() in known), None) for one in wanted]
    if any(p is None for p in places):
        raise Unusable("a recording without the leads asked for")
    return [p for p in places if p is not None] if wanted else [*range(len(labels))]


class Frames:
    """Collects rows, and gives them as frames of the same columns; the shape of `signal` is that of the first.

    A row whose signal has another shape is counted as refused. schema: every column but `signal` and its type.
    """

    def __init__(self, names: Sequence[str], schema: Mapping[str, Any], size: int, tally: Tally) -> None:
        self.names, self.schema, self.size, self.tally = names, schema, size, tally
        self.rows: list[Mapping[str, Any]] = []
        self.signals: list[Signal] = []
        self.shape: tuple[int, int] | None = None

    def add(self, row: Mapping[str, Any], signal: Signal) -> Iterator[pl.DataFrame]:
        """One row more, counted; a frame once there are enough."""
        self.tally.read += 1
        shape = (signal.shape[0], signal.shape[1])
        if self.shape is None:
            self.shape = shape
            if signal.size > _CHUNK_CELLS:
                raise TooLarge(f"A window has {signal.size:,} samples.", fix="choose shorter windows, a lower fs, or fewer leads")
        if shape != self.shape:
            self.tally.refused["a window with other leads than the first has"] += 1
            return
        self.tally.used += 1
        self.rows.append(row)
        self.signals.append(signal.astype(np.float32, copy=True) if SIGNAL in self.names else signal[:, :0])
        if len(self.rows) >= min(self.size, max(1, _CHUNK_CELLS // max(1, signal.size))):
            yield self.flush()

    def rest(self) -> Iterator[pl.DataFrame]:
        """What is left, if anything is."""
        if self.rows:
            yield self.flush()

    def flush(self) -> pl.DataFrame:
        columns = []
        for name in self.names:
            if name == SIGNAL:
                columns.append(pl.Series(name, np.stack(self.signals), dtype=pl.Array(pl.Float32, self.shape)))
            else:
                columns.append(pl.Series(name, [r[name] for r in self.rows], dtype=self.schema[name]))
        self.rows, self.signals = [], []
        return pl.DataFrame(columns)
