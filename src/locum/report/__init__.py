"""What people read after a run: one self-contained page, and the same as JSON."""

from locum.report.page import page

__all__ = ["page"]
