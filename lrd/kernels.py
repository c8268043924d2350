"""The mask inside a kernel: rows of elements, their indices, and what a compiler makes of them.

A compiled kernel hashes an element's global index where it needs it, so that the mask is never in
memory. Elements come as rows of :data:`LANES`; an index is its row's base plus its lane. The lanes
are a small float table: inductor builds an int32 ``arange`` lane by lane (20 instructions for 8
elements on a CPU) and loads int32 through the stack, and a float load converts in one.
"""

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lrd.masks import keep_below, keep_words, key, rounds, signed

LANES = 256
# Elements whose mask is drawn at a time without a compiler: enough for the threads or a launch,
# and on a CPU the scratch stays in cache.
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
# Elements x steps from which on compiling is worth its seconds. A CPU saves some 3 ns an element by
# a compiled restore and pays up to 30 s for it; the GPU's number is an estimate.
WORTH = {"cpu": 1e10, "cuda": 5e11}
# Without these, inductor puts moments that are used twice into memory of their own, in a first
# loop, once the mask makes the whole longer than 30 operations.
ONE_LOOP = {"realize_opcount_threshold": 10_000, "realize_reads_threshold": 1_000}
# Calls of what becomes a CUDA graph that run as they are, in which libraries choose and compile.
WARM_UP = 3
# Set to False to do without a compiler where there is one; the bits are the same.
COMPILE = True


def rows(count: int) -> int:
    """Rows that hold ``count`` elements; at least 2, or a kernel would be compiled for 1 alone."""
    return max(2, -(-count // LANES))


def bases(start: int, count: int, device: torch.device) -> Tensor:
    """int32 of shape (count, 1): the low words of the global indices that begin each row."""
    row = torch.arange(count, dtype=torch.int64, device=device) * LANES + start
    return row.to(torch.int32)[:, None]  # wraps, as the hash does


@cache
def lanes(device: torch.device) -> Tensor:
    """float32 of shape (1, LANES): 0, 1, 2, ..."""
    return torch.arange(LANES, dtype=torch.float32, device=device)[None]


def words(seed: int, step: int, high: int, p: float) -> tuple[int, int, int]:
    """What a kernel knows of a step: the key's two words, and the last random number that keeps.

    ``high`` is the high word of the global indices.
    """
    word = key(seed, step, high)
    return signed(word), signed(word >> 32), keep_below(p) - 1


def dropped(base: Tensor, lane: Tensor, word: Tensor) -> Tensor:
    """bool (rows, LANES): where D_t is 0. ``word`` is int32 (3,), from :func:`words`."""
    index = base + lane.to(torch.int32)
    return rounds(index, word[0], word[1]).bitwise_and_(0x7FFFFFFF) > word[2]


def restore(new: Tensor, old: Tensor, base: Tensor, lane: Tensor, word: Tensor) -> None:
    """Give ``new`` (rows, LANES) the values of ``old`` where D_t is 0."""
    new.copy_(torch.where(dropped(base, lane, word), old, new))


def restore_eagerly(
    new: Tensor, old: Tensor, base: Tensor, lane: Tensor, word: tuple[int, int, int]
) -> None:
    """:func:`restore` without a compiler: chunk by chunk, in place, to the same bits."""
    size = max(1, CHUNK.get(new.device.type, 1 << 20) // LANES)
    lane = lane.to(torch.int32)
    low, high, last = word
    for to, back, start in zip(new.split(size), old.split(size), base.split(size), strict=True):
        select(to, back, keep_words(rounds(start + lane, low, high), last + 1))


def select(to: Tensor, back: Tensor, keep: Tensor) -> None:
    """``to`` where ``keep`` has all bits set, ``back`` where it has none, in place, bit for bit."""
    word = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[to.element_size()]
    to, back, keep = to.view(word), back.view(word), keep.to(word)
    to.bitwise_xor_(back).bitwise_and_(keep).bitwise_xor_(back)


def stretch(news: list[Tensor], olds: list[Tensor], p: float) -> None:
    """``old + (new - old) * (1 / p)`` in place of each of ``news``: the base's move, divided by p.

    Never compiled: a compiler may fuse a product and a sum, which rounds once instead of twice.
    """
    torch._foreach_sub_(news, olds)
    for new in news:
        new.mul_(1 / p)  # of bfloat16, foreach on a CPU would round 1 / p first
    torch._foreach_add_(news, olds)


def can_compile(device: str) -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler, on a GPU Triton too."""
    return COMPILE and _toolchain(device, os.environ.get("CXX", "g++"), os.environ.get("PATH", ""))


@cache
def _toolchain(device: str, compiler: str, path: str) -> bool:
    found = shutil.which(compiler) or shutil.which("clang++")
    needs = {"cpu": True, "cuda": find_spec("triton") is not None}
    return bool(found) and needs.get(device, False)


def compiled(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``function`` by torch.compile, under a code object of its own.

    torch counts compilations by code object, and closures of one function would share a limit.
    """
    code = function.__code__.replace(co_name=name, co_qualname=name)
    own = type(function)(  # type: ignore[call-arg]
        code, function.__globals__, name, function.__defaults__, function.__closure__
    )
    hush()
    return torch.compile(own, fullgraph=True, options=ONE_LOOP)  # type: ignore[arg-type]


@cache
def compiled_restore() -> Callable[..., Any]:
    return compiled(restore, "lrd_restore")


def any_rows(tensor: Tensor) -> Tensor:
    """Marks (rows, LANES) or (rows, 1) so that one kernel serves any number of rows."""
    torch._dynamo.mark_dynamic(tensor, 0)
    return tensor


def hush() -> None:
    """Without torch's warning, when a CUDA build of it first compiles, that there is no GPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
