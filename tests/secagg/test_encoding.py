"""Numbers to ring elements and the sum back: exactness against fractions, the stated error bounds, and what is refused."""

import hashlib
from fractions import Fraction
from math import inf, nan, nextafter, sqrt, ulp
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from locum.secagg import encoding, rotation
from locum.secagg.encoding import Encoding, norm
from locum.secagg.errors import EncodingError
from locum.secagg.ring import WIDE, Ints
from locum.study.manifest import Masking
from locum.study.vector import Array, Field, Layout

KEY = bytes(32)
BITS = [8, 12, 16, 20, 24, 28, 32]
PLAIN = [b for b in BITS if b > 20]  # no rotation: the error is bounded coordinate by coordinate
bits_of = pytest.mark.parametrize("bits", BITS)


def wide(size: int = 1, n: int = 1, dtype: Any = "float64") -> Encoding:
    return Encoding(Layout((Field("x", (size,), dtype),)), n, Masking())


def narrow(size: int, n: int = 1, bits: int = 32, clip: float = 1.0, max_weight: float = 1.0) -> Encoding:
    return Encoding(Layout((Field("u", (size,), "float32"),)), n, Masking(clip=clip, bits=bits, max_weight=max_weight), b"public")


def summed(e: Encoding, vectors: list[dict[str, Array]], weights: list[float] | None = None) -> dict[str, Array]:
    """Encode each vector under a rounding key of its own, add, take it over the wire, decode."""
    total = e.zeros()
    for i, v in enumerate(vectors):
        elements = e.encode(v, weights[i] if weights else 1.0, i.to_bytes(32, "little"))
        e.add(total, e.unpack(e.pack(elements)))
    return e.decode(total)


def unit(size: int, seed: int = 0, length: float = 1.0) -> Array:
    """A dense float32 vector whose L2 norm is just below `length`."""
    x = np.random.default_rng(seed).normal(size=size)
    return np.asarray(0.999999 * length * x / np.linalg.norm(x), np.float32)


def integers(elements: Ints) -> list[int]:
    raw = elements.tobytes()
    return [int.from_bytes(raw[at : at + 16], "little") for at in range(0, len(raw), 16)]


# --- wide: float64 ------------------------------------------------------------------------------------------------------

LARGE = 2.0**62
tiny = st.sampled_from([-1e-300, 1e-300, -5e-324, 5e-324, -(2.0**-64), -(2.0**-65), 2.0**-64, -(2.0**-54), -(2.0**-53), -0.0, 0.0])
any_float = st.one_of(
    st.floats(-LARGE / 8, LARGE / 8),
    st.floats(-1, 1),
    st.floats(-1e-8, 1e-8),
    tiny,
    st.integers(-(2**40), 2**40).map(float),
    st.sampled_from([1.0, -1.0, 1 - 2.0**-53, -1 + 2.0**-53, nextafter(1, 2), -nextafter(1, 2), LARGE / 8, -LARGE / 8, -0.3, 0.1, -1 / 3]),
)


def close(decoded: float, exact: Fraction, n: int) -> bool:
    """Within the bound of the encoding, n * 2^-64, and what joining two limbs to a float64 may round: two units in the last place."""
    return abs(Fraction(decoded) - exact) <= Fraction(n, 2**64) + 2 * Fraction(ulp(float(exact)))


@given(st.lists(any_float, min_size=1, max_size=8))
def test_the_decoded_sum_is_the_exact_sum_but_for_n_times_2_to_the_minus_64(values: list[float]) -> None:
    e = wide(n=8)
    decoded = float(summed(e, [{"x": np.array([v])} for v in values])["x"][0])
    assert close(decoded, sum(map(Fraction, values), Fraction(0)), len(values))


@given(any_float)
def test_one_value_is_off_by_less_than_2_to_the_minus_64(value: float) -> None:
    encoded = integers(wide(n=8).encode({"x": np.array([value])}, 1.0, KEY)["wide"])[0]
    as_signed = encoded - 2**128 if encoded >= 2**127 else encoded
    assert abs(Fraction(as_signed, 2**64) - Fraction(value)) < Fraction(1, 2**64)


@given(any_float.filter(lambda v: abs(v) >= 2.0**-11))
def test_a_value_with_no_bit_below_2_to_the_minus_64_is_encoded_exactly(value: float) -> None:
    """float64 has 53 bits, so every value from 2^-11 up is one: it comes back bit for bit, and so does its negative."""
    e = wide(n=8)
    for v in (value, -value):
        encoded = e.encode({"x": np.array([v])}, 1.0, KEY)["wide"]
        assert integers(encoded) == [int(Fraction(v) * 2**64) % 2**128]
        assert float(e.decode({"wide": encoded})["x"][0]) == v


@given(st.lists(any_float, min_size=2, max_size=8), st.permutations(range(8)))
def test_the_sum_does_not_depend_on_the_order(values: list[float], order: list[int]) -> None:
    e = wide(n=8)
    vectors = [{"x": np.array([v])} for v in values]
    assert summed(e, vectors)["x"].tobytes() == summed(e, [vectors[i] for i in order if i < len(vectors)])["x"].tobytes()


@given(st.lists(any_float, min_size=1, max_size=4))
def test_values_that_cancel_leave_nothing(values: list[float]) -> None:
    """Below 2^-64 the two encodings of v and -v may differ by one unit; nothing else may be left."""
    e = wide(n=8)
    left = float(summed(e, [{"x": np.array([s * v])} for v in values for s in (1, -1)])["x"][0])
    assert abs(left) <= len(values) * 2.0**-64


@pytest.mark.parametrize("value", [-7.734361275431314e-09, -1e-12, 7.734361275431314e-09])
def test_a_large_cohort_of_small_values_keeps_its_sum(value: float) -> None:
    n = 500
    decoded = float(summed(wide(n=n), [{"x": np.array([value])}] * n)["x"][0])
    assert close(decoded, n * Fraction(value), n)


@pytest.mark.parametrize("n", [1, 3, 7, 500, 2000])
def test_the_largest_value_passes_and_the_next_one_does_not(n: int) -> None:
    e, most = wide(n=n), float(2**62 // n)
    for sign in (1, -1):
        decoded = float(summed(e, [{"x": np.array([sign * most])}] * min(n, 20))["x"][0])
        assert close(decoded, Fraction(sign * most) * min(n, 20), n)
        with pytest.raises(EncodingError, match="2\\^62"):
            e.encode({"x": np.array([sign * nextafter(most, inf)])}, 1.0, KEY)
        with pytest.raises(EncodingError, match="2\\^62"):
            e.encode({"x": np.array([sign * 1e308])}, 1.0, KEY)


def test_n_values_at_the_limit_do_not_wrap_around() -> None:
    n = 2000
    decoded = float(summed(wide(n=n), [{"x": np.array([-float(2**62 // n)])}] * n)["x"][0])
    assert close(decoded, Fraction(-float(2**62 // n)) * n, n)
    assert decoded < 0


@given(st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=5))
def test_float32_without_a_clip_travels_wide_and_is_rounded_once(values: list[float]) -> None:
    e = wide(n=5, dtype="float32")
    decoded = summed(e, [{"x": np.array([v], np.float32)} for v in values])["x"]
    assert decoded.dtype == np.float32
    exact = sum(map(Fraction, values), Fraction(0))
    assert abs(Fraction(float(decoded[0])) - exact) <= Fraction(len(values), 2**64) + Fraction(float(np.spacing(np.float32(abs(float(exact))))))
    assert e.rings["wide"].bits == WIDE
    assert e.wire.nbytes == 16


# --- wide: int64 ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-(2**62 // 8), 2**62 // 8), min_size=1, max_size=8))
def test_integers_are_exact(values: list[int]) -> None:
    decoded = summed(wide(n=8, dtype="int64"), [{"x": np.array([v])} for v in values])["x"]
    assert decoded.dtype == np.int64
    assert decoded.tolist() == [sum(values)]


@pytest.mark.parametrize("n", [1, 3, 2000])
def test_integers_up_to_the_limit_and_no_further(n: int) -> None:
    e, most = wide(n=n, dtype="int64"), 2**62 // n
    assert summed(e, [{"x": np.array([-most])}] * n)["x"].tolist() == [-most * n]
    for bad in (most + 1, -most - 1, 2**63 - 1, -(2**63)):
        with pytest.raises(EncodingError, match="2\\^62"):
            e.encode({"x": np.array([bad])}, 1.0, KEY)


# --- narrow -----------------------------------------------------------------------------------------------------------------


def true_sum(vectors: list[Array], weights: list[float], clip: float) -> Array:
    """In float64: clip each to L2 norm `clip`, weigh, add."""
    out = np.zeros(len(vectors[0]))
    for v, w in zip(vectors, weights, strict=True):
        length = float(np.linalg.norm(v.astype(np.float64)))
        out += w * v.astype(np.float64) * (min(1.0, clip / length) if length else 1.0)
    return out


@pytest.mark.parametrize("bits", PLAIN)
@given(
    n=st.integers(1, 12),
    clip=st.sampled_from([1e-3, 1.0, 50.0]),
    max_weight=st.sampled_from([1.0, 1000.0]),
    size=st.integers(1, 40),
    seed=st.integers(0, 999),
)
@settings(max_examples=30)
def test_each_coordinate_of_a_sum_is_off_by_at_most_n_steps(bits: int, n: int, clip: float, max_weight: float, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    e = narrow(size, n, bits, clip, max_weight)
    vectors = [unit(size, seed + i, clip * rng.choice([0.01, 1.0, 30.0])) for i in range(n)]
    weights = [float(rng.choice([0.0, 0.3, 1.0])) * max_weight for _ in range(n)]
    decoded = summed(e, [{"u": v} for v in vectors], weights)["u"]
    assert decoded.dtype == np.float32
    expected = true_sum(vectors, weights, clip)
    assert (np.abs(decoded - expected) <= n * e.step * (1 + 1e-9) + np.abs(expected) * 2.0**-23).all()


@bits_of
@pytest.mark.parametrize("size", [1, 2, 100, 1000])
def test_the_error_of_a_sum_has_the_stated_standard_deviation(bits: int, size: int) -> None:
    """Norm of the error at most sqrt(n d) / 2 steps, and a tenth for chance; with a rotation also what float32 rounds there."""
    n = 7
    e = narrow(size, n, bits)
    vectors = [unit(size, i, 0.7) for i in range(n)]  # room below the clip, so that no rotated coordinate is cut
    error = summed(e, [{"u": v} for v in vectors])["u"] - true_sum(vectors, [1.0] * n, 1.0)
    d = e.sizes["narrow"]
    most = 1.1 * e.step * sqrt(n * d) / 2 if d >= 100 else e.step * n * sqrt(d)
    assert np.linalg.norm(error) <= most + 1e-5


@bits_of
def test_rounding_is_unbiased(bits: int) -> None:
    """2,000 rounding keys: each coordinate's mean is its true value, within five standard errors of at most half a step each."""
    size, draws = 40, 2000
    e = narrow(size, 5, bits)
    x = unit(size, 3, 0.6)
    exact = (rotation.rotate(x, e.seed) if e.rotated else x).astype(np.float64) / e.step
    ring, total = e.rings["narrow"], np.zeros(e.sizes["narrow"])
    for i in range(draws):
        total += ring.signed(e.encode({"u": x}, 1.0, i.to_bytes(32, "little"))["narrow"]) - np.floor(exact)
    fraction = exact - np.floor(exact)
    # up to 2^-32, the resolution of the rounding's randomness, and of float64 where a coordinate has very many steps
    assert (np.abs(total / draws - fraction) <= 5 * np.sqrt(fraction * (1 - fraction) / draws) + 1e-5).all()


@bits_of
def test_each_element_is_one_of_the_two_integers_beside_the_true_value(bits: int) -> None:
    e, x = narrow(64, 3, bits), unit(64, 2, 0.5)
    exact = (rotation.rotate(x, e.seed) if e.rotated else x).astype(np.float64) / e.step
    q = e.rings["narrow"].signed(e.encode({"u": x}, 1.0, b"k" * 32)["narrow"])
    assert ((q == np.floor(exact + 1e-6)) | (q == np.floor(exact - 1e-6) + 1)).all()


def test_the_rounding_key_alone_decides_the_rounding() -> None:
    e, v = narrow(300, 2, 16), {"u": unit(300)}
    one, again, other = (e.encode(v, 1.0, key)["narrow"] for key in (KEY, KEY, b"k" * 32))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("chunk", [4, 64, 1 << 20])
def test_the_size_of_a_chunk_changes_nothing(bits: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    e, v = narrow(333, 2, bits), {"u": unit(333)}
    expected = e.encode(v, 0.8, KEY)
    total = e.decode(expected)
    monkeypatch.setattr(encoding, "_CHUNK", chunk)
    assert np.array_equal(e.encode(v, 0.8, KEY)["narrow"], expected["narrow"])
    assert np.array_equal(e.decode(expected)["u"], total["u"])


extreme = st.lists(
    st.one_of(st.floats(-10, 10, width=32), st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from([3.4e38, -3.4e38, 1e-45, 0.0])),
    min_size=1,
    max_size=40,
)


@pytest.mark.filterwarnings("error")
@bits_of
@given(values=extreme, n=st.sampled_from([1, 2, 30, 127]), weight=st.sampled_from([0.0, 1e-30, 0.5, 1.0]))
def test_n_times_the_largest_element_never_reaches_half_the_ring(bits: int, values: list[float], n: int, weight: float) -> None:
    e = narrow(len(values), n, bits)
    q = e.rings["narrow"].signed(e.encode({"u": np.array(values, np.float32)}, weight, b"r" * 32)["narrow"])
    assert n * int(np.abs(q).max()) < 2 ** (bits - 1)
    assert int(np.abs(q).max()) <= e.steps


@pytest.mark.filterwarnings("error")
@bits_of
@pytest.mark.parametrize("scale", [1e-30, 1.0, 3.0, 1e10, 1e39])
def test_a_longer_vector_is_clipped_to_its_direction(bits: int, scale: float) -> None:
    """Whatever its length: also where float32 would overflow in the rotation."""
    size = 256
    e, v = narrow(size, 1, bits, clip=0.5), np.asarray(unit(size, 4).astype(np.float64) * scale, np.float32)
    decoded = summed(e, [{"u": v}])["u"].astype(np.float64)
    expected = true_sum([v], [1.0], 0.5)
    assert np.linalg.norm(expected) <= 0.5 + 1e-9
    assert np.linalg.norm(decoded - expected) <= e.step * sqrt(e.sizes["narrow"]) + 1e-6


def test_the_tensors_of_one_site_are_clipped_together() -> None:
    layout = Layout((Field("a", (3,), "float32"), Field("s", (2,)), Field("b", (2, 2), "float32")))
    e = Encoding(layout, 1, Masking(clip=5.0))
    v = {"a": np.array([3, 0, 0], np.float32), "s": np.array([1e6, 1.0]), "b": np.array([[0, 4], [0, 0]], np.float32)}
    kept = e.decode(e.encode(v, 1.0, KEY))
    assert np.allclose(kept["a"], v["a"], atol=1e-6)
    v["a"], v["b"] = 10 * v["a"], 10 * v["b"]
    cut = e.decode(e.encode(v, 1.0, KEY))
    assert np.allclose(cut["a"], [3, 0, 0], atol=1e-6)
    assert np.allclose(cut["b"], [[0, 4], [0, 0]], atol=1e-6)
    assert cut["s"].tolist() == [1e6, 1.0]


@bits_of
def test_weight_0_adds_nothing_and_the_largest_weight_adds_all(bits: int) -> None:
    e = narrow(50, 1, bits, max_weight=200.0)
    v = {"u": unit(50, 1, 0.5)}
    assert not e.encode(v, 0.0, KEY)["narrow"].any()
    most = e.decode(e.encode(v, 200.0, KEY))["u"]
    assert np.linalg.norm(most - 200.0 * v["u"]) <= e.step * sqrt(e.sizes["narrow"]) + 1e-3
    with pytest.raises(EncodingError, match="max_weight = 200"):
        e.encode(v, nextafter(200.0, inf), KEY)


def test_weights_scale_the_narrow_tensors_and_leave_the_wide_ones() -> None:
    e = Encoding(Layout((Field("u", (4,), "float32"), Field("x", (2,)))), 1, Masking(clip=1.0, max_weight=10.0))
    v = {"u": np.array([0.5, -0.5, 0.25, 0], np.float32), "x": np.array([7.0, -8.0])}
    decoded = e.decode(e.encode(v, 4.0, KEY))
    assert np.allclose(decoded["u"], [2, -2, 1, 0], atol=1e-6)
    assert decoded["x"].tolist() == [7.0, -8.0]


@given(st.integers(-300, 300))
def test_only_narrow_tensors_ask_for_a_weight_below_the_largest(exponent: int) -> None:
    weight = 2.0**exponent
    assert integers(wide().encode({"x": np.array([0.5])}, weight, KEY)["wide"]) == [2**63]
    assume(weight > 1.0)
    with pytest.raises(EncodingError):
        narrow(1).encode({"u": np.zeros(1, np.float32)}, weight, KEY)


@bits_of
def test_a_ring_that_is_too_small_for_the_cohort_is_refused(bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    assert narrow(3, most, bits).steps == 1
    with pytest.raises(EncodingError, match="too small") as caught:
        narrow(3, most + 1, bits)
    assert "bits" in str(caught.value)
    assert Encoding(Layout.of(x=(3,)), most + 1, Masking(bits=bits)).sizes == {"wide": 3}


def test_a_sum_over_nobody_is_refused() -> None:
    with pytest.raises(EncodingError):
        wide(n=0)


# --- the aggregate-norm alarm -----------------------------------------------------------------------------------------------


@bits_of
def test_the_alarm_is_silent_for_clipped_updates_and_rings_for_one_that_is_not(bits: int) -> None:
    n, size = 5, 200
    e = narrow(size, n, bits)
    same = unit(size, 1)  # the worst case: all point the same way, at full length
    honest = summed(e, [{"u": same}] * n)
    assert 0 < e.excess(honest, float(n)) <= 1.0
    loud = {"u": honest["u"] + np.float32(9) * e.terms.clip * n * same}
    assert e.excess(loud, float(n)) > 1.0


def test_the_alarm_has_nothing_to_compare_without_a_clip_or_without_narrow_tensors() -> None:
    e = wide(3, dtype="float32")
    assert e.excess({"x": np.full(3, 1e30, np.float32)}, 1.0) == 0.0
    e = Encoding(Layout.of(x=(3,)), 2, Masking(clip=1.0))
    assert e.excess({"x": np.full(3, 1e30)}, 1.0) == 0.0


def test_the_alarm_counts_all_narrow_tensors_together() -> None:
    e = Encoding(Layout((Field("a", (2,), "float32"), Field("b", (2,), "float32"))), 1, Masking(clip=1.0))
    v = {"a": np.array([0.9, 0], np.float32), "b": np.array([0, 0.9], np.float32)}
    assert e.excess(v, 1.0) == pytest.approx(0.9 * sqrt(2), rel=1e-3)


# --- shapes -------------------------------------------------------------------------------------------------------------------


@bits_of
@pytest.mark.parametrize("shape", [(0,), (), (1,), (2, 0, 3), (1, 1)])
def test_no_number_and_one_number_in_every_group(bits: int, shape: tuple[int, ...]) -> None:
    layout = Layout((Field("u", shape, "float32"), Field("x", shape), Field("k", shape, "int64")))
    e = Encoding(layout, 3, Masking(clip=1.0, bits=bits), b"public")
    v = {"u": np.full(shape, 0.25, np.float32), "x": np.full(shape, -1.5), "k": np.full(shape, 9)}
    decoded = summed(e, [v] * 3)
    assert {name: (a.shape, a.dtype) for name, a in decoded.items()} == {name: (a.shape, a.dtype) for name, a in v.items()}
    assert (decoded["x"] == -4.5).all()
    assert (decoded["k"] == 27).all()
    assert (np.abs(decoded["u"] - 0.75) <= 3 * e.step).all()


@bits_of
def test_tensors_come_back_under_their_names_in_the_layouts_order(bits: int) -> None:
    layout = Layout((Field("b", (2, 3), "float32"), Field("k", (2,), "int64"), Field("a", (5,), "float32"), Field("x", (2, 2))))
    e = Encoding(layout, 1, Masking(clip=10.0, bits=bits), b"public")
    rng = np.random.default_rng(0)
    v = {"x": rng.normal(size=(2, 2)), "a": unit(5, 1), "k": np.array([-3, 4]), "b": unit(6, 2).reshape(2, 3)}
    decoded = e.decode(e.encode(v, 1.0, KEY))
    assert list(decoded) == ["b", "k", "a", "x"]
    assert decoded["k"].tolist() == [-3, 4]
    assert np.allclose(decoded["x"], v["x"], rtol=1e-15)
    for name in "ab":
        assert np.linalg.norm(decoded[name] - v[name]) <= e.step * sqrt(e.sizes["narrow"]) + 1e-5


@bits_of
def test_the_wire_has_one_tensor_for_each_group_of_the_declared_layout(bits: int) -> None:
    e = Encoding(Layout((Field("u", (1000,), "float32"), Field("x", (2,)))), 2, Masking(clip=1.0, bits=bits))
    elements = e.encode({"u": unit(1000), "x": np.array([1.0, -2.0])}, 1.0, KEY)
    tensors = e.pack(elements)
    assert {f.name: (f.shape, f.dtype) for f in e.wire.fields} == {g: (a.shape, a.dtype.name) for g, a in tensors.items()}
    size = 1024 if e.rotated else 1000
    assert e.wire.nbytes == size * bits // 8 + 2 * 16
    assert e.bytes_per_parameter == pytest.approx(e.wire.nbytes / 1002)
    back = e.unpack(e.wire.unpack(e.wire.pack(tensors)))
    assert all(np.array_equal(back[g], elements[g]) for g in ("wide", "narrow"))


def test_a_tensor_that_is_not_contiguous_is_read_in_its_order() -> None:
    e = Encoding(Layout.of(x=(2, 3)), 1, Masking())
    x = np.arange(6.0).reshape(3, 2).T
    assert e.decode(e.encode({"x": x}, 1.0, KEY))["x"].tolist() == x.tolist()


def test_encoding_leaves_the_vector_as_it_was() -> None:
    for e in (narrow(50, 1, 16), narrow(50, 1, 32)):
        v = {"u": unit(50, 1, 9.0)}
        before = hashlib.sha256(v["u"]).digest()
        v["u"].flags.writeable = False
        e.encode(v, 0.5, KEY)
        assert hashlib.sha256(v["u"]).digest() == before


@given(st.integers(0, 200))
def test_the_norm_is_that_of_numpy_in_float64(size: int) -> None:
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    assert norm(x) == pytest.approx(float(np.linalg.norm(x.astype(np.float64))), rel=1e-12)
    assert norm(np.full(4, 3e38, np.float32)) == pytest.approx(6e38)


# --- refusals -----------------------------------------------------------------------------------------------------------------

MIXED = Encoding(Layout((Field("u", (2,), "float32"), Field("x", (2,)), Field("k", (2,), "int64"))), 2, Masking(clip=1.0))
GOOD: dict[str, Any] = {"u": np.zeros(2, np.float32), "x": np.zeros(2), "k": np.zeros(2, np.int64)}


@pytest.mark.parametrize(
    "change",
    [
        {"u": np.array([0, nan], np.float32)},
        {"u": np.array([inf, 0], np.float32)},
        {"x": np.array([nan, 0])},
        {"x": np.array([0, -inf])},
        {"u": np.zeros(2)},
        {"x": np.zeros(2, np.float32)},
        {"x": np.zeros(2, np.int64)},
        {"x": np.zeros(2, complex)},
        {"x": np.zeros(2, object)},
        {"x": np.zeros(2, ">f8")},
        {"k": np.zeros(2)},
        {"k": np.zeros(2, np.uint64)},
        {"k": np.zeros(2, bool)},
        {"x": np.zeros(3)},
        {"x": np.zeros((1, 2))},
        {"x": np.float64(0)},
        {"x": [0.0, 0.0]},
        {"x": None},
        {"extra": np.zeros(1)},
    ],
)
def test_a_tensor_that_the_layout_does_not_declare_is_refused(change: dict[str, Any]) -> None:
    MIXED.encode(GOOD, 1.0, KEY)
    with pytest.raises(EncodingError):
        MIXED.encode(GOOD | change, 1.0, KEY)


@pytest.mark.parametrize("missing", list(GOOD))
def test_a_missing_tensor_is_refused(missing: str) -> None:
    with pytest.raises(EncodingError, match="not those of its layout"):
        MIXED.encode({k: v for k, v in GOOD.items() if k != missing}, 1.0, KEY)


@pytest.mark.parametrize("weight", [nan, inf, -inf, -1.0, -1e-300])
def test_a_weight_that_is_negative_or_not_finite_is_refused(weight: float) -> None:
    for e, v in ((MIXED, GOOD), (wide(), {"x": np.zeros(1)})):
        with pytest.raises(EncodingError, match="weight"):
            e.encode(v, weight, KEY)


def test_the_error_names_the_tensor_and_holds_no_value_of_it() -> None:
    with pytest.raises(EncodingError) as caught:
        wide().encode({"x": np.array([123456789e15])}, 1.0, KEY)
    assert "'x'" in str(caught.value)
    assert "1234" not in str(caught.value)


@given(values=st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=5, max_size=5), min_size=1, max_size=6))
def test_noisy_integers_are_summed_modulo_2_to_the_32(values: list[list[int]]) -> None:
    layout = Layout((Field("noisy.8", (5,), "int32"), Field("w", ())))
    encoding = Encoding(layout, len(values), Masking())
    acc = encoding.zeros()
    for v in values:
        encoding.add(acc, encoding.encode({"noisy.8": np.array(v, np.int32), "w": np.array(1.0)}, 1.0, bytes(32)))
    assert encoding.wire.fields[1].dtype == "uint32"
    expected = (np.array(values, np.int64).sum(axis=0) + 2**31) % 2**32 - 2**31
    assert (encoding.decode(acc)["noisy.8"] == expected).all()
    assert encoding.decode(acc)["w"] == len(values)
