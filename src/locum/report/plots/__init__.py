"""Plots as SVG text that stands alone, for pages and for files: pure functions of numbers, with no script, font or link in what they return.

Data that are empty give a picture that says so; what cannot be drawn raises `PlotError`, a `LocumError`.
"""

from locum.report.plots.calibrations import calibration
from locum.report.plots.charts import bars, lines, scatter
from locum.report.plots.draw import PlotError
from locum.report.plots.fans import fan
from locum.report.plots.forests import forest
from locum.report.plots.grids import confusion, heat
from locum.report.plots.maps import us_map
from locum.report.plots.survival import kaplan_meier

__all__ = ["PlotError", "bars", "calibration", "confusion", "fan", "forest", "heat", "kaplan_meier", "lines", "scatter", "us_map"]
