"""Medians and interquartile ranges by counting, against numpy, and as what a regression scales by."""

from __future__ import annotations

import numpy as np
import pytest

from locum import simulate
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan

VARIABLES = {
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "lab": {"minimum": -100, "maximum": 100},
    "y": {"minimum": -50, "maximum": 50},
    "arm": {"type": "category", "categories": ["a", "b"]},
}
SCALE = {"name": "r", "task": "robust_scale", "variables": ["age", "lab"]}


def columns(n=500, seed=0):
    r = np.random.default_rng(seed)
    lab = r.standard_t(1, n).clip(-100, 100)  # heavy tails
    lab[::9] = np.nan
    return {"age": r.integers(20, 90, n).astype(float), "lab": lab, "y": r.normal(size=n), "arm": r.integers(0, 2, n).astype(float)}


def test_quartiles_are_those_of_the_pooled_rows(run, scatter):
    d = columns()
    got = run(VARIABLES, [SCALE], scatter(d, [1, 2, 0, 100]))["r"]["variables"]
    for name, tolerance in (("age", 0.0), ("lab", 200e-6)):
        q = np.nanquantile(d[name], [0.25, 0.5, 0.75], method="inverted_cdf")
        assert abs(got[name]["median"] - q[1]) <= tolerance / 2
        assert abs(got[name]["iqr"] - (q[2] - q[0])) <= tolerance
    assert (got["lab"]["n"], got["lab"]["missing"]) == (444, 56)


def test_a_regression_scaled_by_it_has_the_same_coefficients(run, scatter):
    fit = {"name": "m", "task": "linear", "features": ["age", "lab"], "outcome": "y"}
    parts = scatter(columns(), [50, 100])
    plain, scaled = (run(VARIABLES, plan, parts)["m"]["coefficients"] for plan in ([fit], [SCALE, {**fit, "standardise": "r"}]))
    np.testing.assert_allclose([c["coef"] for c in scaled], [c["coef"] for c in plain], rtol=1e-8)


def test_what_is_fitted_with_a_penalty_is_scaled_by_median_and_iqr(run, scatter):
    """Ridge depends on the scale: the answer is that of a penalised least squares on (x - median) / iqr."""
    d = columns()
    d["lab"] = np.where(np.isnan(d["lab"]), 0.0, d["lab"])
    fit = {"name": "m", "task": "linear", "features": ["age", "lab"], "outcome": "y", "standardise": "r", "ridge": 50.0}
    got = run(VARIABLES, [SCALE, fit], scatter(d, [50]))
    scale = got["r"]["variables"]
    x = np.column_stack([np.ones(500), *((d[n] - scale[n]["median"]) / scale[n]["iqr"] for n in ("age", "lab"))])
    b = np.linalg.solve(x.T @ x + np.diag([0.0, 50.0, 50.0]), x.T @ d["y"])
    np.testing.assert_allclose([c["coef"] * scale[c["name"]]["iqr"] for c in got["m"]["coefficients"][1:]], b[1:], rtol=1e-8)


def test_half_of_the_values_alike(run, scatter):
    with pytest.raises(TaskError, match=r"Half of the values of 'lab' are the same.*'standardise'"):
        run(VARIABLES, [SCALE], scatter({**columns(), "lab": np.where(np.arange(500) < 400, 1.0, 2.0)}, [50]))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([{**SCALE, "variables": ["arm"]}], "'arm' is of type 'category'"),
        ([{**SCALE, "variables": ["lab", "lab"]}], "lists a variable twice"),
        ([{"name": "h", "task": "histogram", "variable": "lab"}, SCALE], "count the same variable 'lab'"),
        ([SCALE, {"name": "h", "task": "histogram", "variable": "lab"}], "count the same variable 'lab'"),
        ([SCALE, {"name": "m", "task": "linear", "features": ["age", "y"], "outcome": "lab", "standardise": "r"}], "does not cover 'y'"),
    ],
)
def test_refused_when_the_study_is_read(build_study, plan, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(build_study(VARIABLES, plan))


def test_the_stroke_trial_in_36_countries(sites, real_study, pooled):
    parts = sites("ist", by="country")
    got = simulate(real_study("ist", [{"name": "r", "task": "robust_scale", "variables": ["age", "rsbp", "rdelay"]}]), parts).results["r"]["variables"]
    for name in ("age", "rsbp", "rdelay"):
        q = np.nanquantile(pooled(parts, name), [0.25, 0.5, 0.75], method="inverted_cdf")
        error = got[name]["quantiles"][0]["error_bound"]
        np.testing.assert_allclose([got[name]["median"], got[name]["iqr"]], [q[1], q[2] - q[0]], atol=2 * error + 1e-12)
        print(name, got[name]["median"], got[name]["iqr"], q)
