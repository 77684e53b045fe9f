"""A coordinator's replica as a real process: `python replica.py FOLDER [PORT]`. Also the task that these tests run."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np

from locum.study import Contribution, Layout
from locum.tasks import BaseTask, Params, register


class WalkParams(Params):
    """size: length of the vector. fail: raise in `combine` at this round (0: never), with an error that nobody foresaw."""

    size: int = 3
    fail: int = 0


@register
class Walk(BaseTask[WalkParams]):
    """Adds site-private, seeded noise to its state: a lost, repeated or reordered answer would show in the last bit."""

    kind: ClassVar[str] = "coordinator_walk"
    Config = WalkParams

    def reads(self) -> tuple[str, ...]:
        return ("x",)

    def leaves(self) -> str:
        return "a sum"

    def layout(self, state: Any) -> Layout:
        return Layout.of(x=(self.params.size,))

    def visit(self, state: Any, rows: Any, memory: Any, rng: np.random.Generator) -> Contribution:
        memory["sum"] = memory.get("sum", np.zeros(self.params.size)) + rows.columns["x"].sum() * rng.normal(size=self.params.size)
        return Contribution({"x": memory["sum"] * 0.1}, rows.patients, "walk")

    def combine(self, state: Any, total: Any) -> Any:
        n = int(state.get(self.key("n"), np.zeros((), np.int64))) + 1
        if n == self.params.fail:
            raise ValueError(f"unforeseen, with a number {float(total['x'][0])}")
        return self.merge(state, x=state.get(self.key("x"), np.ones(self.params.size)) * 0.9 + total["x"] / 3, n=np.int64(n))

    def done(self, state: Any) -> bool:
        return False

    def result(self, state: Any) -> dict[str, Any]:
        return {"first": float(self.own(state, "x")[0])}


if __name__ == "__main__":
    from locum.coordinator import serve

    serve(sys.argv[1], port=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
