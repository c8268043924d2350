"""Dropout of units: the masks against plain Python, their independence, memory and compilers."""

import math
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from lrd import rng
from lrd.rng import fold_key
from lrd.training.builder import compile_forward
from lrd.unit_dropout import UnitDropout, drop_units, unit_keys
from tests.unit.optim.test_masks import python_bits


def kept(p: float, units: int, index: Tensor, seed: int = 0, step: int = 0, place: int = 0):
    """bool (n, units): the mask of one of three places."""
    keys = unit_keys(seed, step, 3, index)[place]
    return drop_units(torch.ones(len(index), units), keys, p) != 0


def signs(*args: Any, **settings: Any) -> Tensor:
    return 2.0 * kept(0.5, *args, **settings) - 1


def test_masks_agree_with_plain_python():
    seed, step, p, places = 3, 14, 0.7, 3
    index = torch.tensor([0, 5, 2**31 + 7])
    stream = fold_key("sd", seed, step, 0)
    for place in range(places):
        got = kept(p, 40, index, seed, step, place)
        for row, sample in enumerate(index.tolist()):
            # The words of the two hashes that make a sample's key, counted in this order.
            counted = [python_bits(stream, at) for at in range(4 * places)]
            lows, highs = counted[: 2 * places], counted[2 * places :]
            at = (2 * place, 2 * place + 1)
            low, high = (python_bits(highs[i] << 32 | lows[i], sample) for i in at)
            hashed = [python_bits(high << 32 | low, unit) & 0x7FFFFFFF for unit in range(40)]
            assert got[row].tolist() == [h < round(p * 2**31) for h in hashed]


@pytest.mark.parametrize("p", [0.1, 0.6, 0.9, 0.99])
def test_the_share_kept_is_p_of_samples_and_of_units(p: float):
    n, units = 1024, 2048
    mask = kept(p, units, torch.arange(n), seed=1).double()
    for share, count in ((mask.mean(), n * units), (mask.mean(0), n), (mask.mean(1), units)):
        assert ((share - p).abs() < 5 * math.sqrt(p * (1 - p) / count)).all()


def test_what_is_kept_is_divided_by_p_so_that_the_mean_stays():
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 2
    keys = unit_keys(0, 0, 1, torch.arange(64))[0]
    out = drop_units(x, keys, 0.8)
    assert torch.equal(out[out != 0], (x * (1 / 0.8))[out != 0])
    error = ((0.2 / 0.8) * x.square().mean() / x.numel()).sqrt()
    assert abs(out.mean() - x.mean()) < 5 * error
    x.requires_grad_()
    drop_units(x, keys, 0.8).sum().backward()
    assert torch.equal(x.grad, (out != 0) * torch.tensor(1 / 0.8))  # type: ignore[arg-type]


def test_samples_places_steps_and_seeds_are_independent():
    units = 1 << 14
    masks = [*signs(units, torch.arange(12))]
    masks += [signs(units, torch.arange(1), place=place)[0] for place in (1, 2)]
    masks += [signs(units, torch.arange(1), step=step)[0] for step in (1, 2, 3, 2**31)]
    masks += [signs(units, torch.arange(1), seed=seed)[0] for seed in (1, 2, 2**32)]
    for a, b in combinations(masks, 2):
        assert abs(float((a * b).mean()) * math.sqrt(units)) < 5
    for lag in (1, 2, 8, 32, 64, 1024):
        for a in masks[:4]:
            assert abs(float((a[lag:] * a[:-lag]).mean()) * math.sqrt(units - lag)) < 5


def test_no_samples_mask_is_anothers_with_its_units_permuted():
    """Under a key whose words differ in the first alone, unit u of one sample would be unit u ^ d
    of another: their correlation at every d, by the Walsh-Hadamard transform."""
    units = 1024
    walsh = hadamard(units).astype(np.float64)
    spectra = signs(units, torch.arange(40)).double().numpy() @ walsh
    for a, b in combinations(spectra, 2):
        correlation = (a * b) @ walsh / units**2
        assert np.abs(correlation).max() * math.sqrt(units) < 6.5  # of 798,720
    index = torch.arange(2)
    weak = unit_keys(0, 0, 1, index)[0]
    weak[1] = weak[1, 0]
    weak[0] &= units - 1
    bad = (2.0 * (drop_units(torch.ones(2, units), weak, 0.5) != 0) - 1).double().numpy() @ walsh
    assert ((bad[0] * bad[1]) @ walsh).max() / units**2 == 1  # the test sees it


def test_a_samples_mask_is_the_same_in_any_batch_and_on_any_rank():
    index = torch.tensor([7, 0, 300, 12, 41, 2])
    whole = kept(0.9, 500, index, step=4)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(kept(0.9, 500, index[order], step=4), whole[order])
    for rank in (0, 1):
        assert torch.equal(kept(0.9, 500, index[rank::2], step=4), whole[rank::2])


def test_neither_chunks_nor_strides_nor_the_random_state_matter(monkeypatch: pytest.MonkeyPatch):
    x = torch.randn(5, 4, 6, 6)
    keys, before = unit_keys(0, 0, 1, torch.arange(5))[0], torch.get_rng_state()
    out = drop_units(x, keys, 0.6)
    last = drop_units(x.contiguous(memory_format=torch.channels_last), keys, 0.6)
    assert torch.equal(last, out) and last.is_contiguous(memory_format=torch.channels_last)
    half = drop_units(x.bfloat16(), keys, 0.6)
    assert half.dtype == torch.bfloat16 and torch.equal(half == 0, out == 0)
    for size in (1, 300):
        monkeypatch.setitem(rng.CHUNK, "cpu", size)
        assert torch.equal(drop_units(x, keys, 0.6), out)
    assert torch.equal(torch.get_rng_state(), before)


def network(p: float = 0.7) -> tuple[nn.Module, UnitDropout]:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 50), nn.Identity(), nn.Linear(50, 2)]
    model = nn.Sequential(*layers)
    dropout = UnitDropout(p, seed=3)
    dropout.hook(model[1], "output")
    dropout.hook(model[4], "input")
    return model, dropout


def by_hand(model: Any, dropout: UnitDropout, x: Tensor, index: Tensor, step: int) -> Tensor:
    """The network written out, without its hooks and with keys of its own."""
    keys = unit_keys(3, step, 2, index)
    first, second, last = (partial(F.linear, weight=m.weight, bias=m.bias) for m in model[::2])
    hidden = drop_units(torch.relu(first(x)), keys[0], dropout.p)
    return last(drop_units(second(hidden), keys[1], dropout.p))


def test_units_are_dropped_at_the_hooked_places_in_training_alone():
    model, dropout = network()
    x, index, names = torch.randn(8, 6), torch.arange(8), list(model.state_dict())
    dropout.prepare(index, 5)
    assert torch.equal(model(x), by_hand(model, dropout, x, index, 5))
    plain = network(1)[0](x)
    assert not torch.equal(model(x), plain) and torch.equal(model.eval()(x), plain)
    assert list(model.state_dict()) == names


def test_a_forward_pass_that_reads_fixed_memory_gets_every_steps_masks():
    """As a CUDA graph does: a trace holds the very tensors that were there, with a batch of another
    size in between."""
    model, dropout = network()
    x, index = torch.randn(8, 6), torch.arange(8)
    dropout.prepare(index, 0)
    replay = make_fx(lambda x: model(x))(x)
    for step in range(1, 4):
        dropout.prepare(index[:3], step)
        assert torch.equal(model(x[:3]), by_hand(model, dropout, x[:3], index[:3], step))
        dropout.prepare(index + step, step)
        assert torch.equal(replay(x), by_hand(model, dropout, x, index + step, step))


def test_a_compiled_network_is_compiled_once_and_draws_the_same_masks():
    model, dropout = network()
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compilations.append(graph)
        return graph.forward

    twin, _ = network()
    compile_forward(model, backend=backend)
    x, index = torch.randn(8, 6), torch.arange(8)
    for step in range(4):
        dropout.prepare(index, step)
        assert torch.equal(model(x), by_hand(twin, dropout, x, index, step))
        dropout.prepare(index[:5], step)
        with torch.compiler.set_stance("force_eager"):
            assert torch.equal(model(x[:5]), by_hand(twin, dropout, x[:5], index[:5], step))
    assert len(compilations) == 1


@pytest.mark.slow
def test_a_kernel_draws_the_same_masks():
    x, compiled = torch.randn(16, 8, 9, 9), torch.compile(drop_units, fullgraph=True)
    for step in range(3):
        keys = unit_keys(0, step, 1, torch.arange(16))[0]
        assert torch.equal(compiled(x, keys, 0.9), drop_units(x, keys, 0.9))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_drop_the_same_units():
    x, index = torch.randn(16, 8, 33, 33), torch.arange(16)
    here = drop_units(x, unit_keys(1, 2, 4, index)[3], 0.9)
    there = drop_units(x.cuda(), unit_keys(1, 2, 4, index.cuda())[3], 0.9)
    assert torch.equal(here == 0, (there == 0).cpu())
