"""The rare-disease scenario: equal to statsmodels to 1e-6, whatever the split of the patients, and honest about what each hospital has."""

from __future__ import annotations

import numpy as np
import pytest
from lifelines import KaplanMeierFitter

from locum.data import registry
from locum.data.rows import Rows
from locum.errors import LocumError
from locum.scenarios import Lab, Outcome, scenario
from locum.scenarios.rare_disease import COLUMN, ODDS, RATIO, singles, without_comparison
from locum.scenarios.survival_help import expanded, row_of, survival_at, together


@pytest.fixture(scope="module")
def found() -> tuple[Outcome, Lab]:
    lab = Lab("clear", quick=True)
    try:  # nothing but absent data is a reason to skip
        for data in scenario("rare-disease").data:
            registry.verify(data)
    except LocumError as error:
        pytest.skip(f"ist: {error.what}")
    return scenario("rare-disease").answer(lab), lab


def lines(outcome):
    return {(x.who, x.metric): x for x in outcome.lines}


def test_federated_is_pooled_for_hospitals_and_for_one_patient_a_site(found):
    outcome, _ = found
    by = lines(outcome)
    assert outcome.metrics["rare_max_abs_diff_vs_pooled"] < 1e-6
    for who in ("federated", "federated, one patient a site"):
        assert by[who, RATIO].value == pytest.approx(by["pooled", RATIO].value, abs=1e-6)
        assert by[who, RATIO].ci95 == pytest.approx(by["pooled", RATIO].ci95, abs=1e-5)
    assert outcome.headline == by["federated", RATIO]


def test_the_cohort_is_as_rare_as_it_says(found):
    _, lab = found
    sites = lab.ran[0].sites
    sizes = np.asarray([len(r) for r in sites.values()])
    assert (len(sizes), sizes.sum(), (sizes == 1).sum(), sizes.max()) == (173, 415, 86, 10)
    assert set(np.concatenate([r.columns["rconsc"] for r in sites.values()])) == {1.0, 2.0}  # drowsy or unconscious
    assert all(np.array_equal(r.columns["RCONSC"], r.columns["rconsc"] - 1.0) for r in sites.values())
    assert lab.ran[1].sites.keys().__len__() == 415


def test_no_hospital_can_say_anything_and_a_stratified_cox_model_little(found):
    outcome, lab = found
    by = lines(outcome)
    assert by["each site alone", "hospitals that can fit the model"].value == 0.0
    alone = lab.ran[0].results["alone"]
    assert alone["sites_without_model"] == alone["sites"] == 170
    single = by["Cox model stratified by site, one patient a site", RATIO]
    assert single.value is None
    assert "no information at all" in single.note
    within, federated = (row_of(lab.ran[0].results[s], COLUMN)["se"] for s in ("within-hospitals", "hazards"))
    assert within > 1.5 * federated


def test_curves_are_those_of_lifelines(found):
    _, lab = found
    d, _ = together(lab.ran[0].sites, "time", "died", "RCONSC")
    for k, group in enumerate(("D", "U")):
        m = d["RCONSC"] == k
        fit = KaplanMeierFitter().fit(d["time"][m], d["died"][m])
        for time in (14.0, 183.0):
            assert survival_at(lab.ran[0].results["curves"]["groups"][group], time)[0] == pytest.approx(float(fit.predict(time)), abs=1e-9)
    assert survival_at(lab.ran[0].results["curves"]["groups"]["D"], -1.0) == (1.0, None)


def test_deaths_with_nobody_to_compare_with():
    two = Rows.of({"time": [1.0, 1.0, 3.0], "died": [1.0, 1.0, 1.0]})
    one = Rows.of({"time": [5.0], "died": [1.0]})
    assert without_comparison({"a": two, "b": one}) == (4, 2)
    assert [len(r) for r in singles({"a": two, "b": one}).values()] == [1, 1, 1, 1]


def test_rows_by_patient_and_interval():
    x, time, event = np.asarray([[1.0], [3.0]]), np.asarray([5.0, 8.0]), np.asarray([1.0, 0.0])
    big, y, lived = expanded(x, time, event, [4.0, 10.0], whole=False)
    assert big.tolist() == [[1, 0, -1], [0, 1, -1], [1, 0, 1], [0, 1, 1]]
    assert (y.tolist(), lived.tolist()) == ([0, 1, 0, 0], [4, 1, 4, 4])
    assert expanded(x, time, event, [4.0, 10.0], whole=True)[1].tolist() == [0, 1, 0]  # who is censored inside an interval does not count there


def test_the_study_is_one_to_sign(found):
    outcome, lab = found
    study = lab.study("rare-disease")
    assert (study.terms.min_rows, study.terms.min_cohort) == (1, 50)
    assert any("no sum is formed of fewer than 50 hospitals" in note for note in outcome.notes)
    assert set(outcome.figures) == {"survival", "hazard-ratios"}


def test_noise_that_hides_one_of_four_hundred_drowns_the_answer(found):
    outcome = scenario("rare-disease").answer(Lab("private", quick=True))
    by = lines(outcome)
    assert by["federated, exact", ODDS].value == pytest.approx(by["pooled", ODDS].value, rel=1e-6)
    assert by["federated, exact", ODDS].ci95 == pytest.approx(by["pooled", ODDS].ci95, rel=1e-5)
    assert outcome.headline == by["federated", ODDS]
    noisy = [x for (who, _), x in by.items() if who in ("federated", "federated, eps 8")]
    assert len(noisy) == 2
    assert all((x.ci95 is None) == ("noise drowns" in x.note) for x in noisy)  # the noise differs from run to run
