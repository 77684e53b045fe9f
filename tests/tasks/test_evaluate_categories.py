"""Against scikit-learn and statsmodels on pooled rows, over uneven sites; a site's own model; and what cannot be evaluated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, log_loss, precision_score, recall_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

import locum.tasks.evaluate_categories
import locum.tasks.local_categories  # noqa: F401
from locum import Rows, Study, simulate
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.evaluate_categories import by_patient, f1, proportion, scored, wilson

NAMES = ["home", "ward", "icu", "dead"]
VARIABLES = {"age": {"minimum": 0, "maximum": 120}, "dose": {}, "y": {"type": "category", "categories": NAMES, "role": "outcome"}}
FIT = {"name": "fit", "task": "multinomial", "features": ["age", "dose"], "outcome": "y", "part": "train", "ridge": 1.0}
EVALUATE = {"name": "evaluation", "task": "evaluate_categories", "model": "fit"}
ALONE = {"name": "alone", "task": "local_categories", "model": "fit"}
SIZES = [1, 1, 2, 0, 50, 100]


def cohort(n=600, seed=1):
    r = np.random.default_rng(seed)
    age, dose = r.normal(60, 10, n), r.normal(0, 1, n)
    eta = np.column_stack([np.zeros(n), 0.08 * (age - 60), 1.5 * dose - 0.4, 0.08 * (age - 60) - 1.5 * dose - 1.0])
    p = np.exp(eta) / np.exp(eta).sum(1, keepdims=True)
    return {"age": age, "dose": dose, "y": (r.uniform(size=n)[:, None] > np.cumsum(p, 1)).sum(1).astype(float)}


def predicted(study, sites, run_state):
    """Truth (n,) and probabilities (n, K) of all test rows."""
    _, state = run_state(study, sites)
    model = build_plan(study)[0]
    test = [r.part("test", study.data.split) for r in sites]
    return np.concatenate([r.columns["y"] for r in test]).astype(int), np.vstack([model.probabilities(state, r) for r in test])


@pytest.mark.parametrize("kind", ["multinomial", "ordinal"])
def test_equal_to_scikit_learn_pooled(run, build_study, run_state, scatter, kind):
    sites = scatter(cohort(), SIZES)
    plan = [{**FIT, "task": kind}, {**EVALUATE, "bins": 20000}]
    got = run(VARIABLES, plan, sites)["evaluation"]
    y, p = predicted(build_study(VARIABLES, plan), sites, run_state)
    said = p.argmax(1)
    assert got["n"] == got["patients"] == len(y)
    np.testing.assert_array_equal(got["confusion"], confusion_matrix(y, said, labels=range(4)))
    assert got["accuracy"]["value"] == pytest.approx((y == said).mean())
    assert got["majority"]["accuracy"] == pytest.approx(np.bincount(y).max() / len(y))
    assert got["log_loss"] == pytest.approx(log_loss(y, p, labels=range(4)))
    assert got["brier"] == pytest.approx(sum(brier_score_loss(y == k, p[:, k]) for k in range(4)))
    for k, name in enumerate(NAMES):
        c = got["classes"][name]
        auc = roc_auc_score(y == k, p[:, k])
        assert abs(c["auc"]["value"] - auc) <= c["auc"]["error_bound"] + 1e-12
        assert c["auc"]["error_bound"] < {"multinomial": 1e-3, "ordinal": 0.02}[kind]  # a middle category's probabilities crowd below its maximum
        assert c["sensitivity"]["value"] == pytest.approx(recall_score(y == k, said == k))
        if (said == k).any():
            assert c["precision"]["value"] == pytest.approx(precision_score(y == k, said == k))
        assert c["f1"]["value"] == pytest.approx(f1_score(y == k, said == k))
        np.testing.assert_allclose(
            c["sensitivity"]["ci95"], proportion_confint(((y == k) & (said == k)).sum(), (y == k).sum(), method="wilson"), rtol=1e-9, atol=1e-12
        )
        assert c["calibration"]["observed_over_expected"] == pytest.approx((y == k).sum() / p[:, k].sum())
        assert sum(b["n"] for b in c["calibration"]["bins"]) == len(y)
    assert got["macro_auc"]["value"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"), abs=got["macro_auc"]["error_bound"] + 1e-12)
    assert got["macro_auc"]["over"] == NAMES
    assert got["model"]["parameters"] == {"multinomial": 9, "ordinal": 5}[kind]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=5), seed=st.integers(0, 100))
def test_any_partition_gives_the_pooled_evaluation(run, scatter, cuts, seed):
    d = cohort(200)
    one = run(VARIABLES, [FIT, EVALUATE], [Rows.of(d)])["evaluation"]
    many = run(VARIABLES, [FIT, EVALUATE], scatter(d, np.diff([0, *sorted(cuts)]).tolist(), seed))["evaluation"]
    assert many["confusion"] == one["confusion"]
    assert many["macro_auc"]["value"] == pytest.approx(one["macro_auc"]["value"], abs=1e-3)
    assert many["log_loss"] == pytest.approx(one["log_loss"], rel=1e-6)


def test_the_interval_by_patient_is_that_of_the_ratio_estimator():
    r = np.random.default_rng(3)
    codes = np.repeat(np.arange(12), r.integers(1, 40, 12))
    y, said = r.integers(0, 3, len(codes)), r.integers(0, 3, len(codes))
    squares = by_patient(y, said, codes, 3)
    for k in range(3):
        c = np.array([((y == k) & (said == k) & (codes == i)).sum() for i in range(12)])
        n = np.array([((y == k) & (codes == i)).sum() for i in range(12)])
        a = c.sum() / n.sum()
        half = 1.959963984540054 * np.sqrt(12 / 11 * ((c - a * n) ** 2).sum()) / n.sum()
        got = proportion(c.sum(), n.sum(), squares["sensitivity_squares"][k], 12)
        np.testing.assert_allclose(got["ci95_by_patient"], [max(0, a - half), min(1, a + half)], rtol=1e-9)
    one = by_patient(y, said, np.arange(len(y)), 3)["accuracy_squares"][0]  # every row a patient: the binomial variance, up to n / (n - 1)
    a, n = (y == said).mean(), len(y)
    got = proportion(a * n, n, one, n)["ci95_by_patient"]
    np.testing.assert_allclose(got[1] - a, 1.959963984540054 * np.sqrt(a * (1 - a) / (n - 1)), rtol=1e-9)


def test_f1_and_its_interval_are_of_the_union():
    assert f1(0, 0, 0) == {"value": None, "ci95": None}
    found = f1(30, 50, 40)
    assert found["value"] == pytest.approx(2 * 30 / 90)
    low, high = proportion_confint(30, 60, method="wilson")
    np.testing.assert_allclose(found["ci95"], [2 * low / (1 + low), 2 * high / (1 + high)])
    assert wilson(0, 5)[0] == pytest.approx(0, abs=1e-12)


def test_a_class_without_test_rows_leaves_the_macro_auc_and_is_told(run):
    d = cohort(400)
    rows = Rows.of(d)
    test = rows.part("test", Study.parse({"name": "t", "data": {"variables": VARIABLES}, "plan": [{**FIT}]}).data.split)
    keep = ~(np.isin(rows.patient, test.patient) & (d["y"] == 3))
    got = run(VARIABLES, [FIT, EVALUATE], [rows.take(keep)])["evaluation"]
    assert got["macro_auc"]["left_out"] == ["dead"]
    assert got["classes"]["dead"]["auc"] is None
    assert got["classes"]["dead"]["sensitivity"]["value"] is None
    assert any("leaves out dead" in w for w in got["warnings"])
    only = run(VARIABLES, [FIT, {**EVALUATE, "macro": ["home", "icu"]}], [rows])["evaluation"]["macro_auc"]
    assert only["over"] == ["home", "icu"]


def test_several_rows_of_a_patient_and_small_cells_are_told(run):
    d = cohort(400)
    got = run(VARIABLES, [FIT, EVALUATE], [Rows.of(d, patient=[f"p{i // 8}" for i in range(400)])])["evaluation"]
    assert got["patients"] < got["n"] / 5
    told = " ".join(got["warnings"])
    assert "several rows each" in told
    assert "fewer than 11 rows" in told
    assert "an interval by patient from so few" in told


def test_missing_values_are_left_out_and_counted(run, scatter):
    d = cohort(300)
    d["dose"][:40] = np.nan
    got = run(VARIABLES, [FIT, EVALUATE], scatter(d, [7]))["evaluation"]
    assert 0 < got["left_out"] < 40


def test_each_site_alone_is_its_own_softmax(build_study, run_state, scatter):
    study = build_study(VARIABLES, [FIT, {**ALONE, "ridge": 1e-6}])
    sites = scatter(cohort(800), [1, 1, 150, 200])
    results, state = run_state(study, sites)
    model, right, n, fitted = build_plan(study)[0], 0, 0, 0
    for rows in sites:
        train, test = (rows.part(part, study.data.split) for part in ("train", "test"))
        if len(train) < 2 or not len(test):
            continue
        fit = LogisticRegression(C=1e9, max_iter=5000, tol=1e-10).fit(train.matrix(["age", "dose"]) - [60, 0], train.columns["y"])
        own = model.fit_here(state, train, 1e-6)
        np.testing.assert_allclose(own.probabilities(state, test), fit.predict_proba(test.matrix(["age", "dose"]) - [60, 0]), atol=1e-3)
        right, n, fitted = right + int((own.probabilities(state, test).argmax(1) == test.columns["y"]).sum()), n + len(test), fitted + 1
    got = results["alone"]
    assert (got["sites_fitted"], got["n"]) == (fitted, n)
    assert got["local_accuracy"] == pytest.approx(right / n)
    assert got["federated_macro_auc_within_sites"] > 0.6


def test_a_class_that_one_site_never_saw_has_no_probability_there(build_study, run_state):
    d, study = cohort(400), build_study(VARIABLES, [FIT])
    rows = Rows.of(d)
    _, state = run_state(study, [rows])
    model = build_plan(study)[0]
    own = model.fit_here(state, rows.take(d["y"] != 2), 1.0)
    p = own.probabilities(state, rows)
    assert (p[:, 2] == 0).all()
    np.testing.assert_allclose(p.sum(1), 1.0)
    assert model.fit_here(state, rows.take(d["y"] == 1), 1.0) is None
    assert np.isfinite(scored(d["y"].astype(int), p, 64)["log_loss"])


def test_where_patients_are_whole_sites_nothing_can_be_compared_at_a_site(run, scatter):
    d = cohort(300)
    sites = [Rows.of({k: v[i * 30 : (i + 1) * 30] for k, v in d.items()}, patient=[f"p{i}"] * 30) for i in range(10)]
    got = run(VARIABLES, [FIT, ALONE], sites)["alone"]
    assert got["local_accuracy"] is None
    assert "nothing can be compared" in got["warnings"][0]


def test_the_masked_engine_over_small_sites():
    everyone = Rows.of(cohort(150))
    parts = {f"s{i:03d}": everyone.take(np.asarray([i])) for i in range(60)} | {"big": everyone.take(np.arange(60, 150))}
    study = Study.parse({"name": "t", "data": {"variables": VARIABLES}, "terms": {"privacy": "none", "min_cohort": 10}, "plan": [FIT, EVALUATE, ALONE]})
    got = simulate(study, parts).results
    assert got["evaluation"]["n"] == sum(len(r.part("test", study.data.split)) for r in parts.values())
    assert got["alone"]["sites_fitted"] == 1


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([{**FIT, "part": "all"}, EVALUATE], "fitted on part 'all'"),
        ([FIT, {**EVALUATE, "model": "fot"}], "did you mean 'fit'"),
        ([{"name": "m", "task": "moments", "variables": ["age"]}, {**EVALUATE, "model": "m"}], "it must be 'multinomial' or 'ordinal'"),
        ([FIT, {**EVALUATE, "macro": ["hone"]}], "did you mean 'home'"),
        ([{**FIT, "task": "ordinal"}, ALONE], "it must be 'multinomial'"),
    ],
)
def test_wrong_parameters_name_the_remedy(build_study, plan, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, plan))


def test_what_cannot_be_evaluated_is_told(run, build_study, run_state):
    d = cohort(200)
    study = build_study(VARIABLES, [FIT, EVALUATE])
    rows = Rows.of(d)
    in_test = np.isin(rows.patient, rows.part("test", study.data.split).patient)
    with pytest.raises(TaskError, match="No usable row is in part 'test'"):
        run(VARIABLES, [FIT, EVALUATE], [rows.take(~in_test)])
    with pytest.raises(TaskError, match="All rows of part 'test' have 'ward'"):
        run(VARIABLES, [FIT, EVALUATE], [rows.take(~in_test | (d["y"] == 1))])
    with pytest.raises(TaskError, match="do not add up to one"):
        scored(np.asarray([0, 1]), np.asarray([[0.5, np.nan], [0.5, 0.5]]), 8)


def test_what_leaves_is_counted_in_words(build_study):
    task = build_plan(build_study(VARIABLES, [FIT, EVALUATE]))[1]
    assert f"{task.layout({}).size} numbers" in task.leaves()
