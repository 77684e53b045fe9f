"""One pass over any chunks says what the whole table says."""

import weakref

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data import FrameSource, Rows, SiteMapping, to_rows
from locum.data.gates import check, check_source
from locum.data.gates.judge import judge
from locum.data.gates.stream import over_source
from locum.data.sources.base import Tally
from locum.errors import DataError
from locum.study import DataSpec

CELLS = {
    "pid": st.sampled_from(["a", "b", "c", "d", "", None]),
    "x": st.sampled_from(["1", "2.5", " 3 ", "-9", "1e3", "", None, "NA", "text", "inf", "999"]),
    "k": st.sampled_from(["0", "1", "7", "0.5", None, "?"]),
    "c": st.sampled_from(["early", "late", "L", "unknown", None]),
    "b": st.sampled_from(["0", "1", "yes", "no", "2", None]),
    "d": st.sampled_from(["2020-01-31", "2021-13-01", "1999-12-31", None]),
    "part": st.sampled_from(["0", "1", None]),
}
SPEC = DataSpec.parse(
    {
        "variables": {
            "pid": {"role": "patient"},
            "x": {"minimum": 0, "maximum": 500, "plausible": [1, 4], "missing_codes": [-9], "min_varying": 0.3},
            "k": {"type": "integer", "minimum": 0, "maximum": 5},
            "c": {"type": "category", "categories": ["early", "late"]},
            "b": {"type": "boolean", "role": "event", "max_missing": 0.2},
            "d": {"type": "date", "minimum": "2000-01-01"},
            "part": {"type": "boolean", "role": "split"},
        },
        "cohort": {"include": {"k": {"at_most": 6}}, "min_events": 2},
    }
)
MAPPING = SiteMapping.parse({"columns": {"c": {"column": "c", "values": {"early": "early", "late": "late", "L": "late"}}}})


def tables():
    return st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=40).map(lambda rows: pl.DataFrame(rows, schema=dict.fromkeys(CELLS, pl.String)))


def plain(report):
    """Everything but rounding in the last digits."""
    out = report.to_json(examples=True)
    for v in out["variables"].values():
        for key in ("mean", "sd"):
            v[key] = None if v[key] is None else float(f"{v[key]:.9e}")
    return out


@settings(max_examples=50)
@given(tables(), st.integers(1, 41))
def test_chunks_of_any_size_give_the_same_report(table, size):
    whole, parts = (judge(over_source(SPEC, FrameSource(table), MAPPING, chunk=n)) for n in (1000, size))
    assert plain(whole) == plain(parts)
    for name, v in whole.variables.items():
        assert v.unknown == parts.variables[name].unknown
        assert v.histogram == parts.variables[name].histogram


@settings(max_examples=40)
@given(tables())
def test_counts_in_are_counts_out(table):
    report = judge(over_source(SPEC, FrameSource(table), MAPPING, chunk=7))
    assert report.rows + sum(report.cohort.values()) == report.source["used"] == len(table)
    for name, v in report.variables.items():
        assert v.rows == report.rows, name
        assert 0 <= v.rows - v.values - v.missing <= v.wrong, name
        assert v.recoded <= v.missing, name
        if v.histogram is not None and v.variable.role != "patient":
            assert v.histogram.total == v.values, name


@settings(max_examples=40)
@given(tables())
def test_what_passes_can_be_loaded_and_the_gates_say_the_same_of_the_rows(table):
    source = FrameSource(table)
    report = check_source(SPEC, source, MAPPING)
    try:
        rows = to_rows(SPEC, source, MAPPING)
    except DataError:
        assert report.result == "REFUSE"
        return
    again = check(SPEC, rows)
    assert again.rows == report.rows
    assert again.patients == report.patients
    assert [(f.variable, f.gate, f.result) for f in again.findings] == [
        (f.variable, f.gate, f.result) for f in report.findings if f.gate != "source" and f.variable != "pid" and "another row of the same" not in f.what
    ]
    for name, v in again.variables.items():
        before = report.variables[name]
        assert (v.values, v.below, v.above, v.low, v.high) == (before.values, before.below, before.above, before.low, before.high), name


def test_moments_and_bins_are_those_of_numpy():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(100, 15, 100_000), rng.lognormal(0, 3, 50_000), -rng.lognormal(2, 1, 20_000)])
    spec = DataSpec.parse({"variables": {"x": {"minimum": -50, "maximum": 200}}})
    report = judge(over_source(spec, FrameSource(pl.DataFrame({"x": x})), SiteMapping(), chunk=9973))
    v = report.variables["x"]
    assert v.mean == pytest.approx(x.mean(), rel=1e-12)
    assert v.sd == pytest.approx(x.std(ddof=1), rel=1e-12)
    np.testing.assert_allclose(v.quantiles, np.quantile(x, [0.05, 0.25, 0.5, 0.75, 0.95]), rtol=0.005)
    inside = x[(x >= -50) & (x <= 200)]
    np.testing.assert_array_equal(v.histogram.counts, np.histogram(inside, v.histogram.edges)[0])
    assert (v.below, v.above) == (int((x < -50).sum()), int((x > 200).sum()))


def test_few_chunks_are_alive_at_a_time():
    """A source that makes its rows as they are asked for, and counts how many chunks somebody still holds."""
    alive: list[int] = []

    class Endless:
        name = "made.csv"
        tally = Tally()

        def columns(self):
            return ["pid", "x"]

        def chunks(self, names, size):
            self.tally, made = Tally(), []
            for i in range(40):
                frame = pl.DataFrame({"pid": np.arange(size) + i * size, "x": np.full(size, float(i))}).select(names)
                self.tally.read += size
                self.tally.used += size
                made.append(weakref.ref(frame))
                alive.append(sum(ref() is not None for ref in made))
                yield frame
                del frame

    spec = DataSpec.parse({"variables": {"pid": {"role": "patient"}, "x": {}}})
    report = judge(over_source(spec, Endless(), SiteMapping(), chunk=1 << 10))
    assert report.rows == report.patients == 40 << 10
    assert max(alive) <= 3


def test_a_row_without_a_patient_is_refused_and_counted(g):
    report = g.report(g.frame(4, pid=["a", None, "b", ""]))
    assert ("pid", "conformance", 2) in g.found(report)
    assert report.patients == 4
    with pytest.raises(DataError, match="2 of 4 rows have no patient identifier"):
        report.raise_if_refused()


def test_in_memory_rows_with_texts_and_arrays():
    spec = DataSpec.parse({"variables": {"t": {"type": "text", "max_missing": 0}, "a": {"type": "array", "shape": [2], "minimum": 0}}})
    rows = Rows({}, np.array(["0", "1"]), {"a": np.array([[1, 2], [-1, np.nan]], dtype=np.float32)}, {"t": np.array(["x", ""])})
    report = check(spec, rows)
    assert [(f.variable, f.gate, f.count) for f in report.of("REFUSE")] == [("t", "completeness", 1), ("a", "plausibility", 1)]
