"""Federated averaging: each site descends by itself for some steps, and the global model moves by the mean of their updates.

Pseudocode     site:         w <- theta;  local_steps times: w <- w - local_rate (gradient of its mean loss at w + l2 w);   update = w - theta
               coordinator:  theta <- theta + server_rate * mean of the updates, by patients or by sites
Postcondition  with one local step and a mean by patients it is gradient descent on the mean loss of the pooled rows
Source         McMahan, Moore, Ramage, Hampson and Aguera y Arcas (2017), AISTATS, algorithm 1, with whole batches

Rows are scaled as in `tasks.sgd`, and the default local rate is its 1/L. This is the form whose sums are exact;
`tasks.private.fedavg` protects whole sites.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from locum.data.rows import Rows
from locum.errors import TaskError
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, State, register
from locum.tasks.sgd import Batch, Training, TrainingParams

Floats = NDArray[np.float64]


class FedAvgParams(TrainingParams):
    """local_steps, local_rate, l2: of each site's descent. server_rate: how far the global model follows.

    by: whether the mean is over patients (the default) or over sites (with differential privacy always). clip: the norm of a site's update that
    counts as one in the first round with differential privacy; then it follows the sites' median.
    """

    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 5
    local_rate: Annotated[float, Field(gt=0)] | None = None
    l2: Annotated[float, Field(ge=0)] = 0.0
    server_rate: Annotated[float, Field(gt=0)] = 1.0
    by: Literal["patients", "sites"] | None = None
    clip: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0


class Averaging(Training[FedAvgParams]):
    """What the exact and the private form share: what a site computes, and the coordinator's step."""

    Config = FedAvgParams

    @property
    def local_rate(self) -> float:
        return self.params.local_rate or self.steepest()

    def update(self, theta: Floats, batch: Batch) -> Floats:
        """How this site would move the parameters, shape (size,); zero without rows, not finite if its descent diverged."""
        here = theta
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(self.params.local_steps if len(batch.y) else 0):
                gradient = self.network.trace(here, batch.x, batch.y).gradient() / len(batch.y)
                here = here - self.local_rate * (gradient + self.params.l2 * self.network.penalised * here)
            return here - theta

    def move(self, state: State, mean: Floats, **arrays: Any) -> State:
        """The state after the global model moved along the mean update."""
        return self.follow(state, self.theta(state) + self.params.server_rate * mean, **arrays)


@register
class FedAvg(Averaging):
    """The exact form."""

    kind = "fedavg"

    def leaves(self) -> str:
        return f"Each round: how the site's own training would move the model ({self.network.size} numbers), times its patients, and counts."

    def layout(self, state: State) -> Layout:
        return Layout.of(update=(self.network.size,), share=(), patients=(), left_out=())

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        batch = self.prepare(state, rows)
        share = float(bool(batch.patients)) if self.params.by == "sites" else float(batch.patients)
        update = self.update(self.theta(state), batch)
        if not np.isfinite(update).all():
            raise TaskError(f"Step '{self.step.name}' diverged here.", why=f"The local rate {self.local_rate:g} is too large.", fix="lower local_rate")
        counts = {"share": share, "patients": float(batch.patients), "left_out": float(batch.left_out)}
        return Contribution({"update": update * share, **{n: np.asarray(v) for n, v in counts.items()}}, batch.patients, self.leaves())

    def combine(self, state: State, total: Total) -> State:
        if not float(total["patients"]):
            raise TaskError(f"No site has a usable row for step '{self.step.name}'.", fix="look for a variable that is missing everywhere")
        mean = np.asarray(total["update"], dtype=np.float64) / float(total["share"])
        return self.move(state, mean, patients=total["patients"], left_out=total["left_out"])

    def result(self, state: State) -> dict[str, Any]:
        answer = super().result(state)
        return {**answer, "n": int(self.own(state, "patients")), "left_out": int(self.own(state, "left_out"))}
