"""Statistics with differential privacy: the exact answers without noise, near ones with it, and a bounded part for each patient."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study import Split, Study, Total
from locum.study.vector import Layout
from locum.tasks import build, build_plan
from locum.tasks.private.evaluate import noisy_auc, to_simplex
from locum.tasks.private.quantiles import isotonic, locate

VARIABLES = {
    "age": {"minimum": 0, "maximum": 120, "max_missing": 0.9},
    "grade": {"type": "integer", "minimum": 1, "maximum": 5},
    "arm": {"type": "category", "categories": ["a", "b", "c"]},
    "sick": {"type": "boolean"},
    "dead": {"type": "boolean", "role": "event"},
    "free": {},
}
NUMBERS = ["age", "grade", "sick"]
PLAN = [
    {"name": "check", "task": "data_check", "variables": ["age", "grade", "arm", "dead"]},
    {"name": "moments", "task": "moments", "variables": NUMBERS},
    {"name": "groups", "task": "moments", "variables": NUMBERS, "by": "arm"},
    {"name": "scale", "task": "standardise", "variables": ["age", "grade"]},
    {"name": "histogram", "task": "histogram", "variable": "age", "bins": 12},
    {"name": "quantiles", "task": "quantiles", "variable": "age", "probabilities": [0.1, 0.5, 0.9]},
    {"name": "grades", "task": "quantiles", "variable": "grade"},
]
MODEL = [
    {"name": "fit", "task": "logistic", "features": ["age", "grade"], "outcome": "dead", "part": "train"},
    {"name": "eval", "task": "evaluate_binary", "model": "fit"},
]
EXACT = [{**s, "threshold": 0} if s["task"] == "histogram" else s for s in PLAN if s["task"] != "quantiles"]
SHRUNK = 1e-5
"""The clip keeps a margin of 2^-20."""


def columns(n=1000, seed=0):
    r = np.random.default_rng(seed)
    age = np.clip(r.normal(62, 14, n), 0, 120)
    risk = 1 / (1 + np.exp(-(age - 62) / 14))
    out = {"age": age, "grade": r.integers(1, 6, n), "arm": r.integers(0, 3, n)}
    out |= {"sick": r.random(n) < 0.3, "dead": r.random(n) < risk, "free": r.normal(size=n)}
    return {name: np.asarray(a, float) for name, a in out.items()}


def broken(n=1000):
    """Missing, infinite and out-of-range values in every column."""
    d = columns(n)
    for k, name in enumerate(d):
        d[name][k : 60 + k : 4] = np.nan
        d[name][100 + k], d[name][110 + k], d[name][120 + k], d[name][130 + k] = np.inf, -np.inf, 1e308, -1e308
    return d


def test_without_noise_the_answers_are_the_exact_ones(private_run, run, scatter):
    sites = scatter(columns(), [1, 0, 300])
    got, exact = private_run(VARIABLES, PLAN, sites), run(VARIABLES, EXACT, sites)
    for name in ("moments", "groups", "scale"):
        cells = [(a, b) for v in got[name]["variables"] for a, b in both(got[name]["variables"][v], exact[name]["variables"][v])]
        assert len(cells) == {"moments": 3, "groups": 9, "scale": 2}[name]
        for a, b in cells:
            assert a["n"] == b["n"]
            assert [a[k] for k in ("mean", "variance", "sd")] == pytest.approx([b[k] for k in ("mean", "variance", "sd")], rel=SHRUNK)
            assert a["noise_sd"] == {"n": 0, "mean": 0, "variance": 0}
    assert got["histogram"]["edges"] == exact["histogram"]["edges"]
    kept = [(a, b) for a, b in zip(got["histogram"]["counts"], exact["histogram"]["counts"], strict=True) if a is not None]
    assert len(kept) >= 5
    assert all(a == b for a, b in kept)
    hidden = [b for a, b in zip(got["histogram"]["counts"], exact["histogram"]["counts"], strict=True) if a is None]
    assert sum(c < 11 for c in exact["histogram"]["counts"]) == len(hidden) - 1  # and one partner
    assert got["histogram"]["suppressed"] == len(hidden) + 3
    assert got["check"]["rows"] == exact["check"]["rows"]
    assert got["check"]["variables"] == exact["check"]["variables"]


def both(a, b):
    return [(a, b)] if "n" in a else [(a[g], b[g]) for g in a]


def test_the_check_counts_what_is_wrong(private_run, scatter):
    d = columns()
    d["age"][:100], d["age"][100:130], d["age"][130:135], d["age"][140] = np.nan, -1, 300, np.inf
    got = private_run(VARIABLES, PLAN[:1], scatter(d, [400]))["check"]
    assert got["variables"]["age"] == {"present": 899, "missing": 101, "below": 30, "above": 5}
    assert "'age' has about 35 values outside" in got["warnings"][0]


def test_quantiles_without_noise_lie_within_the_bound(private_run, scatter):
    d = columns()
    got = private_run(VARIABLES, PLAN, scatter(d, [300]))
    for answer in got["quantiles"]["quantiles"]:
        exact = np.quantile(d["age"], answer["probability"], method="inverted_cdf")
        assert abs(answer["value"] - exact) <= answer["error_bound"] <= 120 / 64
    assert [q["value"] for q in got["grades"]["quantiles"]] == np.quantile(d["grade"], [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
    assert all(q["error_bound"] == 0 for q in got["grades"]["quantiles"])


@pytest.mark.parametrize("noise", [2.0, 8.0])
def test_with_noise_the_answers_are_within_a_few_standard_deviations(private_run, scatter, noise):
    d = columns()
    sites, away, inside = scatter(d, [300, 300]), [], []
    for seed in range(20):
        got = private_run(VARIABLES, PLAN, sites, noise, seed)
        away += [(got["check"]["rows"] - 1000) / got["check"]["noise_sd"]["rows"]]
        away += [(got["check"]["variables"]["dead"]["events"] - d["dead"].sum()) / got["check"]["noise_sd"]["events"]]
        for name in NUMBERS:
            cell, sd = got["moments"]["variables"][name], got["moments"]["variables"][name]["noise_sd"]
            truth = {"n": 1000, "mean": d[name].mean(), "variance": d[name].var(ddof=1)}
            away += [(cell[k] - truth[k]) / sd[k] for k in truth]
        counts, edges = got["histogram"]["counts"], got["histogram"]["edges"]
        away += [(a - b) / got["histogram"]["noise_sd"] for a, b in zip(counts, np.histogram(d["age"], edges)[0], strict=True) if a is not None and b > 60]
        for step, column in (("quantiles", "age"), ("grades", "grade")):
            for q in got[step]["quantiles"]:
                inside.append(abs(q["value"] - np.quantile(d[column], q["probability"], method="inverted_cdf")) <= q["error_bound"])
    assert len(away) > 250
    assert np.abs(away).max() < 5
    assert 0.85 < np.std(away) < 1.15
    assert np.mean(inside) > 0.9


def test_noise_widens_the_bound_of_a_quantile(private_run, scatter):
    sites = scatter(columns(), [])
    bounds = [[q["error_bound"] for q in private_run(VARIABLES, PLAN[5:6], sites, noise)["quantiles"]["quantiles"]] for noise in (0.0, 3.0, 30.0)]
    assert all(a < b < c for a, b, c in zip(*bounds, strict=True))


def vector(study, rows):
    """Every step's addend from one site, one after the other."""
    out = []
    for task in build_plan(study):
        contribution = task.visit({}, rows, {}, np.random.default_rng(0))
        task.layout({}).check(contribution.vector)
        assert (contribution.bound.norm, contribution.bound.limit, contribution.bound.unit) == ("l2", 1.0, "patient")
        out.append(np.concatenate([contribution.vector[f.name].ravel() for f in task.layout({}).fields]))
    return out


odd = st.one_of(st.floats(-50, 200), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 120.0, 1e308, -1e308, 60.0]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.tuples(odd, odd, st.sampled_from([0.0, 1.0, 2.0, np.nan]), odd), min_size=1, max_size=60),
    others=st.integers(0, 5),
    one_value=st.booleans(),
)
def test_a_patient_moves_the_sum_by_at_most_one(private_study, values, others, one_value):
    if one_value:
        values = [values[0]] * len(values)
    columns_ = dict(zip(("age", "grade", "arm", "sick"), np.array(values, float).T, strict=True))
    columns_["dead"], columns_["free"] = (columns_["sick"] > 0).astype(float), columns_["age"]
    extra = columns(others)
    rows = Rows.of({k: np.r_[columns_[k], extra[k]] for k in columns_}, ["the patient"] * len(values) + [str(i) for i in range(others)])
    study = private_study(VARIABLES, PLAN)
    for with_, without in zip(vector(study, rows), vector(study, rows.take(rows.patient != "the patient")), strict=True):
        assert np.linalg.norm(with_ - without) <= 1.0 + 1e-9


def test_many_records_of_one_patient_count_at_most_one(private_study):
    rows = Rows.of({name: np.repeat(a[:1], 50) for name, a in columns().items()}, ["p"] * 50)
    for v in vector(private_study(VARIABLES, PLAN), rows):
        assert np.linalg.norm(v) == pytest.approx(1.0, rel=SHRUNK)


def test_rows_that_cannot_be_used_change_nothing_else(private_run, scatter):
    d = broken()
    got = private_run(VARIABLES, PLAN, scatter(d, [1, 0, 300]))
    age = d["age"][np.isfinite(d["age"])]
    cell = got["moments"]["variables"]["age"]
    assert cell["n"] == len(age)
    assert cell["mean"] == pytest.approx(np.clip(age, 0, 120).mean(), rel=SHRUNK)
    assert cell["variance"] == pytest.approx(np.clip(age, 0, 120).var(ddof=1), rel=SHRUNK)
    assert got["check"]["variables"]["age"]["missing"] == 1000 - len(age)
    assert got["quantiles"]["n"] == len(age)
    assert got["histogram"]["missing"] == 1000 - len(age)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_sites_without_rows(private_run, scatter, noise):
    empty = Rows.of({name: [] for name in VARIABLES})
    full = scatter(columns(), [500])
    assert private_run(VARIABLES, PLAN[1:], [*full, empty], noise) == private_run(VARIABLES, PLAN[1:], full, noise)
    assert private_run(VARIABLES, PLAN[:1], [*full, empty], noise)["check"]["sites"] == 3
    got = private_run(VARIABLES, PLAN[1:], [empty, empty], noise)
    json.dumps(got, allow_nan=False)
    assert got["moments"]["variables"]["age"]["n"] <= 4 * got["moments"]["variables"]["age"]["noise_sd"]["n"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), noise=st.sampled_from([0.0, 1e-3, 1.0, 1e3, 1e6]), shift=st.sampled_from([0.0, -1.0, 1.0]))
def test_no_sum_whatever_raises_or_gives_nan(private_study, seed, noise, shift):
    r = np.random.default_rng(seed)
    for task in build_plan(private_study(VARIABLES, PLAN[1:])):
        sums = {f.name: np.asarray(r.normal(shift * noise, noise, f.shape)) for f in task.layout({}).fields}
        state = task.combine({}, Total(sums, 3.0, 3, noise))
        assert task.done(state)
        assert all(np.isfinite(a).all() for a in state.values())
        json.dumps(task.result(state), allow_nan=False)
        if task.kind == "standardise":
            (mean, sd), (_, other) = task.moments_of(state, "age"), task.moments_of(state, "grade")
            assert 0 <= mean <= 120
            assert sd >= 0.6
            assert other >= 0.02


def test_the_check_refuses_only_beyond_noise(private_run, scatter):
    d = columns()
    d["age"][:500] = np.nan
    variables = {**VARIABLES, "age": {"minimum": 0, "maximum": 120, "max_missing": 0.4}}
    for noise in (0.0, 5.0):
        with pytest.raises(TaskError, match=r"'age' is missing in about 5.% of the rows; the limit is 40%.*drop 'age'"):
            private_run(variables, PLAN[:1], scatter(d, [300]), noise)
    assert private_run(variables, PLAN[:1], scatter(d, [300]), 50.0)["check"]["variables"]["age"]["missing"] > 0
    with pytest.raises(TaskError, match="no event at all in 'dead'"):
        private_run(VARIABLES, PLAN[:1], scatter({**columns(), "dead": np.zeros(1000)}, [300]))
    with pytest.raises(TaskError, match="The cohort has no rows"):
        private_run(VARIABLES, PLAN[:1], [Rows.of({name: [] for name in VARIABLES})])


def test_a_constant_column_is_scaled_by_the_floor(private_study, private_state, scatter):
    study = private_study(VARIABLES, [PLAN[3]])
    _, state = private_state(study, scatter({**columns(), "age": np.full(1000, 50.0)}, [300]))
    assert build_plan(study)[0].moments_of(state, "age") == pytest.approx((50.0, 0.6), rel=1e-3)


def test_a_site_without_the_column_says_so(private_run):
    with pytest.raises(TaskError, match="reads 'age', which this site's rows do not have"):
        private_run(VARIABLES, PLAN[4:5], [Rows.of({"grade": [1.0]})])


def test_small_noisy_cells_are_hidden_and_absent_from_the_state(private_study, private_state, scatter):
    d = {**columns(), "age": np.repeat([5.0, 15.0, 35.0, 65.0], [4, 300, 400, 296])}
    results, state = private_state(private_study(VARIABLES, PLAN[4:5]), scatter(d, [300]))
    counts = results["histogram"]["counts"]
    assert [(k, c) for k, c in enumerate(counts) if c is not None] == [(1, 300), (3, 400)]  # 296 is the partner of 4 and the zeros
    assert (state["histogram.counts"] == -1).sum() == 10
    assert not np.isclose(state["histogram.counts"], 4).any()


def test_plans_that_need_a_range(private_study):
    for step in ({"name": "m", "task": "moments", "variables": ["free"]}, {"name": "m", "task": "quantiles", "variable": "free"}):
        with pytest.raises(ManifestError, match=r"needs the range of 'free'.*declare"):
            build_plan(private_study(VARIABLES, [step]))
    with pytest.raises(ManifestError, match="tolerance means nothing"):
        build_plan(private_study(VARIABLES, [{**PLAN[5], "tolerance": 0.1}]))


def test_a_range_without_a_whole_number(private_study):
    step = {"name": "q", "task": "quantiles", "variable": "grade", "minimum": 1.2, "maximum": 1.8, "bins": 4}
    assert build_plan(private_study(VARIABLES, [step]))[0].layout({}).size == 5


def test_bins_that_overlap_are_protected_by_noise(private_study):
    plan = [PLAN[4], {**PLAN[4], "name": "other", "bins": 7}, PLAN[5]]
    assert len(build_plan(private_study(VARIABLES, plan))) == 3


def test_the_layout_and_the_request_are_public(private_study):
    for task, step in zip(build_plan(private_study(VARIABLES, [{**s, "share": 2.0} for s in PLAN])), PLAN, strict=True):
        assert isinstance(task.layout({}), Layout)
        asked = task.request()
        assert (asked.step, asked.rounds, asked.weight) == (step["name"], 1, 2.0)
        assert "With noise" in task.leaves()


@pytest.mark.parametrize("kind", ["logistic", "sgd"])
def test_evaluation_without_noise(private_study, private_state, kind):
    d = columns(4000)
    rows = Rows.of(d)
    more = {"task": kind} if kind == "logistic" else {"task": kind, "rounds": 50}
    study = private_study(VARIABLES, [{**MODEL[0], **more}, {**MODEL[1], "bins": 256}])
    results, state = private_state(study, [rows.take(slice(0, 1500)), rows.take(slice(1500, None))])
    test = rows.part("test", Split())
    eta, y = build(study.plan[0], study).scores(state, test), test.columns["dead"]
    mu, got = 1 / (1 + np.exp(-eta)), results["eval"]
    above = eta[y == 1][:, None] - eta[y == 0]
    assert (got["n"], got["positives"], got["left_out"]) == (len(y), y.sum(), 0)
    assert abs(got["auc"]["value"] - ((above > 0) + 0.5 * (above == 0)).mean()) <= got["auc"]["error_bound"] < 0.02
    assert got["auc"]["se"] == pytest.approx(np.sqrt(np.var((above > 0).mean(1)) / y.sum() + np.var((above > 0).mean(0)) / (1 - y).sum()), rel=0.05)
    assert got["accuracy"] == pytest.approx(((eta > 0) == y).mean(), rel=1e-9)
    assert got["brier"] == pytest.approx(((y - mu) ** 2).mean(), rel=1e-3)
    assert got["calibration"]["observed_over_expected"] == pytest.approx(y.sum() / mu.sum(), rel=5e-3)
    assert set(got["noise_sd"].values()) == {0.0}


def evaluation(private_study, d):
    """The evaluation task, a state with a fitted model, and the sum that it visits for."""
    study = private_study(VARIABLES, MODEL)
    task = build_plan(study)[1]
    state = {"fit.best": np.array([0.0, 4.0, 0.2])}
    return task, state, task.visit(state, Rows.of(d), {}, np.random.default_rng(0)).vector


@pytest.mark.parametrize("noise", [1.0, 5.0])
def test_noise_in_an_evaluation_is_as_stated(private_study, noise):
    task, state, clean = evaluation(private_study, columns(4000))

    def answer(sums, sd):
        return task.result(task.combine(state, Total(sums, 3.0, 3, sd)))

    truth, r, away, aucs = answer(clean, 0.0), np.random.default_rng(0), [], []
    for _ in range(40):
        got = answer({k: a + r.normal(0, noise, a.shape) for k, a in clean.items()}, noise)
        sd = got["noise_sd"]
        away += [(got[k] - truth[k]) / sd[k] for k in ("n", "positives", "accuracy", "brier")]
        away.append((got["calibration"]["observed_over_expected"] - truth["calibration"]["observed_over_expected"]) / sd["observed_over_expected"])
        aucs.append((got["auc"]["value"], np.sqrt(max(0.0, got["auc"]["se"] ** 2 - truth["auc"]["se"] ** 2))))
    assert np.abs(away).max() < 5
    assert 0.8 < np.std(away) < 1.2
    value, extra = np.array(aucs).T
    assert abs(value.mean() - truth["auc"]["value"]) < 4 * value.std() / np.sqrt(40) + 1e-3
    assert np.sqrt(np.mean(extra**2)) == pytest.approx(value.std(), rel=0.4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), noise=st.sampled_from([0.0, 1.0, 1e4]))
def test_no_sum_makes_an_evaluation_raise(private_study, seed, noise):
    r, task = np.random.default_rng(seed), build_plan(private_study(VARIABLES, MODEL))[1]
    sums = {f.name: np.asarray(r.normal(0, noise, f.shape)) for f in task.layout({}).fields}
    got = task.result(task.combine({}, Total(sums, 3.0, 3, noise)))
    json.dumps(got, allow_nan=False)
    assert 0 <= got["auc"]["value"] <= 1
    assert got["auc"]["se"] <= 0.5


def test_rows_that_cannot_be_scored_are_counted_as_left_out(private_study):
    d = broken(2000)
    _, _, sums = evaluation(private_study, d)
    test = Rows.of(d).part("test", Split())
    fine = np.isfinite(test.matrix(["age", "grade", "dead"])).all(axis=1)
    assert sums["left_out"] == pytest.approx((~fine).sum(), rel=SHRUNK)
    assert sums["positive"].sum() + sums["negative"].sum() == pytest.approx(fine.sum(), rel=SHRUNK)


def test_one_patient_in_an_evaluation(private_study):
    d = columns(300)
    study = private_study(VARIABLES, [{**MODEL[0], "part": "all"}, {**MODEL[1], "part": "all"}])
    task, rows = build_plan(study)[1], Rows.of(d, ["p"] * 100 + [str(i) for i in range(200)])
    state = {"fit.best": np.array([0.0, 4.0, 0.2])}
    with_, without = (
        np.concatenate([np.ravel(a) for a in task.visit(state, r, {}, np.random.default_rng(0)).vector.values()])
        for r in (rows, rows.take(rows.patient != "p"))
    )
    assert np.linalg.norm(with_ - without) == pytest.approx(1.0, rel=SHRUNK)
    assert np.linalg.norm(with_ - without) <= 1.0
    empty = task.visit(state, rows.take(np.zeros(300, bool)), {}, np.random.default_rng(0)).vector
    assert all((a == 0).all() for a in empty.values())


def test_evaluations_that_mean_nothing(private_study):
    for plan, message in (
        ([{**MODEL[0], "part": "all"}, MODEL[1]], "would be too good"),
        ([MODEL[0], {**MODEL[1], "bins": 7}], "multiple of 2"),
        ([{**MODEL[0], "task": "sgd", "model": "linear", "outcome": "sick"}, MODEL[1]], "explains a number"),
        ([{"name": "fit", "task": "moments", "variables": ["age"]}, MODEL[1]], "must be 'logistic' or 'sgd'"),
    ):
        with pytest.raises(ManifestError, match=message):
            build_plan(private_study(VARIABLES, plan))


@settings(max_examples=200, deadline=None)
@given(y=st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_isotonic_regression(y):
    got = isotonic(np.array(y))
    assert (np.diff(got) >= -1e-9).all()
    assert got.mean() == pytest.approx(np.mean(y), abs=1e-9)
    n = len(y)
    means = [[np.mean(y[i : max(i, j) + 1]) for j in range(n)] for i in range(n)]  # the max-min formula
    for k in range(n):
        assert got[k] == pytest.approx(max(min(means[i][j] for j in range(k, n)) for i in range(k + 1)), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=2, max_size=12), p=st.floats(0.01, 0.99))
def test_a_quantile_of_exact_counts_lies_in_its_bin(counts, p):
    if not sum(counts):
        return
    at, low, high = locate(np.array(counts, float), 0.0, p)
    rank = max(1, int(np.ceil(p * sum(counts) - 1e-7)))
    assert low == int(np.argmax(np.cumsum(counts) >= rank))
    assert high == low + 1
    assert low <= at <= high


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.floats(-50, 50), min_size=1, max_size=12), total=st.floats(1, 100))
def test_projection_to_counts(counts, total):
    c = np.array(counts)
    got = to_simplex(c, total)
    assert (got >= 0).all()
    assert got.sum() == pytest.approx(total)
    free = got > 1e-9  # Karush-Kuhn-Tucker: one multiplier for all that are positive, and no gain elsewhere
    multiplier = (c - got)[free].max()
    np.testing.assert_allclose((c - got)[free], multiplier, atol=1e-7)
    assert (c[~free] <= multiplier + 1e-7).all()


@pytest.mark.parametrize("noise", [5.0, 40.0])
def test_the_noise_of_an_auc(noise):
    at, r = np.linspace(-3, 3, 64), np.random.default_rng(0)
    positive, negative = (size * np.exp(-((at - m) ** 2) / 2) / np.exp(-((at - m) ** 2) / 2).sum() for size, m in ((2000, 0.5), (4000, -0.5)))
    exact, _, own = noisy_auc(positive, negative, 0.0)
    drawn = [noisy_auc(positive + r.normal(0, noise, 64), negative + r.normal(0, noise, 64), noise) for _ in range(2000)]
    value, _, se = np.array(drawn).T
    assert np.sqrt(np.mean(se**2) - own**2) == pytest.approx(value.std(), rel=0.12)
    assert value.mean() == pytest.approx(exact, abs=0.1 * value.std() + 1e-4)


def test_an_auc_of_pure_noise_claims_nothing():
    r = np.random.default_rng(0)
    claims = [noisy_auc(r.normal(0, 10, 64), r.normal(0, 10, 64), 10.0)[2] for _ in range(200)]
    assert np.mean(np.array(claims) == 0.5) > 0.98


def test_a_study_that_protects_sites_has_no_such_statistics():
    study = {"unit": "site", "eps": 3.0, "delta": 1e-3}
    with pytest.raises(ManifestError, match="cannot protect a site as a whole"):
        build_plan(Study.parse({"name": "t", "data": {"variables": VARIABLES}, "terms": {"privacy": study, "min_cohort": 50}, "plan": [PLAN[1]]}))
