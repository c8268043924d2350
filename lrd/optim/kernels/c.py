"""The kernels of a step in C, compiled by the machine's compiler and called through ctypes."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lrd.optim.kernels.cache import cached_file
from lrd.optim.kernels.tables import OWN, key_table, restore_table, update_table
from lrd.optim.kernels.trace import C, lines_of
from lrd.optim.params import Piece
from lrd.optim.update_rules import UpdateRule

# Strict arithmetic: each operation rounds once, and NaN and infinity are what they are in torch.
FLAGS = (
    *("-O3", "-march=native", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno"),
    *("-fno-trapping-math", "-Wno-unknown-pragmas", "-shared", "-fPIC"),
)


class CKernels:
    def prepare(self, device: torch.device, rule: UpdateRule | None = None) -> None:
        _library(rule)

    def save(self, pieces: Sequence[Piece]) -> None:
        _call(_library(None).lrd_save, restore_table(pieces), len(pieces))

    def restore(self, pieces: Sequence[Piece], seed: int, t: int) -> None:
        keys, high = key_table(pieces, seed, t)
        _call(_library(None).lrd_restore, restore_table(pieces), len(pieces), keys, high)

    def update(
        self, rule: UpdateRule, pieces: Sequence[Piece], scalars: Tensor, seed: int, t: int
    ) -> None:
        keys, high = key_table(pieces, seed, t)
        table = update_table(pieces)
        _call(_library(rule).lrd_update, table, len(pieces), keys, high, scalars.data_ptr())


def _call(
    function: Callable[..., None],
    table: array,
    pieces: int,
    keys: array | None = None,
    high: int = 0,
    scalars: int = 0,
) -> None:
    threads = torch.get_num_threads()
    words = keys.buffer_info()[0] if keys else 0
    function(table.buffer_info()[0], pieces, threads, words, high, scalars)


@cache
def _source() -> str:
    return Path(__file__).with_name("step.c").read_text()


def update_source(rule: UpdateRule) -> str:
    """Return the C function that updates a piece by ``rule``, after :file:`step.c`."""
    lines, news = lines_of(rule, C)
    first = OWN + 3  # after the scalars' row, the weight and the gradient
    moments = {name: first + number for number, name in enumerate(rule.moments)}
    columns = first + len(moments)
    count = len(rule.scalars)
    stores = [f"{name}_[k] = {new};" for name, new in news.items() if name != "w"]

    def loop(index: str) -> list[str]:
        return [
            "for (int k = 0; k < count; k++) {",
            "const float w = w_[k], g = g_[k];",
            *(f"const float {name} = {name}_[k];" for name in moments),
            *lines,
            f"w_[k] = kept({index}, low, top, last) ? {news['w']} : w;",
            *stores,
            "}",
        ]

    return "\n".join(
        [
            "static void update(const i64 *row, i64 begin, int count, i64 first, u32 stride,",
            "                   const u32 *keys, i64 high, const float *scalars) {",
            "const u32 *key = keys + 2 * ((first >> 32) - high), index = (u32)first;",
            "const u32 low = key[0], top = key[1];",
            "const int32_t last = (int32_t)row[LAST];",
            f"const float *s = scalars + row[OWN] * {count};",
            *(f"const float {name} = s[{at}];" for at, name in enumerate(rule.scalars)),
            *(f"(void){name};" for name in rule.scalars),
            "float *restrict w_ = (float *)row[OWN + 1] + begin;",
            "const float *restrict g_ = (const float *)row[OWN + 2] + begin;",
            *(
                f"float *restrict {name}_ = (float *)row[{column}] + begin;"
                for name, column in moments.items()
            ),
            "if (stride == 1)",
            *loop("index + (u32)k"),
            "else",
            *loop("index + (u32)k * stride"),
            "}",
            "void lrd_update(const i64 *table, int pieces, int threads, const u32 *keys, i64 high,",
            "                const float *scalars) {",
            f"for_each(table, pieces, {columns}, threads, update, keys, high, scalars);",
            "}",
            "",
        ]
    )


_loaded: dict[str | None, ctypes.CDLL] = {}


def _library(rule: UpdateRule | None) -> ctypes.CDLL:
    name = rule.name if rule else None
    if name not in _loaded:
        source = _source() + (update_source(rule) if rule else "")
        library = ctypes.CDLL(str(compile_library(source)))
        pointer, word = ctypes.c_void_p, ctypes.c_int64
        for function in ("lrd_save", "lrd_restore", *(("lrd_update",) if rule else ())):
            kernel = getattr(library, function)
            kernel.argtypes = (pointer, ctypes.c_int, ctypes.c_int, pointer, word, pointer)
            kernel.restype = None
        _loaded[name] = library
    return _loaded[name]


def compile_library(source: str) -> Path:
    """Return the shared library of ``source``, compiled or from the cache.

    The cache's key covers the source, the compiler, its flags and the processor. OpenMP is used if
    the compiler has it.

    Raises:
        RuntimeError: There is no C compiler, or it fails.
    """
    compiler = _compiler()
    key = "\0".join([source, *_identity(tuple(compiler)), *FLAGS, _processor()])
    name = f"step-{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    return cached_file(name, lambda path: _compile(compiler, source, path))


def _compile(compiler: Sequence[str], source: str, library: Path) -> None:
    for openmp in (("-fopenmp",), ()):
        command = [*compiler, *FLAGS, *openmp, "-x", "c", "-", "-o", str(library), "-lm"]
        done = subprocess.run(command, input=source, capture_output=True, text=True)
        if done.returncode == 0:
            return
    said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
    why = next((line for line in said if "error" in line), said[0])
    raise RuntimeError(f"{' '.join(compiler)} failed: {why}")


def _compiler() -> list[str]:
    """Return the C compiler's command: CC, CXX, or the first that is found."""
    for name in ("CC", "CXX"):
        if command := shlex.split(os.environ.get(name, "")):
            if shutil.which(command[0]):
                return command
            raise RuntimeError(f"{name}={os.environ[name]} is not a command")
    for name in ("cc", "gcc", "clang", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise RuntimeError("no C compiler found; CC may name one")


@cache
def _identity(compiler: tuple[str, ...]) -> tuple[str, ...]:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True)
    return (*compiler, shutil.which(compiler[0]) or "", done.stdout)


@cache
def _processor() -> str:
    """Return what the machine's processor can do: a folder may serve several kinds of nodes."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    found = sorted({line for line in lines if line.startswith(wanted)})
    return "\n".join([platform.machine(), platform.processor(), *found])
