"""Options of LRDropout and the rule for its keep probability. Imports no torch.

The configuration checks its settings against these, and so does the optimizer.
"""

from collections.abc import Sequence
from typing import Any

IMPLEMENTATIONS = ("auto", "single_pass", "generic", "reference")
GRANULARITIES = ("element", "row", "tensor")  # the elements of a parameter that share one mask bit


def is_keep_probability(p: Any) -> bool:
    """Return whether ``p`` is a number with 0 < p <= 1."""
    return isinstance(p, int | float) and not isinstance(p, bool) and 0 < p <= 1


def check_keep_probability(p: Any, setting: str = "p") -> None:
    """Raise ValueError unless 0 < p <= 1."""
    if not is_keep_probability(p):
        raise ValueError(
            f"{setting} must be in (0, 1] (the probability to keep an update), got {p}"
        )


def check_option(setting: str, value: Any, options: Sequence[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``options``."""
    if value not in options:
        raise ValueError(f"{setting} must be one of {', '.join(map(str, options))}, got {value}")
