"""What people read after a run: one self-contained page, and the same as JSON."""

from locum.report.page import page
from locum.report.privacy import card_of

__all__ = ["card_of", "page"]
