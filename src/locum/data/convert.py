"""One column of cells -> one float64 array in the study's unit and coding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.mapping import Column
from locum.data.sources import SourceSpec
from locum.study.manifest import Variable

_WORDS = {"true": "1", "yes": "1", "false": "0", "no": "0"}


def convert(cells: pl.Series, variable: Variable, column: Column, source: SourceSpec) -> tuple[NDArray[np.float64], int]:
    """Shape (n,) with NaN where a value is missing, and how many cells are neither missing nor a value.

    The contract's missing codes are codes, not measurements: they are compared before scale and offset.
    """
    text = as_text(cells)
    number = _as_number(cells, text, source.decimal)
    absent = text.is_null() | _among(text, number, (*source.missing, *column.missing))
    if column.values:
        recoded = _lookup(text, number, column.values)
        absent = (absent | number.is_in(variable.missing_codes).fill_null(False)) & recoded.is_null()
        text, number = recoded, recoded.cast(pl.Float64, strict=False)
    absent |= number.is_in(variable.missing_codes).fill_null(False)
    if variable.type == "boolean":
        number = number.zip_with(number.is_not_null(), _lookup(text.str.to_lowercase(), number, _WORDS).cast(pl.Float64))
    elif variable.type == "category":
        number = _lookup(text, number, {c: str(i) for i, c in enumerate(variable.categories)}).cast(pl.Float64)
    values = np.where(absent.to_numpy(), np.nan, number.fill_null(np.nan).to_numpy())
    bad = int((number.is_null() & ~absent).sum())
    return values * (1.0 if column.scale is None else column.scale) + (column.offset or 0.0), bad


def as_text(cells: pl.Series) -> pl.Series:
    """Cells as text without surrounding space; a whole number has no decimals, whatever type the file gave it."""
    if not cells.dtype.is_float():
        return cells.cast(pl.String).str.strip_chars()
    cells = cells.fill_nan(None)
    whole = cells.cast(pl.Int64, strict=False)
    return whole.cast(pl.String).zip_with((whole == cells).fill_null(False), cells.cast(pl.String))


def is_absent(text: pl.Series, column: Column, source: SourceSpec) -> pl.Series:
    """Which cells of an identifier are missing."""
    return text.is_null() | _among(text, pl.Series(dtype=pl.Float64).extend_constant(None, len(text)), (*source.missing, *column.missing))


def _as_number(cells: pl.Series, text: pl.Series, decimal: str) -> pl.Series:
    """The cells that are numbers, null elsewhere. With a decimal comma a point is no number: it may divide thousands."""
    if cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
        return cells.cast(pl.Float64).fill_nan(None)
    if decimal == ",":
        plain = text.str.replace(",", ".", literal=True)
        text = plain.zip_with(~text.str.contains(".", literal=True).fill_null(False), pl.Series([None], dtype=pl.String))
    return text.cast(pl.Float64, strict=False).fill_nan(None)


def _among(text: pl.Series, number: pl.Series, words: tuple[str, ...]) -> pl.Series:
    """Whether a cell is one of `words`, as text in any case or as a number ("9" is also 9.0)."""
    return (text.str.to_lowercase().is_in([w.lower() for w in words]) | number.is_in([*_numbers(words)])).fill_null(False)


def _lookup(text: pl.Series, number: pl.Series, table: Mapping[str, str]) -> pl.Series:
    """The table's entry for each cell, found as text or as a number; null where there is none."""
    found = text.replace_strict(dict(table), default=None, return_dtype=pl.String)
    numbers = {n: table[w] for n, w in _numbers(tuple(table)).items()}
    if not numbers:
        return found
    return found.zip_with(found.is_not_null(), number.replace_strict(numbers, default=None, return_dtype=pl.String))


def _numbers(words: tuple[str, ...]) -> dict[float, str]:
    out: dict[float, str] = {}
    for word in words:
        try:
            out[float(word)] = word
        except ValueError:
            continue
    return {n: w for n, w in out.items() if n == n}  # "nan" is a word here
