"""The mask inside compiled kernels.

A compiled kernel hashes an element's global index where it needs it, so the mask is never in
memory. Elements come in rows of :data:`LANES`; an element's index is its row's base plus its lane.
The lanes are a small float table: inductor builds an int32 ``arange`` lane by lane (20 instructions
for 8 elements on a CPU) and loads int32 through the stack, while a float load converts in one
instruction.
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

from lrd.optim.masks import is_kept, keep_threshold
from lrd.rng import fold_key, rounds, to_int32

LANES = 256
# Elements per chunk without a compiler: enough for the threads or for a launch, and on a CPU the
# scratch stays in cache.
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
# Elements x steps from which compiling pays. On a CPU the compiled restore saves about 3 ns per
# element and costs up to 30 s; the GPU's number is an estimate.
COMPILE_THRESHOLD = {"cpu": 1e10, "cuda": 5e11}
# Without these options inductor materializes moments that are used twice in a loop of their own,
# once the mask makes the kernel longer than 30 operations.
ONE_LOOP = {"realize_opcount_threshold": 10_000, "realize_reads_threshold": 1_000}
# Eager calls before a CUDA graph capture, in which libraries choose algorithms and compile.
WARM_UP = 3
# Set to False to run without a compiler; the bits are the same.
COMPILE = True


def rows(count: int) -> int:
    """Return the rows that hold ``count`` elements; at least 2: a kernel for 1 would be special."""
    return max(2, -(-count // LANES))


def row_offsets(start: int, count: int, device: torch.device) -> Tensor:
    """Return int32 (count, 1): the low word of each row's first global index."""
    row = torch.arange(count, dtype=torch.int64, device=device) * LANES + start
    return row.to(torch.int32)[:, None]  # wraps, as the hash does


@cache
def lanes(device: torch.device) -> Tensor:
    """Return float32 (1, LANES): 0, 1, 2, ..."""
    return torch.arange(LANES, dtype=torch.float32, device=device)[None]


def key_words(seed: int, step: int, high: int, p: float) -> tuple[int, int, int]:
    """Return a kernel's inputs for a step: the key's two words and the last number that keeps.

    ``high`` is the high word of the global indices.
    """
    word = fold_key(seed, step, high)
    return to_int32(word), to_int32(word >> 32), keep_threshold(p) - 1


def dropped(base: Tensor, lane: Tensor, word: Tensor) -> Tensor:
    """bool (rows, LANES): where D_t is 0. ``word`` is int32 (3,), from :func:`words`."""
    index = base + lane.to(torch.int32)
    return rounds(index, word[0], word[1]).bitwise_and_(0x7FFFFFFF) > word[2]


def restore_dropped(new: Tensor, old: Tensor, base: Tensor, lane: Tensor, word: Tensor) -> None:
    """Copy ``old`` to ``new``, both (rows, LANES), where D_t is 0."""
    new.copy_(torch.where(dropped(base, lane, word), old, new))


def restore_eagerly(
    new: Tensor, old: Tensor, base: Tensor, lane: Tensor, word: tuple[int, int, int]
) -> None:
    """:func:`restore` without a compiler: chunk by chunk, in place, to the same bits."""
    size = max(1, CHUNK.get(new.device.type, 1 << 20) // LANES)
    lane = lane.to(torch.int32)
    low, high, last = word
    for to, back, start in zip(new.split(size), old.split(size), base.split(size), strict=True):
        select(to, back, is_kept(rounds(start + lane, low, high), last + 1))


def select(to: Tensor, back: Tensor, keep: Tensor) -> None:
    """Set ``to`` to ``back`` where ``keep`` is 0, bit for bit; ``keep`` is 0 or all bits set."""
    word = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[to.element_size()]
    to, back, keep = to.view(word), back.view(word), keep.to(word)
    to.bitwise_xor_(back).bitwise_and_(keep).bitwise_xor_(back)


def rescale_update(news: list[Tensor], olds: list[Tensor], p: float) -> None:
    """Set each of ``news`` to ``old + (new - old) * (1 / p)``: the base's update divided by p.

    Never compiled: a compiler may fuse product and sum, which rounds once instead of twice.
    """
    torch._foreach_sub_(news, olds)
    for new in news:
        new.mul_(1 / p)  # foreach on a CPU rounds 1 / p to bfloat16 first
    torch._foreach_add_(news, olds)


def can_compile(device: str) -> bool:
    """Return whether torch.compile has what it needs: a C++ compiler, and Triton on a GPU."""
    return COMPILE and _toolchain(device, os.environ.get("CXX", "g++"), os.environ.get("PATH", ""))


@cache
def _toolchain(device: str, compiler: str, path: str) -> bool:
    found = shutil.which(compiler) or shutil.which("clang++")
    needs = {"cpu": True, "cuda": find_spec("triton") is not None}
    return bool(found) and needs.get(device, False)


def compiled(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return ``function`` compiled by torch.compile, under a code object of its own.

    torch counts compilations per code object, so closures of one function would share a limit.
    """
    code = function.__code__.replace(co_name=name, co_qualname=name)
    own = type(function)(  # type: ignore[call-arg]
        code, function.__globals__, name, function.__defaults__, function.__closure__
    )
    silence_no_gpu_warning()
    return torch.compile(own, fullgraph=True, options=ONE_LOOP)  # type: ignore[arg-type]


@cache
def compiled_restore() -> Callable[..., Any]:
    return compiled(restore_dropped, "lrd_restore")


def mark_dynamic_rows(tensor: Tensor) -> Tensor:
    """Mark (rows, LANES) or (rows, 1) so that one kernel serves any number of rows."""
    torch._dynamo.mark_dynamic(tensor, 0)
    return tensor


def silence_no_gpu_warning() -> None:
    """Silence the warning of torch's CUDA builds, at the first compilation, of a missing GPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
