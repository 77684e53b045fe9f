"""Many sites in one process: the default engine on one machine."""

from locum.simulate.engine import RunResult, simulate

__all__ = ["RunResult", "simulate"]
