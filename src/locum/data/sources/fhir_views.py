"""What a mapping makes of FHIR resources, wherever they come from: the rows of one view, or several views joined by SQL.

    [source]
    type = "fhir"
    path = "export.ndjson"
    views = { patient = "patient.view.json", chol = "chol.view.json" }
    query = "SELECT p.id, p.gender, c.value FROM patient p LEFT JOIN chol c ON c.patient = p.id"

The resources are read once for all views. Their rows are held in a DuckDB in memory, whose bound is memory_mb.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import msgspec
import polars as pl
from pydantic import Field, model_validator

from locum.data.fhir.definition import SqlName, ViewDefinition
from locum.data.fhir.table import Table, dtype_of
from locum.data.fhir.tables import Tables
from locum.data.sources.base import CHUNK, SourceSpec, Tally, known
from locum.data.sources.sql import query_of, quoted, single_select
from locum.data.sources.sql_tables import MemoryTables, Types, create
from locum.errors import ManifestError

MAX_VIEWS = 100
_SQL: dict[pl.DataType, str] = {pl.Boolean(): "BOOLEAN", pl.Int64(): "BIGINT", pl.Float64(): "DOUBLE", pl.Date(): "DATE", pl.String(): "VARCHAR"}

View = str | dict[str, Any]
Decoder = msgspec.json.Decoder[dict[str, Any]]


class Viewed(SourceSpec):
    """view: a ViewDefinition, as the path of a JSON file from the mapping's folder, or written out as a table.

    Or views: name -> such a view, and query or query_file: one SELECT on their names. memory_mb: what the views' rows and the query may use.
    query_timeout_s: how long the query may run.
    """

    view: View | None = None
    views: Annotated[dict[SqlName, View], Field(max_length=MAX_VIEWS)] = Field(default_factory=dict)
    query: str | None = None
    query_file: str | None = None
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    query_timeout_s: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _view_or_views(self) -> Self:
        if (self.view is None) == (not self.views):
            raise ValueError("give view, or views and a query that joins them")
        if sum(x is not None for x in (self.query, self.query_file)) != bool(self.views):
            raise ValueError("views need one of query and query_file" if self.views else "query and query_file are SQL that joins views; one view needs none")
        _no_twins("views", [*self.views])
        return self

    def companions(self) -> list[Path]:
        return super().companions() + [Path(v) for v in self.views.values() if isinstance(v, str)]

    def found_from(self, folder: Path) -> SourceSpec:
        def found(view: View) -> View:
            return str(folder / view) if isinstance(view, str) else view

        paths: dict[str, Any] = {"views": {n: found(v) for n, v in self.views.items()}} if self.views else {"view": found(self.view or "")}
        return super().found_from(folder).model_copy(update=paths)


class Resources(Protocol):
    """Where resources come from. tally: of resources, since `restart`. first_refused: reason -> where it was met first; for this machine only."""

    @property
    def name(self) -> str: ...
    @property
    def tally(self) -> Tally: ...
    @property
    def first_refused(self) -> dict[str, str]: ...

    def restart(self) -> None:
        """Count anew."""

    def batches(self, decoder: Decoder, view: str | None = None) -> Iterator[list[dict[str, Any]]]:
        """Decoded resources. view: only those meant for this view, where each has its own."""


@dataclass
class ViewSource:
    """The rows of one view. The tally counts resources, and one that makes several rows as so many."""

    resources: Resources
    view: ViewDefinition

    @property
    def name(self) -> str:
        return self.resources.name

    @property
    def tally(self) -> Tally:
        return self.resources.tally

    def columns(self) -> list[str]:
        return [c.name for c in self.view.columns()]

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        table = Table(self.view, names)
        self.resources.restart()
        yield from table.chunks(self.resources.batches(table.decoder), size, self.tally)


@dataclass
class JoinedSource:
    """The answer of a query on views. The tally counts the answer's rows, and the resources that were refused; all resources stand in its notes.

    apart: whether each view has resources of its own.
    """

    resources: Resources
    views: dict[str, ViewDefinition]
    query: str
    spec: Viewed
    apart: bool = False
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.resources.name

    def columns(self) -> list[str]:
        return self._tables.columns()

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        self.tally = Tally()
        yield from self._tables.answer(names, size, self._load, self.tally)

    @property
    def _tables(self) -> MemoryTables:
        types = {name: {c.name: _SQL[dtype_of(c)] for c in view.columns()} for name, view in self.views.items()}
        for name, columns in types.items():
            _no_twins(f"the columns of the view {name}", [*columns])
        return MemoryTables(self.name, types, self.query, self.spec.memory_mb, self.spec.query_timeout_s, what="view", setting="query_timeout_s")

    def _load(self, db: Any, tables: dict[str, Types]) -> None:
        """Fill the views that the query reads, and take over what became of the resources."""
        if not tables:
            raise ManifestError("The query reads none of the views.", fix=f"name one after FROM: {', '.join(self.views)}")
        self.resources.restart()
        rows = dict.fromkeys(tables, 0)
        for table, types in tables.items():
            create(db, table, types)
        for group in [[name] for name in tables] if self.apart else [[*tables]]:
            views = Tables({n: self.views[n] for n in group}, {n: [*tables[n]] for n in group})
            for batch in self.resources.batches(views.decoder, group[0] if self.apart else None):
                for name, frame in views.frames(batch, self.resources.tally):
                    rows[name] += len(frame)
                    _insert(db, name, frame)
        self._take_over(self.resources.tally, rows)

    def _take_over(self, resources: Tally, rows: dict[str, int]) -> None:
        """What became of the resources: those refused as records, all of them as notes."""
        self.tally.read += resources.refused.total()
        self.tally.refused += resources.refused
        self.tally.notes["resources read"] = resources.read
        self.tally.notes["resources that make rows of a view"] = resources.used
        self.tally.notes += resources.left_out + resources.notes
        self.tally.notes.update({f"rows of the view {name}": n for name, n in rows.items()})


def _insert(db: Any, table: str, frame: pl.DataFrame) -> None:
    db.register("chunk", frame.to_arrow())
    db.execute(f"INSERT INTO {quoted(table)} BY NAME SELECT * FROM chunk")  # noqa: S608 (a view's name, quoted)
    db.unregister("chunk")


def open_views(spec: Viewed, resources: Resources, *, apart: bool = False) -> ViewSource | JoinedSource:
    """The source of the spec's one view, or of its views joined; raises `ManifestError`."""
    if spec.view is not None:
        return ViewSource(resources, load_view(spec.view, "view"))
    views = {name: load_view(view, f"views.{name}") for name, view in spec.views.items()}
    return JoinedSource(resources, views, single_select(query_of(spec.query, spec.query_file)), spec, apart)


def load_view(view: View, key: str) -> ViewDefinition:
    """The view that a mapping names or holds under `key`."""
    return ViewDefinition.read(Path(view)) if isinstance(view, str) else ViewDefinition.load(view, where=f"[source.{key}]")


def _no_twins(what: str, names: Sequence[str]) -> None:
    """SQL takes names that differ only in case for one."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) is not name:
            raise ManifestError(f"Of {what}, '{other}' and '{name}' are one name in SQL.", fix="rename one of them")
