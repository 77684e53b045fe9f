"""The aspirin trial: every federated figure is that of statsmodels on pooled rows; the whole cohort gives the published risks."""

from __future__ import annotations

import math

import pytest

from locum.data import registry
from locum.errors import LocumError
from locum.scenarios import studies
from locum.scenarios.aspirin import SCENARIO
from locum.scenarios.lab import Lab
from locum.simulate import simulate
from locum.study import Study
from locum.tasks import build_plan


@pytest.fixture(scope="module", autouse=True)
def _data():
    try:
        registry.verify("ist")
    except LocumError as error:
        pytest.skip(f"ist: {error.what}")
    pytest.importorskip("statsmodels")


@pytest.fixture(scope="module")
def outcome():
    return SCENARIO.answer(Lab("clear", quick=True))


@pytest.mark.parametrize("name", SCENARIO.studies)
def test_studies_are_ready_to_sign(name):
    study = studies.study(name)
    assert build_plan(study)
    assert study.title
    assert study.question


def test_every_federated_figure_is_the_pooled_one(outcome):
    pooled = {x.metric: x for x in outcome.lines if x.who == "pooled" and "random effects" not in x.metric}
    same = [(x, pooled[x.metric]) for x in outcome.lines if x.who == "federated" and x.metric in pooled]
    assert len(same) == 5
    for mine, theirs in same:
        assert mine.value == pytest.approx(theirs.value, abs=1e-6)
        assert mine.ci95 == pytest.approx(theirs.ci95, abs=1e-5)
    assert outcome.metrics["aspirin_max_abs_diff_vs_pooled"] < 1e-6


def test_the_table_says_what_a_hospital_alone_could_say(outcome):
    alone = next(x for x in outcome.lines if x.who == "each site alone")
    low, high = outcome.headline.ci95
    assert alone.value > 5 * (high - low)
    assert all(svg.startswith("<svg") for svg in outcome.figures.values())
    assert set(outcome.figures) == {"countries", "balance"}


def test_the_whole_cohort_gives_the_published_risks():
    study = studies.study("aspirin", aggregation="clear")
    kept = [s.model_dump() for s in study.plan if s.task == "meta_analysis"]
    study = Study.parse({**study.model_dump(by_alias=True), "plan": kept})
    got = simulate(study, registry.load("ist", study.data)).results
    for step, treated, control in (("odds-by-hospital", 62.25, 63.50), ("deaths", 8.97, 9.36)):
        assert round(100 * got[step]["arms"]["treated"]["mean"], 2) == treated
        assert round(100 * got[step]["arms"]["control"]["mean"], 2) == control


def test_with_noise_the_difference_is_as_uncertain_as_before():
    outcome = SCENARIO.answer(Lab("private", quick=True))
    pooled, private = outcome.lines[:2]
    assert private.who == "federated"
    assert math.isfinite(private.value)
    widths = [x.ci95[1] - x.ci95[0] for x in (pooled, private)]
    assert 0.9 * widths[0] < widths[1] < 2.0 * widths[0]
