"""Arrow columns of files and databases -> the few kinds of cell that a source may yield."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import polars as pl

from locum.errors import DataError

CHUNK_BYTES = 64 << 20
"""A chunk is cut at about so many bytes, however many rows were asked for."""


def cell_type(kind: Any) -> Any:
    """The Arrow type in which a column of `kind` comes out, or None if no variable can be made of it.

    Numbers stay what they are, except that a decimal becomes a float64 if it has a fraction, and otherwise an int64 or, where it may not fit, text
    (an identifier of 20 digits is no float). A dictionary becomes its values, a fixed-size list of numbers an array of float32, a time of day text.
    """
    import pyarrow as pa

    t = pa.types
    if t.is_integer(kind) or t.is_boolean(kind) or t.is_float32(kind) or t.is_float64(kind):
        return kind
    if t.is_date(kind):
        return pa.date32()
    if t.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if t.is_decimal(kind):
        return pa.float64() if kind.scale > 0 else pa.int64() if kind.precision <= 18 else pa.string()
    if t.is_float16(kind):
        return pa.float32()
    if t.is_dictionary(kind):
        return cell_type(kind.value_type)
    if t.is_fixed_size_list(kind):
        inner = cell_type(kind.value_type)
        number = inner is not None and (t.is_integer(inner) or t.is_floating(inner))
        nested = inner is not None and t.is_fixed_size_list(inner)
        return pa.list_(inner if nested else pa.float32(), kind.list_size) if number or nested else None
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind) or t.is_time(kind) or t.is_null(kind):
        return pa.large_string()
    return None


def cell_schema(schema: Any, names: Sequence[str], where: str) -> Any:
    """The Arrow schema of the named columns as they come out; raises `DataError` for one that holds no cells."""
    import pyarrow as pa

    fields = []
    for name in names:
        kind = schema.field(name).type
        out = cell_type(kind)
        if out is None:
            raise DataError(
                f"The column '{name}' of {where} holds {_plain_name(kind)}, which is neither a number, a text nor a date.",
                fix="write what the study needs of it as columns of their own, and an array as a list of fixed size",
            )
        fields.append(pa.field(name, out))
    return pa.schema(fields)


def to_frame(batch: Any, schema: Any) -> pl.DataFrame:
    """A record batch as a frame of exactly the columns of `schema`; what cannot be cast raises an Arrow error."""
    import pyarrow as pa

    columns = [batch.column(batch.schema.get_field_index(f.name)) for f in schema]
    table = pa.table([c if c.type == f.type else _decoded(c).cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    return cast(pl.DataFrame, pl.from_arrow(table))


def gathered(frames: Iterable[pl.DataFrame], size: int) -> Iterator[pl.DataFrame]:
    """The same rows in chunks of at most `size` rows, and not many small ones."""
    parts: list[pl.DataFrame] = []
    rows = held = 0
    for frame in frames:
        parts.append(frame)
        rows, held = rows + len(frame), held + int(frame.estimated_size())
        if rows >= size or held >= CHUNK_BYTES:
            whole = pl.concat(parts)
            keep = len(whole) % size if held < CHUNK_BYTES else 0
            yield from whole.head(len(whole) - keep).iter_slices(size)
            parts = [whole.tail(keep)] if keep else []
            rows, held = keep, int(whole.tail(keep).estimated_size())
    if rows:
        yield from pl.concat(parts).iter_slices(size)


def _decoded(column: Any) -> Any:
    """A dictionary's values; Arrow casts some dictionaries only after they are decoded."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def _plain_name(kind: Any) -> str:
    """The type in words, without the names of fields inside it."""
    return str(kind).partition("<")[0].partition("[")[0]


def no_twins(names: list[str], where: str) -> list[str]:
    """The names, unless one of them occurs twice: then which column is meant cannot be told."""
    twice = sorted(n for n, k in Counter(names).items() if k > 1)
    if twice:
        raise DataError(f"{where} has more than one column '{twice[0]}'.", fix="give every column its own name")
    return names
