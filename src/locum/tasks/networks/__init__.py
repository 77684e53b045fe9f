"""Neural networks that visit the sites: which there are, how they descend at a site, and how their updates combine."""

from locum.tasks.networks.options import register_network

__all__ = ["register_network"]
