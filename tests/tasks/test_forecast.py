"""Forecasts of weekly counts against a pooled regression and closed forms; quantiles; and series that cannot be forecast."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

import locum.tasks.forecast  # noqa: F401 - registers the task
from locum import Rows, simulate
from locum.errors import ManifestError, RunFailed, TaskError
from locum.federation.state import decode_state, encode_state
from locum.study import Study, Total
from locum.tasks import build_plan
from locum.tasks import forecast_model as model

LAST = 20085  # 2024-12-28
VARIABLES = {"date": {"type": "date", "role": "time"}, "value": {"minimum": 0}, "population": {}, "first": {"minimum": 0}}


def study(min_cohort=3, **params):
    step = {"name": "f", "task": "forecast", "last": "2024-12-28", "rounds": 5, **params}
    return Study.parse(
        {"name": "test", "data": {"variables": VARIABLES}, "terms": {"privacy": "none", "min_cohort": min_cohort, "aggregation": "masked"}, "plan": [step]}
    )


def series(weeks=150, seed=0, people=2e6, late=0):
    """Seasonal counts with a slowly wandering level; `late` rows after the study's last week."""
    r = np.random.default_rng(seed)
    day = LAST - 7.0 * np.arange(weeks - 1, -1, -1) + 7 * late
    wander = np.zeros(weeks)
    for t in range(1, weeks):
        wander[t] = 0.9 * wander[t - 1] + r.normal(scale=0.25)
    rate = np.exp(0.8 + 1.2 * np.cos(2 * np.pi * day / 365.2425) + wander)
    value = r.poisson(rate * people / 1e5).astype(float)
    return {"date": day, "value": value, "population": np.full(weeks, people), "first": np.round(0.9 * value)}


def cohort(weeks=(150, 120, 60, 200), **more):
    return {f"s{k}": Rows.of(series(w, k, people=5e5 * 4.0**k, **more)) for k, w in enumerate(weeks)}


def regression(z, common, day, h, lags=2):
    """The matrix and outcome of one horizon, written out again."""
    x, y = [], []
    for s in range(lags - 1, len(z) - 1 - h):
        angle = 2 * np.pi * (day[s] + 7 * (h + 1)) / 365.2425
        x.append([1, z[s], z[s - 1 + 1] - z[s - 1], common[s], common[s] - common[s - 1], np.sin(angle), np.cos(angle)])
        y.append(z[s + 1 + h])
    return np.array(x), np.array(y)


def test_the_federated_coefficients_are_the_pooled_ridge_regression():
    sites = cohort()
    got = simulate(study(seasonal=3.0, lags=[2], harmonics=[1], cohort=[True], shrinkage=[]), sites).results["f"]
    weeks = {d: [0.0, 0.0] for d in LAST - 7.0 * np.arange(260)}
    for rows in sites.values():
        for d, v, n in zip(*(rows.columns[k] for k in ("date", "value", "population")), strict=True):
            weeks[d][0] += v
            weeks[d][1] += n
    for h in range(4):
        xs, ys = [], []
        for rows in sites.values():
            day, rate = rows.columns["date"], 1e5 * rows.columns["value"] / rows.columns["population"]
            common = np.array([(1e5 * weeks[d][0] / weeks[d][1] + 0.02) ** 0.25 for d in day])
            x, y = regression((rate + 0.02) ** 0.25, common, day, h)
            # the first origin of the longest series has no earlier week of the cohort; all others have one
            xs.append(x)
            ys.append(y)
        x, y = np.vstack(xs), np.concatenate(ys)
        penalty = 4 * np.array([1e-6] * 5 + [3.0] * 2)
        ref = sm.OLS(np.r_[y, np.zeros(7)], np.vstack([x, np.diag(np.sqrt(penalty))])).fit().params
        assert got["horizons"][h]["n"] == len(y)
        np.testing.assert_allclose(list(got["horizons"][h]["federated_coefficients"].values()), ref, rtol=1e-6, atol=1e-9)


def test_a_sites_own_coefficients_lie_between_its_own_and_the_cohorts():
    r = np.random.default_rng(3)
    xx, mean = (np.array([a.T @ a]) for a in (r.normal(size=(30, 3)), r.normal(size=(50, 3))))
    xy, common = r.normal(size=(1, 3)), r.normal(size=(1, 1, 3))
    out = np.zeros((1, 3), bool)
    found = model.between(xx, xy, mean, common, (1e-9, 2.0, 1e9), out)[:, 0, 0]
    np.testing.assert_allclose(found[0], np.linalg.solve(xx[0], xy[0]), atol=1e-6)
    np.testing.assert_allclose(found[1], np.linalg.solve(xx[0] + 2 * mean[0], xy[0] + 2 * mean[0] @ common[0, 0]), atol=1e-8)
    np.testing.assert_allclose(found[2:], np.broadcast_to(common[0, 0], (2, 3)), atol=1e-6)
    common[..., 2], out[0, 2] = 0.0, True  # a design without the third column
    found = model.between(xx, xy, mean, common, (2.0,), out)[0, 0, 0]
    a, b = xx[0, :2, :2] + 2 * mean[0, :2, :2], xy[0, :2] + 2 * mean[0, :2, :2] @ common[0, 0, :2]
    np.testing.assert_allclose(found, [*np.linalg.solve(a, b), 0.0], atol=1e-4)


def test_held_out_weeks_are_predicted_without_their_fold():
    r = np.random.default_rng(1)
    x, y, target = r.normal(size=(140, 3)), r.normal(size=140), np.arange(140) + 5
    xx, xy, n = model.sums(x, y, target)
    assert n.sum() == 140
    found = model.federated(xx, xy, np.full((1, 3), 1e-12))
    for k in range(model.FOLDS):
        keep = model.fold(target) != k
        np.testing.assert_allclose(found[k, 0], np.linalg.lstsq(x[keep], y[keep], rcond=None)[0], atol=1e-9)
    np.testing.assert_allclose(found[-1, 0], np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-9)


def test_forecasts_are_increasing_and_stay_in_the_range_of_counts():
    asked, sites = study(delayed=["first"]), cohort()
    ran = simulate(asked, sites)
    (task,) = build_plan(asked)
    for rows in sites.values():
        for form in ("personalised", "federated"):
            q = task.forecast(ran.state, rows, form=form)
            assert q.shape == (4, 23)
            assert np.isfinite(q).all()
            assert (q >= 0).all()
            assert (np.diff(q, axis=1) >= 0).all()
            assert q[3, -1] - q[3, 0] > q[0, -1] - q[0, 0]
    assert ran.results["f"]["completion_factors"][0] == pytest.approx(1 / 0.9, rel=0.05)


def test_masked_and_clear_agree_and_what_leaves_has_one_shape():
    asked, sites = study(), cohort()
    clear = Study.parse({**asked.model_dump(by_alias=True), "terms": {"privacy": "none", "min_cohort": 3, "aggregation": "clear"}})
    a, b = simulate(asked, sites), simulate(clear, sites)
    np.testing.assert_allclose(a.state["f.weights"], b.state["f.weights"], rtol=1e-9)
    np.testing.assert_allclose(a.state["f.histogram"], b.state["f.histogram"])
    assert a.state["f.histogram"].sum(axis=1) == pytest.approx(a.state["f.rows"])
    assert "own model and its forecast stay" in build_plan(asked)[0].leaves()


def test_memory_that_was_stored_and_read_again_gives_the_same_bits():
    """In the network a site's memory goes through a file between rounds, and may be lost."""
    asked, sites = study(), cohort()
    (task,) = build_plan(asked)
    states = []
    for trip in (lambda m: m, lambda m: dict(decode_state(encode_state(m))) if m else {}, lambda _: {}):
        state, memory = {}, {name: {} for name in sites}
        while not task.done(state):
            total = task.layout(state).zeros()
            for name, rows in sites.items():
                memory[name] = trip(memory[name])
                vector = task.visit(state, rows, memory[name], np.random.default_rng(0)).vector
                total = {k: a + vector[k] for k, a in total.items()}
            state = task.combine(state, Total(total, 4.0, 4))
        states.append(state)
    for other in states[1:]:
        for name, array in states[0].items():
            np.testing.assert_array_equal(other[name], array)


def test_later_rows_and_the_order_of_rows_do_not_matter():
    sites = cohort()
    later = {name: series(w, k, people=5e5 * 4.0**k) for k, (name, w) in enumerate(zip(sites, (150, 120, 60, 200), strict=True))}
    for columns in later.values():
        for key, v in columns.items():
            columns[key] = np.r_[v, v[-1] + 7 * np.arange(1, 4) if key == "date" else v[:3]][::-1]
    more = {name: Rows.of(columns) for name, columns in later.items()}
    a, b = (simulate(study(), s).state for s in (sites, more))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_coverage_is_as_promised_on_series_of_the_model():
    """Of weeks that no model has seen: 60 series, one forecast each."""
    asked = study(min_cohort=10)
    full = [series(164, 100 + k, people=1e6, late=4) for k in range(60)]
    sites = {f"s{k:02d}": Rows.of(one) for k, one in enumerate(full)}
    state = simulate(asked, sites).state
    (task,) = build_plan(asked)
    q = np.array([task.forecast(state, rows) for rows in sites.values()])
    truth = np.array([one["value"][-4:] for one in full])
    for low, high, nominal in ((1, -2, 0.95), (3, -4, 0.8), (6, -7, 0.5)):
        assert np.mean((q[..., low] <= truth) & (truth <= q[..., high])) == pytest.approx(nominal, abs=0.12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=640, max_size=640).filter(any))
def test_quantiles_of_a_histogram_increase(counts):
    q = model.quantiles(np.array(counts, float), model.LEVELS)
    assert np.isfinite(q).all()
    assert (np.diff(q) >= 0).all()
    assert ((q >= -8) & (q <= 8)).all()


@given(st.floats(0, 1e5))
def test_the_scale_is_undone(rate):
    assert model.back(model.transform(np.array(rate))) == pytest.approx(rate, abs=1e-6, rel=1e-9)


def bad(**changes):
    columns = series(120)
    for name, change in changes.items():
        columns[name] = change(columns[name].copy())
    return columns


def put(where, what):
    def change(x):
        x[where] = what
        return x

    return change


BAD = {
    "less than a year": {k: v[-51:] for k, v in series(120).items()},
    "26 weeks": {k: v[-26:] for k, v in series(120).items()},
    "negative": bad(value=put(5, -1.0)),
    "infinite": bad(value=put(5, np.inf)),
    "absent": {k: np.delete(v, 50) for k, v in series(120).items()},
    "same week": {k: np.r_[v, v[-1]] for k, v in series(120).items()},
    "Every count": bad(value=lambda x: 0 * x),
    "beyond its data": {k: v[:-1] for k, v in series(120).items()},
    "whole number of weeks": bad(date=put(5, LAST - 701.0)),
    "last weeks": bad(value=put(-1, np.nan)),
    "a quarter": bad(value=put(slice(0, 40), np.nan)),
    "population": bad(population=put(3, 0.0)),
    "no date": bad(date=put(0, np.nan)),
}


@pytest.mark.parametrize("what", BAD)
def test_a_series_that_cannot_be_forecast_is_refused(what):
    (task,) = build_plan(study())
    expected = {"26 weeks": "less than a year", "infinite": "negative or infinite"}.get(what, what)
    with pytest.raises(TaskError, match=expected) as error:
        task.visit({}, Rows.of(BAD[what]), {}, np.random.default_rng(0))
    assert error.value.fix


def test_a_year_is_enough_and_a_few_missing_weeks_are_left_out():
    sites = {f"s{k}": Rows.of(bad(value=put(slice(20 + k, 25 + k), np.nan))) for k in range(5)}
    whole = {f"s{k}": Rows.of(series(52, k)) for k in range(5)}
    for rows in (sites, whole):
        got = simulate(study(), rows)
        assert all(np.isfinite(a).all() for a in got.state.values())
    assert any("two years" in w for w in got.results["f"]["warnings"])


def test_a_cohort_of_sites_without_answers_fails():
    with pytest.raises(RunFailed):
        simulate(study(), {f"s{k}": Rows.of(series(26, k)) for k in range(4)})


def test_manifests_that_cannot_be():
    with pytest.raises(ManifestError, match="no date"):
        build_plan(study(last="2024-02-31"))
    with pytest.raises(ManifestError):
        build_plan(study(weeks=26))
    with pytest.raises(ManifestError, match="not of type 'date'"):
        build_plan(study(date="value"))
    with pytest.raises(ManifestError):
        build_plan(study(delayed=["nothing"]))
    private = {"privacy": {"eps": 3.0, "delta": 1e-6, "patients": 1000}}
    value = study().model_dump(by_alias=True)
    with pytest.raises(ManifestError, match="no form that protects"):
        build_plan(Study.parse({**value, "terms": private}))


def test_a_cohort_that_counts_nothing_has_no_answer():
    (task,) = build_plan(study())
    total = {**task.layout({}).zeros(), "sites": np.asarray(3.0)}
    with pytest.raises(TaskError, match="counted nothing"):
        task.combine({}, Total(total, 3.0, 3))
