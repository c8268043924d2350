"""Counter-based random bits: pure functions of a key and an index, with no generator state.

Everything random that must be the same on any device, any number of ranks and after any
interruption is drawn from here: the mask D_t of learning rate dropout, and the order and
augmentation of the training data. The arithmetic on indices is int32 throughout, wrapping, with a
mask after every right shift, so that eager torch, a compiled kernel and plain Python agree bit
for bit, and so that it fills vector registers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# What of a parameter is kept or dropped together.
GRANULARITIES = ("element", "row", "tensor")

_LOW = 0xFFFFFFFF
_64 = 0xFFFFFFFFFFFFFFFF


def key(*words: int | str) -> int:
    """64 random bits that depend on every word and on their order.

    Integers are taken 64 bits at a time; a string stands for its UTF-8 bytes. Two streams are kept
    apart by a word of their own: ``key("order", seed, epoch)``. Runs on the host, about a
    microsecond a word. Each passes the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    state = 0
    for word in words:
        if isinstance(word, str):
            word = int.from_bytes(word.encode(), "little")
        while True:
            state = (state ^ (word & _64)) + 0x9E3779B97F4A7C15 & _64
            state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _64
            state = (state ^ state >> 27) * 0x94D049BB133111EB & _64
            state ^= state >> 31
            word >>= 64
            if word in (0, -1):
                break
    return state


def signed(word: int) -> int:
    """The low 32 bits of ``word`` read as an int32."""
    return ((word & _LOW) ^ 0x80000000) - 0x80000000


def _fold(x: Tensor, shift: int) -> Tensor:
    """``x ^= x >>> shift`` in place: torch shifts int32 arithmetically, so the sign is masked."""
    return x.bitwise_xor_((x >> shift).bitwise_and_((1 << 32 - shift) - 1))


def mix(index: Tensor, key: int) -> Tensor:
    """Hash int32 ``index`` in place under a 64-bit ``key`` to int32 with all 32 bits random."""
    return rounds(index, signed(key), signed(key >> 32))


def rounds(x: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """:func:`mix` under a key given as two int32 words, which a compiled kernel takes as tensors.

    Three multiply rounds with the constants of triple32 (Wellons, "Prospecting for hash
    functions", 2018). One half of the key enters before the first round and the other between the
    first and the second; with two rounds, or with the second half left out, neighbouring steps
    correlate.
    """
    x = x.bitwise_xor_(low)
    x = _fold(x, 17).mul_(signed(0xED5AD4BB)).bitwise_xor_(high)
    x = _fold(x, 11).mul_(signed(0xAC4C1B51))
    x = _fold(x, 15).mul_(signed(0x31848BAB))
    return _fold(x, 14)


def bits(
    *words: int | str, start: int, count: int, device: torch.device | str, every: int = 1
) -> Tensor:
    """int32 of shape (count,): 32 random bits for each 64-bit index from ``start`` on.

    ``words`` name the stream, as in :func:`key`; the high half of the index is one more word.
    The indices are ``start``, ``start + every``, ``start + 2 every`` and so on.
    """
    if start >> 32 != max(start, start + (count - 1) * every) >> 32:
        before = -((start - ((start >> 32) + 1 << 32)) // every)  # those below the edge
        head = bits(*words, start=start, count=before, device=device, every=every)
        rest = dict(start=start + before * every, count=count - before, every=every)
        return torch.cat([head, bits(*words, device=device, **rest)])
    index = torch.arange(count, dtype=torch.int32, device=device)
    if every != 1:
        index.mul_(signed(every))
    return mix(index.add_(signed(start)), key(*words, start >> 32))


def unit_size(shape: Sequence[int], granularity: str) -> int:
    """How many elements of a parameter, neighbours in row-major order, have one bit of the mask.

    ``element``: 1, as in the paper. ``row``: those that share an index in the first dimension, such
    as a neuron's or a filter's incoming weights; a vector's elements are rows of their own.
    ``tensor``: all of them. At least 1.
    """
    if granularity == "element":
        return 1
    return max(1, math.prod(shape if granularity == "tensor" else shape[1:]))


def keep_bits(
    seed: int, step: int, p: float, *, start: int, count: int, device: torch.device | str
) -> Tensor:
    """The mask D_t as int32 (count,): all bits set where the update is kept, none elsewhere.

    An element is kept where 31 random bits fall below p, exact to 2**-31; 0 < p < 1.
    """
    return keep_words(bits(seed, step, start=start, count=count, device=device), keep_below(p))


def keep_below(p: float) -> int:
    """What 31 random bits must fall below for an update to be kept; all do at p = 1."""
    return 2**31 if p == 1 else min(max(round(p * 2**31), 1), 2**31 - 1)


def keep_words(x: Tensor, below: int) -> Tensor:
    """int32 ``x``, 32 random bits each, turned in place into the mask of :func:`keep_bits`."""
    return x.bitwise_and_(0x7FFFFFFF).sub_(below).bitwise_right_shift_(31)


def keep_mask(
    seed: int, step: int, p: float, *, start: int, count: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The mask D_t (Algorithm 1, line 10) for global indices start ... start + count - 1.

    bool of shape (count,), True where the update is kept, each element Bernoulli(p) independently.
    A pure function of (seed, step, global index) and p: the same bits on any device. Costs 8 bytes
    of scratch an element.
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
) -> int:
    """How many of the elements start ... start + count - 1 the mask keeps; waits for the device.

    Each ``unit`` of them has the bit of its first one.
    """
    if p == 1:
        return count
    kept, chunk, units = 0, 1 << 22, count // unit
    for first in range(0, units, chunk):
        some = bits(
            *(seed, step),
            start=start + first * unit,
            count=min(chunk, units - first),
            device=device,
            every=unit,
        )
        kept -= int(keep_words(some, keep_below(p)).sum())
    return kept * unit


def draw(index: Tensor, high: int, *words: int | str) -> Tensor:
    """int64 of ``index``'s shape: for each index, a uniform integer in [0, high).

    For what is random per sample (crops, flips, labels): a function of the stream's ``words`` and
    the sample's number alone, so a batch may hold the samples in any order. high <= 2**16.
    """
    assert 0 < high <= 1 << 16
    u = mix(index.to(torch.int32, copy=True), key(*words)).bitwise_and_(0x7FFFFFFF)
    return (u.to(torch.int64) * high) >> 31
