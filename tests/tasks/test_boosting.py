"""Against xgboost on the same bins, against itself over any split of rows to sites, and against what breaks trees."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from locum.data.rows import Rows
from locum.errors import ManifestError, TaskError
from locum.federation.state import decode_state, encode_state
from locum.simulate import simulate
from locum.study import Study, Total
from locum.tasks import build_plan
from locum.tasks.boosting import BoostedTrees
from locum.tasks.boosting_export import feature_types, to_lightgbm, to_xgboost
from locum.tasks.boosting_site import units

VARIABLES = {
    "x": {"minimum": -4, "maximum": 4},
    "z": {"minimum": -4, "maximum": 4},
    "age": {"type": "integer", "minimum": 18, "maximum": 100},
    "arm": {"type": "category", "categories": ["a", "b", "c", "d"]},
    "flag": {"type": "boolean"},
    "y": {"type": "boolean", "role": "outcome"},
    "value": {"role": "outcome", "minimum": -50, "maximum": 50},
    "time": {"role": "time", "minimum": 0, "maximum": 20},
    "event": {"type": "boolean", "role": "event"},
}
FEATURES = ["x", "z", "age", "arm", "flag"]
OUTCOME = {"binary": {"outcome": "y"}, "squared_error": {"outcome": "value"}, "survival": {"time": "time", "event": "event"}}


def data(n=800, seed=0, missing=0.15):
    r = np.random.default_rng(seed)
    x, z = r.normal(size=n).clip(-4, 4), r.normal(size=n).clip(-4, 4)
    age, arm, flag = r.integers(18, 101, n).astype(float), r.integers(0, 4, n).astype(float), r.integers(0, 2, n).astype(float)
    eta = 1.5 * np.sin(2 * x) + (arm == 2) - (arm == 0) * z + 0.02 * (age - 60)
    when = r.exponential(5 * np.exp(-eta))
    end = np.minimum(r.uniform(1, 20, n), when)
    d = {"x": x, "z": z, "age": age, "arm": arm, "flag": flag, "y": (r.uniform(size=n) < 1 / (1 + np.exp(-eta))).astype(float)}
    d |= {"value": eta * 3 + r.normal(size=n), "time": end, "event": (when == end).astype(float), "eta": eta}
    for name in ("x", "age", "arm"):
        d[name] = np.where(r.uniform(size=n) < missing, np.nan, d[name])
    return d


def step(objective="binary", trees=6, depth=3, **more):
    wanted = {"name": "fit", "task": "boosted_trees", "features": FEATURES, "objective": objective, "trees": trees, "depth": depth, **OUTCOME[objective]}
    return {"rounds": trees * depth + 4, **wanted, **more}


def study(*plan, variables=VARIABLES, **terms):
    return Study.parse({"name": "test", "data": {"variables": variables}, "terms": {"privacy": "none", "min_cohort": 3, **terms}, "plan": plan})


def rows(d):
    return Rows.of({k: v for k, v in d.items() if k != "eta"})


def spread(d, sizes, seed=0):
    whole, order = rows(d), np.random.default_rng(seed).permutation(len(d["x"]))
    return [whole.take(part) for part in np.split(order, np.cumsum(sizes))]


def fitted(run_state, asked, sites):
    results, state = run_state(asked, sites)
    return results["fit"], state, build_plan(asked)[0]


def binned(task, state, d):
    return task._place(state, rows(d)).astype(float)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_trees_are_those_of_xgboost_on_the_same_bins(run_state, missing):
    xgboost = pytest.importorskip("xgboost")
    d = data(missing=missing)
    asked = study(step("squared_error", 10, 4, features=["x", "z", "age", "flag"], min_child_patients=15, rate=0.3, l2=2.0))
    _, state, task = fitted(run_state, asked, spread(d, [1, 1, 300, 0, 40]))
    inputs, bins = binned(task, state, d), [len(e) + 1 for e in task.inner_edges(state)]
    inputs = np.where(inputs == bins, np.nan, inputs)
    params = {"objective": "reg:squarederror", "max_depth": 4, "eta": 0.3, "lambda": 2.0, "min_child_weight": 15, "tree_method": "exact"}
    model = xgboost.train({**params, "base_score": task.start(state)}, xgboost.DMatrix(inputs, label=d["value"]), 10)
    np.testing.assert_allclose(task.scores(state, rows(d)), model.predict(xgboost.DMatrix(inputs)), atol=2e-5)
    leaves = sum("Leaf" in str(f) for f in model.trees_to_dataframe()["Feature"])
    assert leaves == int(task.trees(state).leaf.sum())


def test_no_split_gains_less_than_gamma(run_state):
    trees = []
    for gamma in (0.0, 100.0):
        _, state, task = fitted(run_state, study(step("squared_error", 5, 4, gamma=gamma)), spread(data(), [100]))
        trees.append(task.trees(state))
    assert trees[0].gain[~trees[0].leaf].min() < 100.0 < trees[1].gain[~trees[1].leaf].min()


@pytest.mark.parametrize("objective", list(OUTCOME))
def test_exports_predict_the_same(run_state, objective):
    d = data()
    _, state, task = fitted(run_state, study(step(objective, 12, 4)), spread(d, [300, 100, 50]))
    inputs, want = np.column_stack([d[f] for f in FEATURES]), task.scores(state, rows(d))
    used = {int(f) for f in task.trees(state).feature[~task.trees(state).leaf]}
    assert any(task.features[f].categorical for f in used)
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.Booster(model_str=to_lightgbm(task, state))
    np.testing.assert_allclose(model.predict(inputs, raw_score=True), want, atol=1e-12)
    assert lightgbm.Booster(model_str=model.model_to_string()).num_trees() == 12
    if objective == "binary":
        np.testing.assert_allclose(model.predict(inputs), 1 / (1 + np.exp(-want)), atol=1e-12)


@pytest.mark.parametrize("objective", list(OUTCOME))
def test_export_to_xgboost_predicts_the_same(run_state, tmp_path, objective):
    xgboost = pytest.importorskip("xgboost")
    d = data()
    _, state, task = fitted(run_state, study(step(objective, 12, 4)), spread(d, [300, 100, 50]))
    inputs, want = np.column_stack([d[f] for f in FEATURES]), task.scores(state, rows(d))
    (tmp_path / "model.json").write_text(json.dumps(to_xgboost(task, state)))
    model = xgboost.Booster(model_file=tmp_path / "model.json")
    matrix = xgboost.DMatrix(inputs, feature_names=FEATURES, feature_types=feature_types(task), enable_categorical=True)
    np.testing.assert_allclose(model.predict(matrix, output_margin=True), want, atol=1e-5)
    importance = {i["name"]: i["splits"] for i in task.result(state)["importance"] if i["splits"]}
    assert model.get_score(importance_type="weight") == importance


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 250), max_size=8), seed=st.integers(0, 1000), objective=st.sampled_from(list(OUTCOME)))
def test_any_split_of_rows_to_sites_gives_the_same_trees(run_state, cuts, seed, objective):
    d = data(250)
    asked = study(step(objective, 4, 3))
    _, one, _ = fitted(run_state, asked, [rows(d)])
    _, many, _ = fitted(run_state, asked, spread(d, np.diff([0, *sorted(cuts)]).tolist(), seed))
    for name in one:
        np.testing.assert_array_equal(one[name], many[name], err_msg=name)


@pytest.mark.parametrize("objective", list(OUTCOME))
def test_memory_changes_nothing_and_masking_neither(run_state, objective):
    d = data(300)
    sites = spread(d, [1, 1, 100, 3])
    _, forgetful, _ = fitted(run_state, study(step(objective)), sites)  # every visit with an empty memory
    for aggregation in ("clear", "masked"):
        done = simulate(study(step(objective), aggregation=aggregation), {f"s{i}": s for i, s in enumerate(sites)})
        assert set(done.state) == set(forgetful)
        for name, array in forgetful.items():
            np.testing.assert_array_equal(done.state[name], array, err_msg=name)


def test_a_memory_of_other_rows_or_trees_is_not_believed(run_state):
    d = data(200)
    task = build_plan(study(step("binary", 3, 2)))[0]
    states, state = [], {}
    for _ in range(9):
        if task.done(state):
            break
        made = task.visit(state, rows(d), {}, np.random.default_rng(0))
        states.append((state, made))
        state = task.combine(state, Total(made.vector, 1.0, 1))
    strange = {}
    task.visit(states[3][0], rows(data(200, seed=9)), strange, np.random.default_rng(0))
    for before, made in [states[6], states[2], states[5]]:
        again = task.visit(before, rows(d), strange, np.random.default_rng(0))
        for name, array in made.vector.items():
            np.testing.assert_array_equal(again.vector[name], array)


@pytest.mark.parametrize("objective", list(OUTCOME))
def test_state_and_memory_survive_the_wire(run_state, objective):
    d, asked = data(200), study(step(objective, 3, 2))
    task, state, memory, wired = build_plan(asked)[0], {}, {}, {}
    _, want, _ = fitted(run_state, asked, [rows(d)])
    while not task.done(state):
        state = decode_state(encode_state(state))
        vector = task.visit(state, rows(d), wired, np.random.default_rng(0)).vector
        again = task.visit(state, rows(d), memory, np.random.default_rng(0)).vector
        assert all(np.array_equal(vector[k], again[k]) for k in vector)
        wired = dict(decode_state(encode_state(wired))) if wired else {}
        state = task.combine(state, Total(vector, 1.0, 1))
    assert all(np.array_equal(state[k], want[k]) for k in want)


def test_whether_a_value_is_missing_is_learned(run_state):
    r = np.random.default_rng(1)
    d = data(600, missing=0.0)
    gone = r.uniform(size=600) < 0.4
    d["x"], d["y"] = np.where(gone, np.nan, 0.0), (r.uniform(size=600) < np.where(gone, 0.9, 0.1)).astype(float)
    got, state, task = fitted(run_state, study(step("binary", 20, 2, rate=0.3, features=["x", "flag"])), spread(d, [100, 200]))
    assert roc_auc_score(gone, task.scores(state, rows(d))) == 1.0
    curve = next(c for c in got["partial_dependence"] if c["name"] == "x")
    assert curve["missing"] - curve["mean"][0] > 2.0
    assert got["importance"][0]["name"] == "x"
    assert any("'x' is constant" in w for w in got["warnings"])


def test_every_leaf_and_bin_has_enough_patients(run_state):
    d = data(400)
    patient = np.repeat(np.arange(100), 4)
    whole = Rows.of({k: v for k, v in d.items() if k != "eta"}, patient.tolist())
    _, state, task = fitted(run_state, study(step("binary", 5, 5, min_child_patients=11, min_child_weight=0.0)), [whole])
    trees, placed = task.trees(state), task._place(state, whole)
    for root in trees.roots:
        leaf = trees.route(placed, np.full(400, root), 5)
        assert min(len(set(patient[leaf == k])) for k in np.unique(leaf)) >= 11
    for k, name in enumerate(("x", "z")):
        counts = [len(set(patient[placed[:, k] == b])) for b in range(len(task.inner_edges(state)[k]) + 1)]
        assert min(counts) >= 11, name
    assert np.isclose(trees.patients[trees.roots], 100).all()


def test_partial_dependence_of_a_stump_is_its_two_leaves(run_state):
    d = data(500, missing=0.0)
    got, state, task = fitted(run_state, study(step("squared_error", 1, 1, features=["x", "flag"], rate=1.0, l2=0.0)), spread(d, [200]))
    curve = got["partial_dependence"][0]
    score = task.scores(state, rows(d))
    assert np.allclose(np.unique(curve["mean"]), np.unique(score))
    left = score == score[np.argmin(d[curve["name"]])]
    assert np.allclose(sorted({d["value"][left].mean(), d["value"][~left].mean()}), np.unique(score))


def test_survival_trees_rank_and_calibrate(run_state):
    d, new = data(4000, missing=0.0), data(2000, seed=5, missing=0.0)
    asked = study(step("survival", 150, 3, intervals=8))
    got, state, task = fitted(run_state, asked, spread(d, [1] * 20))
    score = task.scores(state, rows(new))
    assert np.corrcoef(score, new["eta"])[0, 1] > 0.93
    hazards = np.array([b["hazard"] for b in got["baseline"]])
    assert len(hazards) == 8
    crude = fitted(run_state, study(step("survival", 1, 1, intervals=8, rate=1e-9)), spread(d, [1] * 20))[0]["baseline"]
    falls = [max(h) / min(h) for h in (hazards, [b["hazard"] for b in crude])]
    assert falls[0] < 1.8 < 4.0 < falls[1]  # the truth is constant; where risk is not explained, the hazard falls as the frail leave
    alive = np.exp(-4 / (5 * np.exp(-d["eta"])))
    predicted = task.survival(state, rows(d), 4.0)
    assert abs(predicted.mean() - alive.mean()) < 0.02
    assert np.abs(predicted - alive).mean() < 0.06


def test_boosting_stops_where_the_held_out_loss_is_least(run_state):
    d = data(600)
    asked = study(step("binary", 200, 4, rate=0.5, stop_after=5))
    got, state, task = fitted(run_state, asked, spread(d, [200, 100]))
    losses = got["stopping"]["loss"]
    assert got["trees"] == int(np.argmin(losses)) == got["stopping"]["best"] < 60
    assert len(losses) == got["trees"] + 6
    assert 80 < got["stopping"]["held_out_rows"] < 160
    assert len(task.trees(state)) == got["trees"]
    got, _, _ = fitted(run_state, study(step("survival", 50, 3, rate=0.5, stop_after=5, stop_on="test", part="train")), spread(d, [200, 100]))
    assert any("test patients" in w for w in got["warnings"])
    assert got["trees"] < 50


def test_evaluate_binary_takes_trees_and_rows_with_missing_features(run_state, scatter):
    d = data(3000)
    asked = study(step("binary", 30, 3, part="train"), {"name": "eval", "task": "evaluate_binary", "model": "fit"})
    results, state = run_state(asked, spread(d, [100, 1000]))
    whole = rows(d).part("test", asked.data.split)
    score = build_plan(asked)[0].scores(state, whole)
    found = results["eval"]["auc"]
    assert results["eval"]["n"] == len(whole)
    assert abs(found["value"] - roc_auc_score(whole.columns["y"], score)) <= found["error_bound"] + 1e-12
    assert 0.5 < results["eval"]["calibration"]["slope"] < 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": None}, "outcome for the others"),
        ({"objective": "survival"}, "time and event are given"),
        ({"outcome": "arm"}, "is a category"),
        ({"features": ["x", "x"]}, "lists 'x' twice"),
        ({"features": ["x", "y"]}, "has its outcome among its features"),
        ({"features": ["xx"]}, "did you mean 'x'"),
        ({"features": ["free"]}, "needs the range of 'free'"),
        ({"features": ["many"]}, "has 64 categories; a tree takes at most 63"),
        ({"depth": 9}, "less than or equal to 8"),
        ({"bins": 64}, "less than or equal to 63"),
        ({"min_child_patients": 5}, "greater than or equal to 11"),
        ({"rounds": 20}, "set rounds = 22"),
        ({"stop_after": 3, "stop_on": "test"}, "needs part = 'train'"),
        ({"features": [f"w{i}" for i in range(300)], "depth": 8, "rounds": 500, "bins": 63}, r"would send up to 7,\d+,\d+ numbers.*lower depth"),
    ],
)
def test_a_wrong_step_names_the_remedy(change, message):
    wide = {f"w{i}": {"minimum": 0, "maximum": 1} for i in range(300)}
    more = {"free": {}, "many": {"type": "category", "categories": [str(i) for i in range(64)]}, **wide}
    with pytest.raises(ManifestError, match=message):
        build_plan(study({k: v for k, v in {**step(), **change}.items() if v is not None}, variables={**VARIABLES, **more}))


def test_privacy_is_refused():
    with pytest.raises(ManifestError, match="no form that protects"):
        build_plan(study(step(), privacy={"eps": 3.0, "delta": 1e-6, "patients": 1000}))


def test_bad_values_are_named(run_state):
    d = data(200)

    def attempt(changed, **more):
        return fitted(run_state, study(step(**more)), spread({**d, **changed}, [50]))[0]

    with pytest.raises(TaskError, match="'y' is 1 in every row"):
        attempt({"y": np.ones(200)})
    with pytest.raises(TaskError, match="values other than 0 and 1"):
        attempt({"y": np.arange(200.0)})
    with pytest.raises(TaskError, match="No site has a usable row"):
        attempt({"y": np.full(200, np.nan)})
    with pytest.raises(TaskError, match="'value' is the same in every row"):
        attempt({"value": np.full(200, 7.1)}, objective="squared_error")
    with pytest.raises(TaskError, match="'arm' holds a category that the contract does not list"):
        attempt({"arm": np.full(200, 4.0)})
    with pytest.raises(TaskError, match="'x' holds an infinite value"):
        attempt({"x": np.full(200, np.inf)})
    with pytest.raises(TaskError, match="There is no event"):
        attempt({"event": np.zeros(200)}, objective="survival")
    with pytest.raises(TaskError, match="'time' are negative"):
        attempt({"time": d["time"] - 5}, objective="survival")
    with pytest.raises(TaskError, match="No split of any feature"):
        attempt({f: np.zeros(200) for f in FEATURES})
    with pytest.raises(TaskError, match="No split of any feature"):
        attempt({}, min_child_patients=101)
    with pytest.raises(TaskError, match="too large to be exact"):
        units(np.array([1e7]))
    got = attempt({"x": np.full(200, np.nan), "flag": np.zeros(200)})
    assert any("'x' is missing in every row" in w for w in got["warnings"])
    assert any("'flag' is constant" in w or "flag" not in w for w in got["warnings"])
    assert np.isfinite([c["missing"] for c in got["partial_dependence"]]).all()
    short = spread(d, [50])
    short = [Rows.of({k: v for k, v in s.columns.items() if k != "z"}) for s in short]
    with pytest.raises(TaskError, match="reads 'z'"):
        run_state(study(step()), short)


def test_noise_is_said_to_be_noise(run_state):
    d = data(400)
    d["y"] = np.random.default_rng(3).integers(0, 2, 400).astype(float)
    got = fitted(run_state, study(step("binary", 40, 4, rate=0.5, stop_after=3)), spread(d, [100]))[0]
    assert got["trees"] < 10
    assert any("compare with a logistic" in w for w in got["warnings"])


IST = [
    "age",
    "female",
    "rdelay",
    "rconsc",
    "rsleep",
    "ratrial",
    "rct",
    "rvisinf",
    "rhep24",
    "rasp3",
    "rsbp",
    *(f"rdef{i}" for i in range(1, 9)),
    "stype",
    "rxasp",
    "rxhep",
]


def test_stroke_outcome_is_predicted_as_by_pooled_libraries(sites, real_study, run_state):
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    parts = sites("ist", by="country")
    plan = [{"name": "fit", "task": "boosted_trees", "features": IST, "outcome": "dead_or_dependent", "part": "train", "trees": 80, "depth": 4, "rounds": 324}]
    asked = real_study("ist", plan)
    _, state = run_state(asked, [parts[s] for s in sorted(parts)])
    task = build_plan(asked)[0]
    assert isinstance(task, BoostedTrees)

    def pooled(part):
        chosen = [r.part(part, asked.data.split) for r in parts.values()]
        y = np.concatenate([r.columns["dead_or_dependent"] for r in chosen])
        x = np.concatenate([task._place(state, r) for r in chosen]).astype(float)
        score = np.concatenate([task.scores(state, r) for r in chosen])
        return x[~np.isnan(y)], y[~np.isnan(y)], score[~np.isnan(y)]

    bins = np.array([len(e) + 1 for e in task.inner_edges(state)])
    (x, y, _), (xt, yt, score) = pooled("train"), pooled("test")
    x, xt = np.where(x == bins, np.nan, x), np.where(xt == bins, np.nan, xt)
    where = [k for k, f in enumerate(task.features) if f.categorical]
    common = {"learning_rate": 0.1, "max_depth": 4, "min_child_weight": 20 * 0.25, "verbosity": -1, "seed": 1}
    light = lightgbm.train(
        {**common, "objective": "binary", "num_leaves": 16, "lambda_l2": 1.0, "min_data_in_leaf": 20, "max_bin": 63, "num_threads": 1},
        lightgbm.Dataset(x, y, categorical_feature=where), 80,
    )  # fmt: skip
    types = feature_types(task)
    extreme = xgboost.train(
        {"objective": "binary:logistic", "eta": 0.1, "max_depth": 4, "min_child_weight": 1, "lambda": 1.0, "tree_method": "hist", "max_bin": 64, "nthread": 1},
        xgboost.DMatrix(x, y, feature_types=types, enable_categorical=True), 80,
    )  # fmt: skip
    ours = roc_auc_score(yt, score)
    others = {
        "lightgbm": roc_auc_score(yt, light.predict(xt)),
        "xgboost": roc_auc_score(yt, extreme.predict(xgboost.DMatrix(xt, feature_types=types, enable_categorical=True))),
    }
    print({"ours": ours, **others})
    assert ours > 0.785
    assert all(abs(ours - other) < 0.005 for other in others.values())


def test_survival_trees_are_evaluated_as_other_survival_models_are(run, run_state):
    from lifelines.utils import concordance_index

    d, fit = data(400), step("survival", 10, 2)
    score = {"name": "score", "task": "evaluate_survival", "model": "fit", "part": "all"}
    found = run(VARIABLES, [fit, score], [rows(d)])["score"]
    _, state, task = fitted(run_state, study(fit), [rows(d)])
    assert found["n"] == 400, "missing features leave nobody out"
    assert found["concordance_within_sites"]["value"] == pytest.approx(concordance_index(d["time"], -task.scores(state, rows(d)), d["event"]), abs=1e-9)
    with pytest.raises(ManifestError, match="does not predict survival"):
        run(VARIABLES, [step("binary", 2, 2), score], [rows(d)])
