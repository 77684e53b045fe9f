"""Where a site's rows come from: files, databases, servers and archives of many formats, each behind the same two methods."""

from locum.data.sources.base import AnySpec, FrameSource, Source, SourceSpec, Tally, open_source, read

__all__ = ["AnySpec", "FrameSource", "Source", "SourceSpec", "Tally", "open_source", "read"]
