"""Against the exact regressions where there is no noise, and against the truth, over many runs, where there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study import Study, Total
from locum.tasks import build_plan
from locum.tasks.private import noisy_newton as nn

P = 6
TRUTH = {"logistic": np.array([-1.0, 0.8, -0.5, 0.3, 0.8, -0.5, 0.3]), "linear": np.array([0.3, 0.4, -0.25, 0.15, 0.4, -0.25, 0.15])}
MU = 0.3
"""The Gaussian trade-off of the whole step: about eps 1 at delta 1e-6."""


def variables(kind):
    numbers = {f"x{j}": {"minimum": -1, "maximum": 1} for j in range(3)} | {f"x{j}": {"type": "boolean"} for j in range(3, P)}
    return numbers | {"y": {"minimum": -3, "maximum": 3} if kind == "linear" else {"type": "boolean"}, "age": {"minimum": 0, "maximum": 120}, "free": {}}


def study(kind, privacy=True, before=(), **more):
    step = {"name": "fit", "task": kind, "features": [f"x{j}" for j in range(P)], "outcome": "y", **more}
    terms = {"privacy": {"eps": 1.0, "delta": 1e-6, "patients": 5000} if privacy else "none"}
    return Study.parse({"name": "test", "data": {"variables": variables(kind)}, "terms": terms, "plan": [*before, step]})


def task_of(kind, **more):
    return build_plan(study(kind, **more))[-1]


def sample(kind, rng, n=5000):
    x = np.c_[np.clip(rng.normal(0.2, 0.3, (n, 3)), -1, 1), rng.uniform(size=(n, 3)) < 0.3]
    eta = TRUTH[kind][0] + x @ TRUTH[kind][1:]
    y = eta + 0.4 * rng.normal(size=n) if kind == "linear" else rng.uniform(size=n) < 1 / (1 + np.exp(-eta))
    return Rows.of({**{f"x{j}": x[:, j] for j in range(P)}, "y": y})


def fit(task, sites, rng, noise=0.0, state=None):
    """Every round of one step: the sites' vectors are added, and noise of this standard deviation to each number of the sum."""
    state = state or {}
    while not task.done(state):
        layout = task.layout(state)
        total = {name: noise * rng.normal(size=a.shape) for name, a in layout.zeros().items()}
        for rows in sites:
            vector = task.visit(state, rows, {}, rng).vector
            layout.check(vector)
            total = {name: a + vector[name] for name, a in total.items()}
        state = task.combine(state, Total(total, float(len(sites)), len(sites), noise=noise))
    return task.result(state), state


def noise_for(task, mu=MU):
    return np.sqrt(task.rounds) / mu


def column(result, key):
    return np.array([c[key] for c in result["coefficients"]])


def flat(vector):
    return np.concatenate([np.ravel(a) for a in vector.values()])


@pytest.mark.parametrize("more", [{}, {"ridge": 3.0}, {"intercept": False}])
@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_without_noise_and_with_room_it_is_the_exact_regression(run_state, kind, more):
    rng = np.random.default_rng(1)
    rows = sample(kind, rng, 700)
    sites = [rows.take(np.arange(700) % 3 == k) for k in range(3)]
    task = task_of(kind, radius=20.0, **({"steps": 12} if kind == "logistic" else {}), **more)
    got, state = fit(task, sites, rng)
    if more.get("ridge"):  # its unit is the scale that is fitted, and the exact regression does not scale: compare the equations instead
        x, b = task.design.matrix(state, rows), task.coefficients(state)
        middle = x @ b if kind == "linear" else 1 / (1 + np.exp(-x @ b))
        unit = 3.0 if kind == "linear" else 1.0
        penalty = task.design.ridge(3.0) * b
        np.testing.assert_allclose((x.T @ (rows.columns["y"] - middle) - penalty) / unit, 0.0, atol=1e-7)
        return
    ref = run_state(study(kind, privacy=False, **more), sites)[0]["fit"]
    for key in ("coef", "se"):
        np.testing.assert_allclose(column(got, key), column(ref, key), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(column(got, "ci95"), column(ref, "ci95"), rtol=1e-7, atol=1e-8)
    assert (got["n"], got["converged"], got["floored"], got["warnings"]) == (700, True, 0, [])
    assert column(got, "privacy_share").max() == 0.0


@pytest.mark.parametrize(("kind", "runs", "more"), [("logistic", 200, {}), ("linear", 80, {}), ("logistic", 80, {"radius": 0.6})])
def test_intervals_cover_the_truth_and_estimates_are_unbiased(kind, runs, more):
    rng, task = np.random.default_rng(5), task_of(kind, **more)
    results = [fit(task, [sample(kind, rng)], rng, noise_for(task))[0] for _ in range(runs)]
    errors, se, share = (np.array([column(r, key) for r in results]) for key in ("coef", "se", "privacy_share"))
    errors -= TRUTH[kind]
    covered = np.mean([(column(r, "ci95")[:, 0] <= TRUTH[kind]) & (TRUTH[kind] <= column(r, "ci95")[:, 1]) for r in results])
    assert 0.92 <= covered <= 0.98
    np.testing.assert_array_less(np.abs(errors.mean(axis=0)), 3.7 * errors.std(axis=0) / np.sqrt(runs))
    np.testing.assert_allclose(errors.std(axis=0), se.mean(axis=0), rtol=0.25)
    assert 0.05 < share.mean() < 0.9
    assert abs(np.mean([r["n"] for r in results]) - 5000) < 4 * results[0]["n_se"] / np.sqrt(runs)
    assert all(r["converged"] for r in results)


def test_intervals_that_ignored_the_noise_would_not_cover():
    rng, task, inside = np.random.default_rng(6), task_of("linear"), []
    for _ in range(30):
        result, _ = fit(task, [sample("linear", rng, 2500)], rng, noise_for(task))
        naive = column(result, "se") * np.sqrt(1.0 - column(result, "privacy_share"))
        inside.append(np.abs(column(result, "coef") - TRUTH["linear"]) < 1.96 * naive)
    assert np.mean(inside) < 0.85


def test_all_rounds_count_so_that_more_rounds_of_the_same_budget_cost_little():
    """Newton's last step alone would have the noise of one round: 12 rounds would double the variance of 3 three times over."""
    rng, spread = np.random.default_rng(7), {}
    rows = sample("logistic", rng)
    for steps in (3, 12):
        task = task_of("logistic", steps=steps)
        spread[steps] = np.mean(np.std([column(fit(task, [rows], rng, noise_for(task))[0], "coef") for _ in range(25)], axis=0))
    assert spread[12] < 1.25 * spread[3]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_patient_moves_the_sum_by_at_most_one(data):
    kind = data.draw(st.sampled_from(["logistic", "linear"]))
    more = {"radius": data.draw(st.sampled_from([0.05, 1.0, 20.0])), "split": data.draw(st.sampled_from([0.01, 0.2, 0.8]))}
    task, n = task_of(kind, **more), data.draw(st.integers(1, 12))
    odd = st.sampled_from([0.0, 1.0, -1.0, 0.3, 1e9, -1e308, np.nan, np.inf])
    columns = {name: data.draw(st.lists(odd, min_size=n, max_size=n)) for name in task.reads()}
    patients = data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    state = {"fit.best": np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, -3.0, 20.0]), min_size=P + 1, max_size=P + 1)))}
    rows = Rows.of(columns, patients)
    with_all, without = (flat(task.visit(state, r, {}, np.random.default_rng(0)).vector) for r in (rows, rows.take(rows.patient != patients[0])))
    assert np.linalg.norm(with_all - without) <= 1.0


@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_the_bound_is_used_and_does_not_depend_on_how_many_records_a_patient_has(kind):
    one = {**{f"x{j}": 1.0 for j in range(P)}, "y": 3.0 if kind == "linear" else 0.0}
    task, state = task_of(kind), {"fit.best": np.full(P + 1, 2.0)}
    for records in (1, 50):
        rows = Rows.of({k: [v] * records for k, v in one.items()}, ["a"] * records)
        assert 0.98 < np.linalg.norm(flat(task.visit(state, rows, {}, np.random.default_rng(0)).vector)) <= 1.0


@pytest.mark.parametrize("kind", ["logistic", "linear"])
@pytest.mark.parametrize(("n", "noise"), [(0, 0.0), (0, 5.0), (1, 3.0), (40, 50.0), (300, 1e6)])
def test_nothing_breaks_where_noise_drowns_the_answer(kind, n, noise):
    task = task_of(kind)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        result, state = fit(task, [sample(kind, rng, n)], rng, noise)
        rows, blind = result["coefficients"], [r["name"] for r in result["coefficients"] if r["se"] is None]
        assert all(np.isfinite(r["coef"]) for r in rows)
        assert all(r[key] is None for r in rows if r["name"] in blind for key in ("p", "ci95"))
        assert all(np.isfinite([r["se"], r["p"], *r["ci95"]]).all() for r in rows if r["name"] not in blind)
        assert result["n"] >= 0
        if noise:
            assert result["warnings"]
            assert np.isfinite(task.coefficients(state)).all()
            assert n > 1 or blind
            assert all(any(name in w for w in result["warnings"]) for name in blind)


@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_no_interval_where_it_would_rest_on_what_was_assumed(kind):
    """With a range a hundred times too wide the noise drowns the slope: a coefficient is given, and no interval that would miss the truth."""
    made, rng = study(kind), np.random.default_rng(5)
    wide = made.model_dump(by_alias=True)
    wide["data"]["variables"]["x0"] |= {"minimum": -400, "maximum": 400}
    task = build_plan(Study.parse(wide))[-1]
    result, _ = fit(task, [sample(kind, rng, 2000)], rng, noise_for(task))
    row = next(r for r in result["coefficients"] if r["name"] == "x0")
    assert (row["se"], row["ci95"], row["p"]) == (None, None, None)
    assert any("no interval for" in w and "x0" in w for w in result["warnings"])


def test_weak_directions_are_regularised_and_said():
    rng, task = np.random.default_rng(3), task_of("logistic")
    result, _ = fit(task, [sample("logistic", rng, 300)], rng, noise_for(task))
    assert result["floored"] > 0
    assert result["floor"] > 0
    assert any("directions the information is too weak" in w for w in result["warnings"])
    assert any("more than half of the variance" in w for w in result["warnings"])


def test_too_few_steps_are_not_called_converged():
    rng = np.random.default_rng(4)
    rows = sample("logistic", rng, 4000)
    assert not fit(task_of("logistic", steps=2), [rows], rng)[0]["converged"]
    assert fit(task_of("logistic", steps=6), [rows], rng)[0]["converged"]


@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_rows_that_cannot_be_used_add_nothing(kind):
    rng, task = np.random.default_rng(8), task_of(kind)
    rows = sample(kind, rng, 30)
    bad = {k: np.r_[v, v[:3]] for k, v in rows.columns.items()}
    bad["x0"][30], bad["y"][31], bad["x4"][32] = np.nan, np.inf if kind == "linear" else 2.0, -np.inf
    both = [task.visit({}, r, {}, rng) for r in (rows, Rows.of(bad))]
    np.testing.assert_array_equal(*[flat(c.vector) for c in both])
    assert [c.rows for c in both] == [30, 30]
    assert both[0].bound.limit == 1.0


def test_standardised_features_give_the_same_model():
    rng = np.random.default_rng(9)
    rows = sample("logistic", rng, 3000)
    scale = {"name": "scale", "task": "standardise", "variables": ["x0", "x1", "x2"]}
    plan = build_plan(study("logistic", before=[scale], standardise="scale", radius=20.0, steps=12))
    state = plan[0].combine({}, Total(plan[0].visit({}, rows, {}, rng).vector, 1.0, 1))
    got, _ = fit(plan[1], [rows], rng, state=state)
    plain, _ = fit(task_of("logistic", radius=20.0, steps=12), [rows], rng)
    np.testing.assert_allclose(column(got, "coef"), column(plain, "coef"), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(column(got, "se"), column(plain, "se"), rtol=1e-7)


def test_scores_and_local_fits_are_on_the_scale_of_the_outcome():
    for kind in ("logistic", "linear"):
        rng, task = np.random.default_rng(10), task_of(kind)
        rows = sample(kind, rng, 20_000)
        _, state = fit(task, [rows], rng)
        x = rows.matrix([f"x{j}" for j in range(P)])
        eta = TRUTH[kind][0] + x @ TRUTH[kind][1:]
        assert np.sqrt(np.mean((task.scores(state, rows) - eta) ** 2)) < 0.06
        np.testing.assert_allclose(task.fit_here(state, rows, 0.0), task.coefficients(state), atol=0.1)


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("logistic", {"features": ["x0", "free"]}, "'free' has no declared range"),
        ("linear", {"outcome": "free"}, "'free' has no declared range"),
        ("logistic", {"site_intercepts": True}, "site_intercepts"),
        ("logistic", {"offset": "age"}, "offset"),
        ("linear", {"steps": 3}, "steps"),
        ("logistic", {"steps": 1}, "steps"),
        ("logistic", {"split": 1.0}, "split"),
        ("logistic", {"radius": 0}, "radius"),
        ("logistic", {"standardise": "scale"}, "scale"),
    ],
)
def test_what_cannot_be_protected_is_refused(kind, more, said):
    with pytest.raises(ManifestError, match=said):
        task_of(kind, **more)


def test_a_result_before_the_first_round_is_an_error():
    with pytest.raises(TaskError, match="no round"):
        task_of("logistic").result({})
    with pytest.raises(TaskError, match="has not run"):
        task_of("linear").coefficients({})


def test_what_is_requested_is_what_is_released():
    rng = np.random.default_rng(11)
    for task, rounds in ((task_of("logistic"), 5), (task_of("logistic", steps=7), 7), (task_of("logistic", rounds=3, steps=7), 3), (task_of("linear"), 1)):
        assert task.request().rounds == rounds
        assert fit(task, [sample(task.kind, rng, 200)], rng, 1.0)[0]["iterations"] == rounds
        assert str(task.layout({}).size) in task.leaves()


def test_averaging_evaluations_of_one_quadratic_divides_the_variance():
    rng, p = np.random.default_rng(12), 4
    information, truth, goal = 400.0 * np.eye(p), np.full(p, 0.5), nn.Objective(np.zeros(p), 1.0, 0.0, 1.0)
    errors, claimed = [], []
    for _ in range(300):
        rounds = [nn.Evaluation(at, information @ (truth - at) + 20 * rng.normal(size=p), information, 20.0, 0.0) for at in rng.normal(0.5, 0.1, (4, p))]
        got = nn.estimate(rounds, goal)
        errors.append(got.theta - truth)
        claimed.append(np.diag(got.noise))
    np.testing.assert_allclose(np.var(errors), (20 / 400) ** 2 / 4, rtol=0.15)
    np.testing.assert_allclose(np.mean(claimed), (20 / 400) ** 2 / 4, rtol=1e-6)
