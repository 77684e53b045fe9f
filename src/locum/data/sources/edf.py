"""Folders of EDF, EDF+ and BDF recordings (EEG, sleep, ECG), cut into windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from locum.data.sources.base import CHUNK, Source, SourceSpec, Tally, Unusable, existing, known
from locum.data.sources.edf_format import Annotation, Channel, Edf
from locum.data.sources.files import files, identity
from locum.data.sources.windows import MAX_SAMPLES, SIGNAL, Frames, Signal, choose, resample, starts

_VOLTAGE = {"uV": 1.0, "mV": 1e-3, "V": 1e-6}


class Spec(SourceSpec):
    """A row for each window of `seconds`, one every `step`. fs: Hz of `signal`. channels: by label, in this order; "Fpz|EEG Fpz-Cz" takes
    the first that a recording has; without any, all. unit: of voltages; a channel of something else stays in its own unit."""

    type: Literal["edf"] | None = None
    fs: Annotated[float, Field(gt=0, le=100_000)]
    seconds: Annotated[float, Field(gt=0, le=86400)]
    step: Annotated[float, Field(gt=0, le=86400)] | None = None
    channels: tuple[str, ...] = ()
    unit: Literal["uV", "mV", "V"] = "uV"


def open_source(spec: Spec, path: Path | None) -> Source:
    return EdfSource(existing(path, folder=True), spec)


_SCHEMA: dict[str, Any] = {
    "record": pl.String,
    "patient": pl.String,
    "sex": pl.String,
    "age": pl.Float64,
    "start": pl.Float64,
    "annotation": pl.String,
}


@dataclass
class EdfSource:
    """Recordings below a folder, or one file.

    Columns: record (its path below the folder), patient (EDF+: the hospital's code; EDF: the patient field; null where anonymous), sex
    (M, F) and age (years) where an EDF+ header has them, start (seconds into the recording), annotation (the text that covers most of the
    window, else the first within it), signal, shape (channels, samples). A window never spans a gap of a discontinuous file. The tally
    counts windows; a recording that cannot be read counts as one.
    """

    path: Path
    spec: Spec
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        return [*_SCHEMA, SIGNAL]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        self.tally = Tally()
        frames = Frames(names, _SCHEMA, size, self.tally)
        for file in files(self.path, (".edf", ".bdf")):
            try:
                for row, signal in self._rows(file):
                    yield from frames.add(row, signal)
            except (Unusable, OSError) as reason:
                self.tally.read += 1
                self.tally.refused[str(reason) if isinstance(reason, Unusable) else "a recording that cannot be read"] += 1
        yield from frames.rest()

    def _rows(self, file: Path) -> Iterator[tuple[dict[str, Any], Signal]]:
        edf = Edf.read(file)
        onsets, notes = edf.annotations()
        if edf.discontinuous and not onsets:
            raise Unusable("a discontinuous recording that does not say when its data records start")
        channels = [edf.channels[i] for i in choose([c.label for c in edf.channels], self.spec.channels)]
        if not channels:
            raise Unusable("a recording of annotations alone")
        length, step = (max(1, round((s or 0) * self.spec.fs)) for s in (self.spec.seconds, self.spec.step or self.spec.seconds))
        person = {"record": identity(file, self.path), "patient": edf.patient, "sex": edf.sex, "age": edf.age}
        windows, covering = 0, _Covering(notes)
        for first, last, begin in edf.stretches(onsets):
            signal = self._signal(edf, channels, first, last)
            for at in starts(signal.shape[1], length, step):
                windows += 1
                start = begin + at / self.spec.fs
                yield {**person, "start": start, "annotation": covering.text(start, start + self.spec.seconds)}, signal[:, at : at + length]
        if not windows:
            raise Unusable("a recording shorter than seconds")

    def _signal(self, edf: Edf, channels: list[Channel], first: int, last: int) -> Signal:
        """The channels of some data records at the rate asked for, shape (channels, samples)."""
        seconds = (last - first) * edf.duration
        if sum(max(c.samples * (last - first), seconds * self.spec.fs) for c in channels) > MAX_SAMPLES:
            raise Unusable("a recording that is too long")
        rows = []
        for channel in channels:
            if not channel.samples:
                raise Unusable("a channel without samples")
            volts = channel.microvolts()
            scale = 1.0 if volts is None else volts * _VOLTAGE[self.spec.unit]
            self.tally.notes["a channel that is no voltage, in its own unit"] += volts is None
            rows.append(resample(edf.signal(channel, first, last)[None], edf.rate(channel), self.spec.fs)[0] * np.float32(scale))
        n = min(len(r) for r in rows)
        return np.stack([r[:n] for r in rows])


class _Covering:
    """Says which annotation overlaps a window most, a moment counting as nothing; None without any."""

    def __init__(self, notes: list[Annotation]) -> None:
        self.texts = [n.text for n in notes]
        self.onset = np.array([n.onset for n in notes])
        self.duration = np.array([n.duration for n in notes])

    def text(self, start: float, end: float) -> str | None:
        overlap = np.minimum(end, self.onset + self.duration) - np.maximum(start, self.onset)
        moment = self.duration == 0
        overlap[moment] = np.where((self.onset >= start) & (self.onset < end), 0.0, -1.0)[moment]
        overlap[~moment & (overlap <= 0)] = -1.0
        best = int(np.argmax(overlap)) if len(overlap) else -1
        return self.texts[best] if best >= 0 and overlap[best] >= 0 else None
