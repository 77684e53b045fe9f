"""A SQLite file, opened so that nothing can be written, attached or loaded.

SQLite has types per cell, so a column's kind is found first, by one pass over the answer: integers, numbers, or text.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from locum.data.sources.base import CHUNK, Tally, known
from locum.data.sources.cells import gathered, no_twins
from locum.data.sources.sql import Question, quoted
from locum.errors import DataError, Unavailable

MAX_CELL_BYTES = 1 << 24
NOT_UTF8 = "a text in it is not UTF-8"
_BATCH = 1 << 14
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)


@dataclass
class SqliteSource:
    path: Path
    question: Question
    timeout_s: float = 3600.0
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        with self._connected() as db:
            return self._names(db)

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        self.tally = Tally()
        with self._connected() as db:
            known(names, self._names(db), self.name)
            yield from gathered(self._frames(db, list(names)), size)

    def _names(self, db: sqlite3.Connection) -> list[str]:
        cursor = db.execute(f"SELECT * FROM (\n{self.question.everything()}\n) LIMIT 0")  # noqa: S608 (one checked SELECT)
        names = [d[0] for d in cursor.description]
        return no_twins([first if (first := re.sub(r":\d+\Z", "", n)) in names else n for n in names], self.name)  # SQLite numbers twins

    def _frames(self, db: sqlite3.Connection, names: list[str]) -> Iterator[pl.DataFrame]:
        sql = self.question.of(names)
        kinds = self._kinds(db, sql, names)
        cursor = db.execute(sql)
        place = [d[0] for d in cursor.description]
        wanted = [place.index(n) for n in names]
        while rows := cursor.fetchmany(_BATCH):
            cells = [_cells([r[i] for r in rows], kind) for i, kind in zip(wanted, kinds, strict=True)]
            broken = {place for column in cells for place, cell in enumerate(column) if isinstance(cell, bytes)}
            frame = pl.DataFrame({n: pl.Series(_without(column, broken), dtype=kind) for n, column, kind in zip(names, cells, kinds, strict=True)})
            self.tally.read += len(rows)
            self.tally.used += len(rows) - len(broken)
            if broken:
                self.tally.refused[NOT_UTF8] += len(broken)
            yield frame

    def _kinds(self, db: sqlite3.Connection, sql: str, names: list[str]) -> list[Any]:
        """Int64, Float64 or text of each column, by the types of all its cells."""
        seen = ", ".join(f"max(typeof({quoted(n)}) = '{kind}')" for n in names for kind in ("integer", "real", "text", "blob"))
        flags = db.execute(f"SELECT {seen} FROM (\n{sql}\n)").fetchone()  # noqa: S608 (one checked SELECT, quoted names)
        kinds: list[Any] = []
        for k, name in enumerate(names):
            integer, real, text, blob = (bool(x) for x in flags[4 * k : 4 * k + 4])
            if blob:
                raise DataError(f"The column '{name}' of {self.name} holds bytes.", fix="leave it out, or convert it to text or numbers in the query")
            kinds.append(pl.String if text or not (integer or real) else pl.Float64 if real else pl.Int64)
        return kinds

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        started = time.monotonic()
        db = None
        try:
            db = sqlite3.connect(f"file:{quote(str(self.path.resolve()))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)
            db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            for setting in ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY"):
                db.execute(f"PRAGMA {setting}")
            db.text_factory = bytes
            db.execute("BEGIN")  # both passes see the same rows
            db.set_authorizer(_authorise)
            db.set_progress_handler(lambda: int(time.monotonic() - started > self.timeout_s), 10_000)
            db.text_factory = bytes
            yield db
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise Unavailable(f"{self.name} was not read within {self.timeout_s:g} s.", fix="give it longer: timeout_s under [source]") from None
            if "unable to open" in str(error) or "locked" in str(error):
                raise Unavailable(f"{self.name} cannot be opened now.", fix="close the program that writes it, or copy it", local=str(error)) from None
            raise self._failed(error) from None
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError, MemoryError) as error:
            raise self._failed(error) from None
        finally:
            if db is not None:
                db.close()

    def _failed(self, error: Exception) -> DataError:
        return DataError(
            f"{self.name} does not answer the query.",
            why="The query does not fit its tables, or the file is damaged.",
            fix='try the query in the sqlite3 shell, and run "PRAGMA integrity_check" there',
            local=str(error),
        )


def _authorise(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED and second != "load_extension" else sqlite3.SQLITE_DENY


def _cells(values: list[Any], kind: Any) -> list[Any]:
    """Python values of one kind; a text that is not UTF-8 stays bytes."""
    if kind is pl.String:
        return [v if v is None else _decoded(v) if isinstance(v, bytes) else str(v) for v in values]
    return [None if v is None else float(v) for v in values] if kind is pl.Float64 else values


def _decoded(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def _without(values: list[Any], places: set[int]) -> list[Any]:
    return [v for i, v in enumerate(values) if i not in places] if places else values
