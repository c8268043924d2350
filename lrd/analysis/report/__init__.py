"""The page: everything that runs say about a study, as one HTML file.

from lrd.analysis.frames import RunFrames
from lrd.analysis.report import build_page

html, problems = build_page(["quickstart"], RunFrames("runs"), Path("runs/report.html"))
"""

from lrd.analysis.report.build import build_page

__all__ = ["build_page"]
