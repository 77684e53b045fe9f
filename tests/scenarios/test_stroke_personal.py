"""The stroke model adapted to hospitals and over time, on the largest hospitals of the trial."""

from __future__ import annotations

import numpy as np
import pytest

import locum.tasks.adapt  # noqa: F401  (registers the task)
from locum.data import registry
from locum.errors import LocumError
from locum.scenarios.base import Outcome
from locum.scenarios.lab import Lab
from locum.scenarios.stroke_personal import FIRST, SCENARIO, _early, _half, _until


@pytest.fixture(scope="module", autouse=True)
def _data():
    try:
        registry.verify("ist")
    except LocumError as error:
        pytest.skip(f"ist: {error.what}")


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return SCENARIO.answer(Lab("masked", quick=True))


def line(outcome, who, metric, note=""):
    return next(x for x in outcome.lines if x.who == who and x.metric.startswith(metric) and note in x.note)


def test_federated_is_pooled(outcome):
    assert line(outcome, "federated", "AUC").value == pytest.approx(line(outcome, "pooled", "AUC").value, abs=2e-3)


def test_shrinkage_gains_over_the_federated_model(outcome):
    change = outcome.metrics["ist_log_loss_personalised_minus_federated"]
    assert -0.06 < change < 0
    assert line(outcome, "personalised", "log loss", "shrunk").value < line(outcome, "federated", "log loss").value
    assert line(outcome, "personalised", "AUC", "shrunk").value > line(outcome, "federated", "AUC").value


def test_everything_is_printed(outcome):
    assert [x.who for x in outcome.lines[:2]] == ["pooled", "federated"]
    assert {"personalised", "each site alone", "majority class"} <= {x.who for x in outcome.lines}
    assert all(x.value is not None and np.isfinite(x.value) for x in outcome.lines)
    assert any("forgetting" in x.metric for x in outcome.lines)
    assert {"over-time", "calibration-over-time", "gain", "calibration-shrunk"} <= set(outcome.figures)
    assert "all so far, adapted" in outcome.figures["over-time"]


def test_no_patient_is_predicted_after_being_trained_on():
    sites = registry.load("ist", Lab("clear").study("stroke-personal").data)
    some = {n: sites[n] for n in sorted(sites)[:60]}
    for k in (FIRST + 2, FIRST + 4):
        for rows in _until(some, FIRST, k).values():
            assert rows.test is not None
            assert (_half(rows)[rows.test] == k).all()
            assert (_half(rows)[~rows.test] < k).all()
            assert not _early(rows).any()
