"""torch's global optimizer hooks, which must not fire twice for one step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


@contextmanager
def global_hooks_silenced() -> Iterator[None]:
    """torch's global step hooks fire around LRDropout's step, and not again around the base's."""
    tables: tuple[dict[int, Any], ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    saved: list[dict[int, Any]] = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, saved, strict=True):
            table.update(hooks)
