"""Integers modulo 2^b as numpy arrays: b = 128 as pairs of 64-bit limbs, b <= 32 in 16- or 32-bit words, packed on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locum.study.vector import DType

Ints = NDArray[Any]
WIDE = 128


@dataclass(frozen=True)
class Ring:
    """Z modulo 2^bits. bits: 128, or a multiple of 4 from 8 to 32. All values are in memory as `shape(size)` of `dtype`."""

    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u8" if self.bits == WIDE else "<u2" if self.bits <= 16 else "<u4")

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory, which is what a keystream is cut into."""
        return 16 if self.bits == WIDE else self.dtype.itemsize

    @property
    def exact(self) -> bool:
        """Whether the words wrap around at 2^bits by themselves."""
        return self.bits in (WIDE, 8 * self.dtype.itemsize)

    def shape(self, size: int) -> tuple[int, ...]:
        return (size, 2) if self.bits == WIDE else (size,)

    def zeros(self, size: int) -> Ints:
        return np.zeros(self.shape(size), self.dtype)

    def add(self, acc: Ints, other: Ints) -> None:
        """acc += other, in place. Where the ring is not `exact`, `reduce` at the end."""
        if self.bits == WIDE:
            low = acc[:, 0]
            np.add(low, other[:, 0], out=low)
            acc[:, 1] += other[:, 1]
            acc[:, 1] += low < other[:, 0]  # the carry
        else:
            np.add(acc, other, out=acc)

    def subtract(self, acc: Ints, other: Ints) -> None:
        """acc -= other, in place."""
        if self.bits == WIDE:
            low = acc[:, 0]
            acc[:, 1] -= other[:, 1]
            acc[:, 1] -= low < other[:, 0]  # the borrow
            np.subtract(low, other[:, 0], out=low)
        else:
            np.subtract(acc, other, out=acc)

    def reduce(self, acc: Ints) -> None:
        """Modulo 2^bits, in place. Words wrap at a multiple of 2^bits, so sums and differences may be reduced late."""
        if not self.exact:
            np.bitwise_and(acc, acc.dtype.type((1 << self.bits) - 1), out=acc)

    def signed(self, acc: Ints) -> Ints:
        """The representative of least absolute value, for bits <= 32; words of the same width, signed."""
        spare = 8 * self.dtype.itemsize - self.bits
        words = (acc << acc.dtype.type(spare)).view(acc.dtype.str.replace("u", "i"))  # the sign bit to the top, and back
        lifted: Ints = words >> words.dtype.type(spare) if spare else words
        return lifted

    # --- on the wire ----------------------------------------------------------------------------------------------

    def wire(self, size: int) -> tuple[tuple[int, ...], DType]:
        """Shape and dtype of `size` elements on the wire: packed to bytes where the words have bits to spare."""
        if self.bits == WIDE:
            return (size, 2), "uint64"
        if self.exact:
            return (size,), "uint16" if self.bits == 16 else "uint32"
        per, nbytes = self._packing
        return (-(-size // per) * nbytes,), "uint8"

    @property
    def _packing(self) -> tuple[int, int]:
        """(elements, bytes) of the smallest whole number of bytes: one element, or two of an odd number of half-bytes."""
        return (1, self.bits // 8) if self.bits % 8 == 0 else (2, self.bits // 4)

    def pack(self, values: Ints) -> Ints:
        """Reduced elements -> their wire form."""
        if self.exact:
            return values
        per, nbytes = self._packing
        wide = np.zeros(-(-len(values) // per) * per, np.uint64)
        wide[: len(values)] = values
        if per == 2:
            wide = wide[0::2] | (wide[1::2] << np.uint64(self.bits))
        return np.ascontiguousarray(wide.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :nbytes]).reshape(-1)

    def unpack(self, packed: Ints, size: int) -> Ints:
        """The inverse of `pack`."""
        if self.exact:
            return packed
        per, nbytes = self._packing
        wide = np.zeros((len(packed) // nbytes, 8), np.uint8)
        wide[:, :nbytes] = packed.reshape(-1, nbytes)
        words = wide.reshape(-1).view("<u8")
        if per == 2:
            words = np.stack([words & np.uint64((1 << self.bits) - 1), words >> np.uint64(self.bits)], axis=1).reshape(-1)
        return words[:size].astype(self.dtype)
