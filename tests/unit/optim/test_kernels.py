"""The kernels: save, restore and update in C, in Triton (interpreted) and as torch operations."""

import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lrd import LRDropout
from lrd.optim import kernels
from lrd.optim.kernels import c, kernels_for
from lrd.optim.kernels.c import CKernels
from lrd.optim.kernels.cache import cache_folder
from lrd.optim.kernels.eager import EagerKernels
from lrd.optim.masks import keep_mask, keep_threshold
from lrd.optim.params import Piece, layout_of
from lrd.optim.update_rules import update_rule_for
from tests.helpers.masks import mask
from tests.unit.optim.test_fused import BASES

P, SEED, STEP = 0.6, 5, 9
CPU = torch.device("cpu")
# Around every edge: nothing, one element, a vector register, a thread's share, a segment.
COUNTS = [0, 1, 7, 64, 257, (1 << 15) - 1, (1 << 15) + 3, (1 << 20) + 777]
TYPES = [
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    *(torch.complex64, torch.complex128, torch.int8),
]
both = pytest.mark.parametrize("made", [CKernels, EagerKernels])


@pytest.fixture(autouse=True)
def _fresh_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled kernels of earlier tests serve, but nothing of a test that breaks a compiler."""
    monkeypatch.setattr(kernels, "_ready", {})
    monkeypatch.setattr(c, "_loaded", dict(c._loaded))
    kernels._warn_once.cache_clear()


def numbers(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(count + 1000 * seed)
    return torch.randint(1, 100, (count,), generator=generator).to(dtype)


def pieces(news: list[Tensor], olds: list[Tensor], first: int = 0, unit: int = 1) -> list[Piece]:
    made, start = [], first
    for pair in zip(news, olds, strict=True):
        count = pair[0].numel()
        made.append(Piece(pair, 0, count, start, keep_threshold(P), unit, start, 0))
        start += count
    return made


def check_restore(
    kernel: Any, news: list[Tensor], first: int = 0, granularity: str = "element", unit: int = 1
) -> None:
    """Every value changes, then comes back where numpy's mask is 0."""
    before = [new.clone() for new in news]
    olds = [torch.empty_like(new) for new in news]
    kernel.save(pieces(news, olds, first, unit))
    assert all(torch.equal(a, b) for a, b in zip(olds, before, strict=True))
    for new in news:
        new.neg_()
    kernel.restore(pieces(news, olds, first, unit), SEED, STEP)
    start = first
    for new, old in zip(news, before, strict=True):
        shape = (new.numel() // unit, unit) if granularity == "row" else (new.numel(),)
        keep = torch.from_numpy(mask(SEED, STEP, P, start, shape, granularity)).view(-1)
        assert torch.equal(new, torch.where(keep, -old, old))
        start += new.numel()


@both
@pytest.mark.parametrize("threads", [1, 3])
def test_sizes_around_every_edge(made: type, threads: int):
    torch.set_num_threads(threads)
    check_restore(made(), [numbers(count) for count in COUNTS])


@both
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_has_the_same_mask(made: type, dtype: torch.dtype):
    check_restore(made(), [numbers(1000, dtype), numbers(13, dtype)])


@both
@pytest.mark.parametrize("first", [2**31 - 1000, 2**32 - 1000, 2**32 + 7, 2**33 - 1])
def test_indices_have_64_bits(made: type, first: int):
    check_restore(made(), [numbers(700), numbers(2000)], first)
    check_restore(made(), [numbers(700), numbers(2100)], first, "row", unit=7)
    check_restore(made(), [numbers(3000, torch.complex128)], first)


@both
@pytest.mark.parametrize("unit", [2, 5, 1000])
def test_units_have_the_bit_of_their_first_element(made: type, unit: int):
    torch.set_num_threads(3)
    check_restore(made(), [numbers(40_000), numbers(3000, torch.float64)], 11, "row", unit)


@both
def test_a_piece_in_the_middle_of_a_tensor_and_of_a_unit(made: type):
    """As a shard is: elements 300 to 799, of which each row of 100 has one bit."""
    new = numbers(1000)
    before, old = new.clone(), torch.zeros(1000)
    piece = Piece((new, old), 250, 500, 350, keep_threshold(P), 100, 50, 0)
    made().save([Piece((new, old), 0, 1000, 0, 0, 1, 0, 0)])
    new.neg_()
    made().restore([piece], SEED, STEP)
    keep = torch.from_numpy(mask(SEED, STEP, P, 50, (8, 100), "row")).view(-1)
    expected = -before
    expected[250:750] = torch.where(keep[300:800], -before[250:750], before[250:750])
    assert torch.equal(new, expected)


# Of weights of convolutions: a block of a kernel ends in the middle of a filter, or holds many.
FILTERS = [(5, 3, 4, 7), (40, 130, 3, 3), (300, 2, 2, 2), (6, 5, 3, 2, 4)]


def channels_last(tensor: Tensor) -> Tensor:
    order = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    moved = tensor.to(memory_format=order)
    assert not moved.is_contiguous() and torch.equal(moved, tensor)
    return moved


def check_channels_last(
    kernel: Any, first: int, names: tuple[str, ...] = ("SGD", "AMSGrad")
) -> None:
    """Masks count the elements in row-major order, whatever their order in memory."""
    for shape in FILTERS:
        count = torch.Size(shape).numel()
        place = (0, count, first, keep_threshold(P), 1, first, 0)
        new, old = (channels_last(numbers(count, seed=k).view(shape)) for k in (1, 2))
        keep = keep_mask(SEED, STEP, P, start=first, count=count).view(shape)
        expected, layout = torch.where(keep, new, old), layout_of(new) or 0
        saved = torch.empty_like(new)
        assert layout == shape[1] << 32 | torch.Size(shape[2:]).numel()
        kernel.save([Piece((new, saved), *place, layout)])
        assert torch.equal(saved, new) and saved.stride() == new.stride()
        kernel.restore([Piece((new, old), *place, layout)], SEED, STEP)
        assert torch.equal(new, expected)
        for name in names:
            rule = rule_of(name)
            values = [numbers(count, seed=k).view(shape) for k in range(2 + len(rule.moments))]
            moved = [channels_last(value) for value in values]
            scalars = torch.rand(1, len(rule.scalars), generator=torch.Generator().manual_seed(2))
            kernel.update(rule, [Piece(tuple(values), *place)], scalars, SEED, STEP)
            kernel.update(rule, [Piece(tuple(moved), *place, layout)], scalars, SEED, STEP)
            for a, b in zip(values, moved, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, check_stride=False)


@both
@pytest.mark.parametrize("first", [0, 2**31 - 900, 2**32 - 901])
@pytest.mark.parametrize("threads", [1, 3])
def test_channels_last_weights_have_the_masks_of_row_major_ones(
    made: type, first: int, threads: int
):
    torch.set_num_threads(threads)
    check_channels_last(made(), first, tuple(BASES))


def test_tritons_masks_of_channels_last_weights_are_those_of_row_major_ones():
    interpreted("""
for first in (0, 2**32 - 901):
    t.check_channels_last(TritonKernels(), first)
""")


@both
def test_infinities_and_nans_come_back_to_the_bit(made: type):
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40] * 500)
    odd.view(torch.int32)[0] = 0x7FC12345  # a NaN with a payload
    new = torch.full_like(odd, 3.0)
    made().restore(pieces([new], [odd]), SEED, STEP)
    keep = torch.from_numpy(mask(SEED, STEP, P, 0, (len(odd),)))
    assert torch.equal(new.view(torch.int32)[~keep], odd.view(torch.int32)[~keep])
    assert (new[keep] == 3).all()


def update_of(
    kernel: Any, name: str, counts: tuple[int, ...] = (2500, 70_000, 3), first: int = 2**32 - 1000
) -> list[Tensor]:
    """Weights and moments, as bits, after an update of values of every kind."""
    rule = rule_of(name)
    generator, made, start = torch.Generator().manual_seed(1), [], first
    for row, count in enumerate(counts):
        values = [torch.randn(count, generator=generator) for _ in range(2 + len(rule.moments))]
        tensors = (*values[:2], *(value.abs() for value in values[2:]))
        if count > 3:
            for at, odd in enumerate((float("nan"), float("inf"), -0.0, 1e-42, 3e38, 1e20)):
                for place, tensor in enumerate(tensors):
                    tensor[10 * place + at] = odd
        made.append(Piece(tensors, 0, count, start, keep_threshold(P), 1, start, row))
        start += count
    scalars = torch.rand(len(counts), len(rule.scalars), generator=torch.Generator().manual_seed(2))
    kernel.update(rule, made, scalars, SEED, STEP)
    values = [tensor for piece in made for tensor in piece.tensors]
    return [
        torch.where(v.isnan(), torch.full_like(v, torch.nan), v).view(torch.int32) for v in values
    ]


@pytest.mark.parametrize("name", BASES)
def test_c_updates_to_the_bits_of_torchs_operations(name: str):
    for one, other in zip(
        update_of(CKernels(), name), update_of(EagerKernels(), name), strict=True
    ):
        assert torch.equal(one, other)


def interpreted(code: str) -> None:
    """Run ``code`` with Triton's interpreter, in a process of its own: Triton reads the switch when
    it is imported."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTS + code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


IMPORTS = """
import torch
from lrd.optim import fused, snapshot
from lrd.optim.kernels import triton
from lrd.optim.kernels.c import CKernels
from lrd.optim.kernels.triton import TritonKernels
from lrd.optim.masks import keep_mask, keep_threshold
from lrd.optim.params import Piece
from tests.unit.optim import test_fused, test_kernels as t
"""


def test_triton_gives_the_bits_of_c():
    interpreted("""
for name in t.BASES:
    kernels = TritonKernels(), CKernels()
    for a, b in zip(*(t.update_of(k, name, (2500, 3)) for k in kernels), strict=True):
        assert torch.equal(a, b), name
for dtype in t.TYPES:
    t.check_restore(TritonKernels(), [t.numbers(1030, dtype), t.numbers(13, dtype)], 2**32 - 500)
t.check_restore(TritonKernels(), [t.numbers(2100)], 2**32 - 700, "row", unit=7)
""")


def test_tritons_masks_are_lrd_optim_masks_across_the_sign_of_an_int32():
    interpreted("""
for first in (0, 2**31 - 1500, 2**32 - 1500, 2**33 - 1500):
    for p in (0.5, 0.9, 2**-31, 1 - 2**-31):
        new, old = torch.zeros(3001), torch.ones(3001)
        piece = Piece((new, old), 0, 3001, first, keep_threshold(p), 1, first, 0)
        TritonKernels().restore([piece], 7, 11)
        assert torch.equal(new == 0, keep_mask(7, 11, p, start=first, count=3001))
""")


def test_tritons_weights_follow_the_reference():
    interpreted("""
fused.kernels_for = snapshot.kernels_for = lambda device, rule=None: TritonKernels()
for name, (kind, settings) in list(test_fused.BASES.items())[:5]:
    params, lrd = test_fused.fused(name)
    plain = test_fused.tensors()
    reference = t.LRDropout(
        kind(plain, **settings), p=test_fused.P, seed=test_fused.SEED, implementation="reference"
    )
    for step in range(6):
        before = [param.detach().clone() for param in params]
        test_fused.run(params, lrd, step, 1)
        test_fused.run(plain, reference, step, 1)
        for param, was, mask in zip(params, before, test_fused.masks(step), strict=True):
            assert torch.equal(param[~mask], was[~mask]), name
    assert lrd.path == "fused" and reference.path == "reference"
    for a, b in zip(params, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
""")


def test_a_step_is_one_launch_however_many_tensors():
    """A launch costs what the kernel takes for a million elements."""
    interpreted("""
class Counted:
    def __init__(self, kernel):
        self.kernel, self.grids = kernel, []
    def __getitem__(self, grid):
        self.grids.append(grid)
        return self.kernel[grid]

kind, settings = t.BASES["Adam"]
base = kind([torch.zeros(2, requires_grad=True)], **settings)
rule = t.update_rule_for(base, base.param_groups[0])
update, restore = triton._module(rule), triton._module(None)
update.update, restore.restore = Counted(update.update), Counted(restore.restore)
lengths, pieces, pairs, start = [1 + 19 * n for n in range(110)], [], [], 0
for length in lengths:
    tensors, rest = tuple(torch.zeros(4, length)), (0, length, start, 9, 1, start, 0)
    pieces.append(Piece(tensors, *rest))
    pairs.append(Piece(tensors[:2], *rest))
    start += length
scalars = torch.ones(1, len(rule.scalars))
TritonKernels().update(rule, pieces, scalars, 0, 0)
TritonKernels().restore(pairs, 0, 0)
blocks = sum(-(-length // 1024) for length in lengths)
assert update.update.grids == restore.restore.grids == [(blocks,)]
""")


def rule_of(name: str) -> Any:
    kind, settings = BASES[name]
    base = kind([torch.zeros(2, requires_grad=True)], **settings)  # type: ignore[call-arg]
    rule = update_rule_for(base, base.param_groups[0])
    assert rule is not None
    return rule


TABLES = {"table": "*i64", "blocks": "*i64"}


def compiled_for_sm90(kernel: Any, constants: dict[str, Any], **pointers: str) -> Any:
    """Compile for compute capability 9.0, which needs no GPU."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    names = {**pointers, "keys": "*i32", "high": "i32", **dict.fromkeys(constants, "constexpr")}
    source = triton.compiler.ASTSource(fn=kernel, signature=names, constexprs=constants)
    options = {"enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def test_triton_assembles_strict_arithmetic():
    """What the kernels round is in the assembly."""
    pytest.importorskip("triton")
    from lrd.optim.kernels.triton import BLOCK, _module

    constants: dict[str, Any] = {"ALIGNED": True, "BLOCK": BLOCK}
    update = _module(rule_of("AMSGrad")).update
    text = compiled_for_sm90(update, constants, **TABLES, scalars="*fp32").asm["ptx"]
    assert "sqrt.rn" in text and "div.rn" in text
    assert not any(loose in text for loose in ("fma.rn.f32", "div.full", "sqrt.approx"))


def memory_instructions(binary: bytes, folder: Path) -> Counter[str]:
    """Count the loads and stores of a cubin: LDG and STG of global memory, LDL and STL of spilled
    registers, with 128 for 16 bytes at once."""
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    if not tool.exists():
        pytest.skip("this Triton brings no nvdisasm")
    (folder / "kernel.cubin").write_bytes(binary)
    done = subprocess.run([tool, "-c", folder / "kernel.cubin"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"\b(LDG|STG|LDL|STL)(?:\.\w+)*?(\.128)?\b[^.\w]", done.stdout)
    return Counter("".join(parts) for parts in found)


@pytest.mark.parametrize("name", BASES)
def test_the_machine_code_moves_16_bytes_at_once(name: str, tmp_path: Path):
    """Each of 128 threads moves the 8 elements of its block that it has by two loads of each tensor
    and two stores of each but the gradient, and keeps everything in registers."""
    pytest.importorskip("triton")
    from lrd.optim.kernels.triton import BLOCK, _module

    rule = rule_of(name)
    constants: dict[str, Any] = {"ALIGNED": True, "BLOCK": BLOCK}
    made = compiled_for_sm90(_module(rule).update, constants, **TABLES, scalars="*fp32")
    assert BLOCK == 8 * 32 * made.metadata.num_warps
    found = memory_instructions(made.asm["cubin"], tmp_path)
    assert found["LDG.128"] == 2 * (2 + len(rule.moments))
    assert found["STG.128"] == 2 * (1 + len(rule.moments))
    assert not found["LDL"] and not found["STL"]


@pytest.mark.parametrize(
    ("word", "words", "bytes_each"),
    [("int16", 1, 2), ("int32", 1, 4), ("int64", 1, 8), ("int64", 2, 8)],
)
def test_the_machine_code_of_restore_moves_16_bytes_at_once(
    word: str, words: int, bytes_each: int, tmp_path: Path
):
    """Each of 128 threads moves the 8 words of its block that it has by loads of old and new, and
    stores, of 16 bytes; an incomplete block's 8 words, one by one."""
    triton = pytest.importorskip("triton")
    from lrd.optim.kernels.triton import BLOCK, _module

    constants = {"ALIGNED": True, "BLOCK": BLOCK, "WORD": getattr(triton.language, word)}
    kernel = _module(None).restore
    made = compiled_for_sm90(kernel, {**constants, "WORDS": words}, **TABLES)
    found = memory_instructions(made.asm["cubin"], tmp_path)
    vectors = 8 * bytes_each // 16
    assert found["LDG.128"] >= 2 * vectors and found["STG.128"] >= vectors
    assert not found["LDL"] and not found["STL"]


def test_a_gpu_that_triton_does_not_support_has_torchs_operations(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from lrd.optim.kernels import triton

    def fail(self: Any, device: Any, rule: Any = None) -> None:
        raise RuntimeError("Triton does not support compute capability 3.5\nmore")

    monkeypatch.setattr(triton.TritonKernels, "prepare", fail)
    device, rule = torch.device("cuda"), rule_of("Adam")
    assert type(kernels_for(device, rule)) is type(kernels_for(device)) is EagerKernels
    (warning,) = caplog.records
    assert "on cuda (Triton does not support compute capability 3.5): slower" in warning.message


# Compilers.

BROKEN: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {
    "fails": lambda patch, folder: patch.setenv("CC", "false"),
    "is not a command": lambda patch, folder: patch.setenv("CC", "no-such-compiler"),
    "no C compiler": lambda patch, folder: patch.setenv("PATH", str(folder)),
}


def steps(**settings: Any) -> tuple[Tensor, LRDropout]:
    param = torch.linspace(-1, 1, 500).requires_grad_()
    optimizer = LRDropout(torch.optim.Adam([param], lr=0.1), **settings)
    for _ in range(4):
        optimizer.zero_grad()
        param.square().sum().backward()
        optimizer.step()
    return param.detach(), optimizer


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("implementation", ["auto", "fused", "snapshot"])
def test_a_compiler_that_does_not_work_changes_no_number_and_warns_once(
    how: str,
    implementation: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    compiled, _ = steps(implementation=implementation)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_ready", {})
    monkeypatch.setattr(c, "_loaded", {})
    BROKEN[how](monkeypatch, tmp_path)
    eager, optimizer = steps(implementation=implementation)
    assert torch.equal(eager, compiled)
    assert optimizer.path == ("snapshot" if implementation == "snapshot" else "fused")
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "steps without compiled kernels on cpu" in warning.message
    assert ("failed" if how == "fails" else how) in warning.message


def test_a_cache_that_cannot_be_written_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(c, "_loaded", {})
    assert isinstance(kernels_for(CPU), CKernels) and not caplog.records


def test_the_cache_goes_by_source_compiler_flags_and_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source, compiles = "int one(void) { return 1; }", []
    original = c._compile

    def compile(*arguments: Any) -> None:
        compiles.append(arguments)
        original(*arguments)

    monkeypatch.setattr(c, "_compile", compile)
    first = c.compile_library(source)
    assert c.compile_library(source) == first and len(compiles) == 1
    assert [p.name for p in cache_folder().iterdir()] == [first.name]  # nothing left over
    c.compile_library(source + "\n")
    monkeypatch.setattr(c, "FLAGS", (*c.FLAGS, "-g"))
    c.compile_library(source)
    monkeypatch.setattr(c, "_processor", lambda: "another")
    c.compile_library(source)
    monkeypatch.setenv("CC", "g++")
    c.compile_library(source)
    assert len(compiles) == 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "unit"), list(product(TYPES, (1, 7))))
def test_a_gpu_restores_what_a_cpu_restores(dtype: torch.dtype, unit: int):
    news = [numbers(count * 7, dtype) for count in (1, 64, 40_000)]
    olds = [numbers(count * 7, dtype, seed=1) for count in (1, 64, 40_000)]
    there = [new.cuda() for new in news]
    CKernels().restore(pieces(news, olds, 2**32 - 5000, unit), SEED, STEP)
    kernel = kernels_for(torch.device("cuda"))
    assert not isinstance(kernel, EagerKernels)
    kernel.restore(pieces(there, [o.cuda() for o in olds], 2**32 - 5000, unit), SEED, STEP)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(news, there, strict=True))
