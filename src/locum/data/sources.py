"""Where a site's rows come from. A source names its columns and reads some of them; it knows nothing of the study.

Further kinds (FHIR, OMOP) are further classes with the same two methods and a further `type` in `SourceSpec`.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol

import polars as pl
from pydantic import Field, field_validator

from locum.errors import DataError, ManifestError, TooLarge
from locum.study.document import Document

MAX_FILE_BYTES = 32 << 30
MAX_CELLS = 1 << 30
MISSING = ("", ".", "?", "na", "n/a", "nan", "null")
_SUFFIXES: dict[str, Literal["csv", "parquet"]] = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
_SEPARATORS = (",", ";", "\t", "|")


class SourceSpec(Document):
    """How a site's file is written.

    type: taken from the file's suffix unless given. separator: found from the header line unless given. missing: cells
    that mean "no value", compared without regard to case.
    """

    type: Literal["csv", "parquet"] | None = None
    path: str | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    missing: tuple[str, ...] = MISSING

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError("no such text encoding; common ones are utf-8, latin-1, cp1252 and utf-16") from None


class Source(Protocol):
    """A table at the site: `columns` names what it has, `read` gives the named columns, one entry per row."""

    @property
    def name(self) -> str: ...

    def columns(self) -> list[str]: ...

    def read(self, names: Sequence[str]) -> pl.DataFrame: ...


@dataclass(frozen=True)
class FrameSource:
    """A table that is already in memory."""

    frame: pl.DataFrame
    name: str = "the table"

    def columns(self) -> list[str]:
        return self.frame.columns

    def read(self, names: Sequence[str]) -> pl.DataFrame:
        return self.frame.select(names)


@dataclass(frozen=True)
class ParquetSource:
    """One Parquet file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        with _reading(self.path):
            return pl.scan_parquet(self.path).collect_schema().names()

    def read(self, names: Sequence[str]) -> pl.DataFrame:
        with _reading(self.path):
            return _bounded(pl.scan_parquet(self.path).select(names), self.name)


@dataclass(frozen=True)
class CsvSource:
    """One CSV file with a header line. Every cell is read as text: only the contract knows what is a number."""

    path: Path
    spec: SourceSpec = field(default_factory=SourceSpec)

    @property
    def name(self) -> str:
        return self.path.name

    def columns(self) -> list[str]:
        with _reading(self.path):
            names = self._scan().collect_schema().names()
        twice = sorted({base for n in names if (base := re.sub(r"_duplicated_\d+$", "", n)) != n and base in names})
        if twice:
            raise DataError(f"{self.name} has more than one column '{twice[0]}'.", fix="give every column of the file its own name")
        return names

    def read(self, names: Sequence[str]) -> pl.DataFrame:
        with _reading(self.path):
            lines = self._scan()
            if len(lines.collect_schema()) > 1:  # a blank line is no patient
                lines = lines.filter(~pl.all_horizontal(pl.all().is_null()))
            return _bounded(lines.select(names), self.name)

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_csv(self._utf8(), separator=self.spec.separator or self._separator(), infer_schema=False)

    def _utf8(self) -> Path | io.BytesIO:
        """The file itself, or its bytes recoded, because polars reads UTF-8 only (it skips a byte order mark)."""
        if self.spec.encoding in ("utf-8", "utf-8-sig", "ascii"):
            return self.path
        return io.BytesIO(self.path.read_text(encoding=self.spec.encoding).encode())

    def _separator(self) -> str:
        with self.path.open(encoding=self.spec.encoding, errors="replace") as file:
            header = re.sub(r'"[^"]*"', "", file.readline(1 << 20))
        found = Counter(c for c in header if c in _SEPARATORS).most_common(1)
        return found[0][0] if found else ","


def open_source(spec: SourceSpec, path: str | Path | None = None) -> Source:
    """The source that `spec` describes, at `path` where given; raises `ManifestError`, `DataError` or `TooLarge`."""
    if path is None and spec.path is None:
        raise ManifestError("No data file is named.", fix="set path under [source] in the mapping file, or name the file when you start the site")
    file = Path(path if path is not None else spec.path or "")
    kind = spec.type or _SUFFIXES.get(file.suffix.lower())
    if kind is None:
        raise ManifestError(f"What kind of file {file.name} is cannot be told from its name.", fix='set type = "csv" or "parquet" under [source]')
    if not file.is_file():
        raise DataError(f"There is no file {file}.", fix="check the path; a relative path under [source] starts at the mapping file's folder")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise TooLarge(f"{file.name} is larger than {MAX_FILE_BYTES >> 30} GiB.", fix="keep only the columns and the patients that the study needs")
    return CsvSource(file, spec) if kind == "csv" else ParquetSource(file)


def _bounded(rows: pl.LazyFrame, name: str) -> pl.DataFrame:
    """All rows, unless there are so many that they would fill the machine's memory."""
    limit = MAX_CELLS // max(1, len(rows.collect_schema()))
    frame = rows.head(limit + 1).collect()
    if len(frame) > limit:
        raise TooLarge(f"{name} has more than {limit:,} rows.", why=f"At most {MAX_CELLS:,} cells are read.", fix="split the site, or map fewer variables")
    return frame


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a reader raises into `DataError`; its text may quote cells, so it stays on this machine."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(f"{path.name} is empty.", fix="export the table again, with a header line") from None
    except UnicodeError as error:
        raise DataError(f"{path.name} is not written in the encoding that the mapping names.", fix=_ENCODING, local=str(error)) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        utf8 = "utf-8" in str(error)
        fix = _ENCODING if utf8 else "open the file where it was made and export it again; in a CSV look for a stray quote or separator"
        raise DataError(f"{path.name} cannot be read as a table{' of UTF-8 text' if utf8 else ''}.", fix=fix, local=str(error)) from None


_ENCODING = 'set encoding under [source], for example encoding = "latin-1" or "utf-16"'
