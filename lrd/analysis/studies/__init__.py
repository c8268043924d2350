"""Studies: what tables, figures and claims consist of, and their files in ``study/``.

``find.py`` says what a name on a command line stands for.
"""

from lrd.analysis.resolve import CellSpec as CellSpec
from lrd.analysis.studies.read import Study as Study
from lrd.analysis.studies.read import all_studies as all_studies
from lrd.analysis.studies.read import read_published as read_published
from lrd.analysis.studies.read import read_study as read_study
from lrd.analysis.studies.spec import CellPair as CellPair
from lrd.analysis.studies.spec import ContrastSpec as ContrastSpec
from lrd.analysis.studies.spec import CurveSpec as CurveSpec
from lrd.analysis.studies.spec import FigureSpec as FigureSpec
from lrd.analysis.studies.spec import GroupSpec as GroupSpec
from lrd.analysis.studies.spec import PanelSpec as PanelSpec
from lrd.analysis.studies.spec import PublishedCurve as PublishedCurve
from lrd.analysis.studies.spec import RowSpec as RowSpec
from lrd.analysis.studies.spec import TableSpec as TableSpec
from lrd.analysis.studies.spec import TargetSpec as TargetSpec
