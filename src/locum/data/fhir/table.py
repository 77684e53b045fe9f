"""A view's rows as polars frames, built column by column, with every resource accounted for.

A batch whose resources all fit makes one list per column, whose types are checked at once. One that holds a resource that does not fit is halved
until that resource is alone, and only that one is refused, with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import compress
from math import isfinite
from typing import Any, TypedDict

import msgspec
import polars as pl

from locum.data.fhir.choices import PYTHON_TYPES
from locum.data.fhir.definition import Column, ViewDefinition
from locum.data.fhir.runner import Program, cell
from locum.data.fhir.values import EvaluationError
from locum.data.sources.base import Tally
from locum.errors import ManifestError

OTHER_TYPE = "resource of another type"
NOT_SELECTED = "resource that the view's where does not select"
NO_ROW = "resource without a row (nothing for its forEach)"
USED = ""
"""The fate of a resource that made a row. The others are `NOT_SELECTED`, `NO_ROW`, and the reason why it is refused."""
SOUND = frozenset((USED, NOT_SELECTED, NO_ROW))
FURTHER = "further row of a resource that makes several, counted as a record"
_DTYPES: dict[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    **dict.fromkeys(("integer", "positiveInt", "unsignedInt", "integer64"), pl.Int64()),
    "decimal": pl.Float64(),
    "date": pl.Date(),
}
_ANY = (str, bool, int, float, Decimal)
_MAX_MEMBERS = 90
"""Beyond it, telling members that are read from those that are not costs more than reading all."""


class Table:
    """Some columns of a view. schema: their polars types. decoder: bytes of one resource -> its members that the view reads."""

    def __init__(self, view: ViewDefinition, names: Sequence[str]) -> None:
        self._program = Program(view, names)
        self._columns = self._program.columns
        self._names = [*names]
        self.schema = {c.name: dtype_of(c) for c in self._columns}
        self.members, self.precise = self._program.members, self._program.precise
        self.decoder = decoder_of(self.members, precise=self.precise)

    def chunks(self, batches: Iterable[Sequence[dict[str, Any]]], size: int, tally: Tally) -> Iterator[pl.DataFrame]:
        """Frames of about `size` rows from batches of decoded resources; what becomes of each resource is added to `tally`."""
        waiting: list[pl.DataFrame] = []
        rows = 0
        for batch in batches:
            frame = self.frame(batch, tally)
            if len(frame):
                waiting.append(frame)
                rows += len(frame)
            if rows >= size:
                yield pl.concat(waiting, rechunk=True)
                waiting, rows = [], 0
        if waiting:
            yield pl.concat(waiting, rechunk=True)

    def frame(self, resources: Sequence[dict[str, Any]], tally: Tally) -> pl.DataFrame:
        """The rows of some resources, as one frame. A resource that makes several rows counts as so many records."""
        ours = [r for r in resources if r.get("resourceType") == self._program.resource]
        count(tally.left_out, OTHER_TYPE, len(resources) - len(ours))
        frame, fates = self.evaluate(ours)
        for fate, n in Counter(fates).items():
            if fate != USED:
                count(tally.left_out if fate in SOUND else tally.refused, fate, n)
        further = len(frame) - fates.count(USED)
        tally.read += further
        tally.used += len(frame)
        count(tally.notes, FURTHER, further)
        return frame

    def evaluate(self, ours: Sequence[dict[str, Any]]) -> tuple[pl.DataFrame, list[str]]:
        """The rows of resources of the view's type, and the fate of each resource. One that does not fit is refused alone."""
        try:
            columns, fates = self._columns_of(ours)
            frame = pl.DataFrame([_series(c, cells) for c, cells in zip(self._columns, columns, strict=True)])
        except EvaluationError as error:
            if len(ours) == 1:
                return pl.DataFrame(schema=self.schema).select(self._names), [error.what]
            half = len(ours) // 2
            (one, first), (other, second) = self.evaluate(ours[:half]), self.evaluate(ours[half:])
            return pl.concat([one, other]), first + second
        return frame.select(self._names), fates

    def _columns_of(self, ours: Sequence[dict[str, Any]]) -> tuple[Sequence[Sequence[Any]], list[str]]:
        """One sequence of cells per column, and the fate of each resource."""
        program = self._program
        chosen = [True] * len(ours) if program.unconditional else [program.selects(r) for r in ours]
        if program.flat is not None and program.columnwise:
            selected = [*compress(ours, chosen)]
            return [[value(r) for r in selected] for value in program.flat], [USED if c else NOT_SELECTED for c in chosen]
        rows, fates = [], []
        for resource, wanted in zip(ours, chosen, strict=True):
            made = program.rows(resource) if wanted else []
            rows += made
            fates.append(USED if made else NO_ROW if wanted else NOT_SELECTED)
        return [*zip(*rows, strict=True)] or [()] * len(self._columns), fates


def dtype_of(column: Column) -> pl.DataType:
    """The polars type of a column. A dateTime stays text, because it may lack its time or its zone; so does what names no type.

    Raises `ManifestError` for a column whose cells are no single simple value.
    """
    if column.collection:
        raise ManifestError(
            f"Column '{column.name}' of the view is a collection, and a cell of a table holds one value.",
            fix="end its path with first() or join(','), or make rows of it with forEach",
        )
    if column.type is not None and column.type not in PYTHON_TYPES:
        raise ManifestError(
            f"Column '{column.name}' of the view is of the type {column.type}, which is not a simple one.",
            fix="extend its path to the part that the study needs, such as coding.code or value",
        )
    return _DTYPES.get(column.type or "", pl.String())


def _series(column: Column, cells: Sequence[Any]) -> pl.Series:
    """Cells as a series of the column's type; raises `EvaluationError` where one is of another."""
    kinds = {*map(type, cells)}
    if list in kinds:
        cells = [cell(v, column) if type(v) is list else v for v in cells]
        kinds = {*map(type, cells)}
    kinds.discard(type(None))
    if not kinds.issubset(PYTHON_TYPES.get(column.type or "", _ANY)):
        raise EvaluationError(f"column '{column.name}' has a value that is not {column.type or 'a simple one'}")
    dtype = dtype_of(column)
    if column.type is None:
        cells = [v if v is None or type(v) is str else str(v).lower() if type(v) is bool else str(v) for v in cells]
    if Decimal in kinds and column.type is not None:
        cells = [float(v) if type(v) is Decimal else v for v in cells]
        if not all(v is None or isfinite(v) for v in cells):
            raise EvaluationError(f"column '{column.name}' has a number too large")
    if dtype == pl.Date:
        return _dates(column.name, cells)
    try:
        series = pl.Series(column.name, cells, dtype=dtype, strict=False)
    except OverflowError:
        raise EvaluationError(f"column '{column.name}' has a number too large") from None
    if series.null_count() != cells.count(None):
        raise EvaluationError(f"column '{column.name}' has a number too large")
    return series


def _dates(name: str, cells: Sequence[Any]) -> pl.Series:
    text = pl.Series(name, cells, dtype=pl.String)
    days = text.str.to_date("%Y-%m-%d", strict=False)
    if days.null_count() != text.null_count() or (text.str.len_bytes() != 10).any():
        raise EvaluationError(f"column '{name}' has a date without its day; lowBoundary() would take the first one")
    return days


def decoder_of(members: Iterable[str], *, precise: bool) -> msgspec.json.Decoder[dict[str, Any]]:
    """A JSON decoder that skips what is not among the members, and keeps all digits of a number where a view needs them."""
    kind: Any = dict[str, Any]
    wanted = sorted({*members})
    if len(wanted) <= _MAX_MEMBERS:
        typed_dict: Any = TypedDict  # made from names that only the view tells
        kind = typed_dict("Resource", dict.fromkeys(wanted, Any), total=False)
    return msgspec.json.Decoder(kind, float_hook=Decimal if precise else None)


def count(where: Counter[str], reason: str, n: int) -> None:
    if n:
        where[reason] += n
