"""Against scikit-learn and statsmodels on pooled rows, over uneven sites; a site's own model; and what cannot be evaluated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, log_loss, precision_score, recall_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

import locum.tasks.evaluate_categories
import locum.tasks.local_categories  # noqa: F401
from locum import Rows, Study, simulate
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.evaluate_categories import by_patient, f1, joined, proportion, scored, wilson

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
        bins = c["calibration"]["bins"]
        assert sum(b["n"] for b in bins) == (len(y) if bins else 0)
        assert all(5 <= round(b["n"] * b["observed"]) <= b["n"] - 5 for b in bins)
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


def test_the_interval_by_patient_is_of_the_ratio_estimator_over_effective_patients():
    r = np.random.default_rng(3)
    codes = np.repeat(np.arange(12), r.integers(1, 40, 12))
    y, said = r.integers(0, 3, len(codes)), r.integers(0, 3, len(codes))
    squares = by_patient(y, said, codes, 3)
    for k in range(3):
        c = np.array([((y == k) & (said == k) & (codes == i)).sum() for i in range(12)])
        n = np.array([((y == k) & (codes == i)).sum() for i in range(12)])
        a, e = c.sum() / n.sum(), n.sum() ** 2 / (n**2).sum()
        v, t = e / (e - 1) * ((c - a * n) ** 2).sum() / n.sum() ** 2, student_t.ppf(0.975, e - 1)
        m = min(n.sum(), a * (1 - a) / v)
        half = t * np.sqrt(a * (1 - a) / m + t**2 / (4 * m**2))
        expected = (a + t**2 / (2 * m) + np.array([-half, half])) / (1 + t**2 / m)
        got = proportion(c.sum(), n.sum(), squares["sensitivity_squares"][k], 12)
        np.testing.assert_allclose(got["ci95_by_patient"], expected, rtol=1e-9)


def test_the_interval_by_patient_holds_what_it_says_and_never_claims_certainty():
    r, patients, held, normal = np.random.default_rng(0), 8, 0, 0
    for _ in range(400):
        n = r.integers(5, 200, patients)
        right = r.binomial(n, r.beta(3.2, 0.8, patients))  # mean .8, alike within patients
        a, c = right.sum() / n.sum(), right.astype(float)
        got = proportion(c.sum(), n.sum(), np.array([(c**2).sum(), (c * n).sum(), (n**2.0).sum()]), patients)
        held += got["ci95_by_patient"][0] <= 0.8 <= got["ci95_by_patient"][1]
        normal += abs(a - 0.8) < 1.96 * np.sqrt(patients / (patients - 1) * ((c - a * n) ** 2).sum()) / n.sum()
    assert held / 400 > 0.91 > normal / 400
    all_right = proportion(60.0, 60.0, np.full(3, 6 * 100.0), 6)["ci95_by_patient"]
    assert all_right[0] < 0.65  # six people, however many rows
    assert all_right[1] == 1.0
    assert proportion(90.0, 100.0, np.array([8100.0, 9000.0, 10000.0]), 1)["ci95_by_patient"] is None


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


def test_what_tells_of_single_rows_is_not_kept(build_study, run_state, scatter):
    study = build_study(VARIABLES, [FIT, {**EVALUATE, "bins": 4096}])
    results, state = run_state(study, scatter(cohort(300), [50, 50]))
    assert not any(a.shape[-1:] == (4096,) for a in state.values())
    for c in results["evaluation"]["classes"].values():
        assert all(5 <= round(b["n"] * b["observed"]) <= b["n"] - 5 for b in c["calibration"]["bins"])
    assert joined(np.zeros((10, 3))).sum() == 0
    few = np.zeros((10, 3))
    few[0], few[9] = (20, 1.0, 1), (4, 3.8, 4)
    np.testing.assert_allclose(joined(few)[9], [24, 4.8, 5])
    assert joined(few).sum() == few.sum()


def test_a_category_of_one_patient_is_told(run):
    d = cohort(400)
    patient = np.where(d["y"] == 3, "the only one", np.char.add("p", np.arange(400).astype(str)))
    test = np.isin(np.arange(400) % 2, 0) | (d["y"] == 3)
    rows = Rows.of(d, patient=patient.tolist())
    got = run(VARIABLES, [{**FIT, "part": "all"}, {**EVALUATE, "part": "all"}], [Rows(rows.columns, rows.patient, test=test)])["evaluation"]
    assert got["classes"]["dead"]["sensitivity"]["ci95_by_patient"] is None
    assert any("Nearly all rows of dead are of one patient" in w for w in got["warnings"])


def test_more_numbers_than_a_round_can_carry_are_refused(run):
    variables = {**VARIABLES, "y": {**VARIABLES["y"], "categories": [f"c{k}" for k in range(300)]}}
    with pytest.raises(ManifestError, match=r"would send 60,.* numbers; at most 4,194,304"):
        run(variables, [{**FIT, "task": "multinomial"}, {**EVALUATE, "bins": 100_000}], [])


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
