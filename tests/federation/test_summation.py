"""The streamed sum of files is the in-memory sum, to the last bit, whatever the chunk."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.errors import TaskError
from locum.federation import summation
from locum.federation.summation import sum_files, sum_vectors, wire_layout
from locum.study import Field, Layout

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
