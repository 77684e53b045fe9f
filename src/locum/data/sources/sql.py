"""SQL databases: a SQLite or DuckDB file, or a PostgreSQL server. One SELECT, read only, in chunks.

    [source]
    type = "sql"
    url_env = "REGISTRY_URL"         # the variable that holds postgresql://reader:...@db.hospital/registry
    query_file = "cohort.sql"

The address with its password is in the environment or in a file of its own, never in the mapping and never in a message.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from locum.data.sources.base import Source, SourceSpec, existing
from locum.errors import DataError, ManifestError

MAX_SECRET_BYTES = 1 << 16
MAX_QUERY_BYTES = 1 << 20


class Database(SourceSpec):
    """Where a database is. path: a SQLite or DuckDB file; url_env, url_file: where the address of a PostgreSQL server is written.

    timeout_s: how long one statement may run, in seconds. memory_mb: what DuckDB may use.
    """

    url_env: str | None = None
    url_file: str | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    memory_mb: Annotated[int, Field(ge=64)] = 1024

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(x is not None for x in (self.path, self.url_env, self.url_file)) > 1:
            raise ValueError("give one of path, url_env and url_file")
        return self


class Spec(Database):
    """query, query_file: one SELECT (or WITH ... SELECT); table: all rows of a table or view, written as name or schema.name."""

    type: Literal["sql"] | None = None
    query: str | None = None
    query_file: str | None = None
    table: str | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if sum(x is not None for x in (self.query, self.query_file, self.table)) != 1:
            raise ValueError("give one of query, query_file and table")
        return self


def open_source(spec: Spec, path: Path | None) -> Source:
    return open_database(spec, path, table=spec.table) if spec.table else open_database(spec, path, query=query_of(spec.query, spec.query_file))


def open_database(spec: Database, path: Path | None, *, query: str | None = None, table: str | None = None) -> Source:
    """The source of one query's answer, or of one table's rows."""
    what = Question(table=table) if table else Question(query=single_select(query or ""))
    if spec.url_env or spec.url_file:
        from locum.data.sources.sql_postgres import PostgresSource

        return PostgresSource(_address(spec), f"the database of {spec.url_env or Path(spec.url_file or '').name}", what, spec.timeout_s)
    file = existing(path)
    if is_duckdb(file):
        from locum.data.sources.sql_duckdb import DuckdbSource

        return DuckdbSource(file, what, spec.timeout_s, spec.memory_mb)
    if is_sqlite(file):
        from locum.data.sources.sql_sqlite import SqliteSource

        return SqliteSource(file, what, spec.timeout_s)
    raise DataError(f"{file.name} is neither a SQLite nor a DuckDB database.", fix="name the database's file, or give url_env for a PostgreSQL server")


class Question:
    """What is asked of a database: a query as it was written, or some columns of a table."""

    def __init__(self, *, query: str | None = None, table: str | None = None) -> None:
        self.query, self.table = query, table

    def everything(self) -> str:
        """SQL for all columns."""
        return self.query if self.query is not None else f"SELECT * FROM {self._table()}"  # noqa: S608 (the name is quoted)

    def of(self, names: list[str]) -> str:
        """SQL whose answer has at least the named columns. A query runs as it is, so that its ORDER BY holds."""
        return self.query if self.query is not None else f"SELECT {', '.join(map(quoted, names)) or '*'} FROM {self._table()}"  # noqa: S608

    def _table(self) -> str:
        return ".".join(quoted(part) for part in (self.table or "").split("."))


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def query_of(text: str | None, file: str | None) -> str:
    """The query in the mapping, or in the file that the mapping names."""
    if file is None:
        return text or ""
    path = existing(Path(file))
    if path.stat().st_size > MAX_QUERY_BYTES:
        raise ManifestError(f"{path.name} is larger than {MAX_QUERY_BYTES >> 20} MiB.", fix="it should be one query")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError):
        raise ManifestError(f"{path.name} cannot be read as UTF-8 text.") from None


def single_select(query: str) -> str:
    """The query without its final semicolon; raises `ManifestError` unless it is one SELECT.

    Any other semicolon is refused, even within a text, because what is a text differs between databases. The databases themselves are opened
    read only: this is the first of two locks.
    """
    text = re.sub(r"[\s;]+\Z", "", query)
    bare = re.sub(r"\A(\s|\(|--[^\n]*(\n|\Z)|/\*.*?\*/)*", "", text, flags=re.DOTALL)
    if not re.match(r"(select|with)\b", bare, flags=re.IGNORECASE):
        raise ManifestError("The query is not a SELECT.", why="A source only reads.", fix="write one SELECT, or WITH ... SELECT")
    if ";" in text:
        raise ManifestError("The query has a semicolon inside.", why="It must be one statement.", fix="remove it; within a text write chr(59) or char(59)")
    if "\0" in text:
        raise ManifestError("The query has a NUL byte.", fix="write it as plain text")
    return text


def _address(spec: Database) -> str:
    """The server's address, which must not reach any message."""
    if spec.url_env:
        url = os.environ.get(spec.url_env, "")
        if not url:
            raise ManifestError(
                f"The environment variable {spec.url_env} is not set.", fix="set it to the database's address, postgresql://user:password@host/name"
            )
    else:
        path = existing(Path(spec.url_file or ""))
        url = path.read_bytes()[:MAX_SECRET_BYTES].decode("utf-8", "replace").strip()
    url = re.sub(r"\A(postgresql|postgres)(\+\w+)?://", "postgresql://", url)
    if not url.startswith("postgresql://"):
        raise ManifestError("The database's address does not start with postgresql://.", fix="only PostgreSQL is read by address; SQLite and DuckDB by path")
    return url


def is_sqlite(path: Path) -> bool:
    return _start(path)[:16] == b"SQLite format 3\0"


def is_duckdb(path: Path) -> bool:
    return _start(path)[8:12] == b"DUCK"


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read.", fix="check its permissions", local=str(error)) from None
