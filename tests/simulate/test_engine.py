"""The in-process engine: declines, retries, divergence, and the model's identity."""

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum import Rows, Study, simulate
from locum.errors import ManifestError, RunFailed, TaskError
from locum.study import Contribution, Layout
from locum.tasks import BaseTask, Params, register


class Config(Params):
    mode: str = "sum"
    until: int = 1


@register
class Probe(BaseTask[Config]):
    """Sums x; misbehaves on request."""

    kind: ClassVar[str] = "test_probe"
    Config = Config

    def reads(self) -> tuple[str, ...]:
        return ("x",)

    def leaves(self) -> str:
        return "the sum of x"

    def layout(self, state: Any) -> Layout:
        return Layout.of(x=(), noise=())

    def visit(self, state: Any, rows: Rows, memory: Any, rng: np.random.Generator) -> Contribution:
        mode = self.params.mode
        visits = float(memory.get("visits", np.zeros(()))) + 1
        memory["visits"] = np.asarray(visits)
        x = np.asarray(rows.columns["x"].sum())
        if mode == "raise":
            raise TaskError("no answer here")
        if mode == "bug":
            raise ZeroDivisionError
        if mode == "nan":
            x = np.asarray(np.nan)
        if mode == "shape":
            x = np.zeros(2)
        weight = {"negative": -1.0, "weighted": float(len(rows))}.get(mode, 1.0)
        return Contribution({"x": x, "noise": np.asarray(rng.normal())}, rows.patients, "sum", weight=weight)

    def combine(self, state: Any, total: Any) -> Any:
        n = state.get(self.key("n"), np.zeros(())) + 1
        x = total["x"] * (np.inf if self.params.mode == "diverge" else 1.0)
        return self.merge(state, x=x, noise=total["noise"], n=n, weight=total.weight)

    def done(self, state: Any) -> bool:
        return bool(self.own(state, "n") >= self.params.until)

    def result(self, state: Any) -> dict[str, Any]:
        return {"x": float(self.own(state, "x")), "weight": float(self.own(state, "weight"))}


def study(**change: Any) -> Study:
    terms = {"privacy": "none", "min_cohort": 3, **change.pop("terms", {})}
    step = {"name": "probe", "task": "test_probe", **change}
    return Study.parse({"schema": "locum/study/1", "name": "t", "seed": 4, "data": {"variables": {"x": {}}}, "terms": terms, "plan": [step]})


SITES = {f"s{i}": Rows.of({"x": [0.1 * i, 0.7]}) for i in range(5)}


def test_sum_and_rounds() -> None:
    result = simulate(study(until=4), SITES)
    assert result.rounds == 4
    assert result.results["probe"] == {"x": pytest.approx(4.5), "weight": 5.0}


@given(st.permutations(list(SITES)))
def test_the_order_in_which_sites_are_given_changes_no_bit(order: list[str]) -> None:
    assert simulate(study(until=2), {n: SITES[n] for n in order}).model == simulate(study(until=2), SITES).model


def test_seed_and_data_change_the_model() -> None:
    base = simulate(study(), SITES).model_sha256
    assert simulate(study(), SITES).model_sha256 == base
    assert simulate(study(), {**SITES, "s0": Rows.of({"x": [9.0, 9.0]})}).model_sha256 != base


def test_weights_are_folded_in() -> None:
    result = simulate(study(mode="weighted"), SITES)
    assert result.results["probe"] == {"x": pytest.approx(9.0), "weight": 10.0}


def test_a_site_with_no_rows_declines_and_the_round_goes_on() -> None:
    result = simulate(study(), {**SITES, "empty": Rows.of({"x": []})})
    assert result.declined == {"empty": "no_rows"}
    assert result.results["probe"]["x"] == pytest.approx(4.5)


def test_min_rows_is_enforced_at_the_door() -> None:
    with pytest.raises(RunFailed, match="too_few_rows"):
        simulate(study(terms={"min_rows": 3}), SITES)


@pytest.mark.parametrize(("mode", "code"), [("raise", "task"), ("bug", "internal"), ("nan", "task"), ("shape", "task"), ("negative", "task")])
def test_a_task_that_fails_is_a_decline_and_the_run_ends_with_the_reason(mode: str, code: str) -> None:
    with pytest.raises(RunFailed, match=code) as error:
        simulate(study(mode=mode), SITES)
    assert "failed 3 times" in str(error.value)


def test_divergence_names_the_step() -> None:
    with pytest.raises(TaskError, match="'probe' diverged"):
        simulate(study(mode="diverge"), SITES)


def test_too_few_sites_and_bad_names() -> None:
    with pytest.raises(RunFailed, match="minimum cohort"):
        simulate(study(), dict(list(SITES.items())[:2]))
    with pytest.raises(ManifestError, match="site name"):
        simulate(study(), {**SITES, "A b": SITES["s0"]})


@pytest.mark.parametrize(
    ("change", "says"), [({"task": "test_prob"}, "did you mean 'test_probe'"), ({"mdoe": "x"}, "did you mean 'mode'"), ({"until": "x"}, "until")]
)
def test_bad_plan(change: dict, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        simulate(study(**change), SITES)


def test_a_patient_column_is_given_as_such() -> None:
    step = {"name": "m", "task": "moments", "variables": ["x"]}
    variables = {"x": {}, "who": {"type": "integer", "role": "patient"}}
    asked = Study.parse({"name": "t", "data": {"variables": variables}, "terms": {"privacy": "none"}, "plan": [step]})
    sites = {f"s{i}": Rows.of({"x": [1.0, 2.0], "who": [7, 7]}) for i in range(5)}
    with pytest.raises(ManifestError, match="as a column of numbers"):
        simulate(asked, sites)
    simulate(asked, {name: Rows.of({"x": [1.0, 2.0]}, patient=[7, 7]) for name in sites})
