"""Figures by subgroup against the pooled patients, intervals against published ones, and small cells that nobody can compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.tasks.subgroup_figures import FEWEST_SITES, difference, newcombe, shown

VARIABLES = {
    "x": {},
    "age": {"minimum": 0, "maximum": 120},
    "sex": {"type": "category", "categories": ["female", "male"]},
    "ward": {"type": "boolean"},
    "y": {"type": "boolean", "role": "outcome"},
}
FIT = {"name": "fit", "task": "logistic", "features": ["x"], "outcome": "y", "part": "train"}
BY = {"sex": [], "age": [0, 50, 70, 120]}
SIZES = [400, 300, 500, 350, 450]


def patients(n: int = 2600, seed: int = 3) -> dict:
    rng = np.random.default_rng(seed)
    x, sex = rng.normal(size=n), rng.integers(0, 2, n).astype(float)
    y = (rng.random(n) < 1 / (1 + np.exp(-(0.4 + 1.6 * sex) * x + 0.5))).astype(float)
    return {"x": x, "age": rng.uniform(20, 95, n), "sex": sex, "ward": (rng.random(n) < 0.5).astype(float), "y": y}


def judge(by=BY, **params) -> dict:
    return {"name": "groups", "task": "subgroups", "model": "fit", "by": by, "part": "all", **params}


def fit_all() -> dict:
    return {**FIT, "part": "all"}


def test_each_subgroup_is_the_pooled_one(run, scatter):
    d = patients()
    got = run(VARIABLES, [fit_all(), judge(bins=16384)], scatter(d, SIZES))["groups"]
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(d["x"][:, None], d["y"])
    risk, eta = model.predict_proba(d["x"][:, None])[:, 1], model.decision_function(d["x"][:, None])
    masks = {"everybody": np.ones(len(risk), bool), "sex: female": d["sex"] == 0, "sex: male": d["sex"] == 1}
    masks |= {f"age: {name}": (d["age"] >= a) & (d["age"] < b) for name, a, b in (("0 to under 50", 0, 50), ("50 to under 70", 50, 70), ("70 to 120", 70, 121))}
    rows = {r["name"]: r for r in (got["everybody"], *got["subgroups"])}
    assert set(rows) == set(masks)
    for name, mask in masks.items():
        row, y, p = rows[name], d["y"][mask], risk[mask]
        assert (row["n"], row["events"]) == (mask.sum(), y.sum())
        assert row["auc"]["value"] == pytest.approx(roc_auc_score(y, p), abs=2e-3)
        assert row["brier"]["value"] == pytest.approx(brier_score_loss(y, p), abs=1e-5)
        assert row["accuracy"]["value"] == pytest.approx(((p >= 0.5) == y).mean())
        assert row["sensitivity"]["value"] == pytest.approx((p >= 0.5)[y == 1].mean())
        assert row["specificity"]["value"] == pytest.approx((p < 0.5)[y == 0].mean())
        assert row["observed_over_expected"]["value"] == pytest.approx(y.sum() / p.sum(), rel=1e-5)
        line = LogisticRegression(C=np.inf, tol=1e-10).fit(eta[mask][:, None], y)
        assert row["calibration_slope"]["value"] == pytest.approx(line.coef_[0, 0], abs=3e-3)
        assert row["calibration_intercept"]["value"] == pytest.approx(line.intercept_[0], abs=3e-3)
        for figure in ("auc", "accuracy", "sensitivity", "brier", "observed_over_expected", "calibration_slope"):
            assert row[figure]["low"] < row[figure]["value"] < row[figure]["high"]
    gap = got["gaps"]["sex"]["auc"]
    assert gap["between"] == ["sex: female", "sex: male"]
    assert gap["value"] == pytest.approx(abs(rows["sex: male"]["auc"]["value"] - rows["sex: female"]["auc"]["value"]))
    assert 0 < gap["low"] < gap["value"] < gap["high"]
    assert not got["withheld"]


def test_sites_are_spread_and_the_worst_is_bounded(run, scatter):
    d = patients()
    parts = scatter(d, SIZES)
    got = run(VARIABLES, [fit_all(), judge(floor={"auc": 0.79, "accuracy": 0.1})], parts)["groups"]["sites"]
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(d["x"][:, None], d["y"])
    own = np.array([roc_auc_score(r.columns["y"], model.decision_function(r.columns["x"][:, None])) for r in parts])
    assert got["auc"]["sites"] == len(parts) == 6
    assert got["auc"]["mean"] == pytest.approx(own.mean())
    assert got["auc"]["sd"] == pytest.approx(own.std(), abs=1e-9)
    low, high = got["auc"]["worst_between"]
    assert low <= own.min() <= high
    a, b = got["auc"]["sites_missing_it"]
    assert a <= (own < 0.79).sum() <= b
    assert got["accuracy"]["sites_missing_it"] == [0, 0]
    assert "floor" not in got["brier"]


def test_of_four_sites_nothing_is_said(run, scatter):
    got = run(VARIABLES, [fit_all(), judge()], scatter(patients(800), [200, 200, 200]))["groups"]
    assert all(set(v) == {"withheld"} for v in got["sites"].values())


def test_a_small_level_is_joined_and_cannot_be_subtracted(run, scatter):
    d = patients()
    d["sex"][:3] = np.nan
    d["age"][5:8] = np.nan
    got = run(VARIABLES, [fit_all(), judge()], scatter(d, SIZES))["groups"]
    by = {v: [r for r in got["subgroups"] if r["variable"] == v] for v in BY}
    assert [len(rows) for rows in by.values()] == [2, 3]
    assert {w["variable"]: w["joined"] for w in got["withheld"]} == {"sex": True, "age": True}
    assert all(sum(r["n"] for r in rows) == got["n"] for rows in by.values())
    assert "not recorded" not in [r["levels"] for r in got["subgroups"]]
    joint = next(r for r in got["subgroups"] if len(r["levels"]) > 1)
    assert "not recorded" in joint["levels"]
    assert "sites" not in joint


def test_subgroups_of_two_sites_are_not_shown(run, scatter):
    d = patients()
    parts = scatter(d, SIZES)
    for k, rows in enumerate(parts):
        rows.columns["ward"][:] = float(k < 2)
    got = run(VARIABLES, [fit_all(), judge({"ward": []})], parts)["groups"]
    assert got["subgroups"] == []
    assert got["withheld"][0]["levels"] == ["no", "yes"]


def test_rows_of_one_patient_are_one_patient(run):
    sites = []
    for k in range(4):
        d = patients(150, seed=k)
        d["sex"] = np.r_[np.ones(20), np.zeros(130)]
        sites.append(Rows.of(d, ["same"] * 20 + [str(i) for i in range(130)]))
    got = run(VARIABLES, [fit_all(), judge({"sex": []})], sites)["groups"]
    assert got["subgroups"] == []  # eighty rows of four patients


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14), st.integers(1, 6)), min_size=1, max_size=7), st.integers(5, 11))
def test_nothing_small_is_shown_or_left_over(cells, threshold):
    with_, without = np.array([c[0] for c in cells], float), np.array([c[1] for c in cells], float)
    table = {"patients": with_ + without, "patients_with": with_, "patients_without": without, "sites": np.array([c[2] for c in cells], float)}
    groups = shown(table, threshold)
    seen = [k for g in groups for k in g]
    assert len(set(seen)) == len(seen)
    assert sum(len(g) > 1 for g in groups) <= 1
    for g in groups:
        assert min(with_[list(g)].sum(), without[list(g)].sum()) >= threshold
        assert table["sites"][list(g)].max() >= FEWEST_SITES
    present = {k for k in range(len(cells)) if table["patients"][k]}
    assert not groups or set(seen) == present  # nobody is left over to be computed by subtraction


@pytest.mark.parametrize(("auc", "m", "n", "low", "high"), [(0.5, 10, 10, 0.27, 0.73), (1.0, 10, 20, 0.84, 1.0), (0.0, 10, 20, 0.0, 0.16)])
def test_newcombes_interval(auc, m, n, low, high):
    got = newcombe(auc, m, n)
    assert got == pytest.approx((low, high), abs=0.04)
    assert got[0] <= auc <= got[1]


def test_newcombes_interval_covers():
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(600):
        p, q = rng.normal(1.0, 1.0, 25), rng.normal(size=40)
        low, high = newcombe(float((p[:, None] > q).mean()), 25, 40)
        inside += low <= 0.760 <= high
    assert 0.92 < inside / 600 < 0.985


def test_difference_of_shares_is_newcombes():
    """Newcombe (1998), Statistics in Medicine 17:873, method 10, example (a): 56/70 less 48/80."""
    a = {"value": 56 / 70, "low": 0.6918, "high": 0.8769}
    b = {"value": 48 / 80, "low": 0.4905, "high": 0.7004}
    got = difference(b, a)
    assert (got["value"], got["low"], got["high"]) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-3)


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ({"by": {"sexx": []}}, "'sexx', which the data contract does not list"),
        ({"by": {"age": []}}, "at least two edges"),
        ({"by": {"age": [50, 10]}}, "at least two edges"),
        ({"by": {"sex": [0, 1]}}, "no bands"),
        ({"by": {}}, "by"),
        ({"by": BY, "threshold": 2}, "threshold"),
        ({"by": BY, "model": "fitt"}, "not an earlier step"),
        ({"by": BY, "floor": {"acu": 0.5}}, "floor"),
        ({"by": BY, "part": "test"}, "evaluates on the test patients"),
    ],
)
def test_bad_parameters(run, scatter, step, what):
    plan = [fit_all(), {"name": "groups", "task": "subgroups", "model": "fit", "part": "all", **step}]
    with pytest.raises(ManifestError, match=what):
        run(VARIABLES, plan, scatter(patients(100), [50]))


def test_too_few_events_in_all(run, scatter):
    d = patients(60)
    d["y"][:] = 0
    d["y"][:3] = 1
    with pytest.raises(TaskError, match="Fewer than 11"):
        run(VARIABLES, [{**fit_all(), "ridge": 1.0}, judge()], scatter(d, [20, 20]))
