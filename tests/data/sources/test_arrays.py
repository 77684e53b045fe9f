"""Arrays in .npy, .npz and .safetensors: columns, windows, real data sets, and files that lie."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from locum.data.sources.arrays import Spec, open_source
from locum.data.sources.base import Source, read
from locum.errors import DataError, LocumError, ManifestError

BAD = Path(__file__).parents[2] / "bad_inputs" / "imaging"


def opened(path: Path, **options: Any) -> Source:
    return open_source(Spec(type="arrays", **options), path)


def everything(path: Path, size: int = 1000, **options: Any) -> pl.DataFrame:
    source = opened(path, **options)
    frame = read(source, source.columns(), size)
    assert source.tally.balanced
    assert source.tally.used == len(frame)
    return frame


TABLE = {
    "wave": np.arange(60, dtype=np.int8).reshape(10, 6),
    "image": np.random.default_rng(0).random((10, 3, 4, 5)),
    "age": np.arange(10, dtype=np.int16),
    "weight": np.linspace(0, 1, 10, dtype=np.float16),
    "ill": np.arange(10) % 2 == 0,
    "ward": np.asarray([f"ward {i}" for i in range(10)]),
    "code": np.asarray([f"c{i}" for i in range(10)]).astype("S"),
    "day": np.arange(10).astype("datetime64[D]"),
    "big": np.arange(10, dtype=">i4"),
}


@pytest.mark.parametrize("size", [3, 1000])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_a_table(tmp_path: Path, save: Any, size: int) -> None:
    save(tmp_path / "t.npz", **TABLE)
    frame = everything(tmp_path / "t.npz", size)
    assert frame.columns == [*TABLE, *(f"wave[{i}]" for i in range(6))]
    assert frame["wave"].dtype == pl.Array(pl.Float32, (6,))
    assert frame["image"].dtype == pl.Array(pl.Float32, (3, 4, 5))
    assert (frame["image"].to_numpy() == TABLE["image"].astype(np.float32)).all()
    assert (frame["wave[4]"].to_numpy() == TABLE["wave"][:, 4]).all()
    assert frame["age"].dtype == pl.Int16
    assert frame["ill"].dtype == pl.Boolean
    assert frame["code"].to_list() == [f"c{i}" for i in range(10)]
    assert frame["ward"].to_list() == TABLE["ward"].tolist()
    assert frame["big"].to_list() == list(range(10))
    assert np.allclose(frame["weight"].to_numpy(), TABLE["weight"])
    assert frame["day"].dt.date().to_list()[9].isoformat() == "1970-01-10"


def test_npy_and_safetensors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(TABLE["image"]))
    assert (everything(tmp_path / "x.npy", 4)["array"].to_numpy() == TABLE["image"].astype(np.float32)).all()
    assert opened(tmp_path / "x.npy", arrays={"ct": "array"}).columns() == ["ct"]
    save_file({"wave": TABLE["wave"], "age": TABLE["age"]}, tmp_path / "x.safetensors")
    frame = everything(tmp_path / "x.safetensors", 4)
    assert (frame["wave"].to_numpy() == TABLE["wave"]).all()
    assert frame["age"].to_list() == list(range(10))


FLOATS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-9, 9, width=32))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(array=FLOATS, fortran=st.booleans(), size=st.integers(1, 9))
def test_what_is_saved_is_read(tmp_path: Path, array: np.ndarray, fortran: bool, size: int) -> None:
    array = np.asfortranarray(array) if fortran else array
    np.savez_compressed(tmp_path / "t.npz", x=array)
    np.save(tmp_path / "t.npy", array)
    assert (everything(tmp_path / "t.npz", size)["x"].to_numpy() == array).all()
    assert (everything(tmp_path / "t.npy", size)["array"].to_numpy() == array).all()


def test_zero_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.empty((0, 3)), y=np.empty(0))
    frame = everything(tmp_path / "t.npz")
    assert frame.shape == (0, 5)
    assert frame["x"].dtype == pl.Array(pl.Float32, (3,))


def test_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.arange(4), y=np.arange(4), z=np.arange(3), o=np.asarray([None], dtype=object), s=np.float64(3))
    source = opened(tmp_path / "t.npz", arrays={"age": "x"})
    assert source.columns() == ["age", "y"]
    for name, why in (("z", "3 rows"), ("o", "unpickled"), ("s", "one value"), ("nothing", "no column")):
        with pytest.raises(DataError, match=why):
            read(source, [name])
    with pytest.raises(ManifestError, match="'w'"):
        opened(tmp_path / "t.npz", arrays={"age": "w"})
    with pytest.raises(ManifestError, match="same column"):
        opened(tmp_path / "t.npz", arrays={"y": "x"})


def test_memory_is_that_of_a_chunk(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "t.npz", x=np.zeros((40_000, 500), np.float32))  # 80 MB
    source = opened(tmp_path / "t.npz")
    tracemalloc.start()
    total = sum(len(part) for part in source.chunks(["x"], 1000))
    assert total == 40_000
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    window=st.integers(1, 12),
    step=st.integers(1, 15),
    size=st.integers(1, 20),
    fortran=st.booleans(),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_of_ragged_series(tmp_path: Path, lengths: list[int], window: int, step: int, size: int, fortran: bool) -> None:
    x = np.random.default_rng(1).random((sum(lengths), 2), dtype=np.float32)
    np.savez(tmp_path / "r.npz", x=np.asfortranarray(x) if fortran else x, length=np.asarray(lengths), label=np.arange(len(lengths)))
    source = opened(tmp_path / "r.npz", ragged={"key": "x", "lengths": "length", "window": window, "step": step})
    frame = read(source, source.columns(), size)
    starts = np.cumsum([0, *lengths])
    expected = [(i, s) for i, n in enumerate(lengths) for s in range(0, n - window + 1, step)]
    assert frame.select("series", "start").rows() == expected
    assert frame["label"].to_list() == [i for i, _ in expected]
    assert frame["x"].to_numpy().shape == (len(expected), window, 2)
    assert all((frame["x"].to_numpy()[k] == x[starts[i] + s : starts[i] + s + window]).all() for k, (i, s) in enumerate(expected))
    assert source.tally.balanced
    assert source.tally.left_out.total() == sum(n < window for n in lengths)


def test_lengths_that_do_not_add_up(tmp_path: Path) -> None:
    ragged = {"key": "x", "lengths": "length", "window": 2}
    for lengths in ([3, 4], [-1, 11], [1.5, 8.5], [[5, 5]], [2**62, 2**62]):
        np.savez(tmp_path / "r.npz", x=np.arange(10), length=np.asarray(lengths))
        with pytest.raises(DataError):
            opened(tmp_path / "r.npz", ragged=ragged)
    with pytest.raises(ManifestError, match="no array"):
        opened(tmp_path / "r.npz", ragged={**ragged, "lengths": "n"})


@pytest.mark.parametrize("name", sorted(p.name for p in [*BAD.glob("*.np[yz]"), *BAD.glob("*.safetensors")]))
def test_bad_inputs_are_refused(name: str) -> None:
    with pytest.raises(LocumError) as error:
        everything(BAD / name)
    assert "Traceback" not in str(error.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), kind=st.sampled_from(["npy", "npz", "safetensors"]))
def test_flipped_bytes_give_a_table_or_an_error(tmp_path: Path, flips: list[tuple[int, int]], kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, TABLE["wave"])
    elif kind == "npz":
        np.savez_compressed(path, a=TABLE["age"], b=TABLE["wave"])
    else:
        save_file({"a": TABLE["age"]}, path)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(LocumError):
        everything(path)


DATA = Path(os.environ.get("LOCUM_DATA_DIR", "nowhere"))


def test_mitbih_beats() -> None:
    path = DATA / "mitbih_beats" / "mitbih_beats_120hz.npz"
    if not path.is_file():
        pytest.skip("the data set mitbih_beats is not in LOCUM_DATA_DIR")
    frame = read(opened(path, arrays={"beat": "wave"}), ["beat", "label", "record", "rr[1]"])
    assert frame["beat"].to_numpy().shape == (109_398, 72)
    assert frame["label"].value_counts().sort("label")["count"].to_list() == [90_548, 2_779, 7_234, 802, 8_035]
    assert frame["record"].n_unique() == 48


def test_watch_exercises() -> None:
    path = DATA / "watch_exercises" / "watch.npz"
    if not path.is_file():
        pytest.skip("the data set watch_exercises is not in LOCUM_DATA_DIR")
    source = opened(path, ragged={"key": "x", "lengths": "length", "window": 100, "step": 50})
    frame = read(source, source.columns())
    assert frame["x"].to_numpy().shape == (4_677, 100, 6)
    assert frame["series"].n_unique() == 140
    assert frame["subject"].n_unique() == 10
    assert frame["y"].n_unique() == 7
