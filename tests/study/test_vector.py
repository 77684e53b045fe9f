"""The wire form: exactly the layout's bytes, readable by safetensors, and nothing else is accepted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from locum.errors import TaskError
from locum.study import Field, Layout

layouts = st.lists(
    st.tuples(st.text("abcz.", min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["float64", "float32", "int64"])),
    max_size=5,
    unique_by=lambda t: t[0],
).map(lambda fs: Layout(tuple(Field(n, tuple(s), d) for n, s, d in fs)))


@given(layouts, st.integers(0, 2**32))
def test_round_trip_and_safetensors_reads_it(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vector = {f.name: rng.integers(-9, 9, f.shape).astype(f.dtype) for f in layout.fields}
    raw = layout.pack(vector)
    assert len(raw) == layout.file_bytes
    ours, theirs = layout.unpack(raw), load(raw)
    for name, array in vector.items():
        assert np.array_equal(ours[name], array)
        assert np.array_equal(theirs[name], array)
        assert ours[name].dtype == array.dtype


@given(st.binary(max_size=300))
def test_strangers_bytes_are_refused(raw: bytes) -> None:
    layout = Layout.of(n=(), mean=(3,))
    with pytest.raises(TaskError):
        layout.unpack(raw)


def test_header_of_another_layout_is_refused() -> None:
    ours, theirs = Layout.of(a=(2,)), Layout.of(b=(2,))
    with pytest.raises(TaskError):
        ours.unpack(theirs.pack({"b": np.zeros(2)}))


@pytest.mark.parametrize(
    "vector",
    [
        {"n": np.float64(1).reshape(())},
        {"n": np.zeros(()), "mean": np.zeros(4)},
        {"n": np.zeros(()), "mean": np.zeros(3, np.float32)},
        {"n": np.zeros(()), "mean": np.array([0, np.nan, 0])},
        {"n": np.zeros(()), "mean": np.array([0, np.inf, 0])},
        {"n": np.zeros(()), "mean": np.zeros(3), "extra": np.zeros(1)},
    ],
)
def test_check_refuses(vector: dict) -> None:
    with pytest.raises(TaskError):
        Layout.of(n=(), mean=(3,)).check(vector)
