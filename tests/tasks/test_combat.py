"""ComBat by sums against ComBat on the pooled rows, written from the paper's formulas, and against neuroCombat where it is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from locum import Rows, simulate
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.combat_site import effects
from locum.tasks.prepare import prepared

VARIABLES = {
    "a": {"minimum": 0, "maximum": 100},
    "b": {"minimum": -10, "maximum": 10},
    "c": {},
    "age": {"type": "integer"},
    "sex": {"type": "category", "categories": ["m", "f", "x"]},
}
NAMES = ("a", "b", "c")
HARMONISE = {"name": "h", "task": "combat", "variables": list(NAMES), "covariates": ["age", "sex"]}
AFTER = {"name": "after", "task": "moments", "variables": list(NAMES)}


def made(sizes=(20, 35, 50, 65), seed=0):
    """Sites that differ in shift and scale, and in age for good reasons."""
    r, out = np.random.default_rng(seed), []
    for i, n in enumerate(sizes):
        age, sex = r.integers(40 + 5 * i, 80, n).astype(float), r.integers(0, 3, n).astype(float)
        kept = np.column_stack([50 + 0.2 * age, 0.02 * age + sex, 3 * sex - 0.1 * age])
        y = kept + r.normal(0, 1, 3) * [3, 1, 2] + r.normal(size=(n, 3)) * [5, 1, 2] * r.uniform(0.5, 1.5, 3)
        out.append(Rows.of({"a": y[:, 0], "b": y[:, 1], "c": y[:, 2], "age": age, "sex": sex}))
    return out


def reference(y, x, site):
    """The pooled computation: one design with a column for each site (Johnson et al. 2007, section 3.1; alpha and sigma as in Fortin et al.)."""
    levels = np.unique(site)
    design = np.column_stack([*(site == level for level in levels), x]).astype(float)
    b = np.linalg.lstsq(design, y, rcond=None)[0]
    sizes = np.array([(site == level).sum() for level in levels])
    alpha = sizes @ b[: len(levels)] / len(y)
    sigma = np.sqrt(((y - design @ b) ** 2).mean(axis=0))
    kept = alpha + x @ b[len(levels) :]
    z, out = (y - kept) / sigma, np.empty_like(y)
    for level in levels:
        here = z[site == level]
        n, mean, var = len(here), here.mean(axis=0), here.var(axis=0, ddof=1)
        t2, m = mean.var(ddof=1), mean.mean()
        shape = (2 * var.var(ddof=1) + var.mean() ** 2) / var.var(ddof=1)
        rate = (var.mean() * var.var(ddof=1) + var.mean() ** 3) / var.var(ddof=1)
        gamma, delta = mean, var
        for _ in range(1000):
            gamma = (t2 * n * mean + delta * m) / (t2 * n + delta)
            delta = (0.5 * ((here - gamma) ** 2).sum(axis=0) + rate) / (n / 2 + shape - 1)
        out[site == level] = (here - gamma) / np.sqrt(delta) * sigma + kept[site == level]
    return out


def dummies(parts):
    age, sex = (np.concatenate([r.columns[n] for r in parts]) for n in ("age", "sex"))
    return np.column_stack([age, sex == 1, sex == 2]).astype(float)


def harmonised(build_study, run_state, parts, plan=None):
    s = build_study(VARIABLES, plan or [HARMONISE, AFTER])
    results, state = run_state(s, parts)
    return results, state, np.vstack([prepared(build_plan(s)[1], state, r).matrix(NAMES) for r in parts])


def test_equal_to_the_pooled_computation(build_study, run_state):
    parts = made()
    site = np.repeat(np.arange(4), [len(r) for r in parts])
    y = np.vstack([r.matrix(NAMES) for r in parts])
    results, _, got = harmonised(build_study, run_state, parts)
    x = dummies(parts)
    want = reference(y, x, site)
    kept = results["h"]["variables"]["a"]
    assert kept["intercept"] + x.mean(axis=0) @ [*kept["kept"].values()] == pytest.approx(y[:, 0].mean())  # the mean of those with zero covariates
    print("largest difference to the pooled computation", np.abs(got - want).max())
    np.testing.assert_allclose(got, want, atol=1e-9)
    assert np.abs(got - y).max() > 1.0
    for j, name in enumerate(NAMES):
        assert results["after"]["variables"][name]["mean"] == pytest.approx(want[:, j].mean(), rel=1e-9)


def test_equal_to_neurocombat(build_study, run_state, monkeypatch):
    neuro = pytest.importorskip("neuroCombat", reason="neuroCombat is not installed; the test above has the paper's formulas").neuroCombat
    import pandas as pd

    module = sys.modules["neuroCombat.neuroCombat"]
    monkeypatch.setattr(module.it_sol, "__defaults__", (1e-13,))  # it stops at a relative change of 1e-4 otherwise
    parts = made()
    site = np.repeat(np.arange(4), [len(r) for r in parts])
    covariates = pd.DataFrame({"site": site, **{n: np.concatenate([r.columns[n] for r in parts]) for n in ("age", "sex")}})
    y = np.vstack([r.matrix(NAMES) for r in parts])
    want = neuro(y.T, covariates, "site", categorical_cols=["sex"], continuous_cols=["age"])["data"].T
    _, _, got = harmonised(build_study, run_state, parts)
    print("largest difference to neuroCombat", np.abs(got - want).max())
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_site_effects_go_and_covariates_stay(build_study, run_state):
    parts = made((400, 600, 800), seed=3)
    _, _, got = harmonised(build_study, run_state, parts)
    y = np.vstack([r.matrix(NAMES) for r in parts])
    site = np.repeat(np.arange(3), [len(r) for r in parts])
    x = dummies(parts)

    def explained(values, columns):
        design = np.column_stack([np.ones(len(values)), *columns])
        b = np.linalg.lstsq(design, values, rcond=None)[0]
        return b, 1 - ((values - design @ b) ** 2).sum(axis=0) / ((values - values.mean(axis=0)) ** 2).sum(axis=0)

    residual = lambda v: v - np.column_stack([np.ones(len(v)), x]) @ np.linalg.lstsq(np.column_stack([np.ones(len(v)), x]), v, rcond=None)[0]  # noqa: E731
    before, after = (explained(residual(v), [site == 1, site == 2])[1] for v in (y, got))
    assert (before > 0.02).any()
    assert (after < 0.002).all()
    np.testing.assert_allclose(explained(got, x.T)[0][1], [0.2, 0.02, -0.1], atol=0.05)  # what age does


def test_no_covariates(build_study, run_state):
    parts = made()
    _, _, got = harmonised(build_study, run_state, parts, [{**HARMONISE, "covariates": []}, AFTER])
    site = np.repeat(np.arange(4), [len(r) for r in parts])
    y = np.vstack([r.matrix(NAMES) for r in parts])
    np.testing.assert_allclose(got, reference(y, np.empty((len(y), 0)), site), atol=1e-9)


def test_a_sites_own_shift_and_scale_are_in_no_state(build_study, run_state):
    parts = made()
    _, state, _ = harmonised(build_study, run_state, parts)
    assert {n: a.shape for n, a in state.items() if n.startswith("h.")} == {
        "h.alpha": (3,), "h.beta": (3, 3), "h.rows": (), "h.sites": (), "h.variance": (3,),
    }  # fmt: skip


def test_incomplete_rows_are_harmonised_where_the_covariates_are_known(build_study, run_state):
    parts = made()
    parts[0].columns["a"][0] = np.nan
    parts[0].columns["age"][1] = np.nan
    _, _, got = harmonised(build_study, run_state, parts)
    assert np.isnan(got[0]).tolist() == [True, False, False]
    assert np.isnan(got[1]).all(), "a value that cannot be harmonised does not stay as it was"
    assert not np.isnan(got[2:]).any()


def test_too_few_rows_are_refused(build_study, run_state):
    with pytest.raises(TaskError, match=r"'h' needs 5 complete rows of a site.*lower min_rows"):
        harmonised(build_study, run_state, [*made(), Rows.of({n: np.ones(4) for n in VARIABLES})])


def test_constant_at_one_site_and_constant_everywhere(build_study, run_state):
    parts = made()
    parts[0].columns["b"][:] = 1.5
    assert np.isfinite(harmonised(build_study, run_state, parts)[2]).all()
    for r in parts:
        r.columns["b"][:] = 1.5
    with pytest.raises(TaskError, match="'b' does not vary within any site"):
        harmonised(build_study, run_state, parts)


def test_a_covariate_that_says_the_site(build_study, run_state):
    parts = made()
    for i, r in enumerate(parts):
        r.columns["age"][:] = 50 + i
    with pytest.raises(TaskError, match=r"'age' is constant within every site.*covariates of step 'h'"):
        harmonised(build_study, run_state, parts)


def test_scales_that_are_all_alike_are_their_prior():
    z = np.random.default_rng(0).normal(size=(50, 3))
    z = (z - z.mean(axis=0)) / z.std(axis=0, ddof=1) * 2.0 + [0.0, 1.0, 2.0]
    found = effects(z)
    np.testing.assert_allclose(found.scale, 4.0, rtol=1e-9)
    assert (np.diff(found.shift) > 0.9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": ["a", "sex"], "covariates": []}, "'sex' is no number"),
        ({"variables": ["a", "a"]}, "'a' is listed twice"),
        ({"variables": ["a"]}, "variables"),
        ({"covariates": ["a"]}, "'a' is listed twice"),
    ],
)
def test_wrong_parameters(build_study, change, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, [{**HARMONISE, **change}]))


def test_later_steps_know_no_range_of_what_was_harmonised(build_study):
    with pytest.raises(ManifestError, match=r"needs the range of 'a', which has none after step 'h'.*put it before 'h', or give minimum and maximum"):
        build_plan(build_study(VARIABLES, [HARMONISE, {"name": "q", "task": "quantiles", "variable": "a"}]))
    drift = {"name": "d", "task": "drift", "variables": ["a"]}
    with pytest.raises(ManifestError, match=r"put it before 'h'$"):
        build_plan(build_study(VARIABLES, [HARMONISE, drift]))
    assert build_plan(build_study(VARIABLES, [drift, HARMONISE]))


@pytest.mark.parametrize(("name", "by", "variables", "covariates"), [
    ("heart_disease", None, ("trestbps", "thalach", "oldpeak"), ("age", "sex")),
    ("ist", "country", ("rsbp", "rdelay", "age"), ("female", "rsleep")),
])  # fmt: skip
def test_real_hospitals_and_countries(sites, real_study, name, by, variables, covariates):
    parts = sites(name, by)
    s = real_study(name, [{"name": "h", "task": "combat", "variables": variables, "covariates": covariates}, {**AFTER, "variables": variables}])
    run = simulate(s, parts)
    small = {site for site, rows in parts.items() if (~np.isnan(rows.matrix([*variables, *covariates])).any(axis=1)).sum() < 5}
    assert set(run.declined) == small
    kept = {site: rows.take(~np.isnan(rows.matrix([*variables, *covariates])).any(axis=1)) for site, rows in parts.items() if site not in small}
    y, x = (np.vstack([kept[s_].matrix(names) for s_ in sorted(kept)]) for names in (variables, covariates))
    want = reference(y, x, np.repeat(sorted(kept), [len(kept[s_]) for s_ in sorted(kept)]))
    got = np.vstack([prepared(build_plan(s)[1], run.state, kept[s_]).matrix(variables) for s_ in sorted(kept)])
    print(name, len(kept), "sites; largest difference to the pooled computation", np.abs(got - want).max())
    np.testing.assert_allclose(got, want, atol=1e-6)
