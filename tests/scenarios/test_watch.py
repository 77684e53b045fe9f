"""Exercises by watch, one person left out: the figures, and one person in two devices."""

from __future__ import annotations

import numpy as np
import pytest

import locum.tasks.evaluate_categories
import locum.tasks.signal  # noqa: F401 - registers the tasks
from locum.data import registry
from locum.errors import LocumError
from locum.scenarios import studies
from locum.scenarios.devices import federated
from locum.scenarios.lab import Lab
from locum.scenarios.watch import SCENARIO, _smaller, without
from locum.simulate import simulate
from locum.tasks import build_plan


@pytest.fixture(scope="module")
def sites():
    try:
        return registry.load("watch", studies.study("watch").data)
    except LocumError as error:
        pytest.skip(f"watch: {error.what}")


@pytest.fixture(scope="module")
def outcome(sites):
    return SCENARIO.answer(Lab("masked", quick=True))


def value(outcome, who):
    return next(x for x in outcome.lines if x.who == who)


def test_federated_is_near_pooled_and_beats_one_watch(outcome):
    federated, pooled, alone = (value(outcome, who).value for who in ("federated", "pooled", "each site alone"))
    assert federated == pytest.approx(pooled, abs=0.04)  # scikit-learn penalises every class
    assert federated > alone + 0.1
    assert alone > value(outcome, "majority class").value + 0.2
    assert outcome.headline.ci95[0] < federated < outcome.headline.ci95[1] <= 1.0
    assert value(outcome, "federated, people held out").ci95 is not None
    assert outcome.figures["confusion"].startswith("<svg")
    assert "watch_accuracy" in outcome.metrics


def test_the_shipped_study_is_whole():
    study = studies.study("watch")
    tasks = build_plan(study)
    assert [t.kind for t in tasks] == ["signal_features", "standardise", "multinomial", "evaluate_categories"]
    assert set(tasks[0].names) == set(tasks[2].params.features)
    assert tasks[2].size == 600
    assert [s.name for s in without(study, "subject-01").plan] == ["signal", "scale", "model"]
    assert SCENARIO.reason("private")


def test_a_wearer_with_two_watches_makes_an_estimate_too_good(sites):
    """Left out as subject-02, but trained on as a second watch of the same wearer: only the patient's name, where it is shared, shows it."""
    study = without(_smaller(studies.study("watch", aggregation="clear")), "subject-02")
    others = {n: r for n, r in sites.items() if n != "subject-02"}
    there = sites["subject-02"]
    half = np.arange(len(there)) % 2 == 0  # windows overlap by half, so each has its neighbours there

    def accuracy(**more):
        fitted = federated(study, simulate(study, {**others, **more}).state)
        rows = there.take(~half)
        return (fitted.probabilities(rows).argmax(axis=1) == fitted.classes(rows)).mean()

    assert accuracy(second=there.take(half)) > accuracy() + 0.02
