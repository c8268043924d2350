"""The keep mask written out again with numpy, from the definition in lrd.rng: an oracle."""

import numpy as np


def _splitmix(state: int, word: int) -> int:
    state = ((state ^ word) + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def bits(seed: int, step: int, index: np.ndarray) -> np.ndarray:
    """The 31 random bits of each global index, of any dtype that holds 64 bits."""
    index = index.astype(np.uint64)
    low, high = index & np.uint64(0xFFFFFFFF), index >> np.uint64(32)
    made = np.zeros(len(index), dtype=np.uint64)
    for word in np.unique(high):
        key = _splitmix(_splitmix(_splitmix(0, seed % 2**64), step), int(word))
        first, second = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
        x = low ^ first
        x = (x ^ x >> np.uint64(17)) * np.uint64(0xED5AD4BB) & np.uint64(0xFFFFFFFF)
        x ^= second
        x = (x ^ x >> np.uint64(11)) * np.uint64(0xAC4C1B51) & np.uint64(0xFFFFFFFF)
        x = (x ^ x >> np.uint64(15)) * np.uint64(0x31848BAB) & np.uint64(0xFFFFFFFF)
        made = np.where(high == word, x ^ x >> np.uint64(14), made)
    return made & np.uint64(0x7FFFFFFF)


def mask(
    seed: int, step: int, p: float, start: int, shape: tuple[int, ...], granularity: str = "element"
) -> np.ndarray:
    """D_t of a parameter whose first element has the global index ``start``."""
    count = int(np.prod(shape, dtype=np.int64))
    if p == 1:
        return np.ones(shape, dtype=bool)
    row = int(np.prod(shape[1:], dtype=np.int64)) if shape else 1
    unit = {"element": 1, "row": row, "tensor": count}[granularity]
    place = np.arange(count, dtype=np.uint64)
    place -= place % np.uint64(max(1, unit))
    threshold = min(max(round(p * 2**31), 1), 2**31 - 1)
    return (bits(seed, step, place + np.uint64(start)) < threshold).reshape(shape)
