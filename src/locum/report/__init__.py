"""What people read after a run: one self-contained page, and the same as JSON."""

from locum.report.figures import figures_of
from locum.report.page import page
from locum.report.privacy import card_of
from locum.report.scenario import scenario_page

__all__ = ["card_of", "figures_of", "page", "scenario_page"]
