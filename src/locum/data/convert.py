"""Cells -> values in the study's unit and coding: one column, or an expression over several, becomes one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.mapping import Column
from locum.data.sources.base import SourceSpec
from locum.errors import DataError
from locum.study.manifest import Variable

_WORDS = {"true": "1", "yes": "1", "false": "0", "no": "0"}
DAY_US = 86_400_000_000
MOST_SPELLINGS = 4096
FIRST_YEAR = 1000
"""A year of fewer than four digits is none: %Y would read 20 as the year 20."""
_ISO_DATES = ("%Y-%m-%d", "%Y%m%d")
_ISO_TIMES = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")


def cells_of(frame: pl.DataFrame, column: Column, source: SourceSpec) -> tuple[pl.Series, int]:
    """The cells of a column, or of an expression's answer, and how many cells of its columns are neither missing nor what they are declared
    to be: their rows have no answer."""
    if column.column is not None:
        return frame[column.column], 0
    inputs, bad = {}, np.zeros(len(frame), dtype=bool)
    for name in column.reads:
        inputs[name], wrong = _declared(frame[name], name, column, source)
        bad |= wrong.to_numpy()
    try:
        answer = pl.DataFrame(inputs).select(column.sql.alias("answer"))["answer"]
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"The expression over {', '.join(column.reads)} cannot be computed.",
            why="Its columns are numbers, unless they are listed as text = [...] or dates = [...].",
            fix="correct the expression in the mapping",
            local=str(error),
        ) from None
    if len(answer) != len(frame):
        raise DataError(f"The expression over {', '.join(column.reads)} does not give one value a row.", fix="leave out sums and other aggregates")
    if answer.dtype == pl.Duration:
        answer = answer.dt.total_microseconds() / DAY_US
    if answer.dtype.is_float():  # a division by zero is no value, and no number either
        answer = answer.fill_nan(None)
        finite = answer.is_finite().fill_null(True)
        bad |= ~finite.to_numpy()
        answer = answer.zip_with(finite, pl.Series([None], dtype=answer.dtype))
    return answer, int(bad.sum())


def convert(cells: pl.Series, variable: Variable, column: Column, source: SourceSpec) -> tuple[NDArray[np.float64], int]:
    """Shape (n,) with NaN where a value is missing, and how many cells are neither missing nor a value.

    The contract's missing codes are codes, not measurements: they are compared before scale and offset.
    """
    values, wrong = convert_cells(cells, variable, column, source)
    return values, 0 if wrong is None else int(wrong.sum())


def convert_cells(cells: pl.Series, variable: Variable, column: Column, source: SourceSpec) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """As `convert`, with a mask (n,) of the cells that are neither missing nor a value; None where there are none.

    Text, codes and booleans repeat themselves: where a column holds few spellings, each of them is converted once.
    """
    if cells.dtype.is_numeric() and not column.values and variable.type in ("number", "integer"):
        return _numbers_of(cells, variable, column, source), None
    spellings = _spellings(cells)
    if spellings is None:
        return _convert(cells, variable, column, source)
    values, wrong = _convert(spellings, variable, column, source)
    which = _which(cells, spellings)
    return values[which], None if wrong is None else wrong[which]


def _convert(cells: pl.Series, variable: Variable, column: Column, source: SourceSpec) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    if variable.type == "date":
        return _dates(cells, column, source)
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
        number = _lookup(text, number, _indices(variable)).cast(pl.Float64)
        if variable.other is not None:
            number = number.fill_null(float(variable.categories.index(variable.other)))
    values = np.where(absent.to_numpy(), np.nan, number.fill_null(np.nan).to_numpy())
    return _scaled(values, variable, column), _any(number.is_null() & ~absent)


def _spellings(cells: pl.Series) -> pl.Series | None:
    """The different cells of a column, null last, if they are far fewer than its rows; else None."""
    if cells.dtype == pl.Boolean:
        return pl.Series([False, True, None], dtype=pl.Boolean)
    few = min(MOST_SPELLINGS, len(cells) // 8)
    repeats = cells.dtype in (pl.String, pl.Date) or cells.dtype.is_integer()
    if not repeats or cells.head(4 * few).n_unique() > few:
        return None
    different = cells.unique().drop_nulls()
    return different.append(pl.Series([None], dtype=cells.dtype)) if len(different) <= few else None


def _which(cells: pl.Series, spellings: pl.Series) -> NDArray[np.integer[Any]]:
    """For each cell the index of its spelling."""
    last = len(spellings) - 1
    if cells.dtype == pl.String:
        found = cells.cast(pl.Enum(spellings.head(last))).to_physical()
    elif cells.dtype == pl.Boolean:
        found = cells
    else:
        found = cells.replace_strict(spellings.head(last), pl.Series(np.arange(last), dtype=pl.UInt32), default=None, return_dtype=pl.UInt32)
    return found.cast(pl.UInt32).fill_null(last).to_numpy()


def _any(wrong: pl.Series) -> NDArray[np.bool_] | None:
    return wrong.to_numpy() if wrong.any() else None


def texts_of(cells: pl.Series, column: Column, source: SourceSpec) -> NDArray[np.str_]:
    """Text without surrounding space, '' where it is missing, shape (n,)."""
    text = as_text(cells)
    if column.values:
        text = text.replace_strict(column.values, default=text, return_dtype=pl.String)
    return text.zip_with(~is_absent(text, column, source), pl.Series([""])).to_numpy().astype(np.str_)


def arrays_of(cells: pl.Series, variable: Variable, name: str) -> NDArray[np.float32]:
    """Shape (n, *variable.shape). Raises `DataError` where the column holds something else."""
    shape = cells.dtype.shape if isinstance(cells.dtype, pl.Array) else None
    if shape != variable.shape:
        what = f"arrays of shape {list(shape)}" if shape else f"{cells.dtype}"
        raise DataError(f"'{name}' is to be an array of shape {list(variable.shape)}, and its column holds {what}.", fix="set the source's size to that shape")
    if cells.null_count():
        raise DataError(f"{cells.null_count()} of {len(cells)} rows have no array '{name}'.", fix="leave these rows out of the source")
    return np.ascontiguousarray(cells.to_numpy(), dtype=np.float32)


def as_text(cells: pl.Series) -> pl.Series:
    """Cells as text without surrounding space; a whole number has no decimals, whatever type the file gave it."""
    if not cells.dtype.is_float():
        return cells.cast(pl.String).str.strip_chars()
    cells = cells.fill_nan(None)
    whole = cells.cast(pl.Int64, strict=False)
    return whole.cast(pl.String).zip_with((whole == cells).fill_null(False), cells.cast(pl.String))


def identifiers(cells: pl.Series, column: Column, source: SourceSpec) -> pl.Series:
    """Who each row is of, as text, null where that is not said.

    One spelling each: letters are composed (Unicode's NFC), and 7.0 is 7, as a column of whole numbers with gaps is often exported. A
    floating-point number so large that it may stand for two patients names neither.
    """
    text = as_text(cells)
    absent = is_absent(text, column, source)
    if cells.dtype.is_float():
        exact = 1 << (24 if cells.dtype == pl.Float32 else 53)
        absent |= (cells.abs() >= exact).fill_null(False)
    elif cells.dtype == pl.String:
        if (text.str.len_bytes() > text.str.len_chars()).any():
            text = text.str.normalize("NFC")
        if text.str.ends_with(".0").any():
            text = text.str.replace(r"^(-?\d+)\.0$", "$1")
    return text.zip_with(~absent, pl.Series([None], dtype=pl.String))


def is_absent(text: pl.Series, column: Column, source: SourceSpec) -> pl.Series:
    """Which cells of text are missing."""
    return text.is_null() | _among(text, pl.Series(dtype=pl.Float64).extend_constant(None, len(text)), (*source.missing, *column.missing))


def _declared(cells: pl.Series, name: str, column: Column, source: SourceSpec) -> tuple[pl.Series, pl.Series]:
    """An input of an expression as text, date or number, and which of its cells are neither that nor missing."""
    text = as_text(cells)
    absent = is_absent(text, column, source)
    if name in column.text:
        return text.zip_with(~absent, pl.Series([None], dtype=pl.String)), absent & False
    made = _as_time(cells, text, column.format) if name in column.dates else _as_number(cells, text, source.decimal)
    absent |= _among(text, _as_number(cells, text, source.decimal), (*source.missing, *column.missing)) if name not in column.dates else False
    made = made.zip_with(~absent, pl.Series([None], dtype=made.dtype))
    return made, made.is_null() & ~absent


def _dates(cells: pl.Series, column: Column, source: SourceSpec) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Days since 1970-01-01, with the part of the day where there is one. A number is no date: from which day it counts is not said."""
    text = as_text(cells)
    absent = is_absent(text, column, source)
    time = _as_time(cells, text, column.format)
    days = time.dt.epoch("us") / DAY_US
    values = np.where(absent.to_numpy(), np.nan, days.cast(pl.Float64).fill_null(np.nan).to_numpy())
    return values, _any(time.is_null() & ~absent)


def _as_time(cells: pl.Series, text: pl.Series, form: str | None) -> pl.Series:
    """Dates and times without zone, null where a cell is none. Without a format: ISO 8601, in UTC where it names a zone."""
    if cells.dtype == pl.Date:
        return cells.cast(pl.Datetime("us"))
    if isinstance(cells.dtype, pl.Datetime):
        return (cells.dt.convert_time_zone("UTC") if cells.dtype.time_zone else cells).dt.replace_time_zone(None).cast(pl.Datetime("us"))
    if cells.dtype != pl.String:
        return pl.Series(dtype=pl.Datetime("us")).extend_constant(None, len(cells))
    time = _read_times(text, form)
    return time.zip_with((time.dt.year() >= FIRST_YEAR).fill_null(True), pl.Series([None], dtype=time.dtype))


def _read_times(text: pl.Series, form: str | None) -> pl.Series:
    if form is not None:
        has_time = any(f"%{c}" in form for c in "HIMSTRXcs")
        return text.str.to_datetime(form, strict=False, time_unit="us") if has_time else text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    time = pl.Series(dtype=pl.Datetime("us")).extend_constant(None, len(text))
    for iso in _ISO_DATES:
        time = time.zip_with(time.is_not_null(), text.str.to_date(iso, strict=False).cast(pl.Datetime("us")))
    if time.null_count() > text.null_count():
        for iso in _ISO_TIMES:
            time = time.zip_with(time.is_not_null(), text.str.to_datetime(iso, strict=False, time_unit="us"))
        full = text.str.replace("Z$", "+00:00").str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T").str.replace(r"(T.*[+-]\d\d)$", "${1}:00")
        full = full.str.replace(r"(T\d\d:\d\d)([+-])", "${1}:00${2}")  # PostgreSQL writes +02, and some leave out the seconds
        zoned = full.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_unit="us")
        time = time.zip_with(time.is_not_null(), zoned.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    return time


def _numbers_of(cells: pl.Series, variable: Variable, column: Column, source: SourceSpec) -> NDArray[np.float64]:
    """The quick way for a column that the file gives as numbers: every cell is a value or is missing."""
    values: NDArray[np.float64] = cells.cast(pl.Float64).fill_null(np.nan).to_numpy()
    codes = {*variable.missing_codes, *_numbers((*source.missing, *column.missing))}
    if codes:
        absent = np.isin(values, [*codes])
        values = np.where(absent, np.nan, values) if absent.any() else values
    return _scaled(values, variable, column)


def _scaled(values: NDArray[np.float64], variable: Variable, column: Column) -> NDArray[np.float64]:
    scale, offset = column.affine(variable)
    return values if (scale, offset) == (1.0, 0.0) else values * scale + offset


def _indices(variable: Variable) -> dict[str, str]:
    """Every spelling of a category -> its index: its name, and its codes as 'system|code' and as the bare code, if only one has it."""
    found: dict[str, set[str]] = {}
    for i, category in enumerate(variable.categories):
        for code in variable.codes.get(category, ()):
            for spelling in (code, code.rpartition("|")[2]):
                found.setdefault(spelling, set()).add(str(i))
    table = {spelling: next(iter(indices)) for spelling, indices in found.items() if len(indices) == 1}
    return table | {c: str(i) for i, c in enumerate(variable.categories)}


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


def storable(kind: Any) -> bool:
    """Whether a column of this type can become a variable at all."""
    return isinstance(kind, pl.Array) or not (kind.is_nested() or kind in (pl.Binary, pl.Object, pl.Time, pl.Duration))
