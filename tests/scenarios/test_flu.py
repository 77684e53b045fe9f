"""The weighted interval score on known values, and the influenza scenario on a few real dates."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest

import locum.tasks.forecast  # noqa: F401 - registers the task
from locum.data import registry
from locum.errors import LocumError, ManifestError
from locum.scenarios import plain
from locum.scenarios.flu import SCENARIO, answer, known_by, read_hub
from locum.scenarios.flu_score import block_interval, inside, ratio, weighted_interval_score
from locum.scenarios.lab import Lab
from locum.tasks import build_plan
from locum.tasks.forecast_model import LEVELS

TAU = (0.1, 0.25, 0.5, 0.75, 0.9)


@pytest.fixture(scope="module")
def hub():
    try:
        return read_hub()
    except LocumError as error:
        pytest.skip(f"flusight: {error.what}")


@pytest.mark.parametrize("y", [-3.0, 4.0, 10.0, 11.5, 16.0, 30.0])
def test_the_score_is_the_sum_of_interval_scores(y):
    """Bracher et al. (2021), equations 1 and 2, written out."""
    q = np.array([4.0, 8.0, 10.0, 12.0, 16.0])
    total = 0.5 * abs(y - 10.0)
    for alpha, low, high in ((0.2, 4.0, 16.0), (0.5, 8.0, 12.0)):
        total += alpha / 2 * ((high - low) + 2 / alpha * max(low - y, 0) + 2 / alpha * max(y - high, 0))
    assert weighted_interval_score(q, TAU, np.array(y)) == pytest.approx(total / 2.5)


def test_the_score_on_known_values():
    certain = np.full(5, 7.0)
    assert weighted_interval_score(certain, TAU, np.array(7.0)) == 0.0
    assert weighted_interval_score(certain, TAU, np.array(9.0)) == pytest.approx(2.0)  # a point forecast: the absolute error
    assert weighted_interval_score(np.array([5.0]), (0.5,), np.array(8.0)) == pytest.approx(3.0)
    many = weighted_interval_score(np.broadcast_to(certain, (3, 2, 5)), TAU, np.full((3, 2), 9.0))
    assert many.shape == (3, 2)
    assert np.isnan(weighted_interval_score(certain, TAU, np.array(np.nan)))


def test_the_true_quantiles_score_best():
    from scipy.stats import norm

    y = np.random.default_rng(0).normal(size=20_000)
    truth = norm.ppf(LEVELS)
    score = weighted_interval_score(truth, LEVELS, y).mean()
    for wrong in (truth + 0.3, truth * 1.4, truth * 0.6):
        assert weighted_interval_score(wrong, LEVELS, y).mean() > score


def test_coverage_ratio_and_bootstrap():
    q = np.array([4.0, 8.0, 10.0, 12.0, 16.0])
    held = inside(np.broadcast_to(q, (4, 5)), TAU, np.array([4.0, 9.0, 17.0, np.nan]), 0.8)
    np.testing.assert_array_equal(held, [1, 1, 0, np.nan])
    assert ratio(np.array([1.0, 2.0, np.nan]), np.array([2.0, 4.0, 5.0])) == 0.5
    x = np.random.default_rng(0).normal(5, 1, 200)
    low, high = block_interval(lambda pick: float(x[pick].mean()), 200)
    assert low < x.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.35)


def test_the_hub_is_read_as_published(hub):
    assert len(hub.states) == 52
    assert len(hub.dates) == 64
    assert hub.skipped == 9
    assert "us" not in hub.states
    for name in ("FluSight-baseline", "FluSight-ensemble"):
        assert np.isfinite(hub.forecasts[name]).all()
    scores = {n: weighted_interval_score(f, LEVELS, hub.truth) for n, f in hub.forecasts.items()}
    assert ratio(scores["FluSight-ensemble"], scores["FluSight-baseline"]) == pytest.approx(0.683, abs=0.01)


def test_nothing_of_the_future_is_read(hub):
    """Rows end a week before the first target, and delayed values are those of snapshots that had been published."""
    reference = date(2025, 1, 18)
    rows = registry.load("flusight", Lab("clear").study("flu").data, as_of=known_by(reference).isoformat(), delays="0 1")["ca"]
    last = (known_by(reference) - date(1970, 1, 1)).days
    assert rows.columns["date"].max() == last
    assert rows.columns["value_delay0"][-1] == rows.columns["value"][-1]
    assert np.isnan(rows.columns["value_delay1"][-1])
    assert np.isfinite(hub.truth[hub.dates.index(reference), hub.states.index("ca")]).all()
    final = registry.load("flusight")["ca"]  # the last week was revised afterwards: the forecast did not see that
    assert final.columns["value"][np.flatnonzero(final.columns["date"] == last)[0]] != rows.columns["value"][-1]


def test_delays_need_a_date():
    with pytest.raises(ManifestError, match="need as_of"):
        registry.load("flusight", delays="0 1")
    with pytest.raises(ManifestError, match="numbers of weeks"):
        registry.load("flusight", as_of="2025-01-11", delays="a")


def test_the_study_is_ready_to_sign():
    study = Lab("masked").study("flu")
    (task,) = build_plan(study)
    assert task.reads() == ("date", "value", "population", "value_delay0", "value_delay1")
    assert study.terms.privacy.unit == "none"
    assert "publish" in SCENARIO.reason("private")


def test_the_scenario_quick(hub):
    outcome = answer(Lab("clear", quick=True))
    json.dumps(plain(outcome), allow_nan=False)
    first = {}
    for line in outcome.lines:
        first.setdefault((line.who, line.metric), line)
    for who in ("federated", "personalised", "each site alone", "hub ensemble", "hub baseline"):
        assert 0 < first[who, "relative WIS"].value < 1.3
    assert first["hub baseline", "relative WIS"].value == 1.0
    refused = first["personalised", "relative WIS, 26 weeks of history"]
    assert refused.value is None
    assert "less than a year" in refused.note
    assert set(outcome.figures) == {"fan", "map", "over-time"}
    assert all(svg.startswith("<svg") for svg in outcome.figures.values())
    assert outcome.metrics["flu_wis_over_baseline"] == first["personalised", "relative WIS"].value
