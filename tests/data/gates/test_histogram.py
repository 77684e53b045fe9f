"""Bins, quantiles, most frequent values, and patients of a stream."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.data.gates.histogram import FEW, BinCounter, FineBins, edges_of
from locum.data.gates.modes import KEPT, Modes
from locum.data.gates.patients import Patients, Seen
from locum.study import Variable
from locum.tasks.histogram import Histogram as Task

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, max_size=30), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9, unique=True))
def test_bins_are_those_of_the_federated_histogram(x, edges):
    edges = np.array(sorted(edges))
    counter = BinCounter(edges)
    counter.add(np.array(x, dtype=float))
    task = type("T", (), {"edges": edges})
    where = Task.cells(task, np.array(x, dtype=float))
    expected = np.bincount(where, minlength=len(edges) + 2)
    found = counter.result()
    assert list(found.counts) == expected[:-3].tolist()
    assert (found.below, found.above) == tuple(expected[-3:-1])


@given(st.lists(numbers, max_size=50), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 50))
def test_equal_bins_are_counted_as_searched(x, low, width, bins):
    edges = np.linspace(low, low + width, bins + 1)
    x = np.array([*x, *edges, *np.nextafter(edges, -np.inf)])
    counter = BinCounter(edges)
    counter.add(x)
    where = np.searchsorted(edges, x, side="right")
    where[x == edges[-1]] = bins
    assert counter.counts.tolist() == np.bincount(where, minlength=bins + 2).tolist()


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e6])
def test_quantiles_of_many_numbers(scale):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.lognormal(0, 2, FEW), -rng.lognormal(1, 1, FEW), np.zeros(1000)]) * scale
    fine, shares = FineBins(), (0.01, 0.25, 0.3, 0.5, 0.75, 0.99)
    for part in np.array_split(rng.permutation(x), 7):
        fine.add(part)
    np.testing.assert_allclose(fine.quantiles(shares), np.quantile(x, shares, method="inverted_cdf"), rtol=0.0041)
    drawn = fine.histogram()
    assert drawn.total == len(x)


def test_quantiles_of_few_numbers_are_exact():
    fine = FineBins()
    fine.add(np.array([0.3, 56.0, 57.0]))
    assert fine.quantiles((0.0, 0.5, 1.0)) == (0.3, 56.0, 57.0)
    assert FineBins().quantiles((0.5,)) == ()
    assert FineBins().histogram() is None


def test_edges_that_a_contract_implies():
    def of(**v):
        found = edges_of(Variable.parse(v))
        return None if found is None else (len(found) - 1, found[0], found[-1])

    assert of(type="boolean") == (2, -0.5, 1.5)
    assert of(type="category", categories=["a", "b", "c"]) == (3, -0.5, 2.5)
    assert of(type="integer", minimum=0, maximum=5) == (6, -0.5, 5.5)
    assert of(minimum=0, maximum=300) == (40, 0, 300)
    assert of(plausible=[100, 200]) == (40, 50, 250)
    assert of(minimum=90, plausible=[100, 200]) == (40, 90, 250)
    assert of(minimum=0) is None
    assert of(type="text") is None


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(1, 50))
def test_the_most_frequent_of_few_values_is_exact(x, size):
    modes = Modes()
    for i in range(0, len(x), size):
        modes.add(np.array(x[i : i + size], dtype=float))
    assert modes.most() == max((x.count(v) for v in set(x)), default=0)


def test_the_most_frequent_of_many_values_is_bounded():
    rng = np.random.default_rng(0)
    x = np.where(rng.random(200_000) < 0.3, 7.25, rng.normal(size=200_000))
    modes = Modes()
    for part in np.array_split(x, 20):
        modes.add(part)
    true = int((x == 7.25).sum())
    assert true - len(x) / (KEPT + 1) <= modes.most() <= true


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans()), max_size=60), st.integers(1, 20))
def test_patients_are_counted_as_sets_count_them(rows, size):
    patients = Patients()
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        patients.add(pl.Series([p for p, _ in part], dtype=pl.String), test=np.array([float(t) for _, t in part]))
    tally = patients.finish()
    names = [p for p, _ in rows]
    assert tally.patients == len(set(names))
    assert tally.repeated == len(names) - len(set(names))
    assert tally.both == len({p for p, t in rows if t} & {p for p, t in rows if not t})
    assert tally.most_rows >= max((names.count(p) for p in set(names)), default=1)


def test_hashes_are_counted_in_several_goes():
    seen, rng = Seen(), np.random.default_rng(0)
    x = rng.integers(0, 500, 5000).astype(np.uint64)
    for part in np.array_split(x, 9):
        seen.add(part)
        seen.count()
    keys, counts = np.unique(x, return_counts=True)
    assert seen.keys.tolist() == keys.tolist()
    assert (seen.most, seen.again) == (counts.max(), 4500)
