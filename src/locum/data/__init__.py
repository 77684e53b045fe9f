"""From a hospital's tables to arrays: contract, sources, gates, and the registry of public data sets."""

from locum.data.gates import Finding, Report, check
from locum.data.load import load_rows, to_rows
from locum.data.mapping import Column, SiteMapping
from locum.data.rows import Part, Rows
from locum.data.sources import FrameSource, Source, SourceSpec, open_source

__all__ = [
    "Column", "Finding", "FrameSource", "Part", "Report", "Rows", "SiteMapping", "Source", "SourceSpec",
    "check", "load_rows", "open_source", "to_rows",
]  # fmt: skip
