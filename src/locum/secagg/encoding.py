"""Numbers to ring elements before masking, and the sum of ring elements back to numbers.

Three tensor groups, each with a ring that its numbers need:

wide     float64 and int64 tensors (statistics, Newton and Cox terms, weights): fixed point, 64 bits before and 64 after the
         point, modulo 2^128. Exact for integers; for floats the error of a sum over n sites is at most n * 2^-64, far below
         what float64 itself rounds away. A value may be as large as 2^62 / n.
narrow   float32 tensors (updates of a model) where the study declares a clip C: L2 clipping of the site's tensors together,
         weight w / W_max, optionally a rotation, then stochastic rounding to integers of at most Q = floor((2^(b-1) - 1) / n)
         steps of C_inf / Q, modulo 2^b. Unbiased; the error of a sum is at most n steps a coordinate, with standard deviation
         at most sqrt(n) / 2 steps; where the vector is rotated, a coordinate of the rotated one, which is cut off at C_inf with
         probability 2^-20. Without a declared clip float32 tensors travel in the wide ring.

noisy    int32 tensors (clipped sums with noise, integers already): modulo 2^32. Whoever lays them out sees to it that the sum fits; if
         it does not, it wraps, which the noise's promise survives.

n * max|q| < 2^(b-1) holds by construction before anything is masked. The randomness of the rounding is a keystream whose key
the caller gives: it decides which of two neighbouring integers is taken, and hides nothing (ADR 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from locum.secagg import rotation
from locum.secagg.errors import EncodingError
from locum.secagg.masks import keystream
from locum.secagg.ring import WIDE, Ints, Ring
from locum.study.manifest import Masking
from locum.study.vector import Array, Field, Layout

_CHUNK = 1 << 16
_ROTATE_UP_TO = 20
"""Rings of so many bits leave too few for a coordinate unless the vector is rotated first."""
_POINT = 64
_LARGEST = 62


@dataclass(frozen=True)
class Encoding:
    """How vectors of `layout` are summed over at most `n` sites. Public: a function of the study and the cohort's size."""

    layout: Layout
    n: int
    terms: Masking
    seed: bytes = b""

    def __post_init__(self) -> None:
        if self.n < 1 or (self._fields("narrow") and self.steps < 1):
            raise EncodingError(f"A ring of {self.terms.bits} bits is too small for a sum over {self.n} sites.", fix="raise terms.masking.bits")

    def group(self, field: Field) -> str:
        if field.dtype == "int32":
            return "noisy"
        return "narrow" if field.dtype == "float32" and self.terms.clip is not None else "wide"

    def _fields(self, group: str) -> tuple[Field, ...]:
        return tuple(f for f in self.layout.fields if self.group(f) == group)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Elements of each group that is not empty."""
        counts = {g: sum(f.size for f in self._fields(g)) for g in ("wide", "narrow", "noisy") if self._fields(g)}
        if "narrow" in counts and self.rotated:
            counts["narrow"] = rotation.padded(counts["narrow"])
        return counts

    @cached_property
    def rings(self) -> dict[str, Ring]:
        return {"wide": Ring(WIDE), "narrow": Ring(self.terms.bits), "noisy": Ring(32)}

    @property
    def rotated(self) -> bool:
        return self.terms.bits <= _ROTATE_UP_TO

    @property
    def steps(self) -> int:
        """Q: the largest integer that one site may contribute to a narrow element."""
        return ((1 << (self.terms.bits - 1)) - 1) // self.n

    @cached_property
    def _narrow_size(self) -> int:
        return sum(f.size for f in self._fields("narrow"))

    @property
    def step(self) -> float:
        """The size of one narrow step, in units of weight * value."""
        clip = self.terms.clip or 0.0
        reach = rotation.largest(clip, self._narrow_size) if self.rotated else clip
        return reach * self.terms.max_weight / self.steps

    @cached_property
    def wire(self) -> Layout:
        """What travels: one tensor for each group."""
        return Layout(tuple(Field(g, *self.rings[g].wire(s)) for g, s in self.sizes.items()))

    @property
    def bytes_per_parameter(self) -> float:
        return self.wire.nbytes / max(1, self.layout.size)

    # --- one site's numbers ---------------------------------------------------------------------------------------

    def encode(self, vector: Mapping[str, Array], weight: float, rounding: bytes) -> dict[str, Ints]:
        """Ring elements of each group. vector: tensors of the layout, finite; wide ones are weighted already.

        rounding: a 32-byte key. Raises `EncodingError`; then nothing was made.
        """
        if sorted(vector) != sorted(f.name for f in self.layout.fields):
            raise EncodingError("The vector's tensors are not those of its layout.")
        for f in self.layout.fields:
            a = vector[f.name]
            if not isinstance(a, np.ndarray) or a.shape != f.shape or a.dtype != np.dtype(f.dtype):
                raise EncodingError(f"Tensor '{f.name}' is not of shape {f.shape} and type {f.dtype}.")
            if a.dtype.kind == "f" and not np.isfinite(a).all():
                raise EncodingError(f"Tensor '{f.name}' holds NaN or infinity.", fix="look for missing, constant or extreme values in the columns read")
        if not (isfinite(weight) and weight >= 0):
            raise EncodingError("The weight is negative or not finite.")
        out: dict[str, Ints] = {}
        if "wide" in self.sizes:
            out["wide"] = np.concatenate([_widen(f, vector[f.name].reshape(-1), self.n) for f in self._fields("wide")])
        if "narrow" in self.sizes:
            out["narrow"] = self._narrow(vector, weight, rounding)
        if "noisy" in self.sizes:
            out["noisy"] = np.concatenate([vector[f.name].reshape(-1).astype("<i4").view("<u4") for f in self._fields("noisy")])
        return out

    def _narrow(self, vector: Mapping[str, Array], weight: float, rounding: bytes) -> Ints:
        if weight > self.terms.max_weight:
            raise EncodingError(f"The weight is above max_weight = {self.terms.max_weight:g}.", fix="raise terms.masking.max_weight, or weight by less")
        flat = np.concatenate([vector[f.name].reshape(-1) for f in self._fields("narrow")]) if len(self._fields("narrow")) > 1 else None
        flat = vector[self._fields("narrow")[0].name].reshape(-1) if flat is None else flat
        factor = min(1.0, (self.terms.clip or 0.0) / max(norm(flat), np.finfo(float).tiny)) * weight / self.step
        if self.rotated:  # in steps: float32 could overflow in the sums of an unclipped vector
            flat = rotation.rotate(np.multiply(flat, np.float64(factor), out=np.empty_like(flat), casting="same_kind"), self.seed)
            factor = 1.0
        ring = self.rings["narrow"]
        out = ring.zeros(len(flat))
        for start in range(0, len(flat), _CHUNK):
            piece = flat[start : start + _CHUNK].astype(np.float64)
            piece *= factor
            piece += _uniform(rounding, start, len(piece))
            np.floor(piece, out=piece)
            np.clip(piece, -self.steps, self.steps, out=piece)
            out[start : start + _CHUNK] = piece.astype(np.int32).view(np.uint32)
        ring.reduce(out)
        return out

    # --- sums -----------------------------------------------------------------------------------------------------

    def zeros(self) -> dict[str, Ints]:
        return {g: self.rings[g].zeros(s) for g, s in self.sizes.items()}

    def add(self, acc: Mapping[str, Ints], other: Mapping[str, Ints]) -> None:
        """acc += other, group by group."""
        for g, a in acc.items():
            self.rings[g].add(a, other[g])
            self.rings[g].reduce(a)

    def pack(self, elements: Mapping[str, Ints]) -> dict[str, Array]:
        """Elements -> tensors of the wire layout."""
        return {g: self.rings[g].pack(elements[g]) for g in self.sizes}

    def unpack(self, tensors: Mapping[str, Array]) -> dict[str, Ints]:
        """Tensors of the wire layout -> elements."""
        return {g: self.rings[g].unpack(tensors[g], s) for g, s in self.sizes.items()}

    def decode(self, total: Mapping[str, Ints]) -> dict[str, Array]:
        """The sum's tensors in the layout, from unmasked ring elements."""
        out: dict[str, Array] = {}
        if "wide" in self.sizes:
            at = 0
            for f in self._fields("wide"):
                out[f.name] = _narrow_down(f, total["wide"][at : at + f.size])
                at += f.size
        if "narrow" in self.sizes:
            values = self._decode_narrow(total["narrow"])
            at = 0
            for f in self._fields("narrow"):
                out[f.name] = values[at : at + f.size].reshape(f.shape)
                at += f.size
        if "noisy" in self.sizes:
            at = 0
            for f in self._fields("noisy"):
                out[f.name] = self.rings["noisy"].signed(total["noisy"][at : at + f.size]).reshape(f.shape)
                at += f.size
        return {f.name: out[f.name] for f in self.layout.fields}

    def _decode_narrow(self, elements: Ints) -> NDArray[np.float32]:
        out = np.empty(len(elements), np.float32)
        for start in range(0, len(elements), _CHUNK):
            out[start : start + _CHUNK] = self.rings["narrow"].signed(elements[start : start + _CHUNK]) * self.step
        return rotation.unrotate(out, self.seed, self._narrow_size) if self.rotated else out

    def excess(self, decoded: Mapping[str, Array], weight: float) -> float:
        """By what factor the narrow sum's L2 norm exceeds what clipped updates of this total weight can reach; 0 if there is
        nothing to compare. Above 1, somebody did not clip (the aggregate-norm alarm).
        """
        fields = self._fields("narrow")
        if not fields or self.terms.clip is None:
            return 0.0
        reach = self.terms.clip * weight + self.n * self.step * sqrt(self.sizes["narrow"])
        return sqrt(sum(norm(decoded[f.name].reshape(-1)) ** 2 for f in fields)) / reach if reach else 0.0


def norm(x: Array) -> float:
    """L2 norm of a flat array in float64, chunk by chunk."""
    total = 0.0
    for start in range(0, len(x), _CHUNK):
        piece = x[start : start + _CHUNK].astype(np.float64)
        total += float(piece @ piece)
    return sqrt(total)


def _uniform(key: bytes, start: int, size: int) -> NDArray[np.float64]:
    """`size` numbers in [0, 1) with 32 bits, from position `start` of the keystream; start is a multiple of 4."""
    raw = keystream(key, 4 * size, 4 * start)
    return np.frombuffer(raw, "<u4").astype(np.float64) * 2.0**-32


def _widen(field: Field, values: Array, n: int) -> Ints:
    """Shape (m,) -> (m, 2): low and high limb of value * 2^64, cut towards zero, modulo 2^128."""
    out = np.zeros((len(values), 2), "<u8")
    limit = 2**_LARGEST // n
    if values.size and (values.max() > limit or values.min() < -limit):
        raise EncodingError(f"Tensor '{field.name}' holds a value above 2^62 / {n}.", fix="look for wrong units or codes for 'missing' in the columns read")
    if values.dtype.kind == "i":
        out[:, 1] = values.astype(np.int64).view(np.uint64)
        return out
    # by magnitude, then negated: near 1 float64 has no room for what a small negative number holds
    magnitude = np.abs(values.astype(np.float64))
    whole = np.floor(magnitude)
    low, high = ((magnitude - whole) * 2.0**_POINT).astype(np.uint64), whole.astype(np.uint64)
    negative = values < 0
    out[:, 0] = np.where(negative, ~low + np.uint64(1), low)
    out[:, 1] = np.where(negative, ~high + (low == 0), high)
    return out


def _narrow_down(field: Field, elements: Ints) -> Array:
    high, low = elements[:, 1].astype(np.uint64).view(np.int64), elements[:, 0]
    if field.dtype == "int64":
        return high.copy().reshape(field.shape)
    # a number just below zero is (-1, almost 2^64): join the limbs on the side where float64 loses nothing
    negative = high < 0
    borrow = negative & (low != 0)
    magnitude = np.where(negative, (~low) + np.uint64(1), low).astype(np.float64) * 2.0**-_POINT
    whole = high.astype(np.float64) + borrow
    values: Array = np.where(negative, whole - magnitude, whole + magnitude)
    return values.astype(field.dtype).reshape(field.shape)
