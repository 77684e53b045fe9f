"""One pass over a table, chunk by chunk: every gate's counts at once, in memory bounded by a chunk and the counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.cohort import included
from locum.data.convert import cells_of, identifiers, storable
from locum.data.gates.accumulators import Accumulator
from locum.data.gates.cells import Bools, Cells, Floats, of_chunk, of_values
from locum.data.gates.patients import Patients
from locum.data.gates.patients import Tally as PatientTally
from locum.data.gates.words import TYPES
from locum.data.mapping import Column, SiteMapping
from locum.data.rows import Rows
from locum.data.sources.base import CHUNK, Source, Tally
from locum.errors import DataError
from locum.study.manifest import DataSpec

CELLS = 1 << 22
"""Cells of a chunk: a wide table is read in shorter chunks."""
WORKERS = 2
"""Threads that convert and count columns; numpy and polars let go of the interpreter while they work."""

Progress = Callable[[int], None]
"""Called with the number of rows that were looked at so far."""


@dataclass(frozen=True)
class Absent:
    """Why a variable cannot be read from this table at all."""

    what: str
    fix: str


@dataclass
class Pass:
    """What one pass found. read: rows before the cohort's rules. absent: variables that this table does not have."""

    data: DataSpec
    read: int = 0
    variables: dict[str, Accumulator] = field(default_factory=dict)
    absent: dict[str, Absent] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    cohort: Counter[str] = field(default_factory=Counter)
    patients: PatientTally = field(default_factory=lambda: PatientTally(0))
    source: Tally | None = None
    accept_refused: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of the cohort."""
        return self.read - self.cohort.total()


def over_source(
    data: DataSpec,
    source: Source,
    mapping: SiteMapping,
    *,
    examples: bool = True,
    progress: Progress | None = None,
    chunk: int | None = None,
) -> Pass:
    """Look at every row once. chunk: rows at a time. Raises `ManifestError` for a mapping that contradicts
    the contract, and what the source raises."""
    found = Pass(data, accept_refused=mapping.source.accept_refused)
    have = source.columns()
    for name in data.variables:
        try:
            found.columns |= mapping.resolve(DataSpec(variables={name: data.variables[name]}), have, source.name)
        except DataError as error:
            found.absent[name] = Absent(error.what.rstrip("."), error.fix)
    needs = sorted({c for column in found.columns.values() for c in column.reads})
    found.variables = {n: Accumulator(v, examples=examples) for n, v in data.variables.items()}
    if needs:
        size = chunk or max(1, min(CHUNK, CELLS // len(needs)))
        patients = Patients()
        with ThreadPoolExecutor(WORKERS, "locum-check") as pool:
            work: list[Future[None]] = []
            for frame in source.chunks(needs, size):  # read in this thread while the chunk before is looked at: some sources are bound to a thread
                _finish(work, found, progress)
                if not found.read:
                    _refuse_types(found, frame)
                work = _start(found, frame, mapping, patients, pool)
            _finish(work, found, progress)
        found.patients = patients.finish()
    found.source = source.tally
    return found


def over_rows(data: DataSpec, rows: Rows, *, chunk: int = CHUNK) -> Pass:
    """The same for rows that are in memory and in the study's units already."""
    values: dict[str, NDArray[Any]] = {**rows.columns, **rows.arrays, **rows.texts}
    wanted = {n: v for n, v in data.variables.items() if v.role != "patient"}
    found = Pass(data, variables={n: Accumulator(v) for n, v in wanted.items()})
    found.absent = {n: Absent(f"'{n}' is absent", "map it to a column of the site's table") for n in wanted if n not in values}
    chunk = min(chunk, max(1, CELLS // max([1, *(math.prod(values[n].shape[1:]) for n in wanted if n in values)])))
    patients, split = Patients(), data.of_role("split")
    test = rows.test.astype(np.float64) if rows.test is not None else rows.columns.get(split) if split else None
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        cells = {n: of_values(values[n][part]) for n in wanted if n in values}
        keep = _cohort(found, {n: cells[n].values for n in data.cohort.include if n in cells})
        for name, c in cells.items():
            found.variables[name].add(c, start + 1, keep)
        kept = slice(None) if keep is None else keep
        patients.add(pl.Series(rows.patient[part][kept]), test=None if test is None else test[part][kept])
    found.read, found.patients = len(rows), patients.finish()
    return found


def _start(found: Pass, frame: pl.DataFrame, mapping: SiteMapping, patients: Patients, pool: ThreadPoolExecutor) -> list[Future[None]]:
    """Set a chunk's work going, once it is known which of its rows belong to the cohort."""
    data, first = found.data, found.read + 1

    def cells(name: str) -> Cells | None:
        try:
            return of_chunk(frame, data.variables[name], found.columns[name], mapping.source)
        except DataError as error:  # an expression that cannot be computed
            found.absent[name] = Absent(error.what.rstrip("."), error.fix)
            return None

    readable = [n for n in found.columns if n not in found.absent]
    split = data.of_role("split")
    early = [n for n in readable if n in data.cohort.include or n == split]
    ready = {n: c for n, c in zip(early, pool.map(cells, early), strict=True) if c is not None}
    keep = _cohort(found, {n: c.values for n, c in ready.items() if n in data.cohort.include})

    def count(name: str) -> None:
        made = ready[name] if name in ready else cells(name)
        if made is not None:
            found.variables[name].add(made, first, keep)

    work = [pool.submit(count, n) for n in readable if n in ready or n not in early]
    found.read += len(frame)
    return [*work, pool.submit(_who, found, frame, mapping, patients, keep, ready[split].values if split in ready else None)]


def _finish(work: list[Future[None]], found: Pass, progress: Progress | None) -> None:
    for part in work:
        part.result()
    if work and progress is not None:
        progress(found.read)


def _cohort(found: Pass, columns: Mapping[str, Floats]) -> Bools | None:
    """Which rows belong to the cohort, None for all. A rule about a variable that is absent leaves nobody out: the table is refused anyway."""
    rules = {name: rule for name, rule in found.data.cohort.include.items() if name in columns}
    if not rules:
        return None
    keep, left_out = included(found.data.model_copy(update={"cohort": found.data.cohort.model_copy(update={"include": rules})}), columns)
    found.cohort += left_out
    return keep


def _who(found: Pass, frame: pl.DataFrame, mapping: SiteMapping, patients: Patients, keep: Bools | None, test: Floats | None) -> None:
    name = found.data.of_role("patient")
    if keep is not None:
        frame, test = frame.filter(keep), test[keep] if test is not None else None
    if name is None or name in found.absent:
        patients.add(len(frame), test=test)
        return
    named = identifiers(cells_of(frame, found.columns[name], mapping.source)[0], found.columns[name], mapping.source)
    plain = not any(isinstance(kind, pl.Array) for kind in frame.dtypes)
    patients.add(named, frame if plain else None, test)


def _refuse_types(found: Pass, frame: pl.DataFrame) -> None:
    """Set aside the variables whose columns hold something that can be no value of their type."""
    for name, column in found.columns.items():
        variable = found.data.variables[name]
        for c in column.reads:
            kind = frame[c].dtype
            shaped = isinstance(kind, pl.Array)
            if not storable(kind) or shaped != (variable.type == "array") or (isinstance(kind, pl.Array) and kind.shape != variable.shape):
                what = f"the column '{c}' ({name}) holds {kind}, not {TYPES[variable.type]}"
                found.absent[name] = Absent(what, "export it as numbers, text or dates" if not shaped else "set the source's size to the contract's shape")
            elif kind.is_temporal() and variable.type in ("number", "integer") and column.expression is None:
                fix = f'count days by an expression: {name} = {{ expression = "{c} - another_date", dates = [...] }}'
                found.absent[name] = Absent(f"the column '{c}' ({name}) holds dates, and '{name}' is a number", fix)
