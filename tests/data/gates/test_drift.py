"""A site beside the federation."""

import numpy as np
import pytest
from scipy import stats

from locum.data.gates.drift import Distance, _chi_squared, distance, judge, with_drift
from locum.data.gates.histogram import BinCounter

EDGES = np.linspace(0, 200, 21)


def counted(x, edges=EDGES):
    counter = BinCounter(edges)
    counter.add(np.asarray(x, dtype=float))
    h = counter.result()
    return np.array([h.below, *h.counts, h.above], dtype=float)


def test_the_measures_are_their_formulas():
    rng = np.random.default_rng(0)
    a, b = counted(rng.normal(100, 15, 50_000)), counted(rng.normal(107.5, 15, 50_000))
    d = distance(a, b)
    p, q = (np.maximum(h, 0.5) for h in (a, b))
    keep = (p > 0.5) | (q > 0.5)
    p, q = p[keep] / p[keep].sum(), q[keep] / q[keep].sum()
    assert d.psi == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=1e-9)
    assert d.psi == pytest.approx(0.25, abs=0.02)  # two normal distributions half a standard deviation apart
    assert d.tv == pytest.approx(2 * stats.norm.cdf(0.25) - 1, abs=0.02)


@pytest.mark.parametrize("freedom", [1, 2, 5, 21, 100])
def test_the_quantile_of_chi_squared(freedom):
    assert _chi_squared(freedom) == pytest.approx(stats.chi2.ppf(0.999, freedom), rel=0.04)


@pytest.mark.parametrize("n", [20, 100, 2000])
def test_chance_alone_is_no_drift(n):
    """In 500 samples from the federation's own distribution none is far from it beyond what chance explains."""
    rng = np.random.default_rng(n)
    federation = counted(rng.normal(100, 15, 20_000))
    beyond = [distance(counted(rng.normal(100, 15, n)), federation).beyond for _ in range(500)]
    assert sum(psi > 0.25 for psi, _ in beyond) <= 2
    assert sum(tv > 0.0 for _, tv in beyond) <= 2


@pytest.mark.parametrize(("shift", "result"), [(0, "PASS"), (15, "WARN"), (60, "REFUSE")])
def test_a_shift_is_warned_of_and_another_population_is_refused(g, shift, result):
    rng = np.random.default_rng(1)
    own, federation = counted(rng.normal(100, 20, 2000) + shift), counted(rng.normal(100, 20, 50_000))
    report = with_drift(g.report(g.frame(50)), {"chol": distance(own, federation)})
    found = report.findings[-1]
    assert (found.variable, found.gate, found.result, found.count) == ("chol", "drift", result, 2000)
    assert report.result == max([g.report(g.frame(50)).result, result], key=["PASS", "WARN", "REFUSE"].index)


def test_known_counts():
    d = distance(np.array([2000.0, 8000.0]), np.array([500_000.0, 500_000.0]))
    np.testing.assert_allclose([d.psi, d.tv], [0.3 * np.log(4), 0.3], rtol=1e-3)
    assert d.drifts()
    assert not d.drifts(0.5, 0.1)
    assert not d.drifts(0.25, 0.31)
    assert not distance(np.array([2.0, 8.0]), np.array([500_000.0, 500_000.0])).drifts(), "ten rows say little"
    assert distance(np.zeros(2), np.ones(2)) == Distance() == distance(np.ones(2), np.zeros(2))
    assert judge("x", Distance()).result == "PASS"
