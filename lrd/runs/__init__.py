"""Runs on disk: where they are, what they hold, who works on them. Imports no torch."""

from lrd.runs.lock import RunLocked, is_locked, run_lock
from lrd.runs.signals import Interrupted, RankFailed, RankLost, StopSignals, TrainingFailed
from lrd.runs.store import TIMES, Run, RunIndex, RunStore, find_runs, open_run

__all__ = [
    "TIMES",
    "Interrupted",
    "RankFailed",
    "RankLost",
    "Run",
    "RunIndex",
    "RunLocked",
    "RunStore",
    "StopSignals",
    "TrainingFailed",
    "find_runs",
    "is_locked",
    "open_run",
    "run_lock",
]
