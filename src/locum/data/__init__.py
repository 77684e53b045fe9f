"""From a hospital's tables to arrays: contract, sources, gates, and the registry of public data sets."""

from locum.data.contract import Finding, Report, check, load_rows, to_rows
from locum.data.mapping import Column, SiteMapping
from locum.data.rows import Part, Rows
from locum.data.sources import CsvSource, FrameSource, ParquetSource, Source, SourceSpec, open_source

__all__ = [
    "Column", "CsvSource", "Finding", "FrameSource", "ParquetSource", "Part", "Report", "Rows", "SiteMapping", "Source", "SourceSpec",
    "check", "load_rows", "open_source", "to_rows",
]  # fmt: skip
