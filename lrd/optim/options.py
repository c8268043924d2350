"""Options of LRDropout and the rule for its keep probability. Imports no torch.

The configuration checks its settings against these, and so does the optimizer.
"""

from collections.abc import Sequence
from typing import Any

IMPLEMENTATIONS = ("auto", "fused", "snapshot", "reference")
GRANULARITIES = ("element", "row", "tensor")  # the elements of a parameter that share one mask bit
# Names that earlier records and pickles have.
RENAMED = {"single_pass": "fused", "generic": "snapshot"}


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
    """Raise ValueError unless ``value`` is one of ``options``, of the same type."""
    if not any(value == option and type(value) is type(option) for option in options):
        raise ValueError(f"{setting} must be one of {', '.join(map(str, options))}, got {value}")


def check_count(setting: str, value: Any, least: int | None = None) -> None:
    """Raise ValueError unless ``value`` is an integer, at least ``least``."""
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or (least is not None and value < least)
    ):
        wanted = "an integer" if least is None else f"an integer of at least {least}"
        raise ValueError(f"{setting} must be {wanted}, got {value!r}")
