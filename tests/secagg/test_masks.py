"""The mask core against a naive one: Python integers, and each keystream made in one piece."""

import itertools
import random

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.secagg import masks
from locum.secagg.kdf import hkdf
from locum.secagg.masks import Stream, add_keystreams, apply, keystream, keystream_key
from locum.secagg.ring import WIDE, Ints, Ring

BITS = [8, 12, 16, 20, 24, 28, 32, WIDE]
bits_of = pytest.mark.parametrize("bits", BITS)
J = bytes(range(32))


def elements(ring: Ring, size: int, seed: int = 0) -> Ints:
    raw = random.Random(seed).randbytes(size * ring.itemsize)
    out = np.frombuffer(raw, ring.dtype).reshape(ring.shape(size)).copy()
    ring.reduce(out)
    return out


def integers(ring: Ring, values: Ints | bytes) -> list[int]:
    raw = values if isinstance(values, bytes) else values.tobytes()
    return [int.from_bytes(raw[at : at + ring.itemsize], "little") for at in range(0, len(raw), ring.itemsize)]


def keys(count: int, seed: int = 0) -> list[tuple[bytes, int]]:
    draw = random.Random(seed)
    return [(draw.randbytes(32), draw.choice((1, -1))) for _ in range(count)]


def naive(ring: Ring, x: Ints, keyed: list[tuple[bytes, int]]) -> list[int]:
    total = integers(ring, x)
    for key, sign in keyed:
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(len(total) * ring.itemsize))
        total = [t + sign * word for t, word in zip(total, integers(ring, stream), strict=True)]
    return [t % (1 << ring.bits) for t in total]


@bits_of
@given(size=st.one_of(st.integers(0, 40), st.sampled_from([4095, 4096, 4097, 16385, 33_001])), count=st.integers(0, 4), seed=st.integers(0, 999))
@settings(max_examples=25)
def test_equal_to_the_naive_one_for_every_length(bits: int, size: int, count: int, seed: int) -> None:
    ring = Ring(bits)
    x, keyed = elements(ring, min(size, 5000 if bits == WIDE else size), seed), keys(count, seed)
    y = x.copy()
    add_keystreams(y, ring, keyed)
    assert integers(ring, y) == naive(ring, x, keyed)


@bits_of
@pytest.mark.parametrize("size", [0, 1])
def test_no_element_and_one_element(bits: int, size: int) -> None:
    ring = Ring(bits)
    x, keyed = elements(ring, size), keys(3)
    y = x.copy()
    add_keystreams(y, ring, keyed, threads=2)
    assert integers(ring, y) == naive(ring, x, keyed)
    assert y.shape == ring.shape(size)


@bits_of
def test_no_stream_changes_nothing(bits: int) -> None:
    ring = Ring(bits)
    x = elements(ring, 33)
    y = x.copy()
    add_keystreams(y, ring, [])
    assert np.array_equal(x, y)


@bits_of
@given(size=st.integers(0, 300), count=st.integers(1, 6), seed=st.integers(0, 999))
def test_adding_and_then_subtracting_is_the_identity(bits: int, size: int, count: int, seed: int) -> None:
    ring = Ring(bits)
    x, keyed = elements(ring, size, seed), keys(count, seed)
    y = x.copy()
    add_keystreams(y, ring, keyed)
    assert size < 20 or not np.array_equal(x, y)
    add_keystreams(y, ring, [(key, -sign) for key, sign in reversed(keyed)])
    assert np.array_equal(x, y)


@bits_of
@pytest.mark.parametrize("chunk", [16, 48, 1024, 4096, 1 << 17])
def test_the_size_of_a_chunk_changes_nothing(bits: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(bits)
    x, keyed = elements(ring, 1111), keys(3)
    expected = naive(ring, x, keyed)
    monkeypatch.setattr(masks, "CHUNK", chunk)
    monkeypatch.setattr(masks, "_ZEROS", bytes(chunk))
    y = x.copy()
    add_keystreams(y, ring, keyed)
    assert integers(ring, y) == expected


@bits_of
@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("size", [1, 64, 65, 1111])
def test_the_number_of_threads_changes_nothing(bits: int, threads: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "CHUNK", 64)
    monkeypatch.setattr(masks, "_ZEROS", bytes(64))
    monkeypatch.setattr(masks, "_SMALL", 0)
    ring = Ring(bits)
    x, keyed = elements(ring, size), keys(3)
    y = x.copy()
    add_keystreams(y, ring, keyed, threads=threads)
    assert integers(ring, y) == naive(ring, x, keyed)


@pytest.mark.parametrize("bits", [20, 32, WIDE])
def test_threads_on_a_vector_that_is_large_enough_for_them(bits: int) -> None:
    ring = Ring(bits)
    x, keyed = elements(ring, (masks._SMALL + masks.CHUNK) // ring.itemsize + 77), keys(2)
    one, two = x.copy(), x.copy()
    add_keystreams(one, ring, keyed)
    add_keystreams(two, ring, keyed, threads=2)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, x)


@given(st.integers(0, 40), st.integers(0, 200))
def test_a_keystream_can_start_at_any_block(block: int, nbytes: int) -> None:
    key = bytes(range(32))
    assert keystream(key, nbytes, 16 * block) == keystream(key, 16 * block + nbytes)[16 * block :]


def test_keys_are_derived_as_documented_and_differ_in_every_part() -> None:
    assert keystream_key(b"s" * 32, "self", J, "wide") == hkdf(b"s" * 32, J, "mask", "self", "wide")
    seeds, purposes, transcripts, groups = (b"s" * 32, b"t" * 32), ("self", "pair"), (J, bytes(32)), ("wide", "narrow")
    made = {keystream_key(*parts) for parts in itertools.product(seeds, purposes, transcripts, groups)}
    assert len(made) == 16


def test_apply_masks_each_group_with_a_key_of_its_own() -> None:
    rings = {"wide": Ring(WIDE), "narrow": Ring(20)}
    streams = [Stream(b"b" * 32, "self", 1), Stream(b"p" * 32, "pair", -1), Stream(b"q" * 32, "pair", 1)]
    x = {g: elements(ring, 50) for g, ring in rings.items()}
    y = {g: a.copy() for g, a in x.items()}
    apply(y, rings, streams, J)
    for g, ring in rings.items():
        assert integers(ring, y[g]) == naive(ring, x[g], [(keystream_key(s.seed, s.purpose, J, g), s.sign) for s in streams])


def test_masks_of_two_sites_cancel_only_under_one_transcript() -> None:
    """Mh and J are in every key: two sites that were shown different rosters leave noise in the sum."""
    rings = {"narrow": Ring(32)}

    def summed(j: bytes) -> Ints:
        total = rings["narrow"].zeros(64)
        for sign, transcript in ((1, J), (-1, j)):
            y = {"narrow": rings["narrow"].zeros(64)}
            apply(y, rings, [Stream(b"p" * 32, "pair", sign)], transcript)
            total += y["narrow"]
        return total

    assert not summed(J).any()
    assert np.count_nonzero(summed(bytes(32))) > 60


def test_a_seed_is_not_printed() -> None:
    assert "seed" not in repr(Stream(b"s" * 32, "self", 1))
