"""FedAvgM, FedAdagrad, FedAdam and FedYogi: the coordinator treats the mean update D as a gradient, and descends with moments of it.

Pseudocode     m <- b1 m + (1 - b1) D                                         (FedAvgM: m <- b1 m + D, and theta <- theta + server_rate m)
               v <- v + D^2                                                   FedAdagrad
               v <- b2 v + (1 - b2) D^2                                       FedAdam
               v <- v - (1 - b2) D^2 sign(v - D^2)                            FedYogi
               theta <- theta + server_rate * m / (sqrt(v) + tau)
Source         Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan (2021), ICLR, algorithm 2; FedAvgM: Hsu, Qi and Brown (2019)

As in the paper no bias is corrected, and v begins at tau^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from locum.tasks.networks.strategies.base import Floats, Strategy

Share = Annotated[float, Field(ge=0, lt=1)]


class FedAvgM(Strategy):
    """momentum: b1."""

    memory: ClassVar[tuple[str, ...]] = ("m",)
    kind: Literal["fedavgm"] = "fedavgm"
    momentum: Share = 0.9

    def follow(self, theta: Floats, mean: Floats, memory: Mapping[str, Floats]) -> tuple[Floats, dict[str, Floats]]:
        m = self.momentum * memory["m"] + mean
        return theta + self.server_rate * m, {"m": m}


class Adaptive(Strategy):
    """momentum: b1. decay: b2. tau: how adaptive it is; the smaller, the more."""

    memory: ClassVar[tuple[str, ...]] = ("m", "v")
    server_rate: Annotated[float, Field(gt=0, le=1e3)] = 0.01
    momentum: Share = 0.9
    decay: Share = 0.99
    tau: Annotated[float, Field(ge=1e-12, le=1)] = 1e-3

    def follow(self, theta: Floats, mean: Floats, memory: Mapping[str, Floats]) -> tuple[Floats, dict[str, Floats]]:
        m = self.momentum * memory["m"] + (1.0 - self.momentum) * mean
        v = self.second(memory["v"] + (0.0 if memory["v"].any() else self.tau**2), mean**2)
        return theta + self.server_rate * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}

    def second(self, v: Floats, square: Floats) -> Floats:
        """The second moment after one more update."""
        raise NotImplementedError


class FedAdagrad(Adaptive):
    kind: Literal["fedadagrad"] = "fedadagrad"

    def second(self, v: Floats, square: Floats) -> Floats:
        return v + square


class FedAdam(Adaptive):
    kind: Literal["fedadam"] = "fedadam"

    def second(self, v: Floats, square: Floats) -> Floats:
        return self.decay * v + (1.0 - self.decay) * square


class FedYogi(Adaptive):
    kind: Literal["fedyogi"] = "fedyogi"

    def second(self, v: Floats, square: Floats) -> Floats:
        return v - (1.0 - self.decay) * square * np.sign(v - square)
