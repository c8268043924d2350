"""The multi-tensor kernels of a step: C on CPUs, Triton on GPUs, torch operations elsewhere.

All give the same bits. Each has three methods over lists of :class:`~lrd.optim.params.Piece`:
``save`` and ``restore``, whose pieces hold (new, old), and ``update``, whose pieces hold (weight,
gradient, *moments). Nothing is bound between two calls.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from lrd.optim.kernels.eager import EagerKernels
from lrd.optim.params import Piece
from lrd.optim.update_rules import UpdateRule

log = logging.getLogger(__name__)


class Kernels(Protocol):
    def prepare(self, device: torch.device, rule: UpdateRule | None = None) -> None:
        """Compile what ``update`` with ``rule``, or ``save`` and ``restore``, need; may raise."""

    def save(self, pieces: Sequence[Piece]) -> None:
        """Copy the new values to the old ones."""

    def restore(self, pieces: Sequence[Piece], seed: int, t: int) -> None:
        """Copy the old values back where D_t is 0, bit for bit."""

    def update(
        self, rule: UpdateRule, pieces: Sequence[Piece], scalars: Tensor, seed: int, t: int
    ) -> None:
        """Update weights where D_t is 1, and all moments; ``scalars`` is float32 (rows, n)."""


_ready: dict[tuple[str, str | None], Kernels] = {}


def kernels_for(device: torch.device, rule: UpdateRule | None = None) -> Kernels:
    """Return the kernels of a device, compiled for ``rule``, or for save and restore.

    Where they do not compile, one warning says why, once per process and device, and torch
    operations take their place.
    """
    key = (device.type, rule.name if rule else None)
    if key not in _ready:
        _ready[key] = _prepare(device, rule)
    return _ready[key]


def _prepare(device: torch.device, rule: UpdateRule | None) -> Kernels:
    try:
        kernels = _compiled(device)
        kernels.prepare(device, rule)
        return kernels
    except Exception as error:  # a compiler may raise anything
        lines = str(error).strip().splitlines()
        _warn_once(device.type, lines[0] if lines else type(error).__name__)
        return EagerKernels()


def _compiled(device: torch.device) -> Kernels:
    if device.type == "cpu":
        from lrd.optim.kernels.c import CKernels

        return CKernels()
    if device.type == "cuda":
        from lrd.optim.kernels.triton import TritonKernels

        return TritonKernels()
    return EagerKernels()


@cache
def _warn_once(device: str, why: str) -> None:
    log.warning(
        "LRDropout steps without compiled kernels on %s (%s): slower, with the same numbers",
        *(device, why),
    )
