"""A clock and a network for tests, shipped publicly: nothing here is used by a running federation."""

from locum.testing.clock import Clock
from locum.testing.network import CuttingProxy
from locum.testing.transport import Network

__all__ = ["Clock", "CuttingProxy", "Network"]
