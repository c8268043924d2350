"""What each of several ranks does for tests/integration/test_distributed.py when one rank fails.

Prints, after each failure, what this rank raised.
"""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lrd.training.distributed import init_distributed  # noqa: E402


class NotSendable(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, one: str, two: Callable[[], None]) -> None:
        super().__init__(one)
        self.two = two


def fail_with(error: Exception) -> NoReturn:
    raise error


FAILURES = {
    "disk": OSError(errno.ENOSPC, "No space left on device", "/full"),
    "memory": MemoryError(),
    "gpu": torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
    "bug": NotSendable("two arguments", lambda: None),
    "setting": ValueError("lrd.p must be in (0, 1]"),
}


def main() -> None:
    ranks = init_distributed(gpus=False)
    failing = ranks.world - 1
    for name, error in FAILURES.items():
        for run in (ranks.on_all_ranks, ranks.on_rank_zero):
            where = failing if run == ranks.on_all_ranks else 0
            try:
                run(lambda error=error, at=where: fail_with(error) if ranks.rank == at else None)
                text = "nothing"
            except Exception as raised:
                assert not ranks.fails_alone(raised)  # all know it
                text = f"{type(raised).__name__}: {' '.join(str(raised).split())}"
            line = f"{name} {run.__name__} {ranks.rank} {text}\n"
            os.write(1, line.encode())  # whole, beside those of other ranks
    assert ranks.on_all_ranks(lambda: ranks.rank) == ranks.rank  # in step with the others


if __name__ == "__main__":
    main()
