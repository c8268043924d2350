"""What the command line decides, for every section."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Options:
    """``quick`` takes toy sizes and judges no target; ``large`` adds what a CPU is slow at;
    ``say`` takes a line of progress."""

    device: torch.device = torch.device("cpu")
    threads: int = 1
    rounds: int | None = None
    quick: bool = False
    large: bool = False
    root: str = "data"
    say: Callable[[str], None] = lambda line: None

    @property
    def judged(self) -> bool:
        return not self.quick

    @property
    def least(self) -> float:
        """Seconds that a turn of a short form lasts."""
        return 0.01 if self.quick else 0.2

    def how_many(self, rounds: int) -> int:
        """Rounds: as the command line says, else ``rounds``."""
        return self.rounds or (2 if self.quick else rounds)
