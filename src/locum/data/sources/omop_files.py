"""The tables of an OMOP CDM as files, loaded into a DuckDB in memory with the CDM's types, and the answer of one SELECT on them.

Nothing is unpacked to disk. A record with a cell that is not of its column's type is refused and counted by table.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import polars as pl

from locum.data.sources.base import CHUNK, MAX_RATIO, Bounded, Tally
from locum.data.sources.omop_cdm import TABLES
from locum.data.sources.sql import quoted
from locum.data.sources.sql_tables import MemoryTables, Types, create
from locum.data.sources.table import CsvSource, ParquetSource
from locum.data.sources.table import Spec as TableSpec
from locum.errors import DataError
from locum.study.document import nearest

if TYPE_CHECKING:
    from locum.data.sources.omop import Spec

MAX_MEMBERS = 10_000
_ENDS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


@dataclass
class OmopFiles:
    path: Path
    query: str
    spec: Spec
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        return self._tables.columns()

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        self.tally = Tally()
        yield from self._tables.answer(names, size, self._load, self.tally)

    @property
    def _tables(self) -> MemoryTables:
        return MemoryTables(self.name, TABLES, self.query, self.spec.memory_mb, self.spec.timeout_s, self.spec.cdm_schema)

    def _load(self, db: Any, tables: dict[str, Types]) -> None:
        for table, types in tables.items():
            self._fill(db, table, types)

    def _fill(self, db: Any, table: str, types: Types) -> None:
        """Fill one table, and add the records that were refused to the tally."""
        with self._open(table) as source:
            there = {c.lower(): c for c in source.columns()}
            absent = [c for c in types if c not in there]
            if absent and (types is not TABLES[table] or "person_id" in absent):
                raise DataError(f"The table {table} of {self.name} has no column '{absent[0]}', which the query reads.", fix=nearest(absent[0], [*there]))
            self.tally.notes.update(f"the table {table} has no column {c}" for c in absent)
            create(db, table, types)
            taken = {c: t for c, t in types.items() if c in there}
            for frame in source.chunks([there[c] for c in taken]):
                self._insert(db, table, taken, frame.rename({there[c]: c for c in taken}))
            for reason, count in (source.tally.refused + source.tally.left_out).items():
                self._refuse(f"{table}: {reason}", count)
            self.tally.notes[f"records of the table {table}"] += source.tally.read

    def _insert(self, db: Any, table: str, types: Types, frame: pl.DataFrame) -> None:
        """Insert the records whose cells are all of their column's type or missing."""
        words = ", ".join(_text(w.lower()) for w in (*self.spec.missing, "\\n"))
        db.register("chunk", frame.to_arrow())
        cells, bad = [], []
        for column, kind in types.items():
            cell = quoted(column)
            if frame.schema[column] == pl.String:
                cell = f"trim({cell})" if kind == "VARCHAR" else f"CASE WHEN lower(trim({cell})) NOT IN ({words}) THEN trim({cell}) END"
            cells.append(f"{cell} AS {quoted(column)}, {_converted(cell, kind, frame.schema[column] == pl.String)} AS {quoted('to ' + column)}")
            bad.append(f"WHEN {quoted(column)} IS NOT NULL AND {quoted('to ' + column)} IS NULL THEN {_text(column)}")
        db.execute(f"CREATE TEMP TABLE converted AS SELECT *, CASE {' '.join(bad)} END AS wrong FROM (SELECT {', '.join(cells)} FROM chunk)")  # noqa: S608
        into, made = (", ".join(quoted(prefix + c) for c in types) for prefix in ("", "to "))
        db.execute(f"INSERT INTO {quoted(table)} ({into}) SELECT {made} FROM converted WHERE wrong IS NULL")  # noqa: S608
        for column, count in db.execute("SELECT wrong, count(*) FROM converted WHERE wrong IS NOT NULL GROUP BY 1").fetchall():
            self._refuse(f"{table}: {column} is no {_WORDS[types[column]]}", count)
        db.execute("DROP TABLE converted")
        db.unregister("chunk")

    def _refuse(self, reason: str, count: int) -> None:
        self.tally.read += count
        self.tally.refused[reason] += count

    @contextmanager
    def _open(self, table: str) -> Iterator[CsvSource | ParquetSource]:
        """The file of a table, found without regard to case."""
        if self.path.is_dir():
            files = {str(p): p for p in self.path.iterdir() if p.is_file()}
            file = files[self._one(table, [*files])]
            yield ParquetSource(file) if file.suffix.lower() == ".parquet" else CsvSource(file, TableSpec(encoding=self.spec.encoding))
            return
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
                if len(members) > MAX_MEMBERS:
                    raise DataError(f"{self.name} holds more than {MAX_MEMBERS:,} files.", fix="pack only the CDM's tables")
                name = self._one(table, [m.filename for m in members if not m.is_dir()])
                if archive.getinfo(name).flag_bits & 1:
                    raise DataError(f"{self.name} is locked with a password.", fix="unpack it yourself")
                yield self._member(archive, archive.getinfo(name))
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{self.name} cannot be unpacked.", why="It is damaged or no zip file.", fix="pack it again", local=str(error)) from None

    def _member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> CsvSource | ParquetSource:
        most = max(1 << 20, member.compress_size * MAX_RATIO)
        file = Path(member.filename)

        def opened() -> BinaryIO:
            return io.BufferedReader(Bounded(cast(BinaryIO, archive.open(member)), file.name, most))

        if file.suffix.lower() == ".parquet":  # needs to jump within the file
            most = min(most, self.spec.memory_mb << 20)
            with opened() as stream:
                return ParquetSource(file, content=stream.read())
        return CsvSource(file, TableSpec(encoding=self.spec.encoding), opener=opened)

    def _one(self, table: str, names: list[str]) -> str:
        found = [n for n in names if Path(n).name.lower() in {table + e for e in _ENDS} and "__MACOSX" not in n]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{self.name} has {len(found)} files of the table {table}.", fix="leave one of them")
        raise DataError(f"{self.name} has no file of the table {table}, which the query reads.", fix=f"add {table}.csv or {table}.parquet, or change the query")


_WORDS = {"BIGINT": "whole number", "DOUBLE": "number", "DATE": "date", "TIMESTAMP": "time", "VARCHAR": "text"}


def _converted(cell: str, kind: str, text: bool) -> str:
    """SQL that gives a cell in its column's type, or NULL where it is not of it."""
    if kind == "BIGINT" and text:  # 12.0 is a whole number that went through a float, 12.5 is none
        return f"TRY_CAST(regexp_extract({cell}, '^([+-]?[0-9]+)(\\.0*)?$', 1) AS BIGINT)"
    if kind == "BIGINT":
        return f"CASE WHEN TRY_CAST({cell} AS BIGINT) = {cell} THEN TRY_CAST({cell} AS BIGINT) END"
    if kind == "DATE" and text:  # as a date, as a date and a time, or as in the vocabularies' files
        return f"COALESCE(TRY_CAST(TRY_CAST({cell} AS TIMESTAMP) AS DATE), TRY_CAST(TRY_STRPTIME({cell}, '%Y%m%d') AS DATE))"
    return f"TRY_CAST({cell} AS {kind})"


def _text(word: str) -> str:
    """An SQL text."""
    return "'" + word.replace("'", "''") + "'"
