"""The laboratory over the network: every site takes part from the first round, so that one process can give the same model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import locum.scenarios.processes as processes
from locum.data import registry
from locum.errors import LocumError
from locum.scenarios import Lab, studies
from locum.scenarios.devices import evaluated, trained_on_all
from locum.scenarios.watch import _smaller
from locum.simulate import simulate


@pytest.fixture
def asked(monkeypatch):
    """What would have been run over processes; in their place, the simulation."""
    seen = SimpleNamespace()

    def over_processes(folder, study, data, sites, say):
        seen.study, seen.data = study, data
        from locum.scenarios.lab import Ran

        got = simulate(study, sites)
        return Ran(study, sites, got.state, got.results, got.rounds, 1.0, 0.0, 0.0, got.model_sha256, processes=True)

    monkeypatch.setattr(processes, "over_processes", over_processes)
    try:
        registry.verify("watch")
    except LocumError as error:
        pytest.skip(f"watch: {error.what}")
    return seen


def test_a_study_of_devices_is_run_by_those_it_trains_on(asked):
    lab = Lab("network")
    study = _smaller(lab.study("watch"))
    sites = lab.rows(study, "watch")
    held = {n: r for n, r in sites.items() if r.part("test", study.data.split).patients}
    ran = lab.run(trained_on_all(study, "t"), "watch", of=[n for n in sites if n not in held])
    assert set(ran.sites) == set(asked.data) == set(sites) - set(held)
    assert asked.study.terms.start_when == len(ran.sites) == 6  # else the first sum is over whoever accepted first
    assert asked.study.terms.min_cohort == study.terms.min_cohort
    assert ran.same_model
    whole = simulate(_smaller(studies.study("watch")), sites)
    found = evaluated(study, ran.state, held)
    assert (found["n"], found["patients"]) == (whole.results["evaluation"]["n"], 4)
    assert found["accuracy"]["value"] == pytest.approx(whole.results["evaluation"]["accuracy"]["value"], abs=2e-3)
