"""Stroke outcome: the federated model is the pooled one, hospitals alone are worse, countries are left out in turn, and noise has its price."""

from __future__ import annotations

import math

import pytest

import locum.tasks.leave_one_out  # noqa: F401 - registers the task
from locum.data import registry
from locum.errors import LocumError
from locum.scenarios import studies
from locum.scenarios.lab import Lab
from locum.scenarios.stroke import SCENARIO, largest
from locum.tasks import build_plan


@pytest.fixture(scope="module", autouse=True)
def _data():
    try:
        registry.verify("ist")
    except LocumError as error:
        pytest.skip(f"ist: {error.what}")
    pytest.importorskip("lightgbm")
    pytest.importorskip("statsmodels")


@pytest.fixture(scope="module")
def outcome():
    return SCENARIO.answer(Lab("clear", quick=True))


@pytest.fixture(scope="module")
def private():
    return SCENARIO.answer(Lab("private", quick=True))


def line(outcome, who, metric="AUC"):
    return next(x for x in outcome.lines if x.who == who and x.metric == metric)


@pytest.mark.parametrize("name", SCENARIO.studies)
def test_studies_are_ready_to_sign(name):
    study = studies.study(name)
    assert build_plan(study)
    assert study.title
    assert study.question
    contract = registry.get("ist").data.variables
    for key, variable in study.data.variables.items():
        assert (variable.unit, variable.minimum, variable.maximum, variable.categories) == (
            contract[key].unit, contract[key].minimum, contract[key].maximum, contract[key].categories,
        )  # fmt: skip


def test_federated_is_pooled(outcome):
    assert outcome.headline.value == pytest.approx(outcome.lines[0].value, abs=1e-3)
    assert float(outcome.headline.note.rsplit(" ", 1)[1]) < 1e-9
    low, high = outcome.headline.ci95
    assert low < outcome.headline.value < high


def test_hospitals_alone_are_worse_and_trees_are_those_of_lightgbm(outcome):
    assert line(outcome, "each site alone", "AUC within sites").value < line(outcome, "federated", "AUC within sites").value
    large = "AUC, sites with 30+ test patients"
    assert line(outcome, "each site alone", large).value < line(outcome, "federated", large).value
    assert abs(outcome.metrics["trees_auc_minus_pooled"]) < 0.02
    assert set(outcome.metrics) >= {"ist_auc_federated", "ist_auc_pooled", "ist_auc_local", "trees_auc_minus_pooled"}


def test_countries_are_left_out_in_turn(outcome):
    found = line(outcome, "federated", "AUC, one country left out: random effects")
    assert found.ci95[0] < found.value < found.ci95[1]
    assert "prediction interval" in found.note
    assert set(outcome.figures) == {"calibration", "countries", "countries-calibration"}
    assert all(svg.startswith("<svg") for svg in outcome.figures.values())


def test_with_noise(private):
    assert 0.65 < private.headline.value < 0.95
    assert "with noise" in private.headline.note
    assert math.isfinite(private.metrics["ist_auc_cost_of_privacy"])
    assert not [x for x in private.lines if x.value is None]


def test_the_largest_sites_keep_the_terms_coherent():
    sites = registry.load("ist", studies.study("stroke-private").data)
    study, chosen = largest(studies.study("stroke-private"), sites, 50)
    assert len(chosen) == study.terms.min_cohort == 50
    assert min(len(chosen[s]) for s in chosen) >= max(len(r) for s, r in sites.items() if s not in chosen) - 1
