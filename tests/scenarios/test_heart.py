"""Heart disease: FLamby's rows, split and figures; what the contract says of cholesterol; and the form with noise."""

from __future__ import annotations

import numpy as np
import pytest

import locum.tasks.adapt  # noqa: F401  (registers the task)
from locum.data import registry
from locum.errors import LocumError
from locum.scenarios.base import Outcome
from locum.scenarios.heart import SCENARIO, _flamby_split, _salted
from locum.scenarios.lab import Lab


@pytest.fixture(scope="module", autouse=True)
def _data():
    try:
        registry.verify("heart_disease")
    except LocumError as error:
        pytest.skip(f"heart_disease: {error.what}")


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return SCENARIO.answer(Lab("clear", quick=True))


def value(outcome, who, metric, note=""):
    return next(x for x in outcome.lines if x.who == who and metric in x.metric and note in x.note)


def test_federated_is_pooled_and_beats_what_flamby_published(outcome):
    assert value(outcome, "federated", "FLamby's").value == pytest.approx(value(outcome, "pooled", "FLamby's").value, abs=1e-12)
    assert value(outcome, "federated", "FLamby's").value == pytest.approx(0.803, abs=0.003)
    assert value(outcome, "personalised", "FLamby's", "intercept of each").value >= 0.825
    assert value(outcome, "FLamby: FedAdagrad", "FLamby's").value == 0.731
    assert value(outcome, "majority class", "FLamby's").value == pytest.approx(0.7207, abs=1e-3)
    assert outcome.headline is not None
    assert outcome.headline.value == pytest.approx(outcome.lines[0].value, abs=0.01)


def test_the_contract_refuses_switzerland(outcome):
    said = [n for n in outcome.notes if "asks for cholesterol" in n]
    assert len(said) == 4
    assert [n for n in said if "REFUSE" in n] == [n for n in said if "switzerland" in n]


def test_the_tables_and_figures_are_whole(outcome):
    assert {"pooled", "federated", "personalised", "each site alone", "majority class"} <= {x.who for x in outcome.lines}
    assert all(x.value is not None and np.isfinite(x.value) for x in outcome.lines)
    assert all(svg.startswith("<svg") for svg in outcome.figures.values())


def test_flamby_split_has_the_published_sizes():
    spec = registry.get("heart_disease").data
    wanted = [n for n in spec.variables if n not in ("slope", "ca", "thal")]
    variables = {n: spec.variables[n].model_dump() for n in wanted}
    variables["chol"] |= {"minimum": 0, "missing_codes": ()}
    variables["trestbps"] |= {"minimum": 0, "missing_codes": ()}
    sites = {n: _flamby_split(r) for n, r in registry.load("heart_disease", type(spec).parse({"variables": variables})).items()}
    assert {n: len(r) for n, r in sites.items()} == {"cleveland": 303, "hungarian": 261, "switzerland": 46, "va": 130}
    assert {n: int(r.test.sum()) for n, r in sites.items()} == {"cleveland": 104, "hungarian": 89, "switzerland": 16, "va": 45}


def test_with_noise():
    got = SCENARIO.answer(Lab("private", quick=True))
    assert got.headline is not None
    assert 0.4 < got.headline.value < 0.95
    assert any("costs" in n for n in got.notes)
    assert "majority class" in {x.who for x in got.lines}


def test_another_salt_is_another_study():
    study = Lab("clear").study("heart")
    assert _salted(study, 1).digest != _salted(study, 2).digest
    assert study.terms.aggregation == "clear"
