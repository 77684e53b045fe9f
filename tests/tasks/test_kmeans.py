"""k-means by sums against scikit-learn from the same first centres, and against data that have too small or no clusters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score

import locum.tasks.kmeans  # noqa: F401 - registers the task
from locum import Rows, simulate
from locum.errors import ManifestError, TaskError
from locum.study import Total
from locum.tasks import build_plan
from locum.tasks.kmeans_parts import ellipsoid, movers, plus_plus, split, spread

VARIABLES = {"a": {"minimum": -20, "maximum": 20}, "b": {"minimum": -20, "maximum": 20}, "c": {}}
PLACES = np.array([[0.0, 0, 0], [6, 0, 10], [0, 6, -10], [-5, -5, 5]])


def blobs(n=400, seed=0, places=PLACES):
    r = np.random.default_rng(seed)
    label = r.integers(0, len(places), n)
    x = places[label] + r.normal(size=(n, 3)) * [1, 1, 2]
    return dict(zip("abc", x.T, strict=True)), label


def step(features="abc", **more):
    return {"name": "k", "task": "kmeans", "features": list(features), "rounds": 300, **more}


SCALE = {"name": "s", "task": "standardise", "variables": ["a", "b", "c"]}


def of(result, key):
    return np.array([list(c[key].values()) for c in result["clusters"]])


def by_size(result):
    """scikit-learn's centres and sizes, in our order."""
    sizes = np.bincount(result.labels_)
    order = np.lexsort((*result.cluster_centers_.T[::-1], -sizes))
    return result.cluster_centers_[order], sizes[order]


def lloyd(z, first):
    return KMeans(len(first), init=first, n_init=1, tol=0, max_iter=1000, algorithm="lloyd").fit(z)


def simplified_silhouette(z, centres):
    d = np.sort(np.linalg.norm(z[:, None] - centres, axis=2), axis=1)
    return (1 - d[:, 0] / d[:, 1]).mean()


@pytest.mark.parametrize("standardised", [False, True])
def test_equals_scikit_learn_from_the_same_centres(run, scatter, standardised):
    d, _ = blobs()
    x = np.column_stack([d[n] for n in "abc"])
    mean, sd = (x.mean(axis=0), x.std(axis=0, ddof=1)) if standardised else (0.0, 1.0)
    first = x[[0, 1, 2, 3]] + 0.3
    plan = [SCALE, step(centres=first.tolist(), standardise="s")] if standardised else [step(centres=first.tolist())]
    got = run(VARIABLES, plan, scatter(d, [1, 1, 0, 50, 100]))["k"]
    ref = lloyd((x - mean) / sd, (first - mean) / sd)
    centres, sizes = by_size(ref)
    answer = got["by_k"][0]
    assert answer["converged"]
    assert (got["n"], got["patients"], got["sites"]) == (400, 400, 6)
    assert [c["n"] for c in answer["clusters"]] == sizes.tolist()
    np.testing.assert_allclose(of(answer, "centre"), centres * sd + mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(answer["inertia"], ref.inertia_, rtol=1e-9)
    np.testing.assert_allclose(answer["calinski_harabasz"], calinski_harabasz_score((x - mean) / sd, ref.labels_), rtol=1e-9)
    np.testing.assert_allclose(answer["silhouette"], simplified_silhouette((x - mean) / sd, ref.cluster_centers_), rtol=1e-9)
    one = answer["clusters"][0]
    label = int(np.argmin(((ref.cluster_centers_ - centres[0]) ** 2).sum(axis=1)))
    np.testing.assert_allclose(list(one["sd"].values()), x[ref.labels_ == label].std(axis=0, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("start", ["cohort", "ranges"])
def test_finds_the_clusters_and_their_number(run, scatter, start):
    d, label = blobs()
    features = "abc" if start == "cohort" else "ab"
    got = run(VARIABLES, [step(features, clusters=[2, 3, 4, 5, 6], start=start)], scatter(d, [1, 20, 150]))["k"]
    assert got["best_by_silhouette"] == 4
    assert got["best_by_calinski_harabasz"] == 4
    four = got["by_k"][2]
    assert four["starts_with_this_answer"] >= 2
    assert sorted(c["n"] for c in four["clusters"]) == pytest.approx(np.sort(np.bincount(label)), abs=3 if start == "cohort" else 30)
    assert [a["inertia"] for a in got["by_k"]] == sorted((a["inertia"] for a in got["by_k"]), reverse=True)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 80), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_any_split_gives_the_same(run, scatter, sizes, seed):
    d, _ = blobs(300, 7)
    plan = [SCALE, step(clusters=[2, 4], starts=3, standardise="s")]
    one, many = (run(VARIABLES, plan, scatter(d, s, seed))["k"]["by_k"] for s in ([300], sizes))
    for a, b in zip(one, many, strict=True):
        assert [c["n"] for c in a["clusters"]] == [c["n"] for c in b["clusters"]]
        np.testing.assert_allclose(of(b, "centre"), of(a, "centre"), rtol=1e-9, atol=1e-9)
        for key in ("inertia", "silhouette", "calinski_harabasz"):
            assert b[key] == pytest.approx(a[key], rel=1e-9)


def test_breast_cancer_is_as_good_as_scikit_learns_best(run, scatter):
    x, y = load_breast_cancer(return_X_y=True)
    names = [f"x{j}" for j in range(30)]
    plan = [{"name": "s", "task": "standardise", "variables": names}, step(names, clusters=[2, 3, 4], standardise="s", starts=10)]
    got = run({n: {} for n in names}, plan, scatter(dict(zip(names, x.T, strict=True)), [1, 1, 10, 0, 200]))["k"]["by_k"]
    z = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    for answer in got:
        best = KMeans(answer["k"], n_init=20, tol=0, random_state=0).fit(z)
        assert answer["inertia"] <= best.inertia_ * 1.001
    centres = (of(got[0], "centre") - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    labels = ((z[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert adjusted_rand_score(labels, y) > 0.6


def test_ist_masked_over_countries(sites, real_study, pooled):
    parts = sites("ist", "country")
    names = ["age", "rsbp", "rdelay"]
    plan = [{"name": "s", "task": "standardise", "variables": names}, step(names, standardise="s", centres=[[60, 150, 10], [80, 170, 20], [70, 190, 30]])]
    result = simulate(real_study("ist", plan), parts).results["k"]
    x = pooled(parts, *names)
    x = x[~np.isnan(x).any(axis=1)]
    mean, sd = x.mean(axis=0), x.std(axis=0, ddof=1)
    ref = lloyd((x - mean) / sd, (np.array([[60, 150, 10], [80, 170, 20], [70, 190, 30]]) - mean) / sd)
    centres, sizes = by_size(ref)
    answer = result["by_k"][0]
    assert answer["converged"]
    assert result["n"] == len(x)
    assert [c["n"] for c in answer["clusters"]] == sizes.tolist()
    np.testing.assert_allclose(of(answer, "centre"), centres * sd + mean, rtol=1e-9)
    np.testing.assert_allclose(answer["inertia"], ref.inertia_, rtol=1e-9)


def test_no_centre_is_ever_a_patients_row(build_study, scatter):
    """Three far-away patients would be clusters of their own; their rows, and means of fewer than 11, never become a centre."""
    d, _ = blobs(300, 1)
    far = {"a": [15.0, -15, 15], "b": [15.0, 15, -18], "c": [60.0, -70, 80]}
    d = {n: np.r_[d[n], far[n]] for n in d}
    x, sites, rng = np.column_stack([d[n] for n in "abc"]), scatter(d, [1, 1, 100]), np.random.default_rng(0)
    for more in ({"centres": [[15, 15, 60], [0, 0, 0], [0, 6, -10], [-15, 15, -70]]}, {"clusters": [4, 6], "starts": 6}):
        task, state, seen = build_plan(build_study(VARIABLES, [step(**more)]))[0], {}, 0
        while not task.done(state):
            vectors = [task.visit(state, s, {}, rng).vector for s in sites]
            state = task.combine(state, Total({name: sum(v[name] for v in vectors) for name in vectors[0]}, 4.0, 4))
            if "k.centres" in state:
                assert np.linalg.norm(state["k.centres"][:, None] - x, axis=2).min() > 1e-6
                count = state.get("k.count", np.zeros(1))
                assert not ((count > 0) & (count < 11)).any()
                seen += 1
        assert seen > 3


def rounds_of(task, sites):
    """The states of a run, round by round."""
    state, rng = {}, np.random.default_rng(0)
    while not task.done(state):
        vectors = [task.visit(state, s, {}, rng).vector for s in sites]
        state = task.combine(state, Total({name: sum(v[name] for v in vectors) for name in vectors[0]}, float(len(sites)), len(sites)))
        yield state


def test_the_rest_does_not_give_a_small_cluster_away(build_study):
    """Of two clusters one is a single patient: the mean of the others, with the mean of all, would be that patient's row."""
    x = np.r_[np.random.default_rng(0).normal(size=60), 40.0]
    task = build_plan(build_study({"a": {}}, [step("a", centres=[[0], [40]])]))[0]
    states = list(rounds_of(task, [Rows.of({"a": x})]))
    for state in states:
        assert np.abs(state["k.centres"] - x[:-1].mean()).min() > 1e-9
    assert "k.count" in states[0]
    assert (states[0]["k.count"] == -1).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_two_rounds_differ_by_few_patients(build_study, seed):
    r = np.random.default_rng(seed)
    x = np.vstack([r.normal(size=(500, 2)), r.normal(5.0, 1.0, size=(3 * seed, 2))])
    task = build_plan(build_study({"a": {}, "b": {}}, [step("ab", clusters=[3, 5], starts=3, least_moved=11)]))[0]
    states = [s for s in rounds_of(task, [Rows.of({"a": x[:, 0], "b": x[:, 1]})]) if "k.before" in s]
    assert len(states) > 2
    first = 0
    for run, (k, _) in enumerate(task.runs):
        at, history = slice(first, first + k), []
        for state in (s for s in states if s["k.published"][run]):
            label = ((x[:, None] - state["k.before"][at]) ** 2).sum(axis=2).argmin(axis=1)
            if not history or (state["k.centres"][at] != history[-1][1]).any():
                history.append((label, state["k.centres"][at]))
        for (a, _), (b, _) in pairwise(history):
            changed = np.array([((a == c) != (b == c)).sum() for c in range(k)])
            assert not ((changed > 0) & (changed < 11)).any()
        first += k
    answers = task.result(states[-1])["by_k"]
    assert all(a["held"] or a["converged"] for a in answers)
    assert any("would have changed" in w for w in task.result(states[-1])["warnings"])


def test_holding_costs_little_where_there_are_clusters(run, scatter):
    d, _ = blobs()
    x = np.column_stack([d[n] for n in "abc"])
    got = run(VARIABLES, [step(clusters=4, least_moved=11)], scatter(d, [1, 100]))["k"]["by_k"][0]
    assert got["inertia"] < lloyd(x, PLACES).inertia_ * 1.05


def test_movers():
    got = movers(np.array([0, 0, 1, 2, 3]), np.array([0, 0, 0, 1, 2]), np.array([1, 1, 0, 1, 0]), 4)
    assert got.tolist() == [2, 1, 1, 0]


def test_a_start_that_isolates_patients_is_repaired(run, scatter):
    d, _ = blobs(300, 1)
    d = {n: np.r_[v, 19.0] for n, v in d.items()}
    got = run(VARIABLES, [step("ab", centres=[[19, 19], [0, 0], [0, 6], [-5, -5]])], scatter(d, [1, 100]))["k"]["by_k"][0]
    assert got["converged"]
    assert min(c["patients"] for c in got["clusters"]) >= 11


def test_clusters_that_are_too_small_are_not_shown(run, scatter):
    """Two tight groups and five patients far from both: with three clusters the five are always left over."""
    r = np.random.default_rng(0)
    a = np.r_[r.normal(0, 0.1, 20), r.normal(10, 0.1, 5)]
    with pytest.raises(TaskError, match="gave clusters of at least 11"):
        run({"a": {}}, [step("a", clusters=2, starts=4)], [Rows.of({"a": a})])


def test_patients_and_not_rows_are_counted(run):
    """Twenty rows of two patients are two patients."""
    r = np.random.default_rng(0)
    a = np.r_[r.normal(0, 1, 100), r.normal(50, 1, 20)]
    who = [*range(100), *[200] * 10, *[201] * 10]
    with pytest.raises(TaskError, match="gave clusters"):
        run({"a": {}}, [step("a", clusters=2, starts=2)], [Rows.of({"a": a}, patient=who)])
    assert run({"a": {}}, [step("a", clusters=2, starts=2)], [Rows.of({"a": a})])["k"]["by_k"][0]["clusters"][1]["patients"] == 20


def test_warnings(run):
    d, _ = blobs()
    got = run(VARIABLES, [step(clusters=3, rounds=3)], [Rows.of(d)])["k"]
    assert any("not standardised" in w for w in got["warnings"])
    assert any("still moving" in w for w in got["warnings"])
    assert not got["by_k"][0]["converged"]


def test_few_patients_and_few_rounds(run):
    d, _ = blobs(32)
    with pytest.raises(TaskError, match="too few complete rows for 3 clusters"):
        run(VARIABLES, [step(clusters=3)], [Rows.of(d)])
    with pytest.raises(TaskError, match="too few complete rows"):
        run(VARIABLES, [step(clusters=2)], [Rows.of({**d, "b": np.full(32, np.nan)})])
    with pytest.raises(TaskError, match="no round left"):
        run(VARIABLES, [step(clusters=2, rounds=2)], [Rows.of(d)])


def test_a_constant_feature_and_all_rows_alike(run):
    d, _ = blobs()
    got = run(VARIABLES, [step(clusters=4)], [Rows.of({**d, "b": np.full(400, 2.0)})])["k"]["by_k"][0]
    np.testing.assert_allclose(of(got, "centre")[:, 1], 2.0, rtol=1e-12)
    with pytest.raises(TaskError, match="gave clusters"):
        run(VARIABLES, [step(clusters=2)], [Rows.of({n: np.ones(100) for n in "abc"})])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "either clusters"),
        ({"clusters": 2, "centres": [[0, 0, 0], [1, 1, 1]]}, "either clusters"),
        ({"clusters": [2, 2]}, "twice"),
        ({"clusters": 1}, "2"),
        ({"centres": [[0, 0], [1, 1]]}, "one number per feature"),
        ({"clusters": 2, "threshold": 1}, "threshold"),
        ({"clusters": 2, "start": "ranges"}, "needs the range of 'c'"),
        ({"clusters": 2, "features": ["a", "k"]}, "of type 'category'"),
        ({"clusters": 2, "standardise": "s"}, "not an earlier step"),
    ],
)
def test_plans_that_make_no_sense(build_study, more, said):
    with pytest.raises(ManifestError, match=said):
        build_plan(build_study({**VARIABLES, "k": {"type": "category", "categories": ["x", "y"]}}, [{**step(), **more}]))


def test_clusters_without_any_spread(run):
    got = run({"a": {}}, [step("a", clusters=2)], [Rows.of({"a": np.repeat([0.0, 1.0], 20)})])["k"]
    assert got["by_k"][0]["inertia"] == 0.0
    assert got["by_k"][0]["calinski_harabasz"] is None
    assert got["by_k"][0]["silhouette"] == 1.0


def test_robust_scale_is_a_scale_too(run, scatter):
    d, _ = blobs()
    plan = [{"name": "s", "task": "robust_scale", "variables": ["a", "b"]}, step("ab", clusters=4, standardise="s")]
    assert run(VARIABLES, plan, scatter(d, [1, 100]))["k"]["by_k"][0]["converged"]


def test_points_fill_the_cube():
    u = spread(256, 5, 1)
    assert u.shape == (256, 5)
    assert u.min() >= 0
    assert u.max() < 1
    np.testing.assert_allclose(u.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_array_equal(u, spread(256, 5, 1))
    assert (u != spread(256, 5, 2)).any()


def test_points_of_the_ellipsoid():
    z = np.random.default_rng(0).normal(size=(500, 2)) @ [[2, 1], [0, 0.5]] + [3, -1]
    got = ellipsoid(spread(4000, 2, 0), 500, z.sum(axis=0), z.T @ z)
    np.testing.assert_allclose(got.mean(axis=0), z.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(np.cov(got.T), np.cov(z.T), atol=0.1)


def test_first_centres_are_distinct_and_of_averages():
    averages, others = np.array([[0.0], [0], [5], [9]]), np.array([[100.0], [200]])
    got = plus_plus(averages, np.array([10.0, 10, 10, 10]), others, 3, [0])
    assert sorted(got.ravel().tolist()) == [0, 5, 9]
    assert plus_plus(averages[:2], np.ones(2), others, 3, [0]).ravel().tolist() == [0, 0, 100]


def test_the_widest_cluster_is_split():
    got = split(np.array([[0.0, 0], [5, 5], [9, 9]]), np.array([[0.0, 0], [4, 16], [1, 1]]), np.array([1.0, 16, 20]), np.array([True, False, False]))
    np.testing.assert_allclose(got, [[5, 4.5], [5, 5.5], [9, 9]])


def test_what_leaves_is_said(build_study):
    task = build_plan(build_study(VARIABLES, [step(clusters=[2, 3], starts=2)]))[0]
    assert "10 clusters (4 runs side by side)" in task.leaves()
    assert task.layout({}).size == 3 + 3 + 6
