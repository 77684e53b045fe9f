"""The rotation is orthogonal, is the one of the formula, and spreads a vector evenly."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from locum.secagg import rotation
from locum.secagg.rotation import block, largest, padded, rotate, unrotate

SEED = b"a public seed"
sizes = st.one_of(st.integers(0, 70), st.sampled_from([255, 256, 257, 1000, 4096, 5000]))


def gaussian(size: int, seed: int = 0) -> rotation.Floats:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@given(sizes, st.binary(max_size=32), st.integers(0, 99))
def test_unrotating_gives_the_vector_back_and_the_norm_is_kept(size: int, seed: bytes, draw: int) -> None:
    x = gaussian(size, draw)
    before = x.copy()
    y = rotate(x, seed)
    assert y.shape == (padded(size),)
    assert y.dtype == np.float32
    assert np.array_equal(x, before)
    back = unrotate(y, seed, size)
    assert back.shape == (size,)
    assert np.allclose(back, x, atol=1e-5)
    assert np.isclose(np.linalg.norm(y), np.linalg.norm(x), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 16, 17, 30, 32, 64, 100, 128, 256, 512, 1024])
def test_it_is_h_d_x_over_the_root_of_b(size: int) -> None:
    x, b = gaussian(size), block(size)
    d = np.where(np.unpackbits(np.frombuffer(hashlib.shake_128(b"locum/fsa-1/signs\0" + SEED).digest(-(-b // 8)), np.uint8))[:b], -1.0, 1.0)
    expected = hadamard(b) @ (d * np.pad(x.astype(float), (0, b - size))) / np.sqrt(b)
    assert np.allclose(rotate(x, SEED), expected, atol=1e-5)


def test_a_longer_vector_goes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "LARGEST_BLOCK", 16)
    x = gaussian(40)
    y = rotate(x, SEED)
    assert y.shape == (48,)
    signed = np.pad(x, (0, 8)) * rotation._signs(SEED, 48)
    for at in (0, 16, 32):
        assert np.allclose(y[at : at + 16], hadamard(16) @ signed[at : at + 16] / 4, atol=1e-5)
    assert np.allclose(unrotate(y, SEED, 40), x, atol=1e-5)


@given(st.integers(1, 1 << 20))
def test_a_block_is_a_power_of_two_that_holds_the_vector_or_the_largest(size: int) -> None:
    b = block(size)
    assert b & (b - 1) == 0
    assert size <= b < 2 * size or b == rotation.LARGEST_BLOCK
    assert padded(size) % b == 0
    assert size <= padded(size) < size + b


def test_the_rotation_of_a_sum_is_the_sum_of_the_rotations() -> None:
    x, y = gaussian(300, 1), gaussian(300, 2)
    assert np.allclose(rotate(x + y, SEED), rotate(x, SEED) + rotate(y, SEED), atol=1e-5)


def test_another_seed_gives_another_rotation() -> None:
    x = gaussian(256)
    assert not np.allclose(rotate(x, SEED), rotate(x, SEED + b"!"), atol=0.1)
    assert not np.allclose(unrotate(rotate(x, SEED), SEED + b"!", 256), x, atol=0.1)


def test_the_signs_are_balanced() -> None:
    signs = rotation._signs(SEED, 10_000)
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.sum()) < 500  # five standard deviations


@given(st.integers(1, 300), st.floats(0.1, 10))
@settings(max_examples=40)
def test_no_coordinate_ever_exceeds_the_norm(size: int, norm: float) -> None:
    x = gaussian(size, size)
    x *= np.float32(norm / np.linalg.norm(x))
    assert np.abs(rotate(x, SEED)).max() <= norm * (1 + 1e-5)
    assert largest(norm, size) <= norm


@pytest.mark.parametrize("kind", ["dense", "one coordinate", "half of them"])
@pytest.mark.parametrize("size", [256, 4096])
def test_coordinates_are_bounded_over_200_seeds(kind: str, size: int) -> None:
    """By `largest`, which one seed in a million may exceed, and which is not idle."""
    x = np.zeros(size, np.float32)
    x[: {"dense": size, "one coordinate": 1, "half of them": size // 2}[kind]] = 1.0
    x *= np.float32(1 / np.linalg.norm(x))
    most = [float(np.abs(rotate(x, b"%d" % seed)).max()) / largest(1.0, size) for seed in range(200)]
    assert 0.1 < max(most) <= 1
    # and it is worth the work: a vector of one large coordinate needs 1 / largest times fewer steps
    assert largest(1.0, size) < 8 / np.sqrt(size)
