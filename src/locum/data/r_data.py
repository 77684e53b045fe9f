"""Data frames from R's own files (.rda, .RData, .rds): parsed by the package rdata, without R and without running anything of the file.

The format is R's serialisation, versions 2 and 3 (R Internals, section 1.8). A file may be a stranger's, so what it unpacks to is
bounded, and so are the sequences that R 3.5 and later write as first, step and length only.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from locum.data.sources.base import need
from locum.errors import DataError, LocumError, NotFound, TooLarge
from locum.study.document import nearest

MAX_BYTES = 1 << 29
"""What a file may unpack to. R writes a cell of text in at least 8 bytes, so this is at most 64 million of them."""
MAX_TEXT_FORM = 1 << 23
"""The same for R's ASCII form, of which every number and cell becomes an object."""
MAX_OBJECTS = 1 << 22
"""Python objects that may be made of a file: different cells of text, list elements, names. Each takes some 400 bytes."""
_CHUNK = 1 << 20
_PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_CHAR, _LATIN1, _UTF8 = 9, 1 << 2, 1 << 3  # the type and the flags of R's internal strings
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_897  # 0001-01-01, and the day after 9999-12-31, from 1970-01-01
_AGAIN = "save it in R again, with save(frame, file = ...) or saveRDS(frame, ...)"


def read_r(path: str | Path, table: str | None = None) -> pl.DataFrame:
    """The data frame called `table` in an R file; without a name, the only one that the file has.

    Factors and text become String, logical becomes Boolean, Date becomes Date, POSIXct becomes Datetime in UTC. R's NA becomes null;
    NaN stays NaN. Row names are left out. Raises `DataError`, `TooLarge`, `NotFound`, or `Unavailable` where rdata is not installed.
    """
    frames, name = frames_of(path), Path(path).name
    if table is None and len(frames) != 1:
        raise DataError(f"{name} has {len(frames)} data frames, and one is needed.", fix=f"name one of: {', '.join([*frames][:10])}" if frames else _AGAIN)
    if table is not None and table not in frames:
        raise NotFound(f"{name} has no data frame '{table}'.", fix=nearest(table, [*frames]) if frames else _AGAIN)
    return frames[table] if table is not None else next(iter(frames.values()))


def frames_of(path: str | Path) -> dict[str, pl.DataFrame]:
    """Every data frame of an R file by name; that of an .rds file, which has none, is called 'data'."""
    path, rdata = Path(path), need("rdata", "r", "R data files")
    data = _unpacked(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags and suffixes that play no part here
            parsed = _parsed(rdata, data)
        encoding = parsed.extra.encoding or "utf-8"
        return {name: _frame(name, found, encoding) for name, found in _objects(parsed.object) if b"data.frame" in _class(found)}
    except LocumError:
        raise
    except (Exception, MemoryError) as error:  # a parser that is given a broken file may raise anything
        what, why = f"{path.name} cannot be read as an R data file.", "It is damaged, cut off, or of a kind that is not read."
        raise DataError(what, why=why, fix=_AGAIN, local=f"{type(error).__name__}: {error}") from None


def _unpacked(path: Path) -> bytes:
    """The file's bytes without the compression, which is gzip, bzip2 or xz."""
    out = bytearray()
    try:
        with path.open("rb") as file:
            head = file.read(6)
        opener = next((o for magic, o in _PACKED.items() if head.startswith(magic)), open)
        with cast(BinaryIO, opener(path, "rb")) as file:
            while chunk := file.read(_CHUNK):
                out += chunk
                if len(out) > MAX_BYTES:
                    raise TooLarge(
                        f"{path.name} unpacks to more than {MAX_BYTES >> 20} MiB.", fix="save the data frame without the columns that are not needed"
                    )
    except FileNotFoundError:
        raise DataError(f"There is no file {path.name}.", fix="check the path") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path.name} cannot be unpacked.", why="It is damaged or cut off.", fix=_AGAIN, local=str(error)) from None
    return bytes(out)


# --- parsing ----------------------------------------------------------------------------------------------------------
class _Budget:
    """What may still be made of a file: a few bytes of it can stand for many objects."""

    def __init__(self, objects: int, numbers: int) -> None:
        self.objects, self.numbers = objects, numbers

    def spend(self, objects: int = 0, numbers: float = 0) -> None:
        self.objects -= objects
        if not 0 <= numbers <= self.numbers or self.objects < 0:
            raise TooLarge("The R data file holds more than is read.", fix="save the data frame alone, without columns that are not needed, or as Parquet")
        self.numbers -= int(numbers)


def _parsed(rdata: ModuleType, data: bytes) -> Any:
    """The file as rdata's objects. Text is read here, in the usual binary form: rdata takes 11 s for IST's million cells, this 1 s."""
    body, budget = data[5:] if data[:5] in (b"RDX2\n", b"RDX3\n") else data, _Budget(MAX_OBJECTS, MAX_BYTES // 8)
    expand = {name: _limited(name, make, budget) for name, make in rdata.parser.DEFAULT_ALTREP_MAP.items()}
    if body.startswith(b"X\n"):
        parser = _fast_parser(rdata, budget)(memoryview(body)[2:], expand_altrep=True, altrep_constructor_dict=expand)
        parsed = parser.parse_all()
        parser.check_complete()
        return parsed
    if not body.startswith((b"A\n", b"A\r\n", b"B\n")) and not data.startswith((b"RDA2\n", b"RDA3\n")):
        raise ValueError("no magic number of R")  # rdata would unpack what is packed twice, without a bound
    if len(data) > MAX_TEXT_FORM:
        raise TooLarge(f"The R data file is larger than {MAX_TEXT_FORM >> 20} MiB in R's ASCII form.", fix="save it in R with ascii = FALSE")
    return rdata.parser.parse_data(data, altrep_constructor_dict=expand, extension=None)


def _limited(name: bytes, make: Callable[[Any], Any], budget: _Budget) -> Callable[[Any], Any]:
    """R 3.5 and later write a sequence as its length, and numbers that are text as numbers: counted before they are expanded."""

    def expand(state: Any) -> Any:
        if name.startswith(b"compact"):
            budget.spend(numbers=state.value[0])
        elif name == b"deferred_string":
            budget.spend(objects=len(state.value[0].value))
        return make(state)

    return expand


def _fast_parser(rdata: ModuleType, budget: _Budget) -> type[Any]:
    """rdata's parser of the XDR form, with vectors of text read in one loop and equal strings kept once."""
    from rdata.parser._xdr import ParserXDR

    info, make, char = rdata.parser.RObjectInfo, rdata.parser.RObject, rdata.parser.RObjectType.CHAR

    class Fast(ParserXDR):
        def parse_R_object(self, *arguments: Any, **options: Any) -> Any:
            budget.spend(objects=1)
            return super().parse_R_object(*arguments, **options)

        def _parse_vector_value(self, reference_list: Any, bytecode_rep_list: Any = None) -> list[Any]:
            start = self.file.tell()
            with self.file.getbuffer() as data:
                length, kind = struct.unpack_from(">iI", data, start) if len(data) - start >= 8 else (0, 0)
                if length > 0 and kind & 0xFF == _CHAR:  # only a vector of text has strings as its elements
                    found, end = _strings(data, start + 4, length)
                    self.file.seek(end)
                    return found
            return cast(list[Any], super()._parse_vector_value(reference_list, bytecode_rep_list))

    def _strings(data: memoryview, position: int, length: int) -> tuple[list[Any], int]:
        """The strings of a vector, and where they end. One is its flags, its length (-1 for NA) and its bytes."""
        known: dict[bytes, Any] = {}
        out: list[Any] = []
        for _ in range(length):
            flags, size = struct.unpack_from(">Ii", data, position)
            end = position + 8 + max(size, 0)
            if flags & 0xFF != _CHAR or size < -1 or end > len(data):
                raise ValueError("a broken string")
            key = bytes(data[position:end])
            found = known.get(key)
            if found is None:
                budget.spend(objects=1)
                found = known[key] = make(info(char, False, False, False, flags >> 12 & 0xFFFF, 0), None if size < 0 else key[8:], None)
            out.append(found)
            position = end
        return out, position

    return Fast


# --- objects ----------------------------------------------------------------------------------------------------------
def _objects(top: Any) -> Iterator[tuple[str, Any]]:
    """The objects of a file: an .rda is a list of tagged ones, an .rds is one without a name."""
    if top.info.type.name != "LIST":
        yield "data", top
        return
    yield from _pairs(top)


def _pairs(item: Any) -> Iterator[tuple[str, Any]]:
    while item is not None and item.info.type.name == "LIST":
        yield _symbol(item.tag), item.value[0]
        item = item.value[1]


def _symbol(tag: Any) -> str:
    while tag.info.type.name == "REF":
        tag = tag.referenced_object
    return bytes(tag.value.value).decode("utf-8", "replace")


def _attributes(item: Any) -> dict[str, Any]:
    return dict(_pairs(item.attributes))


def _class(item: Any) -> list[bytes]:
    found = _attributes(item).get("class")
    return [c.value for c in found.value] if found is not None else []


def _frame(name: str, item: Any, encoding: str) -> pl.DataFrame:
    columns = _texts(_attributes(item)["names"].value, encoding)
    if len(columns) != len(item.value) or None in columns or len(set(columns)) < len(columns):
        raise DataError(f"The columns of the data frame '{name}' do not each have a name of their own.", fix="set names(frame) in R, and save it again")
    series = [_series(str(c), value, encoding) for c, value in zip(columns, item.value, strict=True)]
    if len({len(s) for s in series}) > 1:
        raise DataError(f"The columns of the data frame '{name}' differ in length.", fix=_AGAIN)
    return pl.DataFrame(series)


def _texts(items: list[Any], encoding: str) -> list[str | None]:
    """R's strings as text; NA is None. Equal ones share an object, so that each is decoded once."""
    known: dict[int, str | None] = {}
    for item in items:
        if id(item) not in known:
            codec = "utf-8" if item.info.gp & _UTF8 else "latin-1" if item.info.gp & _LATIN1 else encoding
            known[id(item)] = None if item.value is None else item.value.decode(codec)
    return [known[id(item)] for item in items]


def _series(name: str, item: Any, encoding: str) -> pl.Series:
    """One column: a vector of text, numbers or logicals, with the classes that R's own data frames use."""
    kind, classes, attributes = item.info.type.name, _class(item), _attributes(item)
    if "dim" in attributes:
        raise DataError(f"The column '{name}' is a matrix.", fix="split it into columns in R")
    if kind == "STR":
        return pl.Series(name, _texts(item.value, encoding), dtype=pl.String)
    if kind not in ("INT", "LGL", "REAL"):
        raise DataError(f"The column '{name}' is not a vector of numbers, text, logicals or dates.", fix="leave it out, or turn it into text in R")
    values, missing = _values(item.value)
    if b"factor" in classes:
        return _factor(name, values, missing, _texts(attributes["levels"].value, encoding))
    if b"integer64" in classes:  # package bit64 keeps 64-bit integers in the bytes of doubles
        whole = values.view(np.int64)
        return _nullable(name, whole, whole == np.iinfo(np.int64).min)
    if b"Date" in classes:
        return _nullable(name, np.floor(_within(name, values, missing, 1.0)).astype(np.int32), missing | np.isnan(values)).cast(pl.Date)
    if b"POSIXct" in classes:
        micros = np.round(_within(name, values, missing, 86400.0) * 1e6).astype(np.int64)
        return _nullable(name, micros, missing | np.isnan(values)).cast(pl.Datetime("us", "UTC"))
    return _nullable(name, values, missing)


def _values(vector: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The numbers of a vector and where they are NA: masked in integers; in doubles a NaN whose low word is 1954, and NaN is not NA."""
    if np.ma.isMaskedArray(vector):
        return vector.data, np.ma.getmaskarray(vector)
    values = np.asarray(vector)
    if values.dtype != np.float64:
        return values, np.zeros(len(values), dtype=bool)
    return values, np.isnan(values) & ((values.view(np.uint64) & np.uint64(0xFFFFFFFF)) == 1954)


def _within(name: str, values: NDArray[Any], missing: NDArray[np.bool_], day: float) -> NDArray[np.float64]:
    """The values of a date or time, 0 where there is none; raises `DataError` for one outside the years 1 to 9999. day: its length."""
    time = np.where(missing, 0.0, np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
    outside = int(((time < _FIRST_DAY * day) | (time >= _LAST_DAY * day)).sum())
    if outside:
        raise DataError(f"{outside} values of '{name}' are no dates of the years 1 to 9999.", fix="correct them in R, or save the column as numbers")
    return time


def _factor(name: str, codes: NDArray[Any], missing: NDArray[np.bool_], levels: list[str | None]) -> pl.Series:
    if ((codes[~missing] < 1) | (codes[~missing] > len(levels))).any():
        raise DataError(f"The factor '{name}' has codes without a level.", fix=_AGAIN)
    return pl.Series(name, levels, dtype=pl.String).gather(_nullable("", np.where(missing, 1, codes) - 1, missing).cast(pl.Int64)).alias(name)


def _nullable(name: str, values: NDArray[Any], missing: NDArray[np.bool_]) -> pl.Series:
    series = pl.Series(name, values)
    return series if not missing.any() else pl.select(pl.when(~pl.Series(missing)).then(series).alias(name)).to_series()
