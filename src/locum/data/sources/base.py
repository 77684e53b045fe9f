"""What every source of a site's rows shares: its description in the mapping, its tally, and the bounds on what it reads.

A source names its columns and yields some of them chunk by chunk; it knows nothing of the study. A kind of source is a module with
a `Spec` and an `open_source(spec, path)`, imported only when a mapping names it.
"""

from __future__ import annotations

import codecs
import gzip
import importlib
import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, BinaryIO, ClassVar, Literal, Protocol, cast

import polars as pl
from pydantic import BeforeValidator, Field, SerializeAsAny

from locum.data.sources.hints import FOLDERS, PROGRAMS, example
from locum.errors import DataError, ManifestError, TooLarge, Unavailable
from locum.study.document import Document, nearest

CHUNK = 1 << 17
"""Rows of a chunk."""
MAX_CELLS = 1 << 30
"""Cells of a table that is read as a whole."""
MAX_UNPACKED_BYTES = 1 << 40
MAX_RATIO = 200
"""A compressed file may grow by this factor at most: a table of hospital data shrinks five- to thirty-fold."""
MISSING = ("", ".", "?", "na", "n/a", "nan", "null")

KINDS: dict[str, str] = {
    "csv": "locum.data.sources.table",
    "parquet": "locum.data.sources.table",
    "sql": "locum.data.sources.sql",
    "omop": "locum.data.sources.omop",
    "fhir": "locum.data.sources.fhir",
    "fhir_search": "locum.data.sources.fhir_search",
    "dicom": "locum.data.sources.dicom",
    "nifti": "locum.data.sources.nifti",
    "arrays": "locum.data.sources.arrays",
    "vcf": "locum.data.sources.vcf",
    "plink": "locum.data.sources.plink",
    "wfdb": "locum.data.sources.wfdb",
    "edf": "locum.data.sources.edf",
    "apple_health": "locum.data.sources.apple_health",
    "fit": "locum.data.sources.fit",
}
"""Kind of source -> the module that reads it."""

KEYED = ("dicom",)
"""Kinds that make pseudonyms themselves."""

SUFFIXES: dict[str, str] = {
    **{s + packed: "csv" for s in (".csv", ".tsv", ".txt") for packed in ("", ".gz", ".zip")},
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".duckdb"), "sql"),
    **dict.fromkeys((".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz"), "fhir"),
    ".dcm": "dicom",
    **dict.fromkeys((".nii", ".nii.gz"), "nifti"),
    **dict.fromkeys((".npy", ".npz", ".safetensors"), "arrays"),
    **dict.fromkeys((".vcf", ".vcf.gz", ".bcf"), "vcf"),
    ".bed": "plink",
    ".hea": "wfdb",
    **dict.fromkeys((".edf", ".bdf"), "edf"),
    ".fit": "fit",
}


class SourceSpec(Document):
    """The `[source]` of a mapping: what kind of source, where it is, and what every kind has in common.

    type: taken from the path's suffix unless given. missing: cells that mean "no value", compared without regard to case. decimal: how
    text writes numbers. accept_refused: the share of records that may be unreadable before the table is refused.
    """

    type: str | None = None
    path: str | None = None
    missing: tuple[str, ...] = MISSING
    decimal: Literal[".", ","] = "."
    accept_refused: Annotated[float, Field(ge=0, le=1)] = 0.0

    def companions(self) -> list[Path]:
        """The other files that decide what is read: queries, views, labels; no secret, and no cache."""
        keys = [k for k in type(self).model_fields if k == "view" or (k.endswith("_file") and k not in ("url_file", "token_file", "ca_file"))]
        return [Path(value) for k in keys if isinstance(value := getattr(self, k), str)]

    def found_from(self, folder: Path) -> SourceSpec:
        """The same, with its relative paths starting at `folder`: that of the mapping file."""
        keys = [k for k in type(self).model_fields if (k == "path" or k.endswith(("_file", "_path"))) and isinstance(getattr(self, k), str)]
        return self.model_copy(update={k: str(folder / getattr(self, k)) for k in keys})


@dataclass
class Tally:
    """Where a source's records went: read = used + refused + left out. Reasons are plain words without any content of a record. rows: whether a
    record is a row of the table; one of genotypes is a variant."""

    rows: ClassVar[bool] = True
    read: int = 0
    used: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        return self.read == self.used + self.refused.total() + self.left_out.total()

    def to_json(self) -> dict[str, Any]:
        """read, used, and the counts of each reason."""
        return {"read": self.read, "used": self.used, "refused": dict(self.refused), "left_out": dict(self.left_out), "notes": dict(self.notes)}


class Unusable(Exception):
    """A record that gives no row, with the reason in plain words and nothing of its content. left_out: by rule, not because it is broken."""

    def __init__(self, reason: str, *, left_out: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.left_out = reason, left_out


class Source(Protocol):
    """A table at the site. `tally` is complete once `chunks` has been exhausted, and starts anew with each call of it."""

    @property
    def name(self) -> str:
        """How messages call it: the name of a file, never a path or an address with a password."""

    @property
    def tally(self) -> Tally: ...

    def columns(self) -> list[str]:
        """The names of all columns; cheap."""

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        """Exactly the named columns, every usable record once, in a stable order, at most about `size` rows at a time.

        Cells are text (only the contract knows what is a number), numbers, booleans, dates, or arrays of float32
        (`pl.Array`). Raises `DataError`, `TooLarge` or `Unavailable`.
        """


@dataclass
class FrameSource:
    """A table that is already in memory."""

    frame: pl.DataFrame
    name: str = "the table"
    tally: Tally = field(default_factory=Tally)

    def columns(self) -> list[str]:
        return self.frame.columns

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[pl.DataFrame]:
        known(names, self.columns(), self.name)
        self.tally = Tally(read=len(self.frame), used=len(self.frame))
        yield from self.frame.select(names).iter_slices(size)


def known(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Raise `DataError` for a name that is no column."""
    for name in names:
        if name not in columns:
            raise DataError(f"{where} has no column '{name}'.", fix=nearest(name, [*columns]))


def read(source: Source, names: Sequence[str], size: int = CHUNK) -> pl.DataFrame:
    """All rows of the named columns; raises `TooLarge` before they would fill the machine's memory."""
    parts, cells = [], 0
    for part in source.chunks(names, size):
        cells += sum(_width(kind) for kind in part.dtypes) * len(part)
        if cells > MAX_CELLS:
            raise TooLarge(
                f"{source.name} has more than {MAX_CELLS:,} cells in these {len(names)} columns.", fix="split the site, or leave out rows that no study needs"
            )
        parts.append(part)
    return pl.concat(parts, rechunk=True) if parts else pl.DataFrame({n: [] for n in names})


def _width(kind: pl.DataType) -> int:
    """Numbers of one cell."""
    if not isinstance(kind, pl.Array):
        return 1
    size = 1
    for n in kind.shape:
        size *= n
    return size


def open_source(spec: SourceSpec, path: str | Path | None = None, key: bytes | None = None) -> Source:
    """The source that `spec` describes, at `path` where given. key: the site's key for pseudonyms (`data.patients`), for what has to be
    de-identified before it is cached. Raises `ManifestError`, `DataError`, `TooLarge` or `Unavailable`.
    """
    where = path if path is not None else spec.path
    file = Path(where) if where is not None else None
    kind = spec.type or kind_of(file)
    if spec.type is None and type(spec) is not _class_of(kind):
        spec = _spec(kind, {**spec.model_dump(exclude_unset=True), "type": kind}, file)
    keyed = {"secret": key} if kind in KEYED and key is not None else {}
    return cast(Source, _module(kind).open_source(spec, file, **keyed))


def kind_of(file: Path | None) -> str:
    """The kind of source that a file's name tells; raises `ManifestError`."""
    if file is None:
        raise ManifestError(_NO_PATH, fix=_NAME_ONE)
    kind = next((k for suffix, k in sorted(SUFFIXES.items(), key=lambda s: -len(s[0])) if file.name.lower().endswith(suffix)), None)
    if kind is None:
        if os.path.isdir(file):
            raise _folder(file)
        what = f"What kind of data {file.name} is cannot be told from its name."
        fix = f"set type under [source] in a mapping file, one of: {', '.join(KINDS)}"
        raise ManifestError(what, fix="save it as CSV or Parquet where it was made" if file.suffix.lower() in PROGRAMS else fix)
    return kind


def existing(path: Path | None, *, folder: bool = False) -> Path:
    """The path, if there is such a file (or, where a source reads one, folder); raises `ManifestError` or `DataError`."""
    if path is None:
        raise ManifestError(_NO_PATH, fix=_NAME_ONE)
    if not (os.path.isfile(path) or (folder and os.path.isdir(path))):  # those of pathlib raise where a name is too long
        if not folder and os.path.isdir(path):
            raise _folder(path)
        raise DataError(f"There is no file {path}.", fix="check the path; a relative path under [source] starts at the mapping file's folder")
    return path


_NO_PATH = "No data file is named."
_NAME_ONE = "name it on the command line (for locum data check: --data TABLE), or set path under [source] in the mapping file"


def _folder(path: Path) -> ManifestError:
    what = f"{path.name or path} is a folder, and nothing says how to read it as one table."
    return ManifestError(what, fix=f"name one file; or set type under [source] in a mapping file: folders are read as {', '.join(FOLDERS)}")


def need(module: str, extra: str, what: str) -> ModuleType:
    """An optional package, or `Unavailable` with the command that installs it. what: for example "DICOM"."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise Unavailable(f"Reading {what} needs the package {package}, which is not installed.", fix=f"run: pip install 'locum[{extra}]'") from None


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what a reader raises into `DataError`; its text may quote cells, so it stays on this machine."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise DataError(f"{name} is empty.", fix="export the table again, with a header line") from None
    except UnicodeError as error:
        raise DataError(f"{name} is not written in the encoding that the mapping names.", fix=ENCODING, local=str(error)) from None
    except (pl.exceptions.PolarsError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        utf8 = "utf-8" in str(error)
        fix = ENCODING if utf8 else "open the file where it was made and export it again; in a CSV look for a stray quote or separator"
        raise DataError(f"{name} cannot be read as a table{' of UTF-8 text' if utf8 else ''}.", fix=fix, local=str(error)) from None


ENCODING = 'set encoding under [source], for example encoding = "latin-1" or "utf-16"'


def known_encoding(value: str) -> str:
    """The codec's own name; for pydantic validators."""
    try:
        return codecs.lookup(value).name
    except LookupError:
        raise ValueError("no such text encoding; common ones are utf-8, latin-1, cp1252 and utf-16") from None


class Bounded(io.RawIOBase):
    """A binary stream that may be compressed, and raises `TooLarge` once it grows beyond its bounds (a decompression bomb)."""

    def __init__(self, raw: BinaryIO, name: str, limit: int) -> None:
        self._raw, self._name, self._limit, self._seen = raw, name, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self._seen += len(data)
        if self._seen > self._limit:
            raise TooLarge(f"{self._name} unpacks to more than {self._limit:,} bytes.", fix="unpack the file yourself and look at what it holds")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._raw.close()
        super().close()


def open_bounded(path: Path, limit: int = MAX_UNPACKED_BYTES) -> BinaryIO:
    """The bytes of a file, unpacked if its name ends in .gz or it is a zip file with one member; bounded in size and in ratio."""
    most = min(limit, max(1 << 20, path.stat().st_size * MAX_RATIO))
    if path.suffix.lower() == ".gz":
        return io.BufferedReader(Bounded(cast(BinaryIO, gzip.open(path)), path.name, most))
    if path.suffix.lower() == ".zip":
        archive = zipfile.ZipFile(path)
        members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            raise DataError(f"{path.name} holds {len(members)} files, and one is needed.", fix="unpack it, and name the file that the study needs")
        return io.BufferedReader(Bounded(cast(BinaryIO, archive.open(members[0])), path.name, most))
    return path.open("rb")


def _module(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise ManifestError(f"There is no kind of source '{kind}'.", fix=nearest(kind, [*KINDS]))
    return importlib.import_module(KINDS[kind])


def _class_of(kind: str) -> type[SourceSpec]:
    return cast(type[SourceSpec], _module(kind).Spec)


def _spec(kind: str, value: dict[str, Any], file: Path | None = None) -> SourceSpec:
    """The [source] of this kind; of what it lacks or has too much, an example says how it would do. file: what nobody has described yet."""
    try:
        return _class_of(kind).parse(value, where="[source]")
    except ManifestError as error:
        what = error.what if file is None else f"{file.name} is read as {kind}, and nothing says how: {error.what.removeprefix('[source]: ')}"
        raise ManifestError(what, why=error.why, fix=error.fix or example(kind, str(value.get("path") or file or ""))) from None


def _typed(value: Any) -> Any:
    """A table under [source] as the class of its kind. Without a type or a path that tells it, the table is one of text or Parquet."""
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if kind is None and value.get("path") is not None:
        with_suffix = [k for s, k in SUFFIXES.items() if str(value["path"]).lower().endswith(s)]
        kind = with_suffix[-1] if with_suffix else None
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        raise ValueError(f"there is no kind of source '{kind}'; {nearest(str(kind), [*KINDS])}")
    return _spec(kind or "csv", value)


AnySpec = Annotated[SerializeAsAny[SourceSpec], BeforeValidator(_typed)]
"""A field that holds the `Spec` of whichever kind the table names."""
