"""The drift gate: who differs is found, who does not is left alone, and only counts of sites leave."""

from __future__ import annotations

import numpy as np
import pytest

from locum import Rows, simulate
from locum.errors import ManifestError
from locum.study import Total
from locum.tasks import build_plan
from locum.tasks.drift import DISTANCES

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120},
    "lab": {"minimum": 0, "maximum": 10},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
}
DRIFT = {"name": "d", "task": "drift", "variables": ["age", "lab", "arm"]}


def site(seed, n=300, shift=0.0, arm=(0.5, 0.3, 0.2), missing=0.0):
    r = np.random.default_rng(seed)
    lab = r.uniform(0, 10, n)
    lab[r.random(n) < missing] = np.nan
    return Rows.of({"age": r.normal(60 + shift, 10, n).clip(0, 120), "lab": lab, "arm": r.choice(3, n, p=arm).astype(float)})


def test_sites_that_differ_are_counted(run):
    alike = [site(i) for i in range(8)]
    found = run(VARIABLES, [DRIFT], [*alike, site(20, shift=25), site(21, shift=25, missing=0.6), site(22, arm=(0.1, 0.1, 0.8))])["d"]
    assert found["sites"] == 11
    assert found["variables"] == {"age": 2, "lab": 1, "arm": 1}
    assert found["warnings"][0] == "'age' differs from the federation at 2 of 11 sites."
    assert run(VARIABLES, [DRIFT], alike)["d"]["variables"] == {"age": 0, "lab": 0, "arm": 0}


def _states(build_study, parts):
    task = build_plan(build_study(VARIABLES, [DRIFT]))[0]
    vectors = [task.visit({}, rows, {}, np.random.default_rng(0)).vector for rows in parts]
    total = {n: sum(v[n] for v in vectors) for n in vectors[0]}
    return task, task.combine({}, Total(total, 1.0, len(parts)))


def test_what_leaves_is_yes_or_no_and_the_rest_stays_in_memory(build_study):
    parts = [*(site(i) for i in range(8)), site(20, shift=25)]
    task, state = _states(build_study, parts)
    memory = {}
    made = task.visit(state, parts[-1], memory, np.random.default_rng(0))
    assert {n: a.tolist() for n, a in made.vector.items()} == {"drifting": [1.0, 0.0, 0.0], "judged": 1.0}
    assert set(memory) == {DISTANCES}
    found = task.kept(memory)
    assert list(found) == ["age", "lab", "arm"]
    assert found["age"].psi > 0.25 > found["lab"].psi >= 0
    assert [d.values for d in found.values()] == [300, 300, 300]
    assert task.kept({}) == {}


def test_small_bins_of_the_federation_are_hidden_and_compared_as_one(build_study):
    parts = [site(i) for i in range(4)]
    for rows in parts:
        rows.columns["age"][0] = 119.0  # four patients in the last bin
    task, state = _states(build_study, parts)
    counts = np.r_[state["d.age:counts"], *(state[f"d.age:{k}"] for k in ("below", "above", "missing"))]
    assert (counts == -1).sum() >= 2
    assert not ((counts > 0) & (counts < 11)).any()
    memory = {}
    assert task.visit(state, parts[0], memory, np.random.default_rng(0)).vector["drifting"].tolist() == [0, 0, 0]
    assert task.kept(memory)["age"].tv < 0.1


def test_a_site_without_rows_is_not_judged(build_study):
    task, state = _states(build_study, [site(i) for i in range(4)])
    made = task.visit(state, site(0).take(np.zeros(300, bool)), {}, np.random.default_rng(0))
    assert (made.rows, float(made.vector["judged"]), made.vector["drifting"].tolist()) == (0, 0.0, [0, 0, 0])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([{**DRIFT, "variables": ["age", "age"]}], "twice"),
        ([{**DRIFT, "tv": 1.0}], "tv"),
        ([DRIFT, {"name": "h", "task": "histogram", "variable": "age"}], "in different bins"),
        ([DRIFT, {"name": "q", "task": "quantiles", "variable": "age"}], "count the same variable 'age'"),
        ([DRIFT, {"name": "r", "task": "robust_scale", "variables": ["age"]}], "leave 'age' out of one of them$"),
        ([{"name": "r", "task": "robust_scale", "variables": ["age"]}, DRIFT], "leave 'age' out of one of them$"),
        ([{"name": "q", "task": "quantiles", "variable": "age"}, DRIFT], "count the same variable 'age'"),
    ],
)
def test_refused_when_the_study_is_read(build_study, plan, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, plan))


def test_the_same_bins_beside_a_histogram(build_study):
    assert build_plan(build_study(VARIABLES, [DRIFT, {"name": "h", "task": "histogram", "variable": "age", "bins": 10}]))


def test_heart_disease_at_four_hospitals(sites, real_study):
    """Switzerland has no cholesterol; nearly nobody outside of Cleveland has ca. Random quarters of the same patients do not drift."""
    parts = sites("heart_disease")
    plan = [{"name": "d", "task": "drift", "variables": ["age", "sex", "chol", "ca", "cp"]}]
    found = simulate(real_study("heart_disease", plan), parts).results["d"]
    print(found)
    assert found["sites"] == 4
    assert found["variables"]["chol"] >= 1
    assert found["variables"]["ca"] >= 1
    names = list(parts["va"].columns)
    everyone = Rows.of({n: np.concatenate([r.columns[n] for r in parts.values()]) for n in names})
    quarters = np.array_split(np.random.default_rng(0).permutation(len(everyone)), 4)
    mixed = simulate(real_study("heart_disease", plan), {f"q{i}": everyone.take(q) for i, q in enumerate(quarters)}).results["d"]
    assert set(mixed["variables"].values()) == {0}


def test_the_stroke_trial_in_36_countries(sites, real_study):
    plan = [{"name": "d", "task": "drift", "variables": ["age", "rdelay", "rct", "rconsc", "stype"]}]
    found = simulate(real_study("ist", plan), sites("ist", "country")).results["d"]
    print(found)
    assert found["sites"] == 36
    assert found["variables"]["age"] <= 2
    assert found["variables"]["rct"] >= 5  # countries differ in who had a CT first
