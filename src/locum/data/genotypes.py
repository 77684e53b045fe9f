"""Called genotypes of very many variants, two bits each, that stand for an array of float32: a sixteenth of its memory.

A million variants of a thousand patients are 4 GB as float32 and 250 MB here. What reads them asks for some columns at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = -1
_COPIES = np.array([2, MISSING, 1, 0], np.int8)
"""Of the counted allele for the codes 00, 01 (missing), 10 and 11, as a PLINK .bed has them."""
_CODES = np.array([3, 2, 0, 1], np.uint8)
"""The code of 0, 1 and 2 copies and, as the last of them, of -1."""
_UNPACKED = np.stack([_COPIES[(np.arange(256) >> shift) & 3] for shift in (0, 2, 4, 6)], axis=1).copy().view(np.int32).ravel()
"""A byte -> four genotypes, the lowest bits first, as the four bytes of one integer."""
_OTHER = np.array([3, 1, 2, 0], np.uint8)
_TURNED = np.bitwise_or.reduce([_OTHER[(np.arange(256) >> shift) & 3] << shift for shift in (0, 2, 4, 6)]).astype(np.uint8)
"""A byte -> the byte that counts the other allele."""


class Genotypes:
    """Genotypes of shape (rows, variants): copies of each variant's counted allele, 0, 1 or 2, NaN where it was not called.

    packed: uint8 (variants, (samples + 3) // 4), the lowest bits first. rows: which samples, in which order. named: 16 bytes of a hash
    over the variants' names and counted alleles in order; b'' where nobody knows them. Like an array it has a shape, a length and rows that
    can be taken; `g[rows, columns]` is float32, `g.calls(rows, columns)` is int8 with -1, and `np.asarray(g)` unpacks all of it.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, packed: NDArray[np.uint8], rows: NDArray[np.intp], named: bytes = b"") -> None:
        self.packed, self.rows, self.named = packed, rows, named

    @classmethod
    def of(cls, calls: NDArray[Any], named: bytes = b"") -> Genotypes:
        """From an array (rows, variants) of whole numbers with -1, or of numbers with NaN, for missing."""
        values = calls if calls.dtype.kind == "i" else np.where(np.isnan(calls), MISSING, calls).astype(np.int8)
        return cls(pack(values), np.arange(len(calls)), named)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.packed)

    @property
    def size(self) -> int:
        return len(self.rows) * len(self.packed)

    @property
    def nbytes(self) -> int:
        """Of what is held, not of what it stands for."""
        return self.packed.nbytes + self.rows.nbytes

    def calls(self, rows: NDArray[np.generic] | slice = slice(None), columns: NDArray[np.generic] | slice = slice(None)) -> NDArray[np.int8]:
        """Some rows of some variants, int8 (rows, variants), -1 where not called."""
        block = unpack(self.packed[columns])
        return block[:, self.rows[rows]].T

    def __getitem__(self, key: Any) -> Any:
        """Two keys give float32 numbers; one gives the genotypes of those rows, unpacked where it is one row."""
        if not isinstance(key, tuple):
            taken = self.rows[key]
            return Genotypes(self.packed, taken, self.named) if np.ndim(taken) else self[np.asarray([key]), :][0]
        rows, columns = key
        at = [columns] if isinstance(columns, int | np.integer) else columns
        values = as_float32(self.calls(rows, np.asarray(at) if isinstance(at, list) else at))
        return values[:, 0] if isinstance(at, list) else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("packed genotypes have no array of their own to share")
        return np.ascontiguousarray(self[:, :], dtype=dtype or np.float32)


def as_float32(calls: NDArray[np.int8]) -> NDArray[np.float32]:
    """NaN in place of -1."""
    values = calls.astype(np.float32)
    values[calls < 0] = np.nan
    return values


def pack(calls: NDArray[Any]) -> NDArray[np.uint8]:
    """Shape (rows, variants) of -1, 0, 1, 2 -> (variants, (rows + 3) // 4), two bits each."""
    n, variants = calls.shape
    codes = np.zeros((variants, 4 * ((n + 3) // 4)), np.uint8)
    codes[:, :n] = _CODES[calls.T]  # -1 is the last
    return np.asarray(codes[:, 0::4] | codes[:, 1::4] << 2 | codes[:, 2::4] << 4 | codes[:, 3::4] << 6)


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """(variants, bytes) -> (variants, 4 x bytes); what lies behind the last sample means nothing."""
    return _UNPACKED[packed].view(np.int8).reshape(len(packed), 4 * packed.shape[1])


def turned(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same genotypes, counting the other allele."""
    return np.asarray(_TURNED[packed])


def list_hash(variants: Iterable[tuple[str, str]]) -> bytes:
    """16 bytes that tell a list of (name, counted allele) in its order from every other."""
    h = hashlib.sha256(b"locum/variants/1\0")
    for name, allele in variants:
        h.update(f"{name}\t{allele}\n".encode())
    return h.digest()[:16]
