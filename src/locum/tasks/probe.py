"""A connection check: a vector of zeros travels both ways and nothing is computed from rows."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field as Limit

from locum.data.rows import Rows
from locum.study.vector import Contribution, Field, Layout, Total
from locum.tasks.base import BaseTask, Memory, Params, State, register


class ProbeConfig(Params):
    """size: numbers (float32) that travel each way in every round."""

    size: Annotated[int, Limit(ge=0, le=1 << 30)] = 1000


@register
class Probe(BaseTask[ProbeConfig]):
    """Measures a federation's rounds before patients' data are involved: every site releases `size` zeros."""

    kind: ClassVar[str] = "probe"
    Config = ProbeConfig

    def reads(self) -> tuple[str, ...]:
        return ()

    def leaves(self) -> str:
        return f"{self.params.size} zeros, to measure the connection; nothing computed from patients' rows."

    def layout(self, state: State) -> Layout:
        return Layout((Field("zeros", (self.params.size,), "float32"),))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        return Contribution({"zeros": np.zeros(self.params.size, np.float32)}, rows.patients, "connection check")

    def combine(self, state: State, total: Total) -> State:
        return self.merge(state, zeros=total["zeros"])

    def done(self, state: State) -> bool:
        return False

    def result(self, state: State) -> dict[str, Any]:
        return {"size": self.params.size}
