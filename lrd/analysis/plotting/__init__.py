"""Figures of studies from runs, drawn by matplotlib.

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import collect_results
from lrd.analysis.plotting import draw_figure
from lrd.analysis.studies.find import find_study

study, _ = find_study("figure6")
figure = study.figures["figure6"]
cells = [curve.cell for curve in figure.curves()]
draw_figure(figure, collect_results(cells, RunFrames("runs"))).sheet
"""

from lrd.analysis.plotting.figure import draw_curves, draw_figure, encode, write_file
from lrd.analysis.plotting.series import average_curves, cell_curves, collect_figure
from lrd.analysis.plotting.style import FIGURE_FORMATS

__all__ = ["FIGURE_FORMATS", "average_curves", "cell_curves", "collect_figure"]
__all__ += ["draw_curves", "draw_figure", "encode", "write_file"]
