"""A task for tests: memory, noise, any size, and misbehaviour on request. Coordinators and sites load this file first."""

import time
from typing import Any, ClassVar

import numpy as np

from locum import Rows
from locum.study import Contribution, Layout
from locum.tasks import BaseTask, Params, register

PAUSES = True
"""Whether `pause` is slept through: child processes that are to be killed do, the test's own process does not."""


class WalkParams(Params):
    mode: str = "sum"
    size: int = 3
    pause: float = 0.0


@register
class Walk(BaseTask[WalkParams]):
    """Adds x, noise and its own memory to its state: any repeated, lost or reordered round shows in the last bit."""

    kind: ClassVar[str] = "test_site_walk"
    Config = WalkParams

    def reads(self) -> tuple[str, ...]:
        return ("x",)

    def leaves(self) -> str:
        return "a sum of x with noise"

    def layout(self, state: Any) -> Layout:
        return Layout.of(x=(self.params.size,))

    def visit(self, state: Any, rows: Rows, memory: Any, rng: np.random.Generator) -> Contribution:
        time.sleep(self.params.pause if PAUSES else 0.0)
        memory["sum"] = memory.get("sum", np.zeros(self.params.size)) + rows.columns["x"].sum() * rng.normal(size=self.params.size)
        if self.params.mode == "bug":
            raise ValueError(f"could not convert {rows.columns['x'][0]}")
        if self.params.mode == "unfit":
            memory["text"] = np.array(["a"])
        x = memory["sum"] * (np.nan if self.params.mode == "nan" else 0.1)
        return Contribution({"x": x}, rows.patients, "walk")

    def combine(self, state: Any, total: Any) -> Any:
        n = state.get(self.key("n"), np.zeros(()))
        return self.merge(state, x=state.get(self.key("x"), np.ones(self.params.size)) * 0.9 + total["x"] / 3, n=n + 1)

    def done(self, state: Any) -> bool:
        return False

    def result(self, state: Any) -> dict[str, Any]:
        return {"first": float(self.own(state, "x")[0])}
