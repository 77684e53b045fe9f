"""Training with differential privacy: what one unit can move, and that without noise and clipping it is the plain training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.privacy.clipping import clipped_sum
from locum.privacy.matrix import coefficients, restore
from locum.privacy.sampler import FixedOrder, FullBatch, Poisson
from locum.study import Study, Total
from locum.study.vector import Bound
from locum.tasks import build
from locum.tasks.models import Network, Trace, sigmoid
from locum.tasks.private.fedavg import BIT, UPDATE, PrivateFedAvg
from locum.tasks.private.ghost import clipped_gradient, patient_squares, repeated
from locum.tasks.private.sgd import PrivateSGD, correlated, learning_time

Floats = NDArray[np.float64]
VARIABLES: dict[str, dict[str, Any]] = {
    "age": {"minimum": 20, "maximum": 100},
    "dose": {"minimum": -1, "maximum": 3},
    "kind": {"type": "category", "categories": ["a", "b", "c"]},
    "died": {"type": "boolean"},
    "stay": {"minimum": 0, "maximum": 60},
    "free": {},
}
FEATURES = ["age", "dose", "kind"]
PRIVACY = {"eps": 3.0, "delta": 1e-6, "patients": 120}
MODELS: list[dict[str, Any]] = [
    {},
    {"model": "linear", "outcome": "stay"},
    {"model": "mlp", "hidden": [4, 3]},
    {"model": "mlp", "hidden": [5], "activation": "relu"},
]
RNG = np.random.default_rng(0)


def data(n: int, seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    age, dose, kind = rng.uniform(25, 95, n), rng.normal(1, 0.8, n), rng.integers(0, 3, n).astype(float)
    eta = 0.04 * (age - 60) - 0.9 * dose + 0.7 * (kind == 2)
    return {"age": age, "dose": dose, "kind": kind, "died": (rng.random(n) < sigmoid(eta)).astype(float), "stay": 20 + 4 * eta + rng.normal(0, 3, n)}


def task_of(kind: str = "sgd", privacy: dict[str, Any] | str = PRIVACY, others: int = 0, **params: Any) -> Any:
    plan = [{"name": "fit", "task": kind, "features": FEATURES, "outcome": "died", **params}]
    plan += [{"name": f"n{i}", "task": "sgd", "features": FEATURES, "outcome": "died"} for i in range(others)]
    terms = {"privacy": privacy, "min_cohort": 50 if isinstance(privacy, dict) and privacy.get("unit") == "site" else 5}
    s = Study.parse({"name": "t", "data": {"variables": VARIABLES}, "terms": terms, "plan": plan})
    return build(s.plan[0], s)


def by_site(**params: Any) -> Any:
    return task_of("fedavg", {"unit": "site", "eps": 3.0, "delta": 1e-6}, **params)


def split(columns: dict[str, Floats], sites: int) -> list[Rows]:
    return [Rows.of({k: v[i::sites] for k, v in columns.items()}) for i in range(sites)]


def drive(task: Any, sites: list[Rows], rounds: int, absent: dict[int, int] | None = None) -> dict[str, Any]:
    """The state after so many rounds without noise. absent: round -> the site that misses it."""
    state: Any = {}
    memories: list[Any] = [{} for _ in sites]
    for now in range(rounds):
        layout, there = task.layout(state), [i for i in range(len(sites)) if (absent or {}).get(now) != i]
        total = layout.zeros()
        for i in there:
            vector = task.visit(state, sites[i], memories[i], RNG).vector
            layout.check(vector)
            total = {name: a + vector[name] for name, a in total.items()}
        state = task.combine(state, Total(total, float(len(there)), len(there)))
    return dict(state)


def flat(vector: Any) -> Floats:
    return np.concatenate([np.reshape(a, -1) for a in vector.values()])


# --- clipping ---


@st.composite
def traces(draw: st.DrawFn) -> tuple[Network, Trace, NDArray[np.int64]]:
    """A backward pass of up to 40 records of patients with 1 to 12 of them, in any order."""
    hidden = draw(st.sampled_from([(), (3,), (17, 20), (40,)]))
    counts = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    network = Network(draw(st.sampled_from([1, 4, 30])), hidden, draw(st.sampled_from(["tanh", "relu"])), "squared")
    x, y = rng.standard_normal((len(codes), network.inputs)), rng.standard_normal(len(codes)) * draw(st.sampled_from([1.0, 100.0]))
    return network, network.trace(rng.standard_normal(network.size), x, y), codes


def each(network: Network, trace: Trace, n: int) -> Floats:
    return np.asarray([trace.gradient((np.arange(n) == i).astype(float)) for i in range(n)]).reshape(n, network.size)


@settings(max_examples=60, deadline=None)
@given(traces(), st.sampled_from([0.1, 3.0, 1e3, 1e9]))
def test_ghost_clipping_is_the_naive_clipping(made: tuple[Network, Trace, NDArray[np.int64]], clip: float) -> None:
    network, trace, codes = made
    naive = clipped_sum(each(network, trace, len(codes)) / clip, codes).total
    np.testing.assert_allclose(clipped_gradient(trace, codes, clip), naive, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(naive).max()))
    known = clipped_gradient(trace, codes, clip, first=(trace.layers[0][0] ** 2).sum(axis=1), several=repeated(codes))
    np.testing.assert_allclose(known, naive, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(naive).max()))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.floats(-9, 9), st.integers(0, 2**32 - 1))
def test_norms_never_err_downwards_where_records_cancel(m: int, digits: float, seed: int) -> None:
    """The last record is minus the sum of the others, but for a part of 10^-9 to 10^9."""
    rng = np.random.default_rng(seed)
    a, d = rng.standard_normal((m, 90)), rng.standard_normal((m, 70))
    a[:] = a[0] + 10.0**digits * 1e-9 * a
    d[-1] = -d[:-1].sum(axis=0)
    squares = patient_squares(Trace(((a, d),)), np.zeros(m, dtype=np.int64))
    exact = np.square(sum(np.outer(a[i].astype(np.longdouble), d[i].astype(np.longdouble)) for i in range(m))).sum()
    assert squares[0] >= float(exact) * (1 - 2.0**-21)
    assert squares[0] <= float(exact) * (1 + 2.0**-21) + 1e-12 * (np.linalg.norm(a, axis=1) @ np.linalg.norm(d, axis=1)) ** 2


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    codes = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 6, 30)))
    network = Network(6, (5,))
    trace = network.trace(rng.standard_normal(network.size), rng.standard_normal((len(codes), 6)), np.ones(len(codes)))
    whole = patient_squares(trace, codes)
    monkeypatch.setattr("locum.tasks.private.ghost.CHUNK", 1)
    np.testing.assert_array_equal(patient_squares(trace, codes), whole)


# --- what one patient can move ---


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0, 30.0, 1e8, 1e200, 1e308]),
    st.sampled_from([1.0, 50.0, 1e9, 1e160, math.inf, math.nan]),
    st.sampled_from([0.05, 1.0]),
)
def test_a_patient_moves_the_sum_by_at_most_one(model: dict[str, Any], seed: int, size: float, extreme: float, clip: float) -> None:
    """Whatever their values are, with any number of records, at whatever parameters the coordinator asks for."""
    rng = np.random.default_rng(seed)
    task = task_of(clip=clip, **model)
    columns, patient = data(20, seed % 1000), rng.integers(0, 8, 20)
    for name in ("age", "dose", "stay"):
        columns[name] = columns[name] * np.where(patient == 0, extreme, 1.0)
    rows = Rows.of(columns, patient.tolist())
    state = {"fit.theta": rng.uniform(-1, 1, task.network.size) * size}
    with np.errstate(all="ignore"):
        whole = task.visit(state, rows, {}, RNG)
        less = task.visit(state, rows.take(patient != 0), {}, RNG)
    task.layout(state).check(whole.vector)
    assert whole.bound == Bound("l2", 1.0, "patient")
    moved = flat(whole.vector) - flat(less.vector)
    assert np.linalg.norm(moved) <= 1.0 + 1e-12
    if size == extreme == 1.0 and (patient == 0).any():
        assert moved.any()


def test_a_clipped_patient_counts_exactly_one() -> None:
    """All records together: ten records of one patient weigh no more than one."""
    columns = {k: np.repeat(v[:1], 10) for k, v in data(3).items()}
    columns["died"][:] = 1.0
    vector = task_of(clip=0.01).visit({}, Rows.of(columns, ["p"] * 10), {}, RNG).vector
    assert np.linalg.norm(vector["gradient"]) == pytest.approx(1.0, abs=1e-5)


def test_a_patient_of_whom_the_intercept_alone_is_left_counts_one_too() -> None:
    """In the middle of every range a row is zero but for its 1, whose part of the gradient the norm must not forget."""
    columns = {"age": [60.0, 60.0], "dose": [1.0, 1.0], "kind": [0.0, 0.0], "died": [1.0, 1.0], "stay": [1.0, 1.0]}
    vector = task_of(clip=0.01).visit({}, Rows.of(columns), {}, RNG).vector
    assert np.linalg.norm(vector["gradient"]) == pytest.approx(2.0, abs=1e-5)


def test_unusable_rows_add_nothing_and_nothing_is_said() -> None:
    task, columns = task_of(), data(12)
    good = flat(task.visit({}, Rows.of({k: v[4:] for k, v in columns.items()}), {}, RNG).vector)
    for name, value in (("age", np.nan), ("dose", np.inf), ("died", 0.25), ("died", np.nan)):
        bad = {k: v.copy() for k, v in columns.items()}
        bad[name][:4] = value
        np.testing.assert_allclose(flat(task.visit({}, Rows.of(bad), {}, RNG).vector), good, rtol=1e-12)
    empty = task.visit({}, Rows.of({k: v[:0] for k, v in columns.items()}), {}, RNG)
    assert not flat(empty.vector).any()


# --- without noise ---


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_without_clipping_and_noise_it_is_the_exact_form(model: dict[str, Any]) -> None:
    sites, params = split(data(120), 4), {"rounds": 9, "rate": 0.2, "momentum": 0.6, "l2": 0.01, "average": True, **model}
    exact, private = task_of(privacy="none", **params), task_of(clip=1e6, **params)
    a, b = drive(exact, sites, 9), drive(private, sites, 9)
    np.testing.assert_allclose(b["fit.theta"], a["fit.theta"], rtol=1e-7, atol=1e-12)
    rows = Rows.of(data(7, 1))
    np.testing.assert_allclose(private.scores(b, rows), exact.scores(a, rows), rtol=1e-7)
    told, known = ([c["coef"] for c in task.result(state).get("coefficients", [])] for task, state in ((private, b), (exact, a)))
    np.testing.assert_allclose(told, known, rtol=1e-6)


def test_descent_is_a_plain_loop_with_one_clip_per_patient() -> None:
    columns, patient = data(60), [i // 2 for i in range(60)]
    task = task_of(rounds=5, rate=0.3, momentum=0.5, clip=0.3, average=False)
    state = drive(task, [Rows.of(columns, patient)], 5)
    x, unit = task.design.matrix({}, Rows.of(columns)), 0.3 * math.sqrt(5)
    theta, v = np.zeros(5), np.zeros(5)
    for _ in range(5):
        g = (x * (sigmoid(x @ theta) - columns["died"])[:, None]).reshape(30, 2, 5).sum(axis=1)
        norms = np.linalg.norm(g, axis=1)
        assert (norms > unit).any()
        v = 0.5 * v + (g * np.minimum(1, unit * (1 - 2.0**-20) / norms)[:, None]).sum(axis=0) / 120
        theta = theta - 0.3 * v
    np.testing.assert_allclose(state["fit.theta"], theta, rtol=1e-12)


def test_the_normaliser_is_the_planning_figure() -> None:
    """Steps halve when the study plans with twice the patients; a part of the split has its share; a sample its rate."""
    total = Total({"gradient": np.arange(5.0)}, 5.0, 5)

    def moved(patients: int = 120, **params: Any) -> Floats:
        task = task_of(privacy={**PRIVACY, "patients": patients}, rate=1.0, momentum=0.0, clip=1.0, **params)
        return np.asarray(task.combine({}, total)["fit.theta"])

    np.testing.assert_allclose(moved(240), moved() / 2)
    np.testing.assert_allclose(moved(part="train"), moved() / 0.7)
    np.testing.assert_allclose(moved(sample=0.25), moved() * 4)
    np.testing.assert_allclose(moved(order="fixed", batches=8), moved() * 8)


def test_what_is_asked_for_is_what_the_accountant_sees() -> None:
    assert task_of(rounds=7).request().sampler == FullBatch()
    request = task_of(rounds=7, sample=0.25, share=2.0).request()
    assert (request.sampler, request.rounds, request.weight, request.step) == (Poisson(0.25), 7, 2.0, "fit")
    assert task_of(order="fixed", batches=8, band=3).request().sampler == FixedOrder(8, 3)
    best = task_of(order="fixed", batches=8, rounds=64).request().sampler
    assert isinstance(best, FixedOrder)
    assert 1 < best.band <= 8


def test_what_whole_sites_ask_for_is_every_round_of_every_site() -> None:
    request = by_site(rounds=9, share=3.0).request()
    assert (request.sampler, request.rounds, request.weight) == (FullBatch(), 9, 3.0)


def test_the_loss_and_the_count_are_not_in_the_answer() -> None:
    task = task_of(rounds=3)
    state = drive(task, split(data(40), 2), 3)
    assert set(task.result(state)) == {"model", "rounds", "averaged", "coefficients", "clip", "rate", "momentum"}
    assert {f.name for f in task.layout({}).fields} == {"gradient"}
    assert task.done(state)
    assert not task.done(drive(task, split(data(40), 2), 2))


def test_the_default_pace_is_public_and_falls_with_the_noise() -> None:
    def of(eps: float, patients: int, **params: Any) -> PrivateSGD:
        return task_of(privacy={"eps": eps, "delta": 1e-7, "patients": patients}, **params)

    def time(task: PrivateSGD) -> float:
        return task.pace.rate / (1.0 - task.pace.momentum) * task.step.rounds

    assert time(of(0.5, 400)) < time(of(0.5, 800)) < time(of(3.0, 800))
    assert time(of(3.0, 800, others=3)) < time(of(3.0, 800))
    assert time(of(0.5, 400, rounds=100)) == pytest.approx(time(of(0.5, 400, rounds=50)))
    steepest = task_of(privacy="none").pace.rate
    assert steepest == pytest.approx(4 / 5)
    assert of(8.0, 10**6, rounds=5).pace.rate == steepest
    assert of(8.0, 10**6, rounds=20).pace.momentum == 0.9
    assert of(8.0, 10**6, rounds=500).pace.momentum == 0.0
    assert of(3.0, 10_000).unit == pytest.approx(math.sqrt(5))
    assert of(0.5, 400).unit == pytest.approx(math.sqrt(5) / 4)
    assert of(0.5, 400, clip=0.7).unit == pytest.approx(math.sqrt(5) * 0.7)
    chosen = of(0.5, 400, rate=0.3, momentum=0.2).pace
    assert (chosen.rate, chosen.momentum) == (0.3, 0.2)


def test_learning_time_is_the_least_error_of_its_two_terms() -> None:
    """s^2 e^(-2 h tau) + S^2 tau / 2h at h = 0.2 and s = 0.5."""
    times = np.linspace(0.1, 100, 100_000)
    for noise in (1e-3, 1e-2, 0.05):
        error = 0.25 * np.exp(-0.4 * times) + noise**2 * times / 0.4
        assert learning_time(0.2 / noise, 0.2) == pytest.approx(times[error.argmin()], rel=1e-3)
    assert learning_time(1e-9, 0.2) == pytest.approx(2.5)


# --- fixed order ---


def sampled(sites: list[Rows], now: int, batches: int) -> list[Rows]:
    return [rows.take(np.arange(len(rows)) % batches == now % batches) for rows in sites]


def fixed(task: PrivateSGD, sites: list[Rows], rounds: int, absent: dict[int, int] | None = None) -> dict[str, Any]:
    """Like `drive`, with every patient in one batch of four."""
    state: Any = {}
    memories: list[Any] = [{} for _ in sites]
    for now in range(rounds):
        total = np.zeros(task.network.size)
        for i, rows in enumerate(sampled(sites, now, 4)):
            if (absent or {}).get(now) != i:
                total = total + task.visit(state, rows, memories[i], RNG).vector["gradient"]
        state = task.combine(state, Total({"gradient": total}, 1.0, len(sites)))
    return dict(state)


def test_correlation_is_undone_by_the_coordinator() -> None:
    sites, params = split(data(120), 3), {"order": "fixed", "batches": 4, "rounds": 11}
    plain, banded = (fixed(task_of(band=band, **params), sites, 11) for band in (1, 4))
    assert "fit.restored" in banded
    np.testing.assert_allclose(banded["fit.theta"], plain["fit.theta"], rtol=1e-9)
    assert len(banded["fit.restored"]) == 3


def test_a_missed_round_fades() -> None:
    """What site 1 does not release in round 4 is missing from the restored gradients as C^-1's column, whose sum falls to 1/|c|_1."""
    rng, rounds, band = np.random.default_rng(5), 24, 6
    gradients, memories, released = rng.standard_normal((2, rounds, 3)), ({}, {}), np.zeros((rounds, 3))
    gradients[1, 4] = 0.0
    for now in range(rounds):
        for i in (0, 1):
            if (i, now) != (1, 4):
                released[now] += correlated(memories[i], gradients[i, now], now, band)
    restored: list[Floats] = []
    for sent in released:
        restored.append(restore(restored, sent, band))
    c = np.zeros((rounds, rounds))
    for j, value in enumerate(coefficients(band)):
        c += np.diag(np.full(rounds - j, value), -j)
    missing = c[4] @ gradients[1]
    wrong = np.asarray(restored) - gradients.sum(axis=0)
    np.testing.assert_allclose(wrong, -np.outer(np.linalg.inv(c)[:, 4], missing), atol=1e-12)
    np.testing.assert_allclose(wrong.sum(axis=0), -missing / coefficients(band).sum(), rtol=0.02)


def test_a_missed_round_does_not_break_training() -> None:
    sites, params = split(data(120), 3), {"order": "fixed", "batches": 4, "rounds": 40}
    whole, lacking = (fixed(task_of(band=4, **params), sites, 40, absent) for absent in (None, {13: 1, 14: 1, 20: 0}))
    moved = np.linalg.norm(whole["fit.theta"] - lacking["fit.theta"])
    assert 0 < moved < 0.1 * np.linalg.norm(whole["fit.theta"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-3, 30), min_size=1, max_size=25), st.integers(2, 6), st.integers(0, 24))
def test_no_order_of_requests_releases_a_gradient_more_than_once_a_lag(asked: list[int], band: int, which: int) -> None:
    """Where the coordinator lies about the round, a gradient is in `band` releases at most, at growing lags."""
    memory: Any = {}
    seen = [float(correlated(memory, np.asarray([float(i == which % len(asked))]), now, band)[0]) for i, now in enumerate(asked)]
    weights, c = [w for w in seen if w], coefficients(band).tolist()
    lags = [c.index(w) for w in weights]
    assert lags == sorted(set(lags))
    assert sum(w * w for w in weights) <= sum(w * w for w in c) + 1e-12
    assert lags[0] == 0


def test_noise_of_fixed_order_is_restored_too() -> None:
    """The coordinator applies the inverse to the noisy sum: a unit of noise in round 0 is C^-1's first column."""
    task, state, seen = task_of(order="fixed", batches=4, band=3, momentum=0.0, rate=1.0, average=False), {}, []
    for now in range(5):
        before = task.theta(state)
        state = task.combine(state, Total({"gradient": np.full(5, float(now == 0))}, 1.0, 3))
        seen.append(float((before - task.theta(state))[0] / (task.unit / 30)))
    c = np.zeros((5, 5))
    for j, value in enumerate(coefficients(3)):
        c += np.diag(np.full(5 - j, value), -j)
    np.testing.assert_allclose(seen, np.linalg.inv(c)[:, 0], atol=1e-12)


# --- whole sites ---


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1e9, 1e308]), st.sampled_from([1e-9, 1e-3, 1.0, 1e12]), st.sampled_from([1.0, 1e9, math.nan]))
def test_a_site_moves_the_sum_by_at_most_one_with_its_bit(seed: int, size: float, clip: float, extreme: float) -> None:
    task = by_site(model="mlp", hidden=[4])
    rng = np.random.default_rng(seed)
    columns = data(int(rng.integers(0, 9)), seed % 1000)
    columns["age"] = columns["age"] * extreme
    state = {"fit.theta": rng.uniform(-1, 1, task.network.size) * size, "fit.clip": np.asarray(clip)}
    with np.errstate(all="ignore"):
        contribution = task.visit(state, Rows.of(columns), {}, RNG)
    task.layout(state).check(contribution.vector)
    assert contribution.bound == Bound("l2", 1.0, "site")
    assert np.linalg.norm(flat(contribution.vector)) <= 1.0


def test_a_clipped_update_uses_the_whole_bound() -> None:
    task = by_site()
    vector = task.visit({"fit.clip": np.asarray(1e-4)}, Rows.of(data(30)), {}, RNG).vector
    assert float(vector["small"]) == pytest.approx(-BIT / 2, rel=1e-5)
    assert np.linalg.norm(flat(vector)) == pytest.approx(1.0, rel=1e-5)
    assert pytest.approx(1.0) == UPDATE**2 + BIT**2 / 4


def test_a_site_whose_training_diverges_gives_an_update_of_zero() -> None:
    task = by_site(model="linear", outcome="stay", local_rate=1e30, local_steps=50)
    vector = task.visit({}, Rows.of(data(30)), {}, RNG).vector
    assert not np.isfinite(task.update(np.zeros(5), task.prepare({}, Rows.of(data(30))))).all()
    assert not vector["update"].any()
    assert float(vector["small"]) == pytest.approx(BIT / 2, rel=1e-5)


def test_the_clip_follows_the_median_norm() -> None:
    """At parameters that do not move, 51 sites of different sizes of update."""
    task = by_site(clip=30.0, local_rate=0.3)
    sites = [Rows.of({k: v[:30] for k, v in data(30, i).items()}) for i in range(51)]
    norms = [float(np.linalg.norm(task.update(np.zeros(5), task.prepare({}, rows)))) for rows in sites]
    state: Any = {}
    for _ in range(150):
        total = task.layout(state).zeros()
        for rows in sites:
            vector = task.visit(state, rows, {}, RNG).vector
            total = {name: a + vector[name] for name, a in total.items()}
        state = {"fit.clip": task.combine(state, Total(total, 51.0, 51))["fit.clip"]}
    low, high = np.quantile(norms, [0.46, 0.54])
    assert low < task.clip(state) < high


def test_noise_cannot_throw_the_clip_away() -> None:
    task: PrivateFedAvg = by_site()
    for small in (-1e9, 1e9):
        state = task.combine({}, Total({"update": np.zeros(5), "small": np.asarray(small)}, 60.0, 60))
        assert math.exp(-0.1) - 1e-12 <= task.clip(state) <= math.exp(0.1) + 1e-12


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_without_clipping_averaging_of_sites_is_the_exact_form(model: dict[str, Any]) -> None:
    sites, params = split(data(400), 50), {"rounds": 6, "average": True, "by": "sites", **model}
    exact, private = task_of("fedavg", "none", **params), by_site(clip=1e6, **params)
    a, b = drive(exact, sites, 6), drive(private, sites, 6)
    np.testing.assert_allclose(b["fit.theta"], a["fit.theta"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(private.coefficients(b), exact.coefficients(a), rtol=1e-9, atol=1e-12)


def test_one_local_step_by_patients_is_gradient_descent() -> None:
    columns = data(97)
    averaging = task_of("fedavg", "none", local_steps=1, local_rate=0.7, rounds=8)
    descent = task_of("sgd", "none", rate=0.7, momentum=0.0, rounds=8)
    a, b = (drive(task, split(columns, 5), 8) for task in (averaging, descent))
    np.testing.assert_allclose(a["fit.theta"], b["fit.theta"], rtol=1e-12)
    assert averaging.result(a)["n"] == 97


def test_federated_averaging_learns() -> None:
    columns = data(1500)
    task = by_site(rounds=40)
    state = drive(task, split(columns, 50), 40)
    best = task_of("sgd", "none", rounds=500)
    exact = drive(best, split(columns, 3), 500)
    rows = Rows.of(columns)
    assert np.corrcoef(task.scores(state, rows), best.scores(exact, rows))[0, 1] > 0.99
    assert set(task.result(state)) == {"model", "rounds", "averaged", "coefficients", "clip"}


# --- what is refused ---


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: task_of(features=["age", "free"]), "'free' has no declared range"),
        (lambda: task_of(model="linear", outcome="free"), "'free' has no declared range"),
        (lambda: task_of(privacy={"eps": 3.0, "delta": 1e-6}), "patients is missing"),
        (lambda: task_of(privacy={"unit": "site", "eps": 3.0, "delta": 1e-6}), "cannot protect a site"),
        (lambda: task_of("fedavg"), "cannot protect a patient"),
        (lambda: by_site(by="patients"), "cannot protect a site"),
    ],
)
def test_refused(made: Any, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        made()


def test_an_exact_study_may_have_a_variable_without_range() -> None:
    rows = Rows.of({**data(20), "free": np.arange(20.0)})
    assert task_of(privacy="none", features=["free"]).visit({}, rows, {}, RNG).vector["gradient"].any()


def test_rows_of_the_other_part_add_nothing() -> None:
    rows = Rows.of(data(200))
    parts = [flat(task_of(part=part).visit({}, rows, {}, RNG).vector) for part in ("train", "test", "all")]
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=1e-10)
    assert parts[0].any()
    assert parts[1].any()


def test_memory_is_not_needed_without_correlation() -> None:
    memory: Any = {}
    task_of().visit({}, Rows.of(data(10)), memory, RNG)
    assert not memory
    task = task_of(order="fixed", batches=4, band=2)
    contribution = task.visit({}, Rows.of(data(10)), memory, RNG)
    np.testing.assert_array_equal(memory["recent"][-1], contribution.vector["gradient"])
    assert replace(contribution, vector={}).bound == Bound("l2", 1.0, "patient")
