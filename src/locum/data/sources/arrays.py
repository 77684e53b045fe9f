"""Arrays in .npy, .npz and .safetensors files as a table: the first axis counts the rows.

An array of one axis is a column of numbers or of text; one of more axes is a column of arrays of float32, and, with two axes,
also columns `name[0]`, `name[1]`, ... of numbers. With `ragged`, series of many lengths that were stored one after the other are cut into windows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from locum.data.sources.base import CHUNK, Source, SourceSpec, Tally, existing, known
from locum.data.sources.entries import Entry, Reader, damaged, entries
from locum.errors import DataError, ManifestError
from locum.study.document import Document, nearest

CHUNK_BYTES = 1 << 26
MAX_SERIES_BYTES = 1 << 30
_SPREAD = 32
"""So many columns of a matrix get a name of their own."""


class Ragged(Document):
    """Series of many lengths, one after the other in the array `key`: series i has `lengths[i]` samples. Each gives a window of
    `window` samples every `step` samples (default: `window`); what is left at its end, shorter than a window, gives none."""

    key: str
    lengths: str
    window: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=1)] | None = None


class Spec(SourceSpec):
    """arrays: column -> the array's name in the file, where they differ. ragged: which array to cut into windows; arrays with one entry for
    each series then give every window of a series its value, and `series` and `start` say where a window is from."""

    type: Literal["arrays"] | None = None
    arrays: dict[str, str] = Field(default_factory=dict)
    ragged: Ragged | None = None


def open_source(spec: Spec, path: Path | None) -> Source:
    file = existing(path)
    found = entries(file)
    renamed = {entry: column for column, entry in spec.arrays.items()}
    for entry in [*renamed, *((spec.ragged.key, spec.ragged.lengths) if spec.ragged else ())]:
        if entry not in found:
            raise ManifestError(f"{file.name} has no array '{entry}'.", fix=nearest(entry, [*found]))
    table = {renamed.get(name, name): entry for name, entry in found.items()}
    if len(table) < len(found):
        raise ManifestError(f"Two arrays of {file.name} would be the same column.", fix="give each its own name under arrays")
    if spec.ragged is None:
        return ArraySource(file.name, table, _rows(file.name, table))
    names = (renamed.get(spec.ragged.key, spec.ragged.key), renamed.get(spec.ragged.lengths, spec.ragged.lengths))
    return RaggedSource(file.name, table, *names, spec.ragged.window, spec.ragged.step or spec.ragged.window)


def _rows(name: str, table: dict[str, Entry]) -> int:
    """The first axis that most arrays have."""
    sizes = Counter(e.shape[0] for e in table.values() if not e.problem).most_common(2)
    if not sizes:
        raise DataError(f"{name} holds no array that could be a column.", fix="; ".join(f"'{n}': {e.problem}" for n, e in list(table.items())[:5]))
    if len(sizes) == 2 and sizes[0][1] == sizes[1][1]:
        raise DataError(
            f"How many rows {name} has is not clear: as many arrays have {sizes[0][0]} as {sizes[1][0]}.",
            fix="save one array for each column, all of one length; for series of many lengths set ragged under [source]",
        )
    return sizes[0][0]


@dataclass
class ArraySource:
    """All arrays of a file that have `rows` rows."""

    name: str
    table: dict[str, Entry]
    rows: int
    tally: Tally = field(default_factory=Tally)

    def columns(self) -> list[str]:
        return _columns(self.table, self.rows)

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        _check(self.name, self.table, names, self.columns(), self.rows)
        self.tally = Tally(read=self.rows, used=self.rows)
        needed = dict.fromkeys(_split(n, self.table)[0] for n in names)
        most = _most(size, sum(_row_bytes(self.table[n]) for n in needed))
        with damaged(self.name):
            readers = {n: self.table[n].start() for n in needed}
            for start in range(0, max(1, self.rows), most):
                part = {n: reader.take(min(most, self.rows - start)) for n, reader in readers.items()}
                yield pl.DataFrame([_series(n, *_split(n, self.table), part) for n in names])


@dataclass
class RaggedSource:
    """Windows of the series in array `key`."""

    name: str
    table: dict[str, Entry]
    key: str
    lengths: str
    window: int
    step: int
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        x, lengths = self.table[self.key], self.table[self.lengths]
        for entry, name in ((x, self.key), (lengths, self.lengths)):
            if entry.problem:
                raise DataError(f"The array '{name}' of {self.name} cannot be used: {entry.problem}.")
        if lengths.dtype.kind not in "iu" or len(lengths.shape) != 1 or lengths.shape[0] > 1 << 27:
            raise DataError(f"The array '{self.lengths}' of {self.name} is no list of lengths.", fix="it has one whole number for each series")
        with damaged(self.name):
            self._lengths = lengths.start().take(lengths.shape[0]).astype(np.int64)
        if (self._lengths < 0).any() or sum(self._lengths.tolist()) != x.shape[0]:
            raise DataError(
                f"The lengths of the series do not add up to the samples of '{self.key}' in {self.name}.", fix="check which array holds the lengths"
            )
        if self._lengths.max(initial=0) * _row_bytes(x) > MAX_SERIES_BYTES:
            raise DataError(f"A series of {self.name} is larger than {MAX_SERIES_BYTES >> 20} MiB.", fix="cut it into several series")
        if self.window * math.prod(x.shape[1:]) * 4 > CHUNK_BYTES:
            raise ManifestError("A window is larger than 64 MiB.", fix="make window shorter under [source]")

    def columns(self) -> list[str]:
        per_series = {n: e for n, e in self.table.items() if n not in (self.key, self.lengths)}
        return [self.key, "series", "start", *(c for c in _columns(per_series, len(self._lengths)) if c not in (self.key, "series", "start"))]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        shape = (self.window, *self.table[self.key].shape[1:])
        per_series = [n for n in names if n not in (self.key, "series", "start")]
        _check(self.name, self.table, per_series, self.columns(), len(self._lengths))
        known(names, self.columns(), self.name)
        self.tally = Tally()
        with damaged(self.name):
            needed = dict.fromkeys(_split(n, self.table)[0] for n in per_series)
            whole = {n: self.table[n].start().take(len(self._lengths)) for n in needed}
            columns = {n: _series(n, *_split(n, self.table), whole) for n in per_series}
            for series, start, windows in self._blocks(self.table[self.key].start(), _most(size, 4 * math.prod(shape))):
                here = {n: c.gather(series) for n, c in columns.items()}
                here |= {"series": pl.Series("series", series), "start": pl.Series("start", start)}
                if self.key in names:
                    here[self.key] = pl.Series(self.key, windows, dtype=pl.Array(pl.Float32, shape))
                yield pl.DataFrame([here[n].alias(n) for n in names])

    def _blocks(self, reader: Reader, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Series, first sample and samples of at most `most` windows at a time; never none at all."""
        held: list[tuple[int, int, NDArray[np.float32]]] = []
        for i, length in enumerate(self._lengths.tolist()):
            samples = _float32(reader.take(length))
            starts = range(0, length - self.window + 1, self.step)
            if not starts:
                self.tally.read += 1
                self.tally.left_out["a series shorter than a window"] += 1
            elif length > starts[-1] + self.window:
                self.tally.notes["series that end in less than a window, which is not used"] += 1
            for start in starts:
                self.tally.read += 1
                self.tally.used += 1
                held.append((i, start, samples[start : start + self.window]))
                if len(held) == most:
                    yield self._block(held)
                    held = []
        if held or not self.tally.used:
            yield self._block(held)

    def _block(self, held: list[tuple[int, int, NDArray[np.float32]]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        shape = (0, self.window, *self.table[self.key].shape[1:])
        where = np.asarray([(i, s) for i, s, _ in held], dtype=np.int64).reshape(-1, 2)
        return where[:, 0].copy(), where[:, 1].copy(), np.stack([w for *_, w in held]) if held else np.empty(shape, dtype=np.float32)


def _columns(table: dict[str, Entry], rows: int) -> list[str]:
    names = [n for n, e in table.items() if not e.problem and e.shape[0] == rows]
    return names + [f"{n}[{i}]" for n in names if len(table[n].shape) == 2 and table[n].shape[1] <= _SPREAD for i in range(table[n].shape[1])]


def _check(where: str, table: dict[str, Entry], names: Sequence[str], columns: list[str], rows: int) -> None:
    """Raise `DataError` for a name that is no column, with the reason if it is an array."""
    for name in names:
        entry = table.get(name)
        if name not in columns and entry is not None:
            why = entry.problem or f"it has {entry.shape[0]} rows, and the others have {rows}"
            raise DataError(f"The array '{name}' of {where} is no column: {why}.", fix="save it as numbers or text, one entry for each row")
    known(names, columns, where)


def _split(name: str, table: dict[str, Entry]) -> tuple[str, int | None]:
    """The array that a column is of, and which of the array's columns, if it is one."""
    if name in table:
        return name, None
    entry, _, index = name.rstrip("]").rpartition("[")
    return entry, int(index)


def _row_bytes(entry: Entry) -> int:
    size = math.prod(entry.shape[1:])
    return max(entry.dtype.itemsize * size, 4 * size)


def _most(size: int, row_bytes: int) -> int:
    return max(1, min(size, CHUNK_BYTES // max(1, row_bytes)))


def _series(name: str, entry: str, index: int | None, part: dict[str, NDArray[Any]]) -> pl.Series:
    values = part[entry] if index is None else np.ascontiguousarray(part[entry][:, index])
    if values.ndim > 1:
        return pl.Series(name, _float32(values), dtype=pl.Array(pl.Float32, values.shape[1:]))
    if values.dtype.kind == "S":
        return pl.Series(name, np.char.decode(values, "utf-8").tolist(), dtype=pl.String)
    if values.dtype.kind == "U":
        return pl.Series(name, values.tolist(), dtype=pl.String)
    if values.dtype.kind == "M":
        return pl.Series(name, values.astype("datetime64[us]"))
    kind = values.dtype.newbyteorder("=")
    return pl.Series(name, values.astype(np.float32 if kind == np.float16 else np.float64 if kind.itemsize > 8 else kind))


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)
