"""A PostgreSQL server: a read-only transaction and a server-side cursor, so that neither side holds the whole answer.

Cells arrive as text and are parsed by polars, so that a date that Python's calendar lacks ("infinity", 44 BC) is a refused record, not a
failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from locum.data.sources.base import CHUNK, Tally, known, need
from locum.data.sources.cells import gathered, no_twins
from locum.data.sources.sql import Question
from locum.errors import DataError, ManifestError, Unavailable

BAD_TIME = "a date or time in it lies outside the years 1 to 9999"
_BATCH = 1 << 14
_INTEGERS, _FLOATS, _NUMERIC = (20, 21, 23, 26), (700, 701), 1700  # OIDs, from PostgreSQL's pg_type.dat
_BOOL, _DATE, _TIMESTAMP, _TIMESTAMPTZ = 16, 1082, 1114, 1184
_TEXTS = (18, 19, 25, 1042, 1043, 2950, 1083)  # char, name, text, bpchar, varchar, uuid, time
_NAMES = ("bool", "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "date", "timestamp", "timestamptz", "time", "uuid")


@dataclass
class PostgresSource:
    """The address is not shown when the source is printed."""

    url: str = field(repr=False)
    name: str
    question: Question
    timeout_s: float = 3600.0
    tally: Tally = field(default_factory=Tally)

    def columns(self) -> list[str]:
        with self._cursor(self.question.everything()) as cursor:
            return no_twins([d.name for d in cursor.description], self.name)

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        self.tally = Tally()
        known(names, self.columns(), self.name)
        with self._cursor(self.question.of(list(names))) as cursor:
            yield from gathered(self._frames(cursor, list(names)), size)

    def _frames(self, cursor: Any, names: list[str]) -> Iterator[pl.DataFrame]:
        described = {d.name: (i, d) for i, d in enumerate(cursor.description)}
        wanted = [described[n] for n in names]
        casts = [_cast(n, d, self.name) for n, (_, d) in zip(names, wanted, strict=True)]
        times = [n for n, (_, d) in zip(names, wanted, strict=True) if d.type_code in (_DATE, _TIMESTAMP, _TIMESTAMPTZ)]
        while rows := cursor.fetchmany(_BATCH):
            text = pl.DataFrame({n: pl.Series([r[i] for r in rows], dtype=pl.String) for n, (i, _) in zip(names, wanted, strict=True)})
            frame = text.select(casts)
            lost = pl.any_horizontal(pl.lit(False), *(frame[n].is_null() & text[n].is_not_null() for n in times))
            good = frame.filter(~lost)
            self.tally.read += len(rows)
            self.tally.used += len(good)
            if len(good) < len(rows):
                self.tally.refused[BAD_TIME] += len(rows) - len(good)
            yield good

    @contextmanager
    def _cursor(self, sql: str) -> Iterator[Any]:
        psycopg = need("psycopg", "postgres", "PostgreSQL")
        connection = self._connect(psycopg)
        try:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            for setting, value in (("statement_timeout", str(int(self.timeout_s * 1000))), ("datestyle", "ISO"), ("timezone", "UTC")):
                connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
            for name in _NAMES:
                connection.adapters.register_loader(name, need("psycopg.types.string", "postgres", "PostgreSQL").TextLoader)
            with connection.cursor(name="locum") as cursor:
                cursor.execute(sql.encode())
                yield cursor
        except psycopg.errors.QueryCanceled:
            raise Unavailable(f"{self.name} did not answer within {self.timeout_s:g} s.", fix="give it longer: timeout_s under [source]") from None
        except psycopg.errors.ReadOnlySqlTransaction:
            raise DataError(f"The query would write to {self.name}.", why="A source only reads.", fix="write one SELECT") from None
        except psycopg.OperationalError as error:
            raise self._away(error) from None
        except (psycopg.Error, UnicodeError, pl.exceptions.PolarsError) as error:
            state = getattr(error, "sqlstate", None)
            raise DataError(
                f"{self.name} does not answer the query.",
                why=f"PostgreSQL's code for the reason is {state}." if state else "",
                fix="try the query with psql, as the same user",
                local=str(error),
            ) from None
        finally:
            connection.close()

    def _connect(self, psycopg: Any) -> Any:
        try:
            return psycopg.connect(self.url, connect_timeout=15, application_name="locum", keepalives_idle=30, keepalives_interval=10, keepalives_count=3)
        except psycopg.ProgrammingError:  # its text may quote the address
            raise ManifestError(f"The address of {self.name} cannot be understood.", fix="write postgresql://user:password@host:5432/name") from None
        except (psycopg.Error, UnicodeError) as error:
            raise Unavailable(
                f"{self.name} cannot be reached or does not let us in.", fix="check host, port, user and password, and the network", local=str(error)
            ) from None

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"{self.name} went away after {self.tally.read:,} rows.",
            why="The server stopped, or ended our connection. Nothing of a half-read table is used.",
            fix="start again once the server is back; if it recurs, ask its administrator for the reason in the server's log",
            local=str(error),
        )


def _cast(name: str, column: Any, where: str) -> pl.Expr:
    """The expression that makes cells of a column's text."""
    cell, oid = pl.col(name), column.type_code
    if oid in _TEXTS:
        return cell
    if oid in _INTEGERS:
        return cell.cast(pl.Int64)
    if oid == _NUMERIC and column.scale == 0 and column.precision:  # an identifier of 20 digits is no float
        return cell.cast(pl.Int64) if column.precision <= 18 else cell
    if oid in _FLOATS or oid == _NUMERIC:
        return cell.replace({"Infinity": "inf", "-Infinity": "-inf"}).cast(pl.Float64)
    if oid == _BOOL:
        return cell == "t"
    if oid == _DATE:
        return cell.str.to_date("%Y-%m-%d", strict=False)
    if oid == _TIMESTAMP:
        return cell.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
    if oid == _TIMESTAMPTZ:
        return cell.str.strip_suffix("+00").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us").dt.replace_time_zone("UTC")
    what = f"The column '{name}' of {where} is neither a number, a text, a boolean nor a date."
    raise DataError(what, fix="leave it out, or convert it in the query: bytes with encode(), JSON with ->>, arrays by element")
