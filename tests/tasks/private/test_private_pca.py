"""Principal components with noise: the bound, the answer without noise, and what the errors claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import locum.tasks.pca
import locum.tasks.private.pca  # noqa: F401 - registers the task
from locum import Rows, simulate
from locum.errors import ManifestError
from locum.study import Study
from locum.tasks import build_plan

NAMES = ["a", "b", "c", "d"]
VARIABLES = {"a": {"minimum": 0, "maximum": 100}, "b": {"minimum": -5, "maximum": 5}, "c": {"minimum": -20, "maximum": 20}, "d": {"type": "boolean"}}


def rows(n=2000, seed=0):
    r = np.random.default_rng(seed)
    f = r.normal(size=(n, 2))
    a, b = 50 + 10 * f[:, 0] + 3 * r.normal(size=n), f[:, 0] - 0.5 * f[:, 1] + r.normal(0, 0.5, n)
    return {"a": a, "b": b, "c": np.round(6 * f[:, 1]), "d": (f.sum(axis=1) > 0).astype(float)}


def step(variables=NAMES, **more):
    return {"name": "p", "task": "pca", "variables": list(variables), **more}


def clipped(d):
    low, high = np.array([(0, 100), (-5, 5), (-20, 20), (0, 1)], float).T
    return np.clip(np.column_stack([d[n] for n in NAMES]), low, high)


def column(result, key):
    return np.array([c[key] for c in result["components"]])


@pytest.mark.parametrize("matrix", ["correlation", "covariance"])
def test_without_noise_it_is_the_pooled_answer(private_run, matrix):
    d = rows()
    sites = [Rows.of({k: v[i] for k, v in d.items()}) for i in np.split(np.arange(2000), [1, 2, 300])]
    got = private_run(VARIABLES, [step(matrix=matrix)], sites)["p"]
    x = clipped(d)
    values, vectors = np.linalg.eigh(np.corrcoef(x.T) if matrix == "correlation" else np.cov(x.T, ddof=0))
    np.testing.assert_allclose(column(got, "variance"), values[:-3:-1], rtol=1e-9)
    np.testing.assert_allclose(np.abs([list(c["weights"].values()) for c in got["components"]]), np.abs(vectors.T[:-3:-1]), atol=1e-9)
    assert got["n"] == pytest.approx(2000, abs=1)
    assert got["patients"] is None
    assert got["left_out"] is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6) | st.just(float("nan"))] * 4, st.integers(0, 3)), max_size=12))
def test_a_patient_moves_the_sum_by_at_most_one(records):
    study = Study.parse({"name": "t", "data": {"variables": VARIABLES}, "terms": {"privacy": {"eps": 1, "delta": 1e-6, "patients": 100}}, "plan": [step()]})
    task, rng = build_plan(study)[0], np.random.default_rng(0)
    table = np.array([r[:4] for r in records], float).reshape(-1, 4)
    who = np.array([r[4] for r in records], int)

    def total(keep):
        return task.visit({}, Rows.of(dict(zip(NAMES, table[keep].T, strict=True)), patient=who[keep]), {}, rng).vector["moments"]

    everybody = total(np.ones(len(who), bool))
    for patient in set(who.tolist()):
        assert np.linalg.norm(everybody - total(who != patient)) <= 1.0 + 1e-9


@pytest.mark.parametrize("matrix", ["correlation", "covariance"])
def test_errors_are_those_of_sampling_and_noise(private_run, matrix):
    """Over draws of patients and of noise: the spread of the answers is what each of them claims."""
    answers, claims = [], []
    for seed in range(150):
        got = private_run(VARIABLES, [step(["a", "b", "c"], matrix=matrix)], [Rows.of(rows(1500, seed))], noise=2.0, seed=seed)["p"]
        answers.append(np.r_[column(got, "variance"), column(got, "share"), column(got, "cumulative")])
        claims.append(np.r_[column(got, "se"), column(got, "share_se"), column(got, "cumulative_se")])
    np.testing.assert_allclose(np.median(claims, axis=0), np.std(answers, axis=0), rtol=0.25)


def test_noise_is_not_taken_for_a_component(private_run):
    r = np.random.default_rng(0)
    d = {n: r.uniform(low, high, 300) for n, (low, high) in zip("abc", [(0, 100), (-5, 5), (-20, 20)], strict=True)}
    got = private_run(VARIABLES, [step(["a", "b", "c"], matrix="covariance")], [Rows.of(d)], noise=300.0)["p"]
    assert any("noise alone" in w for w in got["warnings"])


def test_simulated_with_a_later_step():
    d = rows(6000)
    sites = {f"s{i}": Rows.of({k: v[part] for k, v in d.items()}) for i, part in enumerate(np.array_split(np.arange(6000), 6))}
    terms = {"privacy": {"eps": 6.0, "delta": 1e-6, "patients": 6000}}
    plan = [step(), {"name": "m", "task": "moments", "variables": ["pc1"]}]
    got = simulate(Study.parse({"name": "t", "data": {"variables": VARIABLES}, "terms": terms, "plan": plan}), sites).results
    truth = np.linalg.eigvalsh(np.corrcoef(clipped(d).T))[::-1][:2]
    assert np.all(np.abs(column(got["p"], "variance") - truth) < 4 * column(got["p"], "se"))
    assert abs(got["m"]["variables"]["pc1"]["mean"]) < 0.5
    assert got["p"]["noise_level"] < truth[0]


def test_derived_columns_keep_to_their_range(private_study, private_state):
    study = private_study(VARIABLES, [step(components=3)])
    _, state = private_state(study, [Rows.of(rows())])
    task = build_plan(study)[0]
    made = task.apply(state, Rows.of({"a": [1e9], "b": [0.0], "c": [np.nan], "d": [1.0]}))
    assert np.isnan(made.columns["pc1"]).all()
    made = task.apply(state, Rows.of({"a": [1e9], "b": [0.0], "c": [0.0], "d": [1.0]}))
    assert abs(made.columns["pc1"][0]) == task.derived()["pc1"].maximum == 8.0


@pytest.mark.parametrize(("more", "said"), [({"variables": ["a", "e"]}, "needs the range of 'e'"), ({"method": "subspace"}, "no private form of method")])
def test_refusals(private_study, more, said):
    with pytest.raises(ManifestError, match=said):
        build_plan(private_study({**VARIABLES, "e": {}}, [{**step(), **more}]))
