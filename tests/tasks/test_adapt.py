"""Adaptation by site against scipy, statsmodels and scikit-learn on each site's own rows, and against what breaks it."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

import locum.tasks.adapt  # noqa: F401  (registers the task)
from locum.data.patients import is_test
from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.study import Split, Study
from locum.tasks import build_plan
from locum.tasks.adapt_forms import own_intercept, own_line, penalised
from locum.tasks.adapt_report import calibration, discrimination, label, merged, ratio, summary
from locum.tasks.glm import expit

VARIABLES = {"x": {"minimum": -5, "maximum": 5}, "z": {"minimum": -5, "maximum": 5}, "y": {"type": "boolean", "role": "outcome"}, "v": {"role": "outcome"}}
SIZES = (1, 2, 0, 40, 70, 150, 300)
FORMS = ("federated", "intercept", "recalibrated", "shrunk", "local", "majority")


def world(sizes=SIZES, seed=0, between=1.0):
    """Sites whose intercepts and first effect differ; the last of them all."""
    r, out, first = np.random.default_rng(seed), [], 0
    for n in sizes:
        x, z = r.normal(size=n).clip(-5, 5), r.normal(size=n).clip(-5, 5)
        eta = 0.3 + between * r.normal() + (0.8 + 0.5 * between * r.normal()) * x - 0.5 * z
        y = (r.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)
        out.append(Rows.of({"x": x, "z": z, "y": y, "v": eta + r.normal(size=n)}, [f"p{first + i}" for i in range(n)]))
        first += n
    return out


def study(*more, task="logistic", adapt=None, fit=None):
    model = {"name": "fit", "task": task, "features": ["x", "z"], "outcome": "y" if task == "logistic" else "v", "part": "train", **(fit or {})}
    plan = [*more, model, {"name": "adapt", "task": "adapt", "model": "fit", **(adapt or {})}]
    return Study.parse({"name": "test", "data": {"variables": VARIABLES}, "terms": {"privacy": "none", "min_cohort": 3}, "plan": plan})


def parts(sites):
    return [(s.part("train", Split()), s.part("test", Split())) for s in sites]


def design(rows):
    return np.column_stack([np.ones(len(rows)), rows.columns["x"], rows.columns["z"]])


def loglik(y, eta):
    return float((y * eta - np.logaddexp(0, eta)).sum())


def shrunk(x, y, prior, precision):
    def objective(c):
        return -loglik(y, x @ c) + precision @ (c - prior) ** 2 / 2

    def gradient(c):
        return -x.T @ (y - expit(x @ c)) + precision * (c - prior)

    return minimize(objective, prior, jac=gradient, method="BFGS", options={"gtol": 1e-9, "maxiter": 500}).x


def reference(train, b, lam, ridge=0.1, least=20):
    """Coefficients by form for one site."""
    x, y = design(train), train.columns["y"]
    both = len(y) > 0 and y.min() < y.max()
    level = np.array([np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5)), 0, 0])
    out = dict.fromkeys(FORMS, b) | {"majority": level, "local": level}
    if both and len(y) >= least:
        binomial = sm.families.Binomial()
        a = sm.GLM(y, np.ones((len(y), 1)), family=binomial, offset=x @ b).fit(tol=1e-13).params[0]
        line = sm.GLM(y, sm.add_constant(x @ b), family=binomial).fit(tol=1e-13).params
        out["intercept"] = b + np.array([a, 0, 0])
        out["recalibrated"] = line[1] * b + np.array([line[0], 0, 0])
    if both:
        out["local"] = shrunk(x, y, np.zeros(3), np.array([0.0, ridge, ridge]))
    if lam is not None and len(y):
        out["shrunk"] = shrunk(x, y, b, np.array([0.1 * lam, lam, lam]))
    return out


@pytest.fixture(scope="module")
def asked():
    return study(adapt={"sizes": [10, 60]})


@pytest.fixture
def adapted(run_state, asked):
    sites = world()
    results, state = run_state(asked, sites)
    b = np.asarray(state["fit.best"])
    return sites, results["adapt"], state, b


def test_every_form_is_that_of_the_libraries(adapted, asked):
    sites, got, state, b = adapted
    task, lam = build_plan(asked)[-1], got["shrinkage"]["precision"]
    assert lam is not None
    table: dict[str, list[np.ndarray]] = {f: [] for f in FORMS}
    first, outcomes = ("held_out", "held_out_patients", "train_left_out", "chosen"), []
    before = {k: v for k, v in state.items() if not k.startswith("adapt.") or k.split(".")[1] in first}
    for (train, test), site in zip(parts(sites), sites, strict=True):
        memory: dict[str, np.ndarray] = {}
        task.visit(before, site, memory, np.random.default_rng(0))
        wanted = reference(train, b, lam)
        for form in FORMS:
            expected = design(test) @ wanted[form]
            np.testing.assert_allclose(task.personal(state, test, memory, form), expected, rtol=1e-4, atol=1e-4, err_msg=form)
            table[form].append(expected)
        outcomes.append(test.columns["y"])
    y = np.concatenate(outcomes)
    assert (got["n"], got["outcome_sum"], got["sites"]) == (len(y), y.sum(), sum(len(s) > 0 for s in sites))
    for form in FORMS:
        eta = np.concatenate(table[form])
        p, found = expit(eta), got["forms"][form]
        assert found["log_loss"]["value"] == pytest.approx(log_loss(y, p), rel=1e-4)
        assert found["brier"]["value"] == pytest.approx(brier_score_loss(y, p), rel=1e-4)
        assert found["accuracy"]["value"] == pytest.approx(accuracy_score(y, p > 0.5), abs=1e-9)
        assert abs(found["auc"]["value"] - roc_auc_score(y, eta)) <= found["auc"]["error_bound"] + 1e-9
        assert found["calibration"]["observed_over_expected"] == pytest.approx(y.sum() / p.sum(), rel=1e-4)
        both = [(o, e) for o, e in zip(outcomes, table[form], strict=True) if 0 < o.sum() < len(o)]
        within = [(roc_auc_score(o, e) * o.sum() * (1 - o).sum(), o.sum() * (1 - o).sum()) for o, e in both]
        assert found["auc_within_sites"]["value"] == pytest.approx(sum(a for a, _ in within) / sum(n for _, n in within), rel=1e-9)
        means = [np.mean((e > 0) == (o == 1)) for o, e in zip(outcomes, table[form], strict=True) if len(o)]
        assert found["accuracy_mean_of_sites"]["value"] == pytest.approx(np.mean(means), rel=1e-9)
        assert sum(c["n"] for c in found["calibration"]["curve"]) == len(y)
        assert all(5 <= round(c["n"] * c["observed"]) <= c["n"] - 5 for c in found["calibration"]["curve"])


def test_intervals_are_those_of_a_ratio_between_sites(adapted):
    sites, got, _, b = adapted
    lam, d, w = got["shrinkage"]["precision"], [], []
    for train, test in parts(sites):
        if len(test):
            y, x, own = test.columns["y"], design(test), reference(train, b, lam)
            d.append(loglik(y, x @ b) - loglik(y, x @ own["shrunk"]))
            w.append(len(y))
    d, w = np.array(d), np.array(w, float)
    r, e = d.sum() / w.sum(), w.sum() ** 2 / (w**2).sum()
    se = np.sqrt(((d - r * w) ** 2).sum() * e / (e - 1)) / w.sum()
    found = got["differences"]["shrunk"]["log_loss"]
    assert found["value"] == pytest.approx(r, abs=1e-5)
    assert found["se"] == pytest.approx(se, rel=1e-3)
    assert found["ci95"][0] < r < found["ci95"][1]
    assert r < 0  # sites that differ gain


def test_intervals_hold_where_few_sites_are_most_of_the_patients():
    rng, held, times = np.random.default_rng(0), 0, 500
    for _ in range(times):
        w = np.ceil(rng.pareto(1.0, 20) * 10)
        d = w * (0.01 + rng.normal(0, 0.03, 20)) + rng.normal(0, 0.3, 20) * np.sqrt(w)
        ci = ratio(d.sum(), (d**2).sum(), (d * w).sum(), w.sum(), (w**2).sum(), 20)["ci95"]
        held += ci is None or ci[0] <= 0.01 <= ci[1]
    assert 0.92 < held / times < 0.99  # with the number of sites in place of the effective one, .78
    one_is_all = ratio(10.0, 100.0, 1000.0, 101.0, 1e4 + 1, 2)
    assert one_is_all["value"] is not None
    assert one_is_all["ci95"] is None


def test_how_far_to_shrink_is_the_best_sum_over_patients_kept_back(adapted):
    sites, got, _, b = adapted
    grid, totals = got["shrinkage"]["grid"], np.zeros(8)
    for train, _ in parts(sites):
        back = is_test(train.patient, Split(test_share=0.3, salt="locum/adapt"))
        fit, held = train.take(~back), train.take(back)
        for k, lam in enumerate(grid):
            c = reference(fit, b, lam)["shrunk"]
            totals[k] += loglik(held.columns["y"], design(held) @ c)
    np.testing.assert_allclose(got["shrinkage"]["held_out_loss"], -totals / got["shrinkage"]["held_out_patients"], rtol=1e-5)
    assert got["shrinkage"]["precision"] == grid[int(np.argmax(totals))]


def test_sites_that_do_not_differ_keep_the_federated_model(run_state, asked):
    got = run_state(asked, world([30] * 12, seed=3, between=0.0))[0]["adapt"]
    assert got["shrinkage"]["precision"] in (None, 300.0, 1000.0)
    assert any("federated" in w for w in got["warnings"])
    assert got["forms"]["local"]["log_loss"]["value"] > got["forms"]["federated"]["log_loss"]["value"]


def test_site_intercepts_find_their_own(run_state):
    asked, sites = study(fit={"site_intercepts": True}), world()
    results, state = run_state(asked, sites)
    got, b = results["adapt"], np.asarray(state["fit.best"])
    assert got["reference"] == "intercept"
    assert "federated" not in got["forms"]
    losses, n = 0.0, 0
    for train, test in parts(sites):
        (x, y), (xt, yt) = (design(train), train.columns["y"]), (design(test), test.columns["y"])
        if len(y) and 0 < y.mean() < 1:
            a = sm.GLM(y, np.ones((len(y), 1)), family=sm.families.Binomial(), offset=x[:, 1:] @ b).fit(tol=1e-13).params[0]
        else:
            a = np.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5)) - (x[:, 1:] @ b).mean() if len(y) else 0.0
        losses, n = losses - loglik(yt, a + xt[:, 1:] @ b), n + len(yt)
    assert got["forms"]["intercept"]["log_loss"]["value"] == pytest.approx(losses / n, rel=1e-6)


def test_linear_models(run_state):
    asked, sites = study(task="linear"), world()
    results, state = run_state(asked, sites)
    got, b, lam = results["adapt"], np.asarray(state["fit.best"]), results["adapt"]["shrinkage"]["precision"]
    errors = dict.fromkeys(("federated", "intercept", "shrunk", "majority"), 0.0)
    for train, test in parts(sites):
        x, v, xt, vt = design(train), train.columns["v"], design(test), test.columns["v"]
        precision = np.diag([0.1 * lam, lam, lam])
        c = b + np.linalg.solve(x.T @ x + precision, x.T @ (v - x @ b))
        moved = float((v - x @ b).mean()) if len(v) >= 20 else 0.0
        for form, value in (("federated", xt @ b), ("intercept", xt @ b + moved), ("shrunk", xt @ c), ("majority", v.mean() if len(v) else 0.0)):
            errors[form] += float(((vt - value) ** 2).sum())
    for form, total in errors.items():
        assert got["forms"][form]["mse"]["value"] == pytest.approx(total / got["n"], rel=1e-8), form
    assert got["differences"]["shrunk"]["mse"]["value"] < 0


def test_what_is_published_of_sizes_is_of_three_sites_or_more(run_state, asked):
    got = run_state(asked, world([6, 6, 6, 30, 300, 400]))[0]["adapt"]
    assert all(row["sites"] >= 3 for row in got["by_size"])
    assert sum(row["n"] for row in got["by_size"]) == got["n"]
    assert merged(np.array([5.0, 1.0, 0.0, 4.0]), 3) == [[0], [1, 2, 3]]
    assert merged(np.array([5.0, 0.0, 1.0]), 3) == [[0, 1, 2]]
    assert merged(np.array([0.0, 2.0]), 3) == [[1]]
    assert [label([0], (10, 30)), label([0, 1], (10, 30)), label([1, 2], (10, 30))] == ["1-9", "1-29", "10 or more"]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 999), weak=st.floats(0.01, 5.0))
def test_a_stronger_prior_stays_nearer_to_it(n, seed, weak):
    r = np.random.default_rng(seed)
    x, prior = np.column_stack([np.ones(n), r.normal(size=(n, 2))]), r.normal(size=3)
    y = (r.uniform(size=n) < 0.5).astype(float)
    model = build_plan(study())[0]
    near, far = (penalised(model.likelihood, x, y, prior, np.full(3, v)) for v in (10 * weak, weak))
    assert near is not None
    assert far is not None
    assert np.linalg.norm(near - prior) <= np.linalg.norm(far - prior) + 1e-9
    np.testing.assert_allclose(x.T @ (y - expit(x @ far)), weak * (far - prior), atol=1e-5)


def test_no_finite_answer_is_no_answer():
    model, eta = build_plan(study())[0], np.linspace(-2, 2, 30)
    assert own_intercept(model.likelihood, np.ones(30), eta) is None
    assert own_line(model.likelihood, (eta > 0).astype(float), eta) is None
    assert own_line(model.likelihood, (eta > 0).astype(float), np.zeros(30)) is None
    found, curve = summary(np.zeros(16), np.ones(16), 16.0)
    assert calibration(found, curve, 0.0, 3.0)["slope"] is None
    assert discrimination(found)["value"] is None


def test_missing_values_are_left_out_and_counted(run_state, asked):
    sites = world()
    sites[-1].columns["x"][:50] = np.nan
    got = run_state(asked, sites)[0]["adapt"]
    assert got["left_out"] == sites[-1].take(np.arange(50)).part("test", Split()).patients
    assert np.isfinite(got["forms"]["shrunk"]["log_loss"]["value"])


def test_without_test_patients_there_is_no_answer(run_state, asked):
    sites = [Rows(s.columns, s.patient, test=np.zeros(len(s), dtype=bool)) for s in world()]
    with pytest.raises(TaskError, match="No site has a test patient"):
        run_state(asked, sites)


def test_an_outcome_that_is_not_0_or_1(run_state, asked):
    sites = world()
    state = run_state(asked, sites)[1]
    bad = {k: v for k, v in state.items() if not k.startswith("adapt.")}
    sites[3].columns["y"][:] = 2.0
    with pytest.raises(TaskError, match="other than 0 and 1"):
        build_plan(asked)[-1].visit(bad, sites[3], {}, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fit": {"part": "all"}}, "fitted on part 'all'"),
        ({"fit": {"intercept": False}}, "no intercept to adapt"),
        ({"adapt": {"model": "fitt"}}, "not an earlier step"),
        ({"adapt": {"precisions": [3.0, 1.0]}}, "precisions must increase"),
        ({"adapt": {"precisions": [0.0]}}, "greater than 0"),
        ({"adapt": {"sizes": [30, 10]}}, "sizes must increase"),
        ({"adapt": {"lambda": 3}}, "lambda"),
    ],
)
def test_bad_studies(given, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(study(**given))


def test_a_study_with_noise_is_refused():
    asked = study()
    terms = {"privacy": {"eps": 1.0, "delta": 1e-6, "patients": 1000}}
    with pytest.raises(ManifestError, match="no form that protects"):
        build_plan(Study.parse({**asked.model_dump(by_alias=True), "terms": terms}))


def test_personal_needs_a_visit(asked):
    with pytest.raises(TaskError, match="not adapted"):
        build_plan(asked)[-1].personal({}, world()[3], {}, "shrunk")
