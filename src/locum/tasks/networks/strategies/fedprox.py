"""FedProx: as FedAvg, but each site is held near the global model.

Pseudocode     site:         w <- w - rate * (gradient of the mean loss of b at w  +  mu (w - theta))
               coordinator:  as FedAvg
Source         Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith (2020), MLSys, algorithm 2: the local objective is F_k(w) + mu/2 |w - theta|^2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from locum.tasks.networks.strategies.base import Correct
from locum.tasks.networks.strategies.fedavg import FedAvg

if TYPE_CHECKING:
    from torch import Tensor


class FedProx(FedAvg):
    """mu: the weight of the proximal term; 0 is FedAvg."""

    kind: Literal["fedprox"] = "fedprox"  # type: ignore[assignment]
    mu: Annotated[float, Field(ge=0, le=1e3)] = 0.1

    def correct(self) -> Correct | None:
        def pull(g: Tensor, w: Tensor, start: Tensor) -> None:
            g.add_(w - start, alpha=self.mu)

        return pull if self.mu else None
