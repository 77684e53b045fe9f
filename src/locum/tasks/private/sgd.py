"""Training by gradient descent with differential privacy for patients: DP-SGD, and DP-FTRL where patients come in a fixed order.

Precondition   the rows are those of the patients that this round's sampler drew (the caller draws, with the sampler of `request`)
Pseudocode     site:         g = sum over patients of their gradient (all their records), clipped to C sqrt(p) and divided by it
                             fixed order: release y_t = sum over j < band of c_j g_(t-j); else y_t = g
               coordinator:  x_t = y_t + noise; fixed order: x_t <- x_t - sum over j >= 1 of c_j x_(t-j);   then the step of `tasks.sgd` along
                             C sqrt(p) x_t / (sampled share * patients), `patients` being the study's planning figure
Postcondition  a patient moves the release of a round in which they are drawn by at most 1. In fixed order they move the following band - 1
               releases by c_1, c_2, ... of that and no others, and their rounds' windows do not overlap, whatever the coordinator asks
Source         Abadi et al. (2016), CCS, algorithm 1; Kairouz et al. (2021), ICML (DP-FTRL); Choquette-Choo et al. (2023), NeurIPS, banded
               matrices; Kalinin and Lampert (2024), NeurIPS (BSR); for the average see `tasks.sgd`

Nothing else is released: no loss, no count, no norm; and momentum, restoring and averaging are done on what was released already.

The defaults, none of which saw data. A typical gradient is the residual, below 1 and 1/2 at first, times a row's length, about sqrt(p); a
network with the usual first weights hands gradients of that size on. Descent for the time tau = rate * rounds / (1 - momentum) learns a
coefficient of size s, of curvature h, up to s e^(-h tau), and gathers noise of variance about S^2 tau / 2h, where S is the noise of
a mean gradient that had the step's whole budget, and follows from eps, delta, the shares, the patients and the clip. Hence
    clip      1, which cuts few gradients, so that risks stay calibrated, if 2 h s / S > e^2: the signal is well above the noise.
              Else 1/4: nearly every gradient is cut to one length, which keeps its direction and a quarter of the noise; the
              noise ends the descent before risks could be calibrated anyhow.
    tau       ln(2 h s / S) / h, where the two errors together are least: little budget learns for a short time, which shrinks like a
              ridge, much budget goes on to convergence.
    rate      tau / rounds without momentum, if that is at most 1/L; else with momentum 0.9 a tenth of it, at most 1/L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.privacy.accountant import Request, mu_gaussian
from locum.privacy.matrix import correlate, restore
from locum.privacy.sampler import FixedOrder
from locum.study.manifest import Step, Study
from locum.study.vector import Contribution, Layout, Total
from locum.tasks.base import Memory, State, register_private
from locum.tasks.models import row_squares
from locum.tasks.private.base import PrivateTask, complete
from locum.tasks.private.ghost import clipped_gradient, repeated
from locum.tasks.sgd import MOMENTUM, Batch, Descent, Pace, Training

Floats = NDArray[np.float64]
SIZE = 0.5
"""s: how large a coefficient of a scaled column is expected to be."""
CURVED = {"logistic": 0.1, "squared": 0.5}
"""h: mu (1 - mu) at a risk of 0.3, or the curvature of half a square, at a squared entry of a half."""
CLIPS, CLEAR = (1.0, 0.25), math.exp(2.0)
"""The default clips, and the ratio of signal to noise from which the first is used."""


@dataclass(frozen=True)
class Clippable(Batch):
    """A batch with what clipping needs of it in each round."""

    @cached_property
    def squares(self) -> Floats:
        """The squared norm of each row of x."""
        return row_squares(self.x)

    @cached_property
    def several(self) -> list[NDArray[np.int64]]:
        """The rows of patients with several records."""
        return repeated(self.codes)


class PrivateTraining(Training[Any], PrivateTask[Any]):
    """What the private forms of gradient training share: whose size is known before any row is read, and what is left out in silence."""

    averages = True

    def __init__(self, step: Step, params: Any, study: Study) -> None:
        super().__init__(step, params, study)
        for name in params.features if self.binary else self.reads():
            if not self.design.scaled(name):
                raise ManifestError(
                    f"Step '{step.name}': '{name}' has no declared range, and no standardise step scales it.",
                    why="Gradients are clipped at a public size, and one of unknown units would drown the others.",
                    fix=f"give minimum and maximum of '{name}' in the data contract, or name an earlier step in standardise",
                )

    def prepare(self, state: State, rows: Rows) -> Clippable:
        return cast(Clippable, super().prepare(state, rows))

    def _batch(self, state: State, rows: Rows) -> Clippable:
        used = complete(self, rows, self.params.part, self.reads())
        if self.binary:
            used = used.take(np.isin(used.columns[self.params.outcome], (0.0, 1.0)))
        return Clippable(**vars(self._scaled(state, used)))


def gradient_noise(step: Step, study: Study, clip: float, patients: float) -> float:
    """S: the standard deviation of a number of the mean gradient of so many patients, released once for all that the step may spend."""
    part = step.share / sum(other.share for other in study.plan)
    return clip / (mu_gaussian(study.terms.privacy.eps, study.terms.privacy.delta) * math.sqrt(part) * patients)


def learning_time(ratio: float, curvature: float) -> float:
    """tau at a ratio 2 h s / S: see the module. At least half of 1/h."""
    return max(0.5, math.log(ratio)) / curvature


@register_private
class PrivateSGD(Descent, PrivateTraining):
    """The private form."""

    kind = "sgd"

    @cached_property
    def unit(self) -> float:
        """The norm of a patient's gradient that is released as 1."""
        whole = math.sqrt(self.design.size)
        clip = self.params.clip or CLIPS[0 if self._ratio(CLIPS[0] * whole) > CLEAR else 1]
        return clip * whole

    @cached_property
    def pace(self) -> Pace:
        tau, steepest = learning_time(self._ratio(self.unit), CURVED[self.network.loss]), self.steepest()
        momentum = self.params.momentum
        if momentum is None:
            momentum = 0.0 if tau <= steepest * self.step.rounds else MOMENTUM
        return Pace(self.params.rate or min(steepest, tau * (1.0 - momentum) / self.step.rounds), momentum)

    def _ratio(self, unit: float) -> float:
        """2 h s / S."""
        return 2.0 * CURVED[self.network.loss] * SIZE / gradient_noise(self.step, self.study, unit, self.expected)

    @property
    def expected(self) -> float:
        """About how many patients the step's part of the split has, by public figures."""
        share = {"all": 1.0, "test": self.study.data.split.test_share, "train": 1.0 - self.study.data.split.test_share}
        return self.patients * share[self.params.part]

    def request(self) -> Request:
        return self.releases(self.step.rounds, self.sampler)

    def leaves(self) -> str:
        return f"Each round: the clipped sum of the loss's gradient over the sampled patients, {self.network.size} numbers, with noise."

    def layout(self, state: State) -> Layout:
        return Layout.of(gradient=(self.network.size,))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        batch = self.prepare(state, rows)
        trace = self.network.trace(self.theta(state), batch.x, batch.y)
        gradient = clipped_gradient(trace, batch.codes, self.unit, first=batch.squares, several=batch.several)
        if self._band > 1:
            gradient = correlated(memory, gradient, int(memory.get("iteration", np.asarray(self.round(state)))), self._band)
        return self.addend({"gradient": gradient}, batch.patients)

    def combine(self, state: State, total: Total) -> State:
        noisy, arrays = np.asarray(total["gradient"], dtype=np.float64), {}
        if self._band > 1:
            before = np.asarray(state.get(self.key("restored"), np.empty((0, len(noisy)))), dtype=np.float64)
            noisy = restore(list(before), noisy, self._band)
            arrays["restored"] = np.vstack([before, noisy])[1 - self._band :]
        return self.descend(state, noisy * (self.unit / (self.sampler.rate * self.expected)), **arrays)

    def result(self, state: State) -> dict[str, Any]:
        return {**super().result(state), "clip": self.unit, "rate": self.pace.rate, "momentum": self.pace.momentum}

    @property
    def _band(self) -> int:
        return self.sampler.band if isinstance(self.sampler, FixedOrder) else 1


def correlated(memory: Memory, gradient: Floats, now: int, band: int) -> Floats:
    """The release of round `now` in fixed order, and the memory for the rounds that follow.

    now: the iteration by which the caller chose the batch and the ledger set the price. A round that this site missed counts as one in
    which it had no patients; that the earlier gradients' terms are missing from that release acts like noise of their size, and fades.
    A round that is asked again, or an earlier one, begins anew: no earlier gradient comes along, so that the windows of one patient's
    rounds never overlap, whatever is asked.
    """
    last = int(memory.get("round", np.asarray(-1)))
    recent = np.asarray(memory.get("recent", np.empty((0, len(gradient)))), dtype=np.float64) if now > last else np.empty((0, len(gradient)))
    missed = min(now - last - 1, band - 1) if len(recent) else 0
    past = np.vstack([recent, np.zeros((max(missed, 0), len(gradient)))])
    memory["recent"] = np.vstack([past, gradient])[1 - band :]
    memory["round"] = np.asarray(now)
    return correlate(list(past), gradient, band)
