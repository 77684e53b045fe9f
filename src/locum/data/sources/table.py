"""CSV and Parquet files of any size, read in chunks."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import polars as pl
from pydantic import Field, field_validator

from locum.data.sources import delimited
from locum.data.sources.base import CHUNK, Source, SourceSpec, Tally, existing, kind_of, known, known_encoding, open_bounded, reading
from locum.data.sources.cells import CHUNK_BYTES, cell_schema, gathered, no_twins, to_frame
from locum.errors import DataError


class Spec(SourceSpec):
    """separator: found from the header line unless given. quote: empty where quotes have no meaning, as in the tab-separated
    vocabularies of OHDSI."""

    type: Literal["csv", "parquet"] | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    quote: Literal['"', "'", ""] = '"'
    encoding: str = "utf-8"

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            "a".encode(known_encoding(value))
        except LookupError:  # a codec from bytes to bytes, such as zlib
            raise ValueError("no such text encoding; common ones are utf-8, latin-1, cp1252 and utf-16") from None
        return value  # as it was written: a mapping is a person's own text

    @field_validator("separator")
    @classmethod
    def _sign(cls, value: str | None) -> str | None:
        if value is not None and (ord(value) > 127 or value in "\n\r\"'"):
            raise ValueError("a separator is one ASCII character, and neither a quote nor a line end")
        return value


def open_source(spec: Spec, path: Path | None) -> Source:
    file = existing(path)
    return CsvSource(file, spec) if (spec.type or kind_of(file)) == "csv" else ParquetSource(file)


@dataclass
class CsvSource:
    """One delimited text file with a header line, plain or packed. Every cell is text: only the contract knows what is a number.

    opener: opens its bytes instead, where it is a member of an archive.
    """

    path: Path
    spec: Spec = field(default_factory=Spec)
    opener: Callable[[], BinaryIO] | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        with self._table() as table:
            return table.columns

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        self.tally = Tally()
        with self._table() as table:
            known(names, table.columns, self.name)
            yield from gathered(table.frames(names, self.tally), size)

    def _opened(self) -> BinaryIO:
        return open_bounded(self.path)

    @contextmanager
    def _table(self) -> Iterator[delimited.Table]:
        with _unpacking(self.name), reading(self.name), (self.opener or self._opened)() as raw:
            yield delimited.Table.open(raw, self.name, encoding=self.spec.encoding, separator=self.spec.separator, quote=self.spec.quote)


@dataclass
class ParquetSource:
    """One Parquet file, read page by page, so that even one row group of the whole table needs little memory.

    content: its bytes instead, where it is a member of an archive.
    """

    path: Path
    content: bytes | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        self.tally = Tally()
        with self._open() as file:
            known(names, file.schema_arrow.names, self.name)
            schema = cell_schema(file.schema_arrow, names, self.name)
            for batch in file.iter_batches(batch_size=min(size, _rows_per_chunk(file, schema)), columns=list(names)):
                self.tally.read += batch.num_rows
                self.tally.used += batch.num_rows
                yield to_frame(batch, schema)
            if self.tally.read != file.metadata.num_rows:
                raise DataError(
                    f"{self.name} says that it holds {file.metadata.num_rows:,} rows, and {self.tally.read:,} were found.", fix="write the file again"
                )

    @contextmanager
    def _open(self) -> Iterator[Any]:
        from pyarrow import ArrowException, parquet  # here, because most commands need none of it

        try:
            with parquet.ParquetFile(
                self.path if self.content is None else io.BytesIO(self.content), pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
            ) as file:
                no_twins(file.schema_arrow.names, self.name)
                yield file
        except (ArrowException, pl.exceptions.PolarsError, OSError, UnicodeError, MemoryError) as error:
            raise DataError(
                f"{self.name} cannot be read as a Parquet table.", why="It is damaged, cut off or not Parquet.", fix="export it again", local=str(error)
            ) from None


def _rows_per_chunk(file: Any, schema: Any) -> int:
    """So many rows as fill about `CHUNK_BYTES`, by what the file says of its columns and by the size of its arrays."""
    meta = file.metadata
    fixed = sum(_array_bytes(f.type) for f in schema)
    said = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)) // max(1, meta.num_rows)
    return int(max(1, CHUNK_BYTES // max(1, fixed, said)))


def _array_bytes(kind: Any) -> int:
    size = 4
    while hasattr(kind, "list_size"):
        size, kind = size * kind.list_size, kind.value_type
    return size


@contextmanager
def _unpacking(name: str) -> Iterator[None]:
    """What unpacking a damaged or locked archive raises, as `DataError`."""
    try:
        yield
    except (zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{name} cannot be unpacked.", why="It is damaged, or locked with a password.", fix="unpack it yourself", local=str(error)) from None
