"""Counter-based random bits: pure functions of a key and an index, with no generator state.

Everything random that must be the same on any device, any number of ranks and after any
interruption is drawn from here: the mask D_t of learning rate dropout, and the order and
augmentation of the training data. The arithmetic on indices is int32 throughout, wrapping, with a
mask after every right shift, so that eager torch, a compiled kernel and plain Python agree bit
for bit, and so that it fills vector registers.
"""

import torch
from torch import Tensor

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


def bits(*words: int | str, start: int, count: int, device: torch.device | str) -> Tensor:
    """int32 of shape (count,): 32 random bits for each 64-bit index from ``start`` on.

    ``words`` name the stream, as in :func:`key`; the high half of the index is one more word.
    """
    stop = start + count
    if start >> 32 != max(start, stop - 1) >> 32:
        edge = (start >> 32) + 1 << 32
        head = bits(*words, start=start, count=edge - start, device=device)
        return torch.cat([head, bits(*words, start=edge, count=stop - edge, device=device)])
    index = torch.arange(count, dtype=torch.int32, device=device).add_(signed(start))
    return mix(index, key(*words, start >> 32))


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
    seed: int, step: int, p: float, *, start: int, count: int, device: torch.device | str = "cpu"
) -> int:
    """How many of the elements start ... start + count - 1 the mask keeps; waits for the device."""
    if p == 1:
        return count
    kept, chunk = 0, 1 << 22
    for first in range(start, start + count, chunk):
        size = min(chunk, start + count - first)
        kept -= int(keep_bits(seed, step, p, start=first, count=size, device=device).sum())
    return kept


def draw(index: Tensor, high: int, *words: int | str) -> Tensor:
    """int64 of ``index``'s shape: for each index, a uniform integer in [0, high).

    For what is random per sample (crops, flips, labels): a function of the stream's ``words`` and
    the sample's number alone, so a batch may hold the samples in any order. high <= 2**16.
    """
    assert 0 < high <= 1 << 16
    u = mix(index.to(torch.int32, copy=True), key(*words)).bitwise_and_(0x7FFFFFFF)
    return (u.to(torch.int64) * high) >> 31
