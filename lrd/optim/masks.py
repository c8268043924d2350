"""The keep mask D_t as a function of (seed, step, global index): no generator state."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lrd.rng import random_bits


def unit_size(shape: Sequence[int], granularity: str) -> int:
    """Return how many neighboring elements, in row-major order, share one mask bit; at least 1.

    ``element``: 1, as in the paper. ``row``: the elements with the same index in the first
    dimension, such as the incoming weights of a neuron or a filter; each element of a vector is a
    row. ``tensor``: all elements.
    """
    if granularity == "element":
        return 1
    return max(1, math.prod(shape if granularity == "tensor" else shape[1:]))


def keep_bits(
    seed: int, step: int, p: float, *, start: int, count: int, device: torch.device | str
) -> Tensor:
    """Return the mask D_t as int32 (count,): all bits set where the update is kept, else 0.

    An element is kept if 31 random bits are below p, exact to 2**-31; 0 < p < 1.
    """
    bits = random_bits(seed, step, start=start, count=count, device=device)
    return is_kept(bits, keep_threshold(p))


def keep_threshold(p: float) -> int:
    """Return the number that 31 random bits must be below for an update to be kept."""
    return 2**31 if p == 1 else min(max(round(p * 2**31), 1), 2**31 - 1)


def is_kept(bits: Tensor, threshold: int) -> Tensor:
    """Turn int32 random ``bits`` in place into the mask of :func:`keep_bits`."""
    return bits.bitwise_and_(0x7FFFFFFF).sub_(threshold).bitwise_right_shift_(31)


def keep_mask(
    seed: int, step: int, p: float, *, start: int, count: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the mask D_t (Algorithm 1, line 10) of global indices start ... start + count - 1.

    A pure function of (seed, step, global index) and p: the same bits on every device. Allocates 8
    bytes of scratch per element.

    Returns:
        bool (count,), True where the update is kept; each element is Bernoulli(p), independently.
    """
    if p == 1:
        return torch.ones(count, dtype=torch.bool, device=device)
    return keep_bits(seed, step, p, start=start, count=count, device=device).bool()


def count_kept(
    seed: int,
    step: int,
    p: float,
    *,
    start: int,
    count: int,
    device: torch.device | str = "cpu",
    unit: int = 1,
) -> int | Tensor:
    """Return how many of ``count`` elements from ``start`` on the mask keeps, as an int64 scalar on
    the device.

    ``unit`` neighboring elements share the bit of the first one.
    """
    if p == 1:
        return count
    chunk, units = 1 << 22, count // unit
    kept = torch.zeros((), dtype=torch.int64, device=device)
    for first in range(0, units, chunk):
        bits = random_bits(
            *(seed, step),
            start=start + first * unit,
            count=min(chunk, units - first),
            device=device,
            every=unit,
        )
        kept -= is_kept(bits, keep_threshold(p)).sum()
    return kept * unit
