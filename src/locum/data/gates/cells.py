"""One variable's cells of a chunk, as values and as what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.convert import as_text, cells_of, convert_cells, identifiers, is_absent
from locum.data.mapping import Column
from locum.data.sources.base import SourceSpec
from locum.study.manifest import Variable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LONGEST_CELL = 60
"""Characters of a cell that an example shows."""


@dataclass(frozen=True)
class Cells:
    """values: float64 (n,) or (n, k), NaN where there is none. wrong: cells that are neither missing nor a value, None if there are none; more_wrong:
    how many more, whose rows are not known. recoded: cells that hold a code for "no value". text: the cells at given positions, for
    examples. whole: that every value is known to be a whole number."""

    values: Floats
    wrong: Bools | None = None
    more_wrong: int = 0
    recoded: Bools | None = None
    text: Callable[[NDArray[np.intp]], list[str]] = lambda positions: []
    whole: bool = False


def of_chunk(frame: pl.DataFrame, variable: Variable, column: Column, source: SourceSpec) -> Cells:
    """A variable of the contract, of any type, from a chunk of the site's table."""
    if variable.type == "array":
        return _arrays(frame, column)
    cells, more = cells_of(frame, column, source)
    if variable.type == "text" or variable.role == "patient":
        who = variable.role == "patient"
        absent = (identifiers(cells, column, source).is_null() if who else is_absent(as_text(cells), column, source)).to_numpy()
        return Cells(np.where(absent, np.nan, 0.0), more_wrong=more, text=lambda at: _quoted(cells, at))
    values, wrong = convert_cells(cells, variable, column, source)
    whole = cells.dtype.is_integer() and column.affine(variable) == (1.0, 0.0)
    return Cells(values, wrong, more, _recoded(cells, values, wrong, source), lambda at: _quoted(cells, at), whole)


def of_values(values: NDArray[np.generic]) -> Cells:
    """Values that are in the study's unit and coding already, (n,) or (n, *shape); text is missing where it is empty."""
    if values.dtype.kind == "U":
        return Cells(np.where(values == "", np.nan, 0.0))
    x = np.ascontiguousarray(values, dtype=np.float64)
    x = x.reshape(len(x), -1) if x.ndim > 1 else x
    return Cells(x, text=lambda at: [f"{v:g}" for v in x[at]] if x.ndim == 1 else [f"array of {x.shape[1]} numbers"] * len(at))


def _recoded(cells: pl.Series, values: Floats, wrong: Bools | None, source: SourceSpec) -> Bools | None:
    """Which cells are missing because they hold a code, such as 0 or -9: not because they are empty or say so in words."""
    gone = np.isnan(values)
    if wrong is not None:
        gone &= ~wrong
    empty = cells.null_count() + (int(cells.is_nan().sum() or 0) if cells.dtype.is_float() else 0)
    if int(gone.sum()) == empty:
        return None
    at = np.flatnonzero(gone)
    text = as_text(cells.gather(at))
    gone[at] = ~(text.is_null() | text.str.to_lowercase().is_in([w.lower() for w in source.missing])).to_numpy()
    return gone if gone.any() else None


def _arrays(frame: pl.DataFrame, column: Column) -> Cells:
    """Each row's array as a line of numbers. A row without one cannot be used, and the source must leave it out."""
    cells = frame[column.reads[0]]
    there = cells.is_not_null().to_numpy()
    width = int(np.prod(cells.dtype.shape)) if isinstance(cells.dtype, pl.Array) else 1
    values = np.full((len(cells), width), np.nan)
    values[there] = cells.drop_nulls().to_numpy().reshape(-1, width)
    return Cells(values, None if there.all() else ~there, text=lambda at: ["no array" if not there[i] else f"array of {width} numbers" for i in at])


def _quoted(cells: pl.Series, at: NDArray[np.intp]) -> list[str]:
    return [str(cell if cell is not None else "")[:LONGEST_CELL] for cell in cells.gather(at).cast(pl.String, strict=False).to_list()]
