"""Networks against finite differences, and exact training against a plain loop and the exact maximum."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study import Study, Total
from locum.tasks import build
from locum.tasks.models import Network, sigmoid
from locum.tasks.sgd import SGD, Descent

Floats = NDArray[np.float64]
NETWORKS = [
    Network(4),
    Network(4, loss="squared"),
    Network(4, (5,)),
    Network(4, (6, 3), "relu"),
    Network(4, (3, 2), "tanh", "squared"),
]
VARIABLES: dict[str, dict[str, Any]] = {
    "age": {"minimum": 20, "maximum": 100},
    "dose": {"minimum": -1, "maximum": 3},
    "kind": {"type": "category", "categories": ["a", "b", "c"]},
    "died": {"type": "boolean"},
    "stay": {"minimum": 0, "maximum": 60},
}
FEATURES = ["age", "dose", "kind"]


def data(n: int, seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    age, dose, kind = rng.uniform(25, 95, n), rng.normal(1, 0.8, n), rng.integers(0, 3, n).astype(float)
    eta = 0.04 * (age - 60) - 0.9 * dose + 0.7 * (kind == 2)
    return {"age": age, "dose": dose, "kind": kind, "died": (rng.random(n) < sigmoid(eta)).astype(float), "stay": 20 + 4 * eta + rng.normal(0, 3, n)}


def study(plan: list[dict[str, Any]], seed: int = 0, **variables: dict[str, Any]) -> Study:
    return Study.parse({"name": "t", "seed": seed, "data": {"variables": {**VARIABLES, **variables}}, "terms": {"privacy": "none"}, "plan": plan})


def step(**params: Any) -> dict[str, Any]:
    return {"name": "fit", "task": "sgd", "features": FEATURES, "outcome": "died", **params}


def task_of(seed: int = 0, **params: Any) -> SGD:
    s = study([step(**params)], seed)
    task = build(s.plan[0], s)
    assert isinstance(task, SGD)
    return task


def drive(task: Descent, sites: list[Rows], rounds: int, seed: int = 0) -> dict[str, Any]:
    """The state after so many rounds."""
    state: Any = {}
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        layout = task.layout(state)
        total = layout.zeros()
        for rows in sites:
            vector = task.visit(state, rows, {}, rng).vector
            layout.check(vector)
            total = {name: a + vector[name] for name, a in total.items()}
        state = task.combine(state, Total(total, float(len(sites)), len(sites)))
    return dict(state)


def split(columns: dict[str, Floats], sites: int) -> list[Rows]:
    return [Rows.of({k: v[i::sites] for k, v in columns.items()}) for i in range(sites)]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_gradients_are_finite_differences(network: Network) -> None:
    rng = np.random.default_rng(1)
    theta, x = rng.standard_normal(network.size), np.c_[np.ones(7), rng.standard_normal((7, 3))]
    y, weights = (rng.random(7) < 0.5).astype(float), rng.random(7)
    gradient = network.trace(theta, x, y).gradient(weights)
    for j in range(network.size):
        h = np.zeros(network.size)
        h[j] = 1e-6
        slope = weights @ (network.losses(theta + h, x, y) - network.losses(theta - h, x, y)) / 2e-6
        assert gradient[j] == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_norms_are_those_of_each_rows_gradient(network: Network) -> None:
    rng = np.random.default_rng(2)
    theta, x, y = rng.standard_normal(network.size), rng.standard_normal((9, 4)), rng.standard_normal(9)
    trace = network.trace(theta, x, y)
    alone = [trace.gradient((np.arange(9) == i).astype(float)) for i in range(9)]
    np.testing.assert_allclose(trace.squares(), [g @ g for g in alone], rtol=1e-13)
    np.testing.assert_allclose(trace.squares((x**2).sum(axis=1)), trace.squares(), rtol=1e-13)
    np.testing.assert_allclose(trace.gradient(), np.sum(alone, axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(trace.take(np.asarray([3, 1])).gradient(), alone[3] + alone[1], rtol=1e-12, atol=1e-14)


def test_views_write_through_and_cover_every_parameter() -> None:
    network = Network(4, (3, 2))
    theta = np.zeros(network.size)
    views = network.views(theta)
    assert {name: a.shape for name, a in views.items()} == {"layer0": (4, 3), "layer1": (4, 2), "layer2": (3, 1)}
    for a in views.values():
        a += 1.0
    assert (theta == 1.0).all()


def test_penalty_spares_the_intercept_and_every_bias() -> None:
    assert Network(3).penalised.tolist() == [0.0, 1.0, 1.0]
    network = Network(3, (2,))
    spared = {name: np.argwhere(a == 0.0).tolist() for name, a in network.views(network.penalised).items()}
    assert spared == {"layer0": [[0, 0], [0, 1]], "layer1": [[2, 0]]}


def test_first_parameters_are_public() -> None:
    """A function of the study's seed and the step's name; a linear model starts at zero."""
    assert not Network(5).initial("7").any()
    one, same, other = (task_of(seed, model="mlp", hidden=[8]).theta({}) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    first = Network(400, (50,), "relu").views(Network(400, (50,), "relu").initial("x"))["layer0"]
    assert not first[0].any()
    assert first[1:].std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)


@settings(max_examples=50, deadline=None)
@given(st.floats(allow_nan=False))
def test_sigmoid_never_overflows(eta: float) -> None:
    p = float(sigmoid(np.asarray([eta]))[0])
    assert 0.0 <= p <= 1.0
    assert p + float(sigmoid(np.asarray([-eta]))[0]) == pytest.approx(1.0)


def test_descent_is_a_plain_loop() -> None:
    columns = data(150)
    task = task_of(rounds=7, rate=0.3, momentum=0.8, l2=0.02, average=True)
    state = drive(task, split(columns, 3), 7)
    x = task.design.matrix({}, Rows.of(columns))
    theta, v, path = np.zeros(5), np.zeros(5), []
    for _ in range(7):
        g = x.T @ (1 / (1 + np.exp(-x @ theta)) - columns["died"]) / 150 + 0.02 * theta * [0, 1, 1, 1, 1]
        v = 0.8 * v + g
        theta = theta - 0.3 * v
        path.append(theta)
    np.testing.assert_allclose(state["fit.theta"], theta, rtol=1e-12)
    np.testing.assert_allclose(task.coefficients(state), np.mean(path[3:], axis=0), rtol=1e-12)


def test_descent_converges_to_the_exact_maximum() -> None:
    columns, rounds = data(400), 3000
    s = study([step(rounds=rounds), {**step(rounds=50), "name": "exact", "task": "logistic"}])
    sites = split(columns, 4)
    answers = []
    for i in (0, 1):
        task: Any = build(s.plan[i], s)
        answers.append([c["coef"] for c in task.result(drive(task, sites, rounds if i == 0 else 15))["coefficients"]])
    np.testing.assert_allclose(*answers, rtol=1e-6)


def test_a_linear_model_is_told_on_the_original_scale() -> None:
    columns = data(300)
    task = task_of(model="linear", outcome="stay", rounds=3000)
    state = drive(task, split(columns, 3), 3000)
    x = np.c_[np.ones(300), columns["age"], columns["dose"], columns["kind"] == 1, columns["kind"] == 2]
    best = np.linalg.lstsq(x, columns["stay"], rcond=None)[0]
    told = task.result(state)
    assert [c["name"] for c in told["coefficients"]] == ["(intercept)", "age", "dose", "kind[b]", "kind[c]"]
    np.testing.assert_allclose([c["coef"] for c in told["coefficients"]], best, rtol=1e-6)
    np.testing.assert_allclose(task.scores(state, Rows.of(columns)), x @ best, rtol=1e-6)


def test_an_mlp_learns_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(20, 100, 600), rng.uniform(-1, 3, 600)
    columns = {"age": a, "dose": b, "kind": np.zeros(600), "died": ((a > 60) ^ (b > 1)).astype(float)}
    task = task_of(model="mlp", hidden=[16], rounds=400, rate=0.5)
    state = drive(task, split(columns, 2), 400)
    rows = Rows.of(columns)
    assert ((task.scores(state, rows) > 0) == (columns["died"] == 1)).mean() > 0.95
    assert task.result(state)["parameters"] == 5 * 16 + 17


def test_earlier_moments_scale_the_rows() -> None:
    s = study([{"name": "scale", "task": "standardise", "variables": ["age", "dose"]}, step(standardise="scale")])
    columns = data(100)
    rows = Rows.of(columns)
    task: Any = build(s.plan[1], s)
    state = {"scale.mean": np.asarray([[60.0, 1.0]]), "scale.variance": np.asarray([[100.0, 4.0]])}
    np.testing.assert_allclose(task.prepare(state, rows).x[:, 1], (columns["age"] - 60) / 10)
    other = {**state, "scale.mean": np.asarray([[50.0, 1.0]])}
    np.testing.assert_allclose(task.prepare(other, rows).x[:, 1], (columns["age"] - 50) / 10)


def test_prepared_rows_are_kept_as_long_as_the_rows() -> None:
    task, rows = task_of(), Rows.of(data(20))
    assert task.prepare({}, rows) is task.prepare({}, rows)
    assert task.prepare({}, rows.take(np.arange(20))) is not task.prepare({}, rows)
    del rows
    gc.collect()
    assert not task._prepared._kept


def test_a_declared_range_counts_as_six_standard_deviations() -> None:
    task = task_of()
    x = task.design.matrix({}, Rows.of({"age": np.asarray([20.0, 60.0, 100.0]), "dose": np.full(3, 1.0), "kind": np.asarray([0.0, 1.0, 2.0])}))
    assert x.tolist() == [[1, -3, 0, 0, 0], [1, 0, 0, 1, 0], [1, 3, 0, 0, 1]]


def test_fixed_order_visits_each_patient_once_an_epoch() -> None:
    rows, state, sums = Rows.of(data(60)), {"fit.theta": np.full(5, 0.1)}, np.zeros(5)
    task = task_of(order="fixed", batches=5, rounds=10)
    for now in range(5):
        sums += task.visit({**state, "fit.round": np.asarray(now)}, rows, {}, np.random.default_rng(0)).vector["gradient"]
    whole = task_of().visit(state, rows, {}, np.random.default_rng(0)).vector["gradient"]
    np.testing.assert_allclose(sums, whole, rtol=1e-12)


def test_sampling_is_unbiased_and_by_patient() -> None:
    columns = data(30)
    rows = Rows.of(columns, [i // 2 for i in range(30)])
    state, rng = {"fit.theta": np.zeros(5), "fit.round": np.asarray(1)}, np.random.default_rng(3)
    whole = task_of().visit(state, rows, {}, rng).vector
    task = task_of(sample=0.5)
    drawn = [task.visit(state, rows, {}, rng).vector for _ in range(800)]
    assert {float(v["patients"]) for v in drawn} == {15.0}
    np.testing.assert_allclose(np.mean([v["gradient"] for v in drawn], axis=0) / 0.5, whole["gradient"], atol=0.6)
    few = Rows.of({k: v[:4] for k, v in columns.items()}, ["p", "p", "q", "q"])
    p, q = (task_of().visit(state, few.take(np.asarray(i)), {}, rng).vector["gradient"] for i in ([0, 1], [2, 3]))
    seen = {tuple(np.round(task.visit(state, few, {}, rng).vector["gradient"], 9)) for _ in range(100)}
    assert seen == {tuple(np.round(v, 9) + 0.0) for v in (p, q, p + q, 0 * p)}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"hidden": [3]}, "only for it"),
        ({"outcome": "kind"}, "is both a feature and the outcome"),
        ({"outcome": "kind", "features": ["age"]}, "is a category"),
        ({"order": "fixed"}, "takes batches"),
        ({"order": "fixed", "batches": 4, "sample": 0.5}, "no sample"),
        ({"order": "fixed", "batches": 4, "band": 5}, "above batches"),
        ({"batches": 4}, "belong to order"),
        ({"band": 4}, "belong to order"),
        ({"rate": 0}, "rate"),
        ({"sample": 1.5}, "sample"),
        ({"clip": 0}, "clip"),
        ({"momentum": 1}, "momentum"),
        ({"learning_rate": 1}, "rate"),
        ({"features": ["age", "age"]}, "twice"),
        ({"features": ["aeg"]}, "age"),
        ({"standardise": "nothing"}, "not an earlier step"),
    ],
)
def test_bad_parameters(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        task_of(**params)


def test_bad_rows_and_rates() -> None:
    columns = data(40)
    with pytest.raises(TaskError, match="other than 0 and 1"):
        task_of().visit({}, Rows.of({**columns, "died": columns["died"] + 1}), {}, np.random.default_rng(0))
    with pytest.raises(TaskError, match="No site has a usable row"):
        drive(task_of(), [Rows.of({**columns, "age": np.full(40, np.nan)})], 1)
    with pytest.raises(TaskError, match="diverged"):
        drive(task_of(model="linear", outcome="stay", rate=1e9, rounds=200), [Rows.of(columns)], 200)
    with pytest.raises(TaskError, match="has not run"):
        task_of().scores({}, Rows.of(columns))
