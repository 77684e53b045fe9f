"""Numpy's words against Python's integers, for every ring: sums, differences, signs, and the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.secagg.ring import WIDE, Ints, Ring

BITS = [8, 12, 16, 20, 24, 28, 32, WIDE]
bits_of = pytest.mark.parametrize("bits", BITS)
EDGE = 1, 255, 256, 2**64 - 1, 2**64, 2**64 + 1, 2**127, 2**128 - 1


def array(ring: Ring, numbers: list[int]) -> Ints:
    """Reduced Python integers as ring elements."""
    raw = b"".join((n % (1 << ring.bits)).to_bytes(ring.itemsize, "little") for n in numbers)
    return np.frombuffer(raw, ring.dtype).reshape(ring.shape(len(numbers))).copy()


def integers(ring: Ring, elements: Ints) -> list[int]:
    raw = elements.tobytes()
    return [int.from_bytes(raw[at : at + ring.itemsize], "little") for at in range(0, len(raw), ring.itemsize)]


numbers = st.lists(st.one_of(st.integers(0, 2**128 - 1), st.sampled_from(EDGE)), max_size=9)
pairs = st.lists(st.tuples(*[st.one_of(st.integers(0, 2**128 - 1), st.sampled_from(EDGE))] * 2), max_size=9)


@bits_of
@given(pairs=pairs)
def test_add_and_subtract_are_those_of_the_integers_modulo_2_to_the_b(bits: int, pairs: list[tuple[int, int]]) -> None:
    ring, whole = Ring(bits), 1 << bits
    a, b = ([p[i] for p in pairs] for i in (0, 1))
    for change, expected in ((ring.add, [(x + y) % whole for x, y in pairs]), (ring.subtract, [(x - y) % whole for x, y in pairs])):
        acc, other = array(ring, a), array(ring, b)
        change(acc, other)
        ring.reduce(acc)
        assert integers(ring, acc) == expected
        assert integers(ring, other) == [y % whole for y in b]
        assert acc.dtype == ring.dtype


@bits_of
@given(first=st.integers(0, 2**128 - 1), steps=st.lists(st.tuples(st.booleans(), st.integers(0, 2**128 - 1)), max_size=300))
def test_many_unreduced_words_may_wrap_and_be_reduced_at_the_end(bits: int, first: int, steps: list[tuple[bool, int]]) -> None:
    """Other operands are whole words, as a keystream's are: nothing reduces them first."""
    ring = Ring(bits)
    acc, total = array(ring, [first]), first
    for plus, number in steps:
        word = number % (1 << 8 * ring.itemsize)
        other = np.frombuffer(word.to_bytes(ring.itemsize, "little"), ring.dtype).reshape(ring.shape(1))
        (ring.add if plus else ring.subtract)(acc, other)
        total += word if plus else -word
    ring.reduce(acc)
    assert integers(ring, acc) == [total % (1 << bits)]


@pytest.mark.parametrize("bits", [b for b in BITS if b != WIDE])
@given(numbers=numbers)
def test_signed_is_the_representative_of_least_absolute_value(bits: int, numbers: list[int]) -> None:
    ring, half = Ring(bits), 1 << (bits - 1)
    values = ring.signed(array(ring, numbers)).tolist()
    assert all(-half <= v < half for v in values)
    assert [v % (1 << bits) for v in values] == [n % (1 << bits) for n in numbers]


@pytest.mark.parametrize("bits", [b for b in BITS if b != WIDE])
def test_signed_ends(bits: int) -> None:
    ring, half = Ring(bits), 1 << (bits - 1)
    assert ring.signed(array(ring, [0, 1, half - 1, half, 2 * half - 1])).tolist() == [0, 1, half - 1, -half, -1]


@bits_of
@given(numbers=numbers)
def test_pack_then_unpack_is_the_identity_and_the_wire_has_the_declared_shape(bits: int, numbers: list[int]) -> None:
    ring = Ring(bits)
    elements = array(ring, numbers)
    packed = ring.pack(elements)
    assert (packed.shape, packed.dtype) == (ring.wire(len(numbers))[0], np.dtype(ring.wire(len(numbers))[1]))
    back = ring.unpack(packed, len(numbers))
    assert back.dtype == ring.dtype
    assert back.shape == ring.shape(len(numbers))
    assert integers(ring, back) == [n % (1 << bits) for n in numbers]


@bits_of
@given(numbers=numbers)
def test_packed_bits_are_one_little_endian_integer(bits: int, numbers: list[int]) -> None:
    """Element i stands at bits i * b and up, with zeros after the last: for every ring, packed or not."""
    ring = Ring(bits)
    packed = ring.pack(array(ring, numbers)).tobytes()
    expected = sum((n % (1 << bits)) << (i * bits) for i, n in enumerate(numbers))
    assert int.from_bytes(packed, "little") == expected
    whole = len(numbers) + (len(numbers) % 2 if bits % 8 else 0)  # an odd number of half-bytes takes its elements two by two
    assert len(packed) == whole * bits // 8


@pytest.mark.parametrize(("bits", "size", "nbytes"), [(8, 5, 5), (12, 4, 6), (12, 5, 9), (16, 5, 10), (20, 5, 15), (24, 5, 15), (28, 5, 21), (32, 5, 20)])
def test_bytes_on_the_wire(bits: int, size: int, nbytes: int) -> None:
    ring = Ring(bits)
    assert ring.pack(ring.zeros(size)).nbytes == nbytes


def test_bytes_on_the_wire_of_the_wide_ring() -> None:
    assert Ring(WIDE).pack(Ring(WIDE).zeros(5)).nbytes == 80


@bits_of
def test_zeros_are_of_the_ring_and_reduce_keeps_what_is_reduced(bits: int) -> None:
    ring = Ring(bits)
    zeros = ring.zeros(3)
    assert (zeros.shape, zeros.dtype, zeros.any()) == (ring.shape(3), ring.dtype, False)
    full = array(ring, [-1, -1])
    ring.reduce(full)
    assert integers(ring, full) == [2**bits - 1] * 2


def test_a_carry_runs_through_both_limbs_and_out_at_the_top() -> None:
    ring = Ring(WIDE)
    acc = array(ring, [2**128 - 1, 2**64 - 1, 0])
    ring.add(acc, array(ring, [1, 1, 2**128 - 1]))
    assert integers(ring, acc) == [0, 2**64, 2**128 - 1]
    ring.subtract(acc, array(ring, [1, 1, 2**128 - 1]))
    assert integers(ring, acc) == [2**128 - 1, 2**64 - 1, 0]


@bits_of
def test_read_only_and_strided_operands_are_taken_as_they_come(bits: int) -> None:
    ring = Ring(bits)
    acc = array(ring, [5, 6, 7])
    other = array(ring, [1, 0, 2, 0, 3])[::2]
    other.flags.writeable = False
    ring.add(acc, other)
    assert integers(ring, acc) == [6, 8, 10]
