"""Folders of WFDB records, as PhysioNet publishes ECG and other waveforms: whole records, beats, or windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from locum.data.sources.base import CHUNK, Source, SourceSpec, Tally, Unusable, existing, known
from locum.data.sources.files import files, identity
from locum.data.sources.wfdb_format import AAMI, Annotations, read_annotations, read_header, read_signals
from locum.data.sources.windows import SIGNAL, Frames, Signal, choose, resample, starts

Seconds = Annotated[float, Field(gt=0, le=86400)]


class Spec(SourceSpec):
    """per: a row for each record (its first `seconds`), each window of `seconds` (one every `step`), or each annotated beat (from `before`
    to `after` seconds round it). fs: Hz of `signal`. leads: in this order; "MLII|V5" takes the first that a record has. annotations: the
    suffix of the annotation files."""

    type: Literal["wfdb"] | None = None
    per: Literal["record", "beat", "window"] = "record"
    fs: Annotated[float, Field(gt=0, le=100_000)]
    leads: tuple[str, ...] = ()
    seconds: Seconds | None = None
    step: Seconds | None = None
    before: Annotated[float, Field(ge=0, le=60)] = 0.25
    after: Seconds = 0.35
    annotations: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,16}$")] = "atr"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.per != "beat" and self.seconds is None:
            raise ValueError(f'per = "{self.per}" needs seconds, the length of a row')
        return self


def open_source(spec: Spec, path: Path | None) -> Source:
    return WfdbSource(existing(path, folder=True), spec)


_RECORD: dict[str, Any] = {
    "record": pl.String,
    "folder": pl.String,
    "fs": pl.Float64,
    "age": pl.Float64,
    "sex": pl.String,
    "start": pl.Float64,
    "rhythm": pl.String,
}
_BEAT: dict[str, Any] = {"symbol": pl.String, "aami": pl.String, "rr_before": pl.Float64, "rr_after": pl.Float64}


@dataclass
class WfdbSource:
    """Records below a folder, or one .hea.

    Columns: record (its path below the folder), folder (the folder it is in, often the person's), fs (Hz, as recorded), age and sex (M, F)
    where the header's comments say, start (seconds into the record), rhythm (of the annotations, such as "(AFIB", in force at the start or
    the beat); of a beat its symbol, aami class and the seconds to the beats before and after; signal in mV, shape (leads, samples). The
    tally counts rows; a record that cannot be read counts as one.
    """

    path: Path
    spec: Spec
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def schema(self) -> dict[str, Any]:
        return {**_RECORD, **(_BEAT if self.spec.per == "beat" else {})}

    def columns(self) -> list[str]:
        return [*self.schema, SIGNAL]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        self.tally = Tally()
        frames = Frames(names, self.schema, size, self.tally)
        for file in files(self.path, (".hea",)):
            try:
                rows = self._rows(file)
            except Unusable as reason:
                self.tally.read += 1
                self.tally.refused[str(reason)] += 1
                continue
            except OSError:
                self.tally.read += 1
                self.tally.refused["a record that cannot be read"] += 1
                continue
            for row, signal in rows:
                yield from frames.add(row, signal)
        yield from frames.rest()

    def _rows(self, file: Path) -> Iterator[tuple[dict[str, Any], Signal]]:
        """The rows of one record; all that may fail does so before the first."""
        header = read_header(file)
        notes = self._annotations(file)
        signal = read_signals(header, file.parent, choose([lead.label for lead in header.leads], self.spec.leads))
        signal = resample(signal, header.fs, self.spec.fs)
        record = identity(file, self.path)
        known_of = {"record": record, "folder": PurePosixPath(record).parent.as_posix(), "fs": header.fs, "age": header.age, "sex": header.sex}
        fs = (notes.fs if notes else None) or header.fs
        if self.spec.per == "beat":
            if notes is None:
                raise Unusable("a record without its annotation file")
            return self._beats(known_of, signal, notes, fs)
        length = max(1, round((self.spec.seconds or 0) * self.spec.fs))
        if signal.shape[1] < length:
            raise Unusable("a record shorter than seconds")
        return self._windows(known_of, signal, notes, fs, length)

    def _windows(self, known_of: dict[str, Any], signal: Signal, notes: Annotations | None, fs: float, length: int) -> Iterator[tuple[dict[str, Any], Signal]]:
        step = round((self.spec.step or self.spec.seconds or 0) * self.spec.fs)
        for first in starts(signal.shape[1], length, step):
            start = first / self.spec.fs
            yield {**known_of, "start": start, "rhythm": notes.rhythm(start * fs) if notes else None}, signal[:, first : first + length]
            if self.spec.per == "record":
                self.tally.notes["a record of which only the first seconds are used"] += signal.shape[1] > length
                return

    def _beats(self, known_of: dict[str, Any], signal: Signal, notes: Annotations, fs: float) -> Iterator[tuple[dict[str, Any], Signal]]:
        before, length = round(self.spec.before * self.spec.fs), max(1, round((self.spec.before + self.spec.after) * self.spec.fs))
        beats = [(at, s) for at, s in zip(notes.sample, notes.symbol, strict=True) if s in AAMI]
        gaps = [None, *((b[0] - a[0]) / fs for a, b in pairwise(beats)), None]
        for (at, symbol), rr_before, rr_after in zip(beats, gaps, gaps[1:], strict=False):
            first = round(at / fs * self.spec.fs) - before
            if first < 0 or first + length > signal.shape[1]:
                self.tally.read += 1
                self.tally.left_out["a beat too near to an end of its record"] += 1
                continue
            row = {"start": at / fs, "symbol": symbol, "aami": AAMI[symbol], "rr_before": rr_before, "rr_after": rr_after, "rhythm": notes.rhythm(at)}
            yield {**known_of, **row}, signal[:, first : first + length]

    def _annotations(self, file: Path) -> Annotations | None:
        beside = file.with_suffix(f".{self.spec.annotations}")
        return read_annotations(beside) if beside.is_file() else None
