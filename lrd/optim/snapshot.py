"""A step around any base optimizer: save the parameters, call the base, restore what D_t drops."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrd.optim.kernels import kernels_for
from lrd.optim.params import Piece, Span, is_sharded, layout_of, local_part, pieces_of
from lrd.optim.reference import local_mask


class SnapshotStep:
    """Take a base's steps and undo them where D_t is 0.

    Each step reads the parameters again. On a CPU the memory of the copies is kept for the next
    step, as mapping fresh pages costs more than the copy; their values are not.
    """

    def __init__(self) -> None:
        self._olds: dict[Tensor, Tensor] = {}

    def __call__(
        self, base_step: Callable[[], Any], spans: Sequence[Span], seed: int, t: int, rescale: bool
    ) -> Any:
        """Take step ``t``; ``spans`` are the parameters with p < 1. Return the closure's loss."""
        kernels = {
            device: kernels_for(device)  # compiled before anything moves
            for device in {local_part(span.param).device for span in spans}
        }
        olds = {span.param: self._old(span.param) for span in spans}
        for device, pieces, others in self._sorted(spans, olds):
            kernels[device].save(pieces)
            for _, new, old in others:
                old.copy_(new)
        self._olds = {k: old for k, old in olds.items() if old.device.type == "cpu"}
        loss = base_step()
        for span in spans if rescale else ():
            new, old = local_part(span.param), olds[span.param]
            new.sub_(old).mul_(1 / span.p).add_(old)
        for device, pieces, others in self._sorted(spans, olds):
            kernels[device].restore(pieces, seed, t)
            for span, new, old in others:
                new.copy_(torch.where(local_mask(span, seed, t), new, old))
        return loss

    def release(self) -> None:
        """Free the copies."""
        self._olds.clear()

    def _old(self, param: Tensor) -> Tensor:
        """Return memory for a copy of this rank's part of a parameter, in its layout if it has
        one, else row-major."""
        part, old = local_part(param), self._olds.get(param)
        layout = layout_of(part)
        if old is None or (old.shape, old.dtype, old.device, layout_of(old)) != (
            part.shape,
            part.dtype,
            part.device,
            layout or 0,
        ):
            order = torch.contiguous_format if layout is None else torch.preserve_format
            return torch.empty_like(part, memory_format=order)
        return old

    def _sorted(
        self, spans: Sequence[Span], olds: dict[Tensor, Tensor]
    ) -> list[tuple[torch.device, list[Piece], list[tuple[Span, Tensor, Tensor]]]]:
        """Return, by device, the pieces that kernels process and the parameters that they cannot.

        The latter lie in another order in memory, or the base has replaced them by others.
        """
        pieces: dict[torch.device, list[Piece]] = defaultdict(list)
        others: dict[torch.device, list[tuple[Span, Tensor, Tensor]]] = defaultdict(list)
        for span in spans:
            new, old = local_part(span.param), olds[span.param]
            alike = new.dtype == old.dtype and new.device == old.device
            layout = layout_of(new)
            has_pieces = layout == 0 or (layout is not None and not is_sharded(span.param))
            if has_pieces and layout == layout_of(old) and alike:
                pieces[new.device] += pieces_of(span, (new, old))
            else:
                others[new.device].append((span, new, old))
        return [(d, pieces[d], others[d]) for d in {**pieces, **others}]
