"""One pass over a table: the same answer whatever the size of its chunks, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data import profile as module
from locum.data.profile import FORMATS, LEAST, MAX_DISTINCT, SAMPLE, bounds, profile
from locum.data.sources.base import FrameSource


class Small(FrameSource):
    """The same table in chunks of 7 rows."""

    def chunks(self, names: Sequence[str], size: int = 7) -> Iterator[pl.DataFrame]:
        return super().chunks(names, 7)


CELLS = st.one_of(
    st.none(), st.sampled_from(["1", "2.0", "x", "", "NA", "1e400", "nan", "2020-02-30", "2020-02-28", "31.12.1999"]), st.integers(-3, 999).map(str)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, st.sampled_from(["p", "q", "r", None])), min_size=1, max_size=60))
def test_chunks_change_nothing_and_every_row_is_counted(rows: list[tuple[str | None, str | None]]) -> None:
    table = pl.DataFrame({"x": [a for a, _ in rows], "who": [b for _, b in rows]}, schema={"x": pl.String, "who": pl.String})
    whole, parts = (profile(kind(table), patient="who")["x"] for kind in (FrameSource, Small))
    for one in (whole, parts):
        assert one.rows == len(rows)
        assert one.missing + sum((one.counts or {}).values()) == one.rows
        assert len(one.values) >= one.numbers or one.date_format is not None
    assert (whole.missing, whole.numbers, whole.whole, whole.counts, whole.longest) == (parts.missing, parts.numbers, parts.whole, parts.counts, parts.longest)
    assert {v: len(w) for v, w in whole.patients.items()} == {v: len(w) for v, w in parts.patients.items()}


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["2020-01-31"] * 20, "%Y-%m-%d"), (["31.01.2020"] * 20, "%d.%m.%Y"), (["31/01/2020"] * 20, "%d/%m/%Y"), (["01/31/2020"] * 20, "%m/%d/%Y"),
        (["20200131"] * 20, "%Y%m%d"), (["2020-01-31 10:30:00"] * 20, "%Y-%m-%d %H:%M:%S"), (["2020-01-31T10:30:00Z"] * 20, "%Y-%m-%dT%H:%M:%S"),
        (["31-Jan-2020"] * 20, "%d-%b-%Y"), (["120"] * 20, None), (["x"] * 20, None), (["2020-01-31"] * 9 + ["x"] * 11, None), (["9999-12-31"] * 20, None),
    ],
)  # fmt: skip
def test_how_dates_are_written(cells: list[str], form: str | None) -> None:
    assert profile(FrameSource(pl.DataFrame({"x": cells})))["x"].date_format == form
    assert form is None or form in FORMATS


def test_types_that_a_file_gives() -> None:
    table = pl.DataFrame(
        {"f": [1.5, None, float("nan"), float("inf")], "i": [1, 2, 3, None], "b": [True, False, None, True], "d": [None] * 4, "l": [[1]] * 4},
        schema_overrides={"d": pl.Date},
    ).with_columns(pl.Series("a", np.zeros((4, 3), np.float32)))
    found = profile(FrameSource(table))
    assert (found["f"].numbers, found["i"].numbers) == (1, 3)
    assert found["b"].counts == {"false": 1, "true": 2}
    assert found["d"].missing == 4
    assert found["a"].shape == (3,)
    assert found["l"].counts is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 10_000)
    n = 3 * SAMPLE
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"x": rng.normal(size=n), "many": np.arange(n).astype(str)})
    found = profile(FrameSource(table))
    assert len(found["x"].values) == SAMPLE
    assert found["x"].numbers == n
    assert np.quantile(found["x"].values, [0.05, 0.5, 0.95]) == pytest.approx([-1.645, 0, 1.645], abs=0.05)
    assert found["many"].counts is None
    assert found["many"].patients == {}
    assert len(profile(FrameSource(pl.DataFrame({"x": [str(i % MAX_DISTINCT) for i in range(999)]})))["x"].counts or ()) == MAX_DISTINCT


def test_bounds_leave_ten_patients_out_at_each_end() -> None:
    table = pl.DataFrame({"x": np.arange(1000.0)})
    assert bounds(profile(FrameSource(table))["x"], 0.0) == (LEAST - 1, 999 - (LEAST - 1))
    assert bounds(profile(FrameSource(table))["x"], 0.05) == (50, 949)
    assert bounds(profile(FrameSource(table.head(5 * LEAST - 1)))["x"], 0.0) is None
