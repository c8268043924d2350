"""The specification: Algorithm 1 of the paper around any optimizer, as it reads.

The other implementations are tested against it. It is also the one to read first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrd.optim.masks import keep_mask
from lrd.optim.params import Span, local_part, pieces_of


def reference_step(
    base_step: Callable[[], Any], spans: Sequence[Span], seed: int, t: int, rescale: bool
) -> Any:
    """Take the base's step, and set W_t to W_{t-1} where D_t is 0.

    With ``rescale``, which the paper does not have, W_t is W_{t-1} + (the base's update) / p where
    D_t is 1.
    """
    olds = [local_part(span.param).clone() for span in spans]
    loss = base_step()  # lines 3 to 9: gradients, moments and the update see every element
    for span, old in zip(spans, olds, strict=True):
        new = local_part(span.param)
        keep = local_mask(span, seed, t)  # line 10: D_t
        update = new - old
        moved = old + update * (1 / span.p) if rescale else new
        new.copy_(torch.where(keep, moved, old))  # line 11: W_t = W_{t-1} - alpha D_t * dW_t
    return loss


def local_mask(span: Span, seed: int, t: int) -> Tensor:
    """Return D_t of this rank's elements of a parameter, as bool of their shape.

    The elements of a unit (a row, a tensor) have the bit of the unit's first element.
    """
    part = local_part(span.param)
    count, on = span.param.numel(), part.device
    whole = keep_mask(seed, t, span.p, start=span.start, count=count, device=on)
    index = torch.zeros(0, dtype=torch.int64, device=on)
    for piece in pieces_of(span, (part,)):
        first = piece.first - span.start
        here = torch.arange(first, first + piece.length, dtype=torch.int64, device=on)
        index = torch.cat([index, here - here % piece.unit])
    return whole[index].view(part.shape)
