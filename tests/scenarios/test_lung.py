"""The scenario that runs anywhere: its data come with lifelines."""

from __future__ import annotations

import pytest

from locum.scenarios import Lab, scenario
from locum.scenarios.lung import ALL, RATIO, WITHIN


@pytest.mark.parametrize("mode", ["clear", "masked"])
def test_the_federated_model_is_the_pooled_one(mode):
    outcome = scenario("lung").answer(Lab(mode, quick=True))
    by = {(x.who, x.metric): x for x in outcome.lines}
    assert outcome.metrics["lung_max_abs_diff_vs_pooled"] < 1e-6
    for metric in (RATIO, ALL):
        assert by["federated", metric].value == pytest.approx(by["pooled", metric].value, abs=1e-6)
        assert by["federated", metric].ci95 == pytest.approx(by["pooled", metric].ci95, abs=1e-6)
    assert by["each site alone", f"{WITHIN} that can fit"].value is not None
    assert by["a coin", ALL].value == 0.5
    assert outcome.figures["hazard-ratios"].startswith("<svg")
    assert outcome.headline == by["federated", RATIO]


def test_it_needs_no_download_and_says_why_there_is_no_noise(monkeypatch, tmp_path):
    from locum.data import registry

    monkeypatch.setenv("LOCUM_DATA_DIR", str(tmp_path))
    assert len(registry.load("lung")) == 18
    assert "private" not in scenario("lung").modes
    assert "no form with noise" in scenario("lung").reason("private")
