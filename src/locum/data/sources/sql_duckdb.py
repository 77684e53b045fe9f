"""DuckDB: a database file, or a connection that another source has filled. Nothing outside it can be read or written."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from locum.data.sources.base import CHUNK, Tally, known, need
from locum.data.sources.cells import cell_schema, no_twins, to_frame
from locum.data.sources.sql import Question
from locum.errors import DataError, LocumError, TooLarge, Unavailable


def connect(memory_mb: int, path: Path | None = None) -> Any:
    """A connection without network, extensions, temporary files (they would hold patients' data) or sight of Python's variables."""
    need("pyarrow", "sql", "DuckDB")
    config = {
        "memory_limit": f"{memory_mb}MB",
        "threads": "2",
        "temp_directory": "",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    connection = need("duckdb", "sql", "DuckDB").connect(":memory:", config=config)
    if path is not None:  # under a name that no schema of it has: "cdm" in cdm.duckdb would be ambiguous
        file = str(path.resolve()).replace("'", "''")
        connection.execute(f'ATTACH \'{file}\' AS "the file" (READ_ONLY); USE "the file"')
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection


@contextmanager
def duckdb_errors(name: str, timeout_s: float, memory_mb: int, setting: str = "timeout_s") -> Iterator[None]:
    """What DuckDB raises, as `LocumError`; its text may quote cells, so it stays on this machine. setting: the key that gives it longer."""
    duckdb = need("duckdb", "sql", "DuckDB")
    arrow_error = need("pyarrow", "sql", "DuckDB").ArrowException
    try:
        yield
    except LocumError:
        raise
    except (duckdb.Error, arrow_error, pl.exceptions.PolarsError, OSError, UnicodeError, MemoryError, RuntimeError) as error:
        text = str(error)
        if "Out of Memory" in text or isinstance(error, MemoryError):
            fix = "give it more: memory_mb under [source]; or load fewer rows and columns, and let the query join less"
            raise TooLarge(f"The query on {name} needs more than {memory_mb} MB of memory.", fix=fix, local=text) from None
        if "INTERRUPT" in text.upper():
            raise Unavailable(f"{name} was not read within {timeout_s:g} s.", fix=f"give it longer: {setting} under [source]") from None
        if "lock on file" in text:
            raise Unavailable(f"{name} is open in another program.", fix="close that program, or copy the file", local=text) from None
        raise DataError(
            f"{name} does not answer the query.",
            why="The query does not fit its tables, a value cannot be converted, or the file is damaged or of another DuckDB version.",
            fix="try the query in the duckdb shell",
            local=text,
        ) from None


def answer_columns(connection: Any, sql: str, name: str) -> list[str]:
    """The names of the answer's columns, without computing it."""
    duckdb = need("duckdb", "sql", "DuckDB")
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise DataError("The query is not one SELECT.", why="A source only reads.", fix="write one SELECT, or WITH ... SELECT")
    return no_twins(list(connection.sql(sql).columns), name)


def answer_frames(connection: Any, sql: str, names: Sequence[str], name: str, size: int, timeout_s: float) -> Iterator[pl.DataFrame]:
    """The answer's named columns, a chunk at a time."""
    timer = threading.Timer(timeout_s, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        reader = connection.sql(sql).to_arrow_reader(size)
        schema = cell_schema(reader.schema, names, name)
        for batch in reader:
            yield to_frame(batch, schema)
    finally:
        timer.cancel()


@dataclass
class DuckdbSource:
    path: Path
    question: Question
    timeout_s: float = 3600.0
    memory_mb: int = 1024
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        with self._connected() as connection:
            return answer_columns(connection, self.question.everything(), self.name)

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        self.tally = Tally()
        with self._connected() as connection:
            known(names, answer_columns(connection, self.question.everything(), self.name), self.name)
            for frame in answer_frames(connection, self.question.of(list(names)), names, self.name, size, self.timeout_s):
                self.tally.read += len(frame)
                self.tally.used += len(frame)
                yield frame

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        with duckdb_errors(self.name, self.timeout_s, self.memory_mb):
            connection = connect(self.memory_mb, self.path)
            try:
                yield connection
            finally:
                connection.close()
