"""What may be shown outside, and nothing small in it."""

import json
from itertools import product

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from locum.data.gates.summary import hide, of_total, outgoing
from locum.privacy.disclosure import THRESHOLD


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(1, 15))
def test_no_small_count_is_shown_nor_follows_from_the_total(counts, least):
    shown = hide(counts, least)
    assert all(s is None or (s == c and (c == 0 or c >= least)) for s, c in zip(shown, counts, strict=True))
    hidden = [c for s, c in zip(shown, counts, strict=True) if s is None]
    if hidden and len(hidden) < len(counts):
        assert len(hidden) > 1
        assert sum(hidden) - len(hidden) >= least


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 15))
def test_a_count_beside_its_total(count, rest, least):
    shown = of_total(count, count + rest, least)
    assert (shown is None) == (0 < count < least or 0 < rest < least)


def test_a_reader_cannot_tell_a_small_count_from_the_others():
    """Every way of filling the hidden cells that fits the total leaves each of them a range at least as wide as the threshold."""
    counts, least = [3, 40, 20, 0, 12], 5
    shown = hide(counts, least)
    hidden = [i for i, s in enumerate(shown) if s is None]
    total = sum(counts[i] for i in hidden)
    fits = [f for f in product(range(1, total + 1), repeat=len(hidden)) if sum(f) == total]
    for i in range(len(hidden)):
        assert max(f[i] for f in fits) - min(f[i] for f in fits) >= least


def test_the_summary_of_a_report(g):
    report = g.report(g.frame(200, chol=[0.0] * 3 + [200.0] * 197, age=[None] * 20 + [50.0] * 180, stage=["early"] * 195 + ["late"] * 5))
    seen = outgoing(report, THRESHOLD)
    assert (seen["rows"], seen["patients"], seen["result"]) == (200, 200, report.result)
    assert seen["variables"]["chol"]["missing"] is None
    assert seen["variables"]["age"]["missing"] == 20
    assert seen["variables"]["stage"]["counts"] == {"early": None, "late": None}
    assert seen["variables"]["female"]["counts"] == {"0": 100, "1": 100}
    text = json.dumps(seen)
    assert not any(word in text for word in ("mean", "quantiles", "examples", "what"))


def test_few_patients_with_many_rows_are_few(g):
    table = pl.concat([g.frame(12).with_columns(ecog=pl.lit(i % 5)) for i in range(10)])
    report = g.report(table)
    assert (report.rows, report.patients, report.most_rows) == (120, 12, 10)
    seen = outgoing(report, THRESHOLD)
    assert seen["patients"] == 12
    assert seen["variables"]["female"]["counts"] == {"0": None, "1": None}  # 60 rows each, of 6 patients each
    assert outgoing(g.report(g.frame(5)), THRESHOLD)["rows"] is None
