"""Named arrays in .npy, .npz and .safetensors files, read from first to last a few rows at a time. Nothing is ever unpickled.

Each header is parsed, and compared with the bytes that are there, before anything is allocated.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from locum.data.sources.base import MAX_RATIO
from locum.errors import DataError, TooLarge

MAX_ROW_BYTES = 1 << 28
MAX_FREE_BYTES = 1 << 30
"""Up to here a member of an archive may be compressed by any factor: columns of one value shrink a thousandfold."""
_MAX_HEADER = 10_000
_KINDS = "biufUSM"
"""numpy's letters for boolean, integers, floating point, text, bytes and dates."""


_DAMAGE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OverflowError, MemoryError)
_SAFETENSORS = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BOOL": "?",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
}


class Reader(Protocol):
    """Rows of an array in their order."""

    def take(self, rows: int) -> NDArray[Any]:
        """The next rows, shape (rows, ...); there must be as many left."""


@dataclass(frozen=True)
class Entry:
    """One array. problem: why it cannot be a column, "" if it can. start: a reader at its first row."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: Callable[[], Reader]
    problem: str = ""


def entries(path: Path) -> dict[str, Entry]:
    """The arrays of a file, by name; that of an .npy file is called "array". Raises `DataError` or `TooLarge`."""
    with damaged(path.name):
        if path.suffix.lower() == ".npz":
            return _members(path)
        if path.suffix.lower() == ".safetensors":
            return _tensors(path)
        with path.open("rb") as file:
            dtype, shape, fortran = _header(file)
            offset = file.tell()
        if offset + _bytes(dtype, shape) > path.stat().st_size:
            raise ValueError("shorter than its header says")
        problem = _problem(dtype, shape)
        return {"array": Entry(dtype, shape, lambda: _Mapped(np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")), problem)}


@contextmanager
def damaged(name: str) -> Iterator[None]:
    """Turn what the readers raise into `DataError`."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{name} is damaged, or no file of arrays.", fix="write it again, with numpy.savez_compressed or safetensors", local=str(error)
        ) from None


def _header(file: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Type, shape and order of an .npy file (NEP 1), with nothing allocated."""
    reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = reads[np.lib.format.read_magic(file)](file, max_header_size=_MAX_HEADER)
    except Exception:  # tokenize.TokenError, SyntaxError, TypeError, ...: numpy parses the header as Python
        raise ValueError("not the header of an array") from None
    if any(n < 0 for n in shape):
        raise ValueError("a negative size")
    return dtype, tuple(int(n) for n in shape), bool(fortran)


def _bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * math.prod(shape)


def _problem(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    if dtype.hasobject:
        return "it holds Python objects, which would have to be unpickled"
    if dtype.names or dtype.kind not in _KINDS:
        return f"it holds neither numbers nor text ({dtype.kind})"
    if not shape:
        return "it is one value, and no column"
    if len(shape) > 1 and dtype.kind in "USM":
        return "it is a table of text"
    if _bytes(dtype, shape[1:]) > MAX_ROW_BYTES or math.prod(shape[1:]) * 4 > MAX_ROW_BYTES:
        return f"one row is larger than {MAX_ROW_BYTES >> 20} MiB"
    return "its rows are empty" if 0 in shape[1:] else ""


def _members(path: Path) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            if member.file_size > max(MAX_FREE_BYTES, member.compress_size * MAX_RATIO):
                raise TooLarge(
                    f"{path.name} unpacks to more than {MAX_RATIO} times its size.", fix="look at what it holds; save the arrays without compression"
                )
            with archive.open(member) as file:
                dtype, shape, fortran = _header(cast(BinaryIO, file))
                if not dtype.hasobject and file.tell() + _bytes(dtype, shape) != member.file_size:
                    raise ValueError("a member is not as long as its header says")
            problem = _problem(dtype, shape)
            by_column = fortran and len(shape) > 1
            if by_column and member.file_size > MAX_FREE_BYTES:
                problem = problem or "it is large, and stored column by column (Fortran order)"
            found[member.filename.removesuffix(".npy")] = Entry(dtype, shape, _streamed(path, member, dtype, shape, by_column), problem)
    return found


def _streamed(path: Path, member: zipfile.ZipInfo, dtype: np.dtype[Any], shape: tuple[int, ...], by_column: bool) -> Callable[[], Reader]:
    """By rows, or, where the array is stored by columns, as a whole."""
    if not by_column:
        return lambda: _Streamed(path, member, dtype, shape)
    return lambda: _Mapped(_Streamed(path, member, dtype, shape).take(shape[0]).reshape(shape[::-1]).T)


def _tensors(path: Path) -> dict[str, Entry]:
    from safetensors import SafetensorError, safe_open

    found: dict[str, Entry] = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                part = file.get_slice(name)
                kind, shape = _SAFETENSORS.get(part.get_dtype()), tuple(part.get_shape())
                dtype = np.dtype(kind or "V1")
                found[name] = Entry(dtype, shape, _sliced(path, name), _problem(dtype, shape))
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return found


def _sliced(path: Path, name: str) -> Callable[[], Reader]:
    return lambda: _Sliced(path, name)


class _Mapped:
    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self._at = array, 0

    def take(self, rows: int) -> NDArray[Any]:
        self._at += rows
        return np.array(self._array[self._at - rows : self._at])


class _Sliced:
    """A tensor of a .safetensors file, which maps its file."""

    def __init__(self, path: Path, name: str) -> None:
        from safetensors import safe_open

        self._file: Any = safe_open(path, framework="np")
        self._name, self._at = name, 0

    def take(self, rows: int) -> NDArray[Any]:
        self._at += rows
        return cast(NDArray[Any], self._file.get_slice(self._name)[self._at - rows : self._at])


class _Streamed:
    """A member of an .npz archive, unpacked as it is read."""

    def __init__(self, path: Path, member: zipfile.ZipInfo, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file, self._dtype, self._shape = zipfile.ZipFile(path).open(member), dtype, shape[1:]  # noqa: SIM115 - closed with this reader
        _header(cast(BinaryIO, self._file))

    def take(self, rows: int) -> NDArray[Any]:
        wanted = rows * _bytes(self._dtype, self._shape)
        data = bytearray()
        while len(data) < wanted and (part := self._file.read(wanted - len(data))):
            data += part
        if len(data) < wanted:
            raise EOFError("the archive ends before its array does")
        return np.frombuffer(data, dtype=self._dtype).reshape(rows, *self._shape)
