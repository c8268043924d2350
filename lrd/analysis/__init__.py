"""Reading runs: data frames, comparisons, statistics, tables, figures, verdicts and the report.

Nothing here imports torch, and importing this package imports neither pandas nor scipy. In a
notebook::

    import lrd.analysis as la

    runs = la.load_runs("runs")  # one row a run, its settings as columns
    runs.query("status == 'finished'").groupby(["dataset", "optim", "arm"]).final.mean()
    curves = la.load_curves("runs", ["train_loss", "test_accuracy"])  # one row a run and epoch

    frames = la.RunFrames("runs")  # reads the directory once, for what follows
    pairs = la.pair_arms("quickstart", ("lrd.p=1", "lrd.p=0.5"), frames)
    la.score_table({pair.name: pair.compare() for pair in pairs})  # differences with intervals
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrd.analysis.aggregates import bootstrap_interval as bootstrap_interval
    from lrd.analysis.aggregates import interquartile_mean as interquartile_mean
    from lrd.analysis.aggregates import performance_profile as performance_profile
    from lrd.analysis.aggregates import probability_of_improvement as probability_of_improvement
    from lrd.analysis.aggregates import steps_to_target as steps_to_target
    from lrd.analysis.aggregates import summarize_tasks as summarize_tasks
    from lrd.analysis.claims.verdicts import judge_claims as judge_claims
    from lrd.analysis.comparison import compare as compare
    from lrd.analysis.comparison import level_table as level_table
    from lrd.analysis.comparison import pair_arms as pair_arms
    from lrd.analysis.comparison import score_table as score_table
    from lrd.analysis.comparison import study_pairs as study_pairs
    from lrd.analysis.frames import RunFrames as RunFrames
    from lrd.analysis.frames import load_curves as load_curves
    from lrd.analysis.frames import load_runs as load_runs
    from lrd.analysis.matching import collect_results as collect_results
    from lrd.analysis.planning import plan_experiment as plan_experiment
    from lrd.analysis.studies import all_studies as all_studies
    from lrd.analysis.studies import read_study as read_study
    from lrd.analysis.studies.find import find_study as find_study
    from lrd.analysis.tables import cells_frame as cells_frame
    from lrd.analysis.tables import over_tasks as over_tasks
    from lrd.analysis.tables import table_parts as table_parts

_MODULES = {
    "RunFrames": "frames",
    "load_curves": "frames",
    "load_runs": "frames",
    "all_studies": "studies",
    "find_study": "studies.find",
    "read_study": "studies",
    "collect_results": "matching",
    "compare": "comparison",
    "pair_arms": "comparison",
    "score_table": "comparison",
    "study_pairs": "comparison",
    "level_table": "comparison",
    "cells_frame": "tables",
    "over_tasks": "tables",
    "table_parts": "tables",
    "judge_claims": "claims.verdicts",
    "interquartile_mean": "aggregates",
    "probability_of_improvement": "aggregates",
    "performance_profile": "aggregates",
    "steps_to_target": "aggregates",
    "summarize_tasks": "aggregates",
    "bootstrap_interval": "aggregates",
    "plan_experiment": "planning",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import what is asked for from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
