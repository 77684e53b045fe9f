"""How sites descend together: one file a strategy, each of which reads like its paper."""

from typing import Any

from locum.tasks.networks.options import chosen
from locum.tasks.networks.strategies.base import Strategy
from locum.tasks.networks.strategies.fedavg import FedAvg
from locum.tasks.networks.strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi
from locum.tasks.networks.strategies.fedprox import FedProx

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg, "fedprox": FedProx, "fedavgm": FedAvgM, "fedadagrad": FedAdagrad, "fedadam": FedAdam, "fedyogi": FedYogi,
}  # fmt: skip
"""By the name that a study gives."""


def strategy_options(value: Any) -> Strategy:
    """`"fedprox"`, or a table with `kind` and parameters; raises `ManifestError` that names the nearest."""
    return chosen(value, STRATEGIES, "strategy")


__all__ = ["STRATEGIES", "Strategy", "strategy_options"]
