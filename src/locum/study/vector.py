"""What may leave a site: a fixed-shape vector with a declared bound, and the sum of such vectors.

The wire form is one safetensors file whose header is a function of the layout alone. A receiver therefore compares
the header with the one it expects and never parses a header that a stranger wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from locum.errors import TaskError
from locum.study.canonical import sha256

Array = NDArray[Any]
DType = Literal["float64", "float32", "int64", "int32", "uint64", "uint32", "uint16", "uint8"]
"""What travels. Tasks use the first three; int32 is for noisy numbers, modulo 2^32; the unsigned ones carry masked vectors."""
_WIRE: dict[str, str] = {"float64": "F64", "float32": "F32", "int64": "I64", "int32": "I32", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8"}
_TASK_DTYPES = ("float64", "float32", "int64")
MAX_VECTOR_BYTES = 64 << 30


@dataclass(frozen=True)
class Field:
    """One named tensor of a layout."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = "float64"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of a vector: public, and independent of any site's data."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, **shapes: tuple[int, ...]) -> Layout:
        """A float64 layout from keyword shapes: `Layout.of(n=(), mean=(3,))`."""
        return cls(tuple(Field(name, shape) for name, shape in shapes.items()))

    @classmethod
    def like(cls, arrays: Mapping[str, Array]) -> Layout:
        """The layout of given arrays."""
        return cls(tuple(Field(n, a.shape, _dtype(n, a)) for n, a in arrays.items()))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the tensors together, without the header."""
        return sum(f.nbytes for f in self.fields)

    @cached_property
    def size(self) -> int:
        """Number of scalars."""
        return sum(f.size for f in self.fields)

    @cached_property
    def header(self) -> bytes:
        """The safetensors prefix: 8-byte little-endian length, JSON, spaces up to a multiple of 8."""
        table, offset = {}, 0
        for f in self.fields:
            table[f.name] = {"dtype": _WIRE[f.dtype], "shape": list(f.shape), "data_offsets": [offset, offset + f.nbytes]}
            offset += f.nbytes
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @cached_property
    def digest(self) -> str:
        return sha256(self.header)

    @property
    def file_bytes(self) -> int:
        """Exact length of the wire form."""
        return len(self.header) + self.nbytes

    def check(self, vector: Mapping[str, Array]) -> None:
        """Raise `TaskError` unless `vector` has exactly these tensors and every number is finite."""
        expected = [f.name for f in self.fields]
        if sorted(vector) != sorted(expected):
            raise TaskError(
                f"The task returned tensors {sorted(vector)}, its layout declares {sorted(expected)}.", fix="this is a fault of the task; report it"
            )
        for f in self.fields:
            a = vector[f.name]
            if a.shape != f.shape or a.dtype != np.dtype(f.dtype):
                raise TaskError(
                    f"Tensor '{f.name}' has shape {a.shape} and type {a.dtype}; the layout declares {f.shape} and {f.dtype}.",
                    fix="this is a fault of the task; report it",
                )
            if a.dtype.kind == "f" and not np.isfinite(a).all():
                raise TaskError(
                    f"Tensor '{f.name}' holds NaN or infinity, so nothing was released.",
                    fix="look for missing, constant or extreme values in the columns that this step reads",
                )

    def buffers(self, vector: Mapping[str, Array]) -> Iterator[bytes | memoryview]:
        """The wire form piece by piece, without copying a contiguous tensor."""
        yield self.header
        for f in self.fields:
            a = np.ascontiguousarray(vector[f.name], dtype=np.dtype(f.dtype).newbyteorder("<"))
            if a.nbytes:
                yield a.reshape(-1).data.cast("B")

    def pack(self, vector: Mapping[str, Array]) -> bytes:
        """The wire form as one bytes object."""
        return b"".join(self.buffers(vector))

    def unpack(self, raw: bytes | bytearray | memoryview) -> dict[str, Array]:
        """Views into `raw` (the wire form); raises `TaskError` if it is not exactly of this layout."""
        view = memoryview(raw)
        if len(view) != self.file_bytes or bytes(view[: len(self.header)]) != self.header:
            raise TaskError("The bytes are not a vector of the expected layout.", why=f"{len(view)} bytes, expected {self.file_bytes}.")
        return self.split(view[len(self.header) :])

    def split(self, body: memoryview | bytes | bytearray) -> dict[str, Array]:
        """Tensors as views into `body`, which holds them without the header."""
        out: dict[str, Array] = {}
        offset = 0
        for f in self.fields:
            dtype = np.dtype(f.dtype).newbyteorder("<")
            out[f.name] = np.frombuffer(body, dtype=dtype, count=f.size, offset=offset).reshape(f.shape)
            offset += f.nbytes
        return out

    def zeros(self) -> dict[str, Array]:
        return {f.name: np.zeros(f.shape, f.dtype) for f in self.fields}


def _dtype(name: str, array: Array) -> DType:
    kind = array.dtype.name
    if kind not in _TASK_DTYPES:
        raise TaskError(f"Tensor '{name}' has type {kind}; only float64, float32 and int64 travel.")
    return kind  # type: ignore[return-value]


@dataclass(frozen=True)
class Bound:
    """A public limit on one patient's or one site's influence: `norm` of the vector is at most `limit`, per `unit`."""

    norm: Literal["l1", "l2", "linf"]
    limit: float
    unit: Literal["patient", "site"]


@dataclass(frozen=True)
class Contribution:
    """What one visit hands to the door. It is not yet released.

    vector: tensors of the task's layout. weight: the site's share, folded into the vector at the door. rows: patients
    behind it, which the door compares with the minimum and never sends. purpose: plain words for the release log.
    """

    vector: Mapping[str, Array]
    rows: int
    purpose: str
    weight: float = 1.0
    bound: Bound | None = None


@dataclass(frozen=True)
class Total:
    """The sum over a cohort: all that `combine` ever sees. noise: its standard deviation per number, 0 where the sum is exact."""

    vector: Mapping[str, Array]
    weight: float
    sites: int = field(default=0)
    noise: float = 0.0

    def __getitem__(self, name: str) -> Array:
        return self.vector[name]
