"""Cells side by side in processes of this machine. Imports no torch."""

import io
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lrd.cluster import Cell, Elsewhere, Outcome, Task, outcome_of
from lrd.runs.signals import SIGNALS, Interrupted, StopSignals

SIGNAL = signal.SIGUSR1  # by which this process asks its children to save and end


class Numbered(io.TextIOBase):
    """Writes whole lines with a cell's number before each, so that those of several can be told
    apart; no terminal, so no progress bar."""

    def __init__(self, out: TextIO, mark: str) -> None:
        self.out, self.mark, self.rest = out, mark, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        whole = [f"{self.mark} {line.removeprefix(self.mark).strip()}\n" for line in lines if line]
        self.out.write("".join(whole))
        self.out.flush()
        return len(text)


@cache
def requests() -> StopSignals:
    """Those to this process, for good."""
    mine = StopSignals().__enter__()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    Thread(target=_watch, args=[os.getppid()], daemon=True).start()
    return mine


_AT_WORK = Lock()  # held while a cell runs


def _watch(parent: int) -> None:
    """End this process, its cell's state saved, if its parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), SIGNAL)
    with _AT_WORK:
        os._exit(128 + SIGNAL)


@dataclass(frozen=True)
class Numerous:
    """A cell in a process that runs one after another of many; once told to stop it begins none."""

    task: Task

    def __call__(self, cfg: DictConfig) -> Outcome:
        asked = requests()
        mark = f"[{HydraConfig.get().job.num}]"
        if asked.received is None:
            try:
                with _AT_WORK, redirect_stdout(Numbered(sys.stdout, mark)):  # type: ignore[type-var]
                    return self.task(cfg)
            except Interrupted as stop:
                asked.received = stop.number
        return Outcome(stopped=asked.received)


@contextmanager
def handed_on() -> Iterator[StopSignals]:
    """While entered, a signal that asks this process to stop is handed on to its children, which
    save and end; this one goes on, to wait for them. A second Ctrl-C ends all at once."""
    over = Event()
    with StopSignals() as asked:

        def hand() -> None:
            while not over.wait(0.1):
                children = active_children() if asked.received else []  # new ones too
                for child in filter(None, (process.pid for process in children)):
                    with suppress(ProcessLookupError):
                        os.kill(child, SIGNAL)

        thread = Thread(target=hand, daemon=True)
        thread.start()
        # Children begin with all of them blocked, until they listen; here ``thread`` takes them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield asked
        finally:
            over.set()
            thread.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Beside(Elsewhere):
    """``cluster.jobs`` cells at once, each with its share of the cores as threads."""

    task = Numerous

    def start(self, cells: Sequence[Cell], done: int) -> Iterator[tuple[Path, Outcome]]:
        if done:
            self.say(f"{done} finished already")
        if not cells:
            return
        cores = len(os.sched_getaffinity(0))
        at_once = cells[0].config.cluster.jobs or cores
        threads = max(1, cores // at_once)
        self.launcher.joblib["n_jobs"] = min(at_once, len(cells))
        self.say(f"{len(cells)} cells, {at_once} at once on {cores} cores")
        overrides = [
            (*c.overrides, *([] if c.config.train.threads else [f"train.threads={threads}"]))
            for c in cells
        ]
        resource_tracker.ensure_running()  # or its start among the children would unblock signals
        with handed_on() as asked:
            outcomes = self._run(overrides, asked)
        for cell, outcome in zip(cells, outcomes, strict=True):
            yield cell.run.folder, outcome
        if asked.received is not None:
            raise Interrupted(asked.received)

    def _run(self, overrides: Sequence[Sequence[str]], asked: StopSignals) -> list[Outcome]:
        from joblib.externals.loky import get_reusable_executor

        try:
            return [outcome_of(r) for r in self.launcher.launch(overrides, 0)]
        except Exception as error:
            if asked.received is None:  # else it is one that had not begun to listen
                line = str(error).splitlines()[0]
                why = f"a process ended, and the others with it ({line}); the same command goes on"
                self.failures.append(("", why, 1))
            return [Outcome() for _ in overrides]
        finally:
            get_reusable_executor().shutdown(wait=True)
