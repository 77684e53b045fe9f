"""Tables that a source fills, in a DuckDB in memory, and the answer of one SELECT on them.

Only the tables that the query names are filled, and of these only the columns whose names occur in it. Nothing goes to disk, and DuckDB cannot
reach anything but what was loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl

from locum.data.sources.base import Tally, known
from locum.data.sources.sql import quoted, single_select
from locum.data.sources.sql_duckdb import answer_columns, answer_frames, connect, duckdb_errors
from locum.errors import DataError
from locum.study.document import nearest

Types = Mapping[str, str]
"""Column -> its DuckDB type."""
Load = Callable[[Any, dict[str, Types]], None]
"""Fills, through a connection, the tables that are read, of which only these columns are needed. It calls `create` for each."""

_ALL_COLUMNS = re.compile(r"\*|\b(natural|columns|pivot|unpivot|summarize|describe)\b", re.IGNORECASE)


@dataclass(frozen=True)
class MemoryTables:
    """tables: name -> its columns. what: how messages call one of them. setting: the key under [source] that bounds how long the query may run."""

    name: str
    tables: Mapping[str, Types]
    query: str
    memory_mb: int
    timeout_s: float
    schema: str | None = None
    what: str = "table"
    setting: str = "timeout_s"

    def columns(self) -> list[str]:
        """The names of the answer's columns; nothing is loaded."""
        with self._database() as (db, select):
            return answer_columns(db, select, self.name)

    def answer(self, names: Sequence[str], size: int, load: Load, tally: Tally) -> Iterator[pl.DataFrame]:
        """The answer's named columns in chunks; its rows are added to `tally` as records that were read and used."""
        with self._database() as (db, select):
            columns = answer_columns(db, select, self.name)
            known(names, columns, self.name)
            load(db, {table: _needed(select, self.tables[table]) for table in sorted(self._read(db, select))})
            if answer_columns(db, select, self.name) != columns:
                raise DataError(f"Which columns of {self.name} the query reads cannot be told.", fix="name each column in the query")
            for frame in answer_frames(db, select, names, self.name, size, self.timeout_s):
                tally.read += len(frame)
                tally.used += len(frame)
                yield frame

    @contextmanager
    def _database(self) -> Iterator[tuple[Any, str]]:
        """A database in memory with all the tables, empty, and the query, whose tables are all among them."""
        select = single_select(self.query)
        with duckdb_errors(self.name, self.timeout_s, self.memory_mb, self.setting):
            db = connect(self.memory_mb)
            try:
                if self.schema:
                    db.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.schema)}; USE {quoted(self.schema)}")
                for table, types in self.tables.items():
                    create(db, table, types)
                self._read(db, select)
                yield db, select
            finally:
                db.close()

    def _read(self, db: Any, select: str) -> set[str]:
        """The tables that the query reads, by DuckDB's own parser; raises `DataError` for one that is not there."""
        found: set[str] = set()
        own: set[str] = set()  # WITH name AS ...
        todo = [_parsed(db, select)]
        while todo:
            node = todo.pop()
            if isinstance(node, dict):
                if node.get("type") == "BASE_TABLE":
                    found.add(str(node.get("table_name")) if not node.get("schema_name") or node["schema_name"] == self.schema else "")
                if isinstance(names := node.get("cte_map"), dict):
                    own |= {str(entry.get("key")).lower() for entry in names.get("map", [])}
                todo += node.values()
            elif isinstance(node, list):
                todo += node
        there = {table.lower(): table for table in self.tables}
        for name in sorted(found):
            if name.isidentifier() and name.lower() not in there.keys() | own:
                raise DataError(f"The query reads '{name}', and {self.name} has no {self.what} of that name.", fix=nearest(name, [*self.tables]))
        return {there[name.lower()] for name in found if name.lower() in there}


def create(db: Any, table: str, types: Types) -> None:
    """The table, empty, in place of one of the same name."""
    db.execute(f"CREATE OR REPLACE TABLE {quoted(table)} ({', '.join(f'{quoted(c)} {t}' for c, t in types.items())})")


def _needed(select: str, types: Types) -> Types:
    """Those columns whose names occur in the query; all of them where that tells nothing."""
    if _ALL_COLUMNS.search(select):
        return types
    return {c: t for c, t in types.items() if re.search(rf"\b{c}\b", select, re.IGNORECASE)} or types


def _parsed(db: Any, select: str) -> Any:
    tree = json.loads(db.execute("SELECT json_serialize_sql(?)", [select]).fetchone()[0])
    if tree.get("error") and tree.get("error_type") == "parser":
        fix = "try it in the duckdb shell; a name that is a word of SQL needs double quotes"
        raise DataError("The query is no SQL that DuckDB understands.", fix=fix, local=str(tree.get("error_message")))
    if tree.get("error"):
        raise DataError("Which tables the query reads cannot be told.", fix="write it as one plain SELECT", local=str(tree.get("error_message")))
    return tree
