"""The streamed sum of files is the in-memory sum, to the last bit, whatever the chunk."""

import io
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.errors import TaskError
from locum.federation import summation
from locum.federation.summation import sum_elements, sum_files, sum_masked_files, sum_vectors, trimmed_mean, wire_layout
from locum.secagg.encoding import Encoding
from locum.secagg.masks import Stream
from locum.study import Field, Layout
from locum.study.manifest import Masking, Terms
from locum.study.vector import Total

LAYOUT = wire_layout(Layout((Field("a", (7, 5)), Field("b", (11,), "float32"), Field("c", (), "int64"), Field("d", (0,)))))


def vectors(n: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-12, 12)
    return [
        {f.name: (rng.normal(size=f.shape) * scale).astype(f.dtype) if f.dtype != "int64" else rng.integers(-9, 9, f.shape) for f in LAYOUT.fields}
        for _ in range(n)
    ]


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32), st.integers(1, 40))
def test_files_equal_memory_bit_for_bit(n: int, seed: int, chunk: int) -> None:
    given_vectors = vectors(n, seed)
    before, summation.CHUNK = summation.CHUNK, chunk
    try:
        streamed = sum_files(LAYOUT, [io.BytesIO(LAYOUT.pack(v)) for v in given_vectors])
    finally:
        summation.CHUNK = before
    direct = sum_vectors(LAYOUT, given_vectors)
    assert streamed.weight == direct.weight
    assert streamed.sites == direct.sites == n
    for name in direct.vector:
        assert streamed[name].tobytes() == direct[name].tobytes()
        assert streamed[name].dtype == direct[name].dtype


def test_truncated_and_foreign_files() -> None:
    good = LAYOUT.pack(vectors(1, 0)[0])
    for bad in (good[:-1], b"", b"x" + good[1:]):
        with pytest.raises(TaskError):
            sum_files(LAYOUT, [io.BytesIO(good), io.BytesIO(bad)])


def test_weight_is_reserved() -> None:
    with pytest.raises(TaskError):
        wire_layout(Layout.of(weight=()))


MASKED = Terms(masking=Masking(clip=1.0))


def total(weight: float, x: float, sites: int = 3) -> Total:
    return Total({"x": np.array([x, 1.0]), "n": np.array(2, dtype=np.int64)}, weight, sites)


def test_the_trimmed_mean_leaves_out_the_extreme_buckets_and_sums_integers() -> None:
    made = trimmed_mean([total(3, 3.0), total(3, 6.0), total(3, 9000.0)], 1)
    assert made["x"].tolist() == [18.0, 3.0]
    assert (made["n"], made.weight, made.sites) == (6, 9, 9)
    with pytest.raises(TaskError, match="trimming needs 3"):
        trimmed_mean([total(0, 0.0), total(3, 6.0), total(3, 9.0)], 1)


def encoded(x: float, weight: float = 1.0) -> tuple[Encoding, dict[str, Any]]:
    layout = Layout((Field("x", (4,), "float32"), Field("weight", ())))
    encoding = Encoding(layout, 3, MASKED.masking)
    return encoding, encoding.encode({"x": np.full(4, x, np.float32), "weight": np.asarray(weight)}, weight, bytes(32))


def test_a_sum_above_what_clipped_updates_can_reach_raises_the_alarm() -> None:
    encoding, good = encoded(0.4)
    assert sum_elements(encoding, [good, good])["x"] == pytest.approx(np.full(4, 0.8), abs=1e-6)
    cheat = {**good, "narrow": np.full(4, 2**30, np.uint32)}
    with pytest.raises(TaskError, match="larger than clipped"):
        sum_elements(encoding, [good, cheat])


def test_a_mask_that_was_left_on_raises_the_alarm() -> None:
    encoding, good = encoded(0.1)
    caught = 0
    for seed in range(8):
        with suppress(TaskError):
            sum_elements(encoding, [good, good], streams=[Stream(bytes([seed]) * 32, "self", 1)], transcript=bytes(32))
            continue
        caught += 1
    assert caught == 8


@pytest.mark.parametrize("bits", [32, 20, 16])
def test_masked_files_sum_as_the_vectors_do(tmp_path: Path, bits: int) -> None:
    layout = Layout((Field("x", (300_001,), "float32"), Field("s", (3,)), Field("weight", ())))
    encoding = Encoding(layout, 3, Masking(clip=1.0, bits=bits))  # type: ignore[arg-type]
    rng, elements, paths = np.random.default_rng(0), [], []
    for i in range(3):
        x = rng.normal(size=300_001).astype(np.float32) / 1000
        elements.append(encoding.encode({"x": x, "s": rng.normal(size=3), "weight": np.asarray(1.0)}, 1.0, bytes([i]) * 32))
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(encoding.wire.pack(encoding.pack(elements[-1])))
    expected = sum_elements(encoding, elements)
    with ExitStack() as stack:
        got = sum_masked_files(encoding, [stack.enter_context(p.open("rb")) for p in paths], streams=[], transcript=b"")
    for name, array in expected.vector.items():
        assert np.array_equal(array, got[name])
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with ExitStack() as stack, pytest.raises(TaskError, match="shorter"):
        sum_masked_files(encoding, [stack.enter_context(p.open("rb")) for p in paths], streams=[], transcript=b"")
