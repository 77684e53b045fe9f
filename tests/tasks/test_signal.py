"""Features of signals: against numpy written out, on constant, missing and strange signals, and as later steps see them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import locum.tasks.private.signal
import locum.tasks.signal  # noqa: F401
from locum import Rows, Study, simulate
from locum.errors import ManifestError, TaskError
from locum.tasks import build_plan
from locum.tasks.prepare import prepared
from locum.tasks.signal import SignalFeatures

ALL = ["mean", "sd", "range", "quantiles", "roughness", "crossings", "bands", "correlations", "shape", "convolutions"]
VARIABLES = {
    "who": {"role": "patient"},
    "wave": {"type": "array", "shape": [3, 40], "minimum": -8, "maximum": 8},
    "beat": {"type": "array", "shape": [16]},
    "rr": {"minimum": 0, "maximum": 10},
    "y": {"type": "category", "categories": ["a", "b", "c"], "role": "outcome"},
}
STEP = {"name": "signal", "task": "signal_features", "signals": ["wave"]}
FULL = {**STEP, "features": ALL, "rate": 20, "bands": [[1, 4], [4, 10.5]], "points": 8, "kernels": 3, "floor": 0.01}


def study(*plan, **terms):
    return Study.parse({"name": "t", "data": {"variables": VARIABLES}, "terms": {"privacy": "none", "min_cohort": 3, **terms}, "plan": list(plan)})


def rows(n=60, seed=0, patients=None):
    r = np.random.default_rng(seed)
    made = Rows.of({"rr": r.uniform(0, 3, n), "y": np.arange(n) % 3.0}, patient=patients or range(n))
    arrays = {"wave": np.clip(r.normal(size=(n, 3, 40)), -8, 8), "beat": r.normal(size=(n, 16))}
    return replace(made, arrays={k: a.astype(np.float32) for k, a in arrays.items()})


def made_of(step, given, name="signal"):
    task = build_plan(study(step))[0]
    assert isinstance(task, SignalFeatures)
    out = task.apply({}, given)
    return task, {n: out.columns[n] for n in task.names}


def test_every_group_is_what_its_formula_says():
    given = rows()
    task, got = made_of(FULL, given)
    x = given.arrays["wave"][:, 1].astype(float)
    want = {
        "mean": x.mean(1),
        "sd": np.log(x.std(1) + 0.01),
        "range": np.log(x.max(1) - x.min(1) + 0.01),
        "q25": np.quantile(x, 0.25, axis=1),
        "rough": np.log(np.abs(np.diff(x, axis=1)).mean(1) + 0.01),
        "cross": np.array([np.mean(np.sign(r[1:] - r.mean()) != np.sign(r[:-1] - r.mean())) for r in x]),
        "p02": (x[:, 5:10].mean(1) - np.median(x, axis=1)) / (np.ptp(x, axis=1) + 0.01),
    }
    for name, values in want.items():
        np.testing.assert_allclose(got[f"wave_c2_{name}"], values, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got["wave_c1c3_corr"], [np.corrcoef(w[0], w[2])[0, 1] for w in given.arrays["wave"].astype(float)], atol=2e-3)
    power = np.exp(got["wave_c2_band1"]) + np.exp(got["wave_c2_band2"]) - 2e-4
    below = 2 * np.abs(np.fft.rfft(x)[:, 1]) ** 2 / 40**2  # 0.5 Hz is in neither band
    np.testing.assert_allclose(power + below, x.var(axis=1), rtol=1e-9)  # Parseval
    assert len(task.names) == len(set(task.names)) == 3 * (3 + 5 + 2 + 2 + 8 + 6) + 3


def test_a_sine_has_its_power_in_its_band():
    given = rows(4)
    wave = np.sin(2 * np.pi * 6.0 * np.arange(40) / 20.0)
    given.arrays["wave"][:] = wave
    _, got = made_of({**FULL, "features": ["bands"]}, given)
    np.testing.assert_allclose(got["wave_c1_band2"], np.log(wave.var() + 1e-4), rtol=1e-6)
    np.testing.assert_allclose(got["wave_c1_band1"], np.log(1e-4), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-6, 1.0), shift=st.floats(-4, 4), seed=st.integers(0, 99))
def test_features_stay_within_the_ranges_that_are_declared(scale, shift, seed):
    given = rows(8, seed)
    given.arrays["wave"][:] = np.clip(given.arrays["wave"] * scale + shift, -8, 8)
    task, got = made_of({**FULL, "logs": ["rr"]}, given)
    for name, v in task.derived().items():
        assert np.isfinite(got[name]).all(), name
        assert got[name].min() >= (-np.inf if v.minimum is None else v.minimum - 1e-6), name
        assert got[name].max() <= (np.inf if v.maximum is None else v.maximum + 1e-6), name


def test_a_row_has_the_same_features_whoever_else_is_there():
    given = rows()
    _, all_ = made_of(FULL, given)
    _, one = made_of(FULL, given.take(np.asarray([17])))
    for name, values in one.items():
        np.testing.assert_allclose(values, all_[name][[17]], rtol=1e-12)


def test_constant_signals_are_finite_and_missing_samples_leave_the_row_out():
    given = rows(6)
    given.arrays["wave"][0] = 5.0
    given.arrays["wave"][1, 2, 3] = np.nan
    given.arrays["wave"][2, 0, 0] = np.inf
    task, got = made_of({**FULL, "logs": ["rr"], "log_floor": 0.5}, given)
    assert all(np.isfinite(v[[0, 3, 4, 5]]).all() for v in got.values())
    assert all(np.isnan(v[[1, 2]]).all() for n, v in got.items() if n != "log_rr")
    np.testing.assert_allclose(got["log_rr"], np.log(given.columns["rr"] + 0.5))
    made = task.visit({}, given, {}, np.random.default_rng(0))
    assert (float(made.vector["complete"]), float(made.vector["left_out"])) == (4, 2)


def test_later_steps_use_the_features_and_count_what_is_left_out():
    sites = {f"s{i}": rows(n, i) for i, n in enumerate((1, 40, 30, 1))}
    sites["s1"].arrays["wave"][3, 0, 0] = np.nan
    names = [f"wave_c{c}_mean" for c in (1, 2, 3)]
    plan = [STEP, {"name": "fit", "task": "multinomial", "features": names, "outcome": "y"}]
    got = simulate(study(*plan), sites)
    assert got.results["signal"]["rows"] == 71
    assert got.results["signal"]["left_out"] == got.results["fit"]["left_out"] == 1
    pooled = np.vstack([r.arrays["wave"].mean(axis=2) for r in sites.values()])
    fit = build_plan(study(*plan))[1]
    seen = np.vstack([prepared(fit, got.state, r).matrix(names) for r in sites.values()])
    there = ~np.isnan(seen).any(axis=1)
    np.testing.assert_allclose(seen[there], pooled[there], rtol=1e-5, atol=1e-7)


def test_private_form_counts_with_noise_and_features_reach_later_steps():
    privacy = {"eps": 3.0, "delta": 1e-3, "patients": 60}
    plan = [STEP, {"name": "means", "task": "moments", "variables": ["wave_c1_mean", "wave_c2_sd"]}]
    found = simulate(study(*plan, privacy=privacy), {f"s{i}": rows(20, i, [f"p{i}-{j}" for j in range(20)]) for i in range(3)})
    assert found.results["signal"]["se"] > 0
    assert abs(found.results["signal"]["patients"] - 60) < 8 * found.results["signal"]["se"]
    assert "complete" in build_plan(study(*plan, privacy=privacy))[0].leaves()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"signals": ["rr"]}, "list arrays under signals"),
        ({"signals": ["wav"]}, "did you mean 'wave'"),
        ({"signals": ["beat"], "logs": ["wave"]}, "list arrays under signals, and numbers under logs"),
        ({"features": ["bands"]}, "bands are listed with"),
        ({"features": ["bands"], "bands": [[4, 1]]}, "low below high"),
        ({"features": ["bands"], "bands": [[0.01, 0.011]], "rate": 20}, "no frequency of 40 samples"),
        ({"features": ["shape"], "points": 41}, "at most 40 points"),
        ({"features": ["mean", "mean"]}, "features names something twice"),
        ({"signals": ["beat"], "features": ["convolutions"], "kernels": 1024, "floor": 0}, "floor"),
    ],
)
def test_wrong_parameters_name_the_remedy(changed, message):
    with pytest.raises(ManifestError, match=message):
        build_plan(study({**STEP, **changed}))


def test_a_site_without_the_signal_and_a_cohort_without_any_are_told():
    task = build_plan(study(STEP))[0]
    with pytest.raises(TaskError, match="reads 'wave'"):
        task.visit({}, Rows.of({"rr": [1.0]}), {}, np.random.default_rng(0))
    bad = {f"s{i}": rows(4, i) for i in range(3)}
    for r in bad.values():
        r.arrays["wave"][:, 0, 0] = np.nan
    with pytest.raises(TaskError, match="No row of the cohort has a complete signal"):
        simulate(study(STEP), bad)


def test_an_empty_site_declines_and_a_signal_of_another_shape_is_told():
    task = build_plan(study(FULL))[0]
    empty = rows().take(np.zeros(60, dtype=bool))
    assert len(task.complete(empty)) == 0
    assert all(len(task.apply({}, empty).columns[n]) == 0 for n in task.names)
    short = replace(rows(), arrays={**rows().arrays, "wave": rows().arrays["wave"][:, :, :20]})
    with pytest.raises(TaskError, match=r"'wave' is not an array of shape \[3, 40\].*theirs is \[3, 20\]"):
        task.complete(short)
