"""The figures of a chapter, drawn by other processes while this one fills the tables."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import toy
from curves import FIGURES
from points import fill_curves
from tabular import titled

from page.plots import Plot, plot
from page.studies import Form, Study, figure_names


@dataclass(frozen=True)
class Begun:
    """A figure's study, and its picture while it is drawn."""

    study: Study
    picture: Future[Plot] | None = None

    def done(self) -> Study:
        """With the picture, or what is wrong with the runs."""
        if self.picture is None:
            return self.study
        try:
            return replace(self.study, shown=self.picture.result())
        except ValueError as error:
            return replace(self.study, error=str(error))


def begin(ends: str, root: str, asked: Sequence[str], workers: Executor) -> list[Begun]:
    return [_begin(name, ends, root, asked, workers) for name in (*toy.FIGURES, *FIGURES)]


def _begin(name: str, ends: str, root: str, asked: Sequence[str], workers: Executor) -> Begun:
    figure, paint = toy.FIGURES[name] if name in toy.FIGURES else (FIGURES[name], None)
    made = Form("figure", name, name + ends, titled(figure.title, asked), root)
    try:
        filled = fill_curves(figure, root, asked)
    except ValueError as error:
        return Begun(made.broken(error))
    study = made.study(figure_names(figure), filled, asked)
    if not study.there:
        return Begun(study)
    return Begun(study, workers.submit(plot, figure, paint, filled, study.key))
