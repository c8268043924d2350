"""Where an estimate and its interval lie in a small picture: one ruler for all rows of a table."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

WIDTH = 180
WIDEST = 8  # times the largest mean, beyond which an interval is cut
ROOM = 0.06  # of the width, at both ends


@dataclass(frozen=True)
class Ruler:
    """From ``low`` to ``high`` over WIDTH; ``aim``: an effect that is marked besides none."""

    low: float
    high: float
    aim: float | None = None

    def place(self, value: float | None) -> float | None:
        """What lies beyond an end is put there; None for what is no number."""
        if value is None or not math.isfinite(value):
            return None
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(WIDTH * share, 1)

    @property
    def zero(self) -> float | None:
        return self.place(0.0)

    @property
    def limit(self) -> float | None:
        return self.place(self.aim)


def ruler(
    means: Iterable[float | None], ends: Iterable[float | None], aim: float | None = None
) -> Ruler:
    """For means, the ends of intervals, no effect and ``aim``: all are on it, but an interval that
    is many times as wide as any mean is far is cut."""
    marks = [0.0, *_finite([*means, aim])]
    widest = WIDEST * max(map(abs, marks))
    kept = [*marks, *(min(max(end, -widest), widest) for end in _finite(ends))]
    low, high = min(kept), max(kept)
    room = ROOM * (high - low) or 1.0
    return Ruler(low - room, high + room, aim)


def _finite(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]
