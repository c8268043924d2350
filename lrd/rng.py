"""Counter-based random numbers: pure functions of a key and an index, with no generator state.

Everything random that must be the same on any device, on any number of ranks and after any
interruption is drawn here: the keep mask of learning rate dropout, and the order and augmentation
of the training data. The arithmetic on indices is wrapping int32, with a mask after every right
shift, so that eager torch, compiled kernels and plain Python agree bit for bit.
"""

import torch
from torch import Tensor

# Elements to draw at once: enough for the threads or for a launch; on a CPU the scratch stays in
# cache.
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}

_MASK_32 = 0xFFFFFFFF
_MASK_64 = 0xFFFFFFFFFFFFFFFF


def fold_key(*words: int | str) -> int:
    """Return 64 random bits that depend on every word and on their order.

    Each word passes the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), on the host, in
    about a microsecond. Integers enter 64 bits at a time, a string as its UTF-8 bytes. Give each
    stream a word of its own: ``fold_key("order", seed, epoch)``.
    """
    state = 0
    for word in words:
        if isinstance(word, str):
            word = int.from_bytes(word.encode(), "little")
        while True:
            state = (state ^ (word & _MASK_64)) + 0x9E3779B97F4A7C15 & _MASK_64
            state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
            state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK_64
            state ^= state >> 31
            word >>= 64
            if word in (0, -1):
                break
    return state


def to_int32(word: int) -> int:
    """Return the low 32 bits of ``word`` as a signed 32-bit integer."""
    return ((word & _MASK_32) ^ 0x80000000) - 0x80000000


def _xor_shift(x: Tensor, shift: int) -> Tensor:
    """Compute ``x ^= x >>> shift`` in place; torch shifts int32 arithmetically, hence the mask."""
    return x.bitwise_xor_((x >> shift).bitwise_and_((1 << 32 - shift) - 1))


def mix(index: Tensor, key: int) -> Tensor:
    """Hash int32 ``index`` in place under a 64-bit ``key``: 32 random bits each."""
    return rounds(index, to_int32(key), to_int32(key >> 32))


def rounds(x: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """Compute :func:`mix` under a key given as two int32 words, which may be tensors.

    Three multiply rounds with the constants of triple32 (Wellons, "Prospecting for hash functions",
    2018). One half of the key enters before the first round, the other half before the second: with
    two rounds, or with one half of the key, neighboring steps correlate.
    """
    x = x.bitwise_xor_(low)
    x = _xor_shift(x, 17).mul_(to_int32(0xED5AD4BB)).bitwise_xor_(high)
    x = _xor_shift(x, 11).mul_(to_int32(0xAC4C1B51))
    x = _xor_shift(x, 15).mul_(to_int32(0x31848BAB))
    return _xor_shift(x, 14)


def random_bits(
    *words: int | str, start: int, count: int, device: torch.device | str, every: int = 1
) -> Tensor:
    """Return int32 (count,): 32 random bits for each 64-bit index.

    Args:
        words: Name of the stream, as in :func:`fold_key`; the high half of the index is appended.
        start: First index.
        count: Number of indices.
        device: Device of the result.
        every: Distance between two indices.
    """
    if start >> 32 != max(start, start + (count - 1) * every) >> 32:
        before = -((start - ((start >> 32) + 1 << 32)) // every)  # indices below the 2**32 edge
        head = random_bits(*words, start=start, count=before, device=device, every=every)
        rest = dict(start=start + before * every, count=count - before, every=every)
        return torch.cat([head, random_bits(*words, device=device, **rest)])
    index = torch.arange(count, dtype=torch.int32, device=device)
    if every != 1:
        index.mul_(to_int32(every))
    return mix(index.add_(to_int32(start)), fold_key(*words, start >> 32))


def randint(index: Tensor, high: int, *words: int | str) -> Tensor:
    """Return int64 of ``index``'s shape: for each index a uniform integer in [0, high).

    Use it for what is random per sample (crops, flips, labels): the result depends on ``words`` and
    the sample's number alone, so a batch may hold the samples in any order. ``high`` <= 2**16.
    """
    assert 0 < high <= 1 << 16
    u = mix(index.to(torch.int32, copy=True), fold_key(*words)).bitwise_and_(0x7FFFFFFF)
    return (u.to(torch.int64) * high) >> 31
