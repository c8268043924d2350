"""Signals that ask a run to stop: taken at the end of the step in hand."""

import signal
import threading
from types import FrameType
from typing import Any

# What a user, a terminal or a cluster sends before it kills.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """The run was asked to stop and has saved its state; exit status 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.status = number, 128 + number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class RankLost(Exception):
    """Another rank is gone, so that this one cannot go on; the run's last save is whole."""

    def __init__(self, rank: int) -> None:
        super().__init__(
            f"rank {rank} has lost another rank, so the run ended; the same command goes on from "
            "its last save, on any number of ranks"
        )


class Requests:
    """While entered, notes such a signal in ``received`` instead of letting it end the process.

    A second SIGINT ends it at once. Signals reach the main thread alone; elsewhere this does
    nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._noted: set[int] = set()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Requests":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._noted:
            raise KeyboardInterrupt
        self._noted.add(number)
        self.received = number
