"""FedAvg: the global model moves by the mean of the sites' updates.

Pseudocode     site:         w <- theta;  for each mini-batch b of each epoch:  w <- w - rate * gradient of the mean loss of b at w
               coordinator:  theta <- theta + server_rate * sum_k n_k (w_k - theta) / sum_k n_k
Source         McMahan, Moore, Ramage, Hampson and Aguera y Arcas (2017), AISTATS, algorithm 1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from locum.tasks.networks.strategies.base import Floats, Strategy


class FedAvg(Strategy):
    kind: Literal["fedavg"] = "fedavg"

    def follow(self, theta: Floats, mean: Floats, memory: Mapping[str, Floats]) -> tuple[Floats, dict[str, Floats]]:
        return theta + self.server_rate * mean, {}
