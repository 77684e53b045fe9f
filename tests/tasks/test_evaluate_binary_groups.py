"""Calibration groups against the patients' own risks, and the rule that no group tells of fewer than five."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from locum.tasks.score_groups import FEWEST, GROUPS, described, groups, wilson

tables = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(tables)
def test_groups_hold_everybody_and_never_few(cells):
    positive, negative = np.array(cells, float).T
    risk = (np.arange(len(cells)) + 0.5) / len(cells)
    found = groups(positive, negative, risk)
    assert len(found) <= GROUPS
    if min(positive.sum(), negative.sum()) < FEWEST:
        assert not len(found)
        return
    assert found[:, 1].sum() == positive.sum()
    assert found[:, 2].sum() == (positive + negative).sum()
    assert (found[:, 1] >= FEWEST).all()
    assert (found[:, 2] - found[:, 1] >= FEWEST).all()
    assert (np.diff(found[:, 0]) > 0).all()
    np.testing.assert_allclose(found[:, 0] @ found[:, 2], (positive + negative) @ risk, rtol=1e-12)


def test_deciles_of_patients_are_numpys():
    rng = np.random.default_rng(1)
    eta = rng.normal(-1.0, 1.5, 20_000)
    y = rng.random(20_000) < 1 / (1 + np.exp(-eta))
    edges = np.linspace(-16, 16, 4097)
    positive, negative = (np.histogram(eta[m], edges)[0].astype(float) for m in (y, ~y))
    got = described(groups(positive, negative, 1 / (1 + np.exp(-(edges[1:] + edges[:-1]) / 2))))
    order = np.argsort(eta)
    assert len(got) in (GROUPS - 1, GROUPS)
    for row, part in zip(got[:8], np.array_split(order, GROUPS), strict=False):
        assert row["predicted"] == pytest.approx((1 / (1 + np.exp(-eta[part]))).mean(), abs=0.01)
        assert row["observed"] == pytest.approx(y[part].mean(), abs=0.02)
        assert row["low"] < row["observed"] < row["high"]


@pytest.mark.parametrize(("events", "n"), [(0, 9), (5, 10), (9, 9), (123, 4567)])
def test_the_interval_is_wilsons(events, n):
    np.testing.assert_allclose(wilson(events, n), proportion_confint(events, n, method="wilson"), atol=1e-6)


def test_the_step_shows_groups_of_the_pooled_test_patients(run, scatter):
    rng = np.random.default_rng(2)
    x = rng.normal(size=900)
    d = {"x": x, "y": (rng.random(900) < 1 / (1 + np.exp(-x))).astype(float)}
    fit = {"name": "fit", "task": "logistic", "features": ["x"], "outcome": "y", "part": "train"}
    variables = {"x": {}, "y": {"type": "boolean", "role": "outcome"}}
    got = run(variables, [fit, {"name": "eval", "task": "evaluate_binary", "model": "fit"}], scatter(d, [1, 2, 0, 300]))["eval"]
    rows = got["calibration_bins"]
    assert 3 <= len(rows) <= GROUPS
    assert sum(r["n"] for r in rows) == got["n"]
    assert sum(round(r["observed"] * r["n"]) for r in rows) == got["positives"]
    assert got["calibration_bins_error_bound"] < 1e-3
