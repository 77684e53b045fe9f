"""Federated averaging with differential privacy for whole sites: DP-FedAvg, whose clip follows the median of the updates' norms.

Precondition   the number of sites in a sum is public; each site has one vote, whatever its number of patients
Pseudocode     site:         u = update of `tasks.fedavg`;  release (a min(1, C_t / |u|) u / C_t,  b (1[|u| <= C_t] - 1/2)),  a^2 + b^2 / 4 = 1
               coordinator:  theta <- theta + server_rate * (C_t / a) * noisy sum / sites
                             C_(t+1) = C_t exp(-0.2 (noisy share of sites with |u| <= C_t - 1/2))
Postcondition  a site moves the release by at most 1, its bit included: one Gaussian pays for both
Source         McMahan, Ramage, Talwar and Zhang (2018), ICLR; Andrew, Thakkar, McMahan and Ramaswamy (2021), NeurIPS, algorithm 1 (quantile
               1/2, learning rate 0.2). They noise the bit apart with little of the budget; here it has 5 % of the squared norm,
               so the update's noise grows by 2.6 %, and the share of sites is off by 2.2 noise multipliers over the number of sites

The share is cut to [0, 1], so that noise moves the clip by at most a tenth a round. A site without usable rows, or whose training diverges,
gives an update of zero. The average of the last half of the rounds is the model, as in `tasks.private.sgd`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from locum.data.rows import Rows
from locum.errors import ManifestError
from locum.privacy.accountant import Request
from locum.privacy.clipping import factors
from locum.study.manifest import Step, Study
from locum.study.vector import Bound, Contribution, Layout, Total
from locum.tasks.base import Memory, State, register_private
from locum.tasks.fedavg import Averaging, FedAvgParams
from locum.tasks.private.sgd import PrivateTraining

QUANTILE, SPEED = 0.5, 0.2
UPDATE = math.sqrt(0.95)
"""a: the largest norm of the update's part."""
BIT = 2.0 * math.sqrt(1.0 - UPDATE**2)
"""b: the bit's part is b/2 or -b/2."""
_MARGIN = 1.0 - 2.0**-20
LEAST_CLIP = 1e-100
"""The clip comes with the state: below this the arithmetic of dividing by it has no digits left."""


@register_private
class PrivateFedAvg(Averaging, PrivateTraining):
    """The private form."""

    kind = "fedavg"
    units = ("site",)

    def __init__(self, step: Step, params: FedAvgParams, study: Study) -> None:
        super().__init__(step, params, study)
        if params.by == "patients":
            raise ManifestError(
                f"Step '{step.name}': a mean by patients cannot protect a site.", why="Numbers of patients would be released.", fix="set by = 'sites'"
            )

    def request(self) -> Request:
        return self.releases(self.step.rounds)

    def leaves(self) -> str:
        return f"Each round: how the site's own training would move the model ({self.network.size} numbers, clipped), and whether that is much; with noise."

    def layout(self, state: State) -> Layout:
        return Layout.of(update=(self.network.size,), small=())

    def clip(self, state: State) -> float:
        """C_t, the norm of an update that is released as a."""
        return max(LEAST_CLIP, float(state.get(self.key("clip"), np.asarray(self.params.clip))))

    def visit(self, state: State, rows: Rows, memory: Memory, rng: np.random.Generator) -> Contribution:
        batch, clip = self.prepare(state, rows), self.clip(state)
        update = self.update(self.theta(state), batch)
        if not np.isfinite(update).all():
            update = np.zeros_like(update)
        with np.errstate(over="ignore"):
            norm = float(np.linalg.norm(update))
        small = np.asarray(BIT * _MARGIN * (float(norm <= clip) - 0.5))
        vector = {"update": update / clip * (UPDATE * float(factors([norm / clip])[0])), "small": small}
        return Contribution(vector, batch.patients, self.leaves(), bound=Bound("l2", 1.0, "site"))

    def combine(self, state: State, total: Total) -> State:
        sites, clip = total.sites or self.study.terms.min_cohort, self.clip(state)
        small = min(1.0, max(0.0, float(total["small"]) / (BIT * sites) + 0.5))
        mean = np.asarray(total["update"], dtype=np.float64) * (clip / (UPDATE * sites))
        return self.move(state, mean, clip=clip * math.exp(-SPEED * (small - QUANTILE)))

    def result(self, state: State) -> dict[str, Any]:
        return {**super().result(state), "clip": self.clip(state)}
