"""From a hospital's tables to arrays: contract, sources, gates, and the registry of public data sets."""

from locum.data.rows import Part, Rows

__all__ = ["Part", "Rows"]
