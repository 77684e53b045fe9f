"""ECG by device: the figures, the pooled reference, noise, and what a wrong study is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import locum.tasks.evaluate_categories
import locum.tasks.private.signal  # noqa: F401 - registers the tasks
from locum.data import registry
from locum.errors import LocumError, RunFailed, TaskError
from locum.scenarios import studies
from locum.scenarios.devices import own
from locum.scenarios.ecg import DATA, SCENARIO
from locum.scenarios.lab import Lab
from locum.simulate import simulate


@pytest.fixture(scope="module")
def sites():
    try:
        found = registry.load(DATA, studies.study("ecg").data)
    except LocumError as error:
        pytest.skip(f"{DATA}: {error.what}")
    return {n: r.take(np.arange(0, len(r), 20)) for n, r in found.items()}


@pytest.fixture(scope="module")
def outcome(sites):
    return SCENARIO.answer(Lab("masked", quick=True))


def value(outcome, who, metric):
    return next(x for x in outcome.lines if x.who == who and x.metric.startswith(metric))


def test_federated_is_pooled_and_beats_one_device(outcome):
    federated, pooled, alone = (value(outcome, who, "macro-AUC") for who in ("federated", "pooled", "each site alone"))
    assert federated.value == pytest.approx(pooled.value, abs=1e-4)
    assert federated.value > 0.90
    assert federated.ci95[0] < federated.value < federated.ci95[1]
    assert alone.value < 0.8
    assert value(outcome, "federated", "V sensitivity").value > 0.8
    assert outcome.headline is federated
    assert outcome.metrics["ecg_macro_auc"] == federated.value
    assert any("parameters" in n and "bytes" in n for n in outcome.notes)
    assert outcome.figures["confusion"].startswith("<svg")


def test_noise_for_each_patient_is_priced(sites):
    found = SCENARIO.answer(Lab("private", quick=True))
    assert found.headline.metric == "AUC of V against the rest"
    assert 0 <= found.headline.value <= 1
    assert value(found, "federated without noise", "AUC").value > 0.9
    assert any("50 sites" in n for n in found.notes)


def test_a_person_in_two_devices_is_one_patient_in_one_part_at_a_site_only(sites):
    """Whoever wears two recorders is protected where both are of one site: trained and tested on, that site is refused."""
    study = studies.study("ecg")
    a, b = sites["record-201"], sites["record-202"]
    both = replace(
        a,
        columns={n: np.r_[a.columns[n], b.columns[n]] for n in a.columns},
        arrays={n: np.concatenate([a.arrays[n], b.arrays[n]]) for n in a.arrays},
        patient=np.full(len(a) + len(b), "201"),
        test=np.r_[a.test, b.test],
    )
    from locum.data.load import refuse_both_parts

    with pytest.raises(LocumError, match="in the training part and in the test part"):
        refuse_both_parts(both, both.test)
    assert study.data.of_role("split") == "test"


def test_a_device_with_one_class_has_no_model_of_its_own(sites):
    study = studies.study("ecg")
    assert own(study, sites["record-122"], 1.0) is None  # only normal beats
    model = own(study, sites["record-209"], 1.0)
    assert model is not None
    never = [k for k in range(5) if k not in model.model.seen]
    assert never
    assert (model.probabilities(sites["record-100"])[:, never] == 0).all()


def test_missing_samples_are_left_out_and_a_class_that_nobody_has_is_named(sites):
    study = studies.study("ecg", aggregation="clear")
    broken = {n: replace(r, arrays={"wave": r.arrays["wave"].copy()}) for n, r in sites.items()}
    broken["record-208"].arrays["wave"][:5, 0] = np.nan
    with pytest.raises((TaskError, RunFailed), match="has label = 'Q'"):
        simulate(study, {n: r.take(r.columns["label"] != 4) for n, r in broken.items()})
    state = simulate(study.model_copy(update={"plan": study.plan[:1]}), broken)
    assert state.results["signal"]["left_out"] == 5
