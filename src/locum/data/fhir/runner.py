"""A view compiled to a program that turns resources into rows.

The algorithm is that of SQL on FHIR v2 ("Functional model"): a select's columns, its nested selects and its unionAll are joined crosswise, once for
each element of its forEach, forEachOrNull or repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from locum.data.fhir.compiler import Compiler
from locum.data.fhir.definition import Column, Select, ViewDefinition
from locum.data.fhir.values import EvaluationError, Fn, items
from locum.errors import ManifestError

Row = list[Any]
Rows = Callable[[Any], list[Row]]
"""The node that a select is applied to -> its rows."""

MAX_ROWS = 100_000
"""Rows that one resource may make."""


@dataclass(frozen=True)
class Part:
    """A compiled select: its columns, and what makes their cells. flat: one expression a column, where it always makes one row."""

    columns: tuple[Column, ...]
    flat: tuple[Fn, ...] | None
    rows: Rows


class Program:
    """A view, compiled. It evaluates one resource at a time and is not shared between threads.

    names: the columns to make (all of them by default). members: the members of a resource that are read, so that a reader may skip the rest.
    precise: whether numbers must be decoded as `Decimal`, because a boundary depends on their digits.
    """

    def __init__(self, view: ViewDefinition, names: Iterable[str] | None = None) -> None:
        self._wanted = None if names is None else frozenset(names)
        self._compiler = Compiler({c.name: (c.value, c.type) for c in view.constant})
        self.resource = view.resource
        self._where = [(w.path, self._compiler.compile(w.path).evaluate) for w in view.where]
        self._part = self._join([self._select(s) for s in view.select])
        self.columns = self._part.columns
        self.flat = self._part.flat
        self.members = frozenset(self._compiler.members)
        self.precise = self._compiler.precise

    def selects(self, resource: dict[str, Any]) -> bool:
        """Whether a resource of the view's type meets the view's `where`; raises `ManifestError` if that is no condition."""
        self._enter(resource)
        for text, criterion in self._where:
            found = criterion(resource)
            if found is True:
                continue
            found = items(found)
            if len(found) > 1 or (found and type(found[0]) is not bool):
                raise ManifestError(f'The view\'s where "{text}" gives something other than true or false.', fix="write a condition, such as one with exists()")
            if not found or found[0] is False:
                return False
        return True

    def rows(self, resource: dict[str, Any]) -> list[Row]:
        """The cells of the rows that a selected resource makes; raises `EvaluationError`."""
        self._enter(resource)
        return self._part.rows(resource)

    def _enter(self, resource: dict[str, Any]) -> None:
        frame = self._compiler.frame
        frame.resource, frame.row, frame.index = resource, 0, None

    @property
    def unconditional(self) -> bool:
        return not self._where

    @property
    def columnwise(self) -> bool:
        """Whether no cell depends on which resource is entered, so that the cells of a column may be made in one go."""
        return not self._compiler.reads_resource

    def _select(self, select: Select) -> Part:
        kept = [c for c in select.column if self._keeps(c)]
        parts = [_flat(tuple(kept), tuple(self._compiler.compile(c.path).evaluate for c in kept))] if select.column else []
        parts += [self._select(s) for s in select.select]
        if select.union_all:
            parts.append(_union([self._select(s) for s in select.union_all]))
        inner = self._join(parts)
        each = select.for_each or select.for_each_or_null
        if each:
            elements = self._compiler.compile(each).evaluate
            return Part(inner.columns, None, self._for_each(elements, inner.rows, or_null=select.for_each is None))
        if select.repeat:
            children = [self._compiler.compile(p).evaluate for p in select.repeat]
            return Part(inner.columns, None, self._for_each(_descend(children), inner.rows, or_null=False))
        return inner

    def _keeps(self, column: Column) -> bool:
        """Whether a column is wanted; one that is not is checked, but its members need no decoding."""
        if self._wanted is None or column.name in self._wanted:
            return True
        Compiler(self._compiler.constants).compile(column.path)
        return False

    def _for_each(self, elements: Fn, rows: Rows, *, or_null: bool) -> Rows:
        frame = self._compiler.frame

        def over(node: Any) -> list[Row]:
            found = items(elements(node))
            if not found and or_null:
                found = ({},)
            before, out = frame.row, []
            for frame.row, item in enumerate(found):
                out += rows(item)
                if len(out) > MAX_ROWS:
                    raise EvaluationError(f"more than {MAX_ROWS:,} rows of one resource")
            frame.row = before
            return out

        return over

    @staticmethod
    def _join(parts: list[Part]) -> Part:
        """Every row of each part with every row of the others; as one flat part where all are."""
        if len(parts) == 1:
            return parts[0]
        columns = tuple(c for p in parts for c in p.columns)
        if all(p.flat is not None for p in parts):
            return _flat(columns, tuple(f for p in parts for f in cast(tuple[Fn, ...], p.flat)))

        def cross(node: Any) -> list[Row]:
            out: list[Row] = [[]]
            for part in parts:
                found = part.rows(node)
                if len(out) * len(found) > MAX_ROWS:
                    raise EvaluationError(f"more than {MAX_ROWS:,} rows of one resource")
                out = [row + more for row in out for more in found]
            return out

        return Part(columns, None, cross)


def _flat(columns: tuple[Column, ...], cells: tuple[Fn, ...]) -> Part:
    return Part(columns, cells, lambda node: [[cell(node) for cell in cells]])


def _union(parts: list[Part]) -> Part:
    return Part(parts[0].columns, None, lambda node: [row for part in parts for row in part.rows(node)])


def _descend(children: list[Fn]) -> Fn:
    """All elements that the paths reach from a node, and from those again, a parent before its children."""

    def walk(node: Any) -> Any:
        waiting = [item for child in reversed(children) for item in reversed(items(child(node)))]
        out: list[Any] = []
        while waiting:
            item = waiting.pop()
            out.append(item)
            if len(out) > MAX_ROWS:
                raise EvaluationError(f"more than {MAX_ROWS:,} rows of one resource")
            waiting += [i for child in reversed(children) for i in reversed(items(child(item)))]
        return out

    return walk


def cell(value: Any, column: Column) -> Any:
    """A value as the cell of a column: a list for a collection, else one item or None; raises `EvaluationError`."""
    if column.collection:
        return list(items(value))
    found = items(value)
    if len(found) > 1:
        raise EvaluationError(f"column '{column.name}' has more than one value")
    return found[0] if found else None


def run_view(view: ViewDefinition | dict[str, Any], resources: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a view over resources, as one dict a row; raises `ManifestError` for the view and `EvaluationError` for a resource."""
    program = Program(view if isinstance(view, ViewDefinition) else ViewDefinition.load(view))
    for resource in resources:
        if resource.get("resourceType") == program.resource and program.selects(resource):
            for row in program.rows(resource):
                yield {c.name: cell(v, c) for c, v in zip(program.columns, row, strict=True)}
