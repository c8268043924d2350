"""How a run is asked to stop, and the exceptions by which it ends. Imports no torch.

Launchers need these without the training package, so they stand here.
"""

import signal
import threading
from types import FrameType
from typing import Any

# What a user, a terminal or a cluster sends before SIGKILL.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """A signal stopped the run and its state is saved; ``status`` is the exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.status = number, 128 + number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class RankLost(BaseException):
    """A rank ends without the others: it failed alone, or it has lost another one.

    The last checkpoint is complete. Not an Exception, because no later job of a sweep can start.
    ``status`` is the exit status.
    """

    status = 4  # reported by every rank, because any of them may be the only one left

    def __init__(self, rank: int, reason: str = "has lost another rank") -> None:
        super().__init__(
            f"rank {rank} {reason}, so the run ended; the same command resumes from "
            "the last checkpoint, on any number of ranks"
        )


class RankFailed(Exception):
    """What the other ranks raise when one rank fails and all know it."""


class StopSignals:
    """While entered, record a stop signal in ``signal`` instead of letting it end the process.

    A second SIGINT ends the process at once. Signals reach the main thread only; in other threads
    this class does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._seen: set[int] = set()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._seen:
            raise KeyboardInterrupt
        self._seen.add(number)
        self.signal = number


class TrainingFailed(Exception):
    """Training ended by an error that no rule on the settings foresaw; error.txt has the rest."""
