"""The mask: reproducible to the bit, and statistically what Bernoulli(p) should be."""

import math

import pytest
import torch
from scipy import stats

from lrd.optim.masks import count_kept, keep_bits, keep_mask, unit_size
from lrd.optim.options import GRANULARITIES
from lrd.rng import fold_key, mix, randint, random_bits, rounds, to_int32

N = 1 << 20


GOLDEN_KEYS = [
    0,
    0xE220A8397B1DCDAF,  # SplitMix64's first output from state 0, as published
    12035550249420947055,
    15020427595393229491,
    10363037128667637230,
]
GOLDEN_MASK = 6920599992000397722
GOLDEN_COUNT = 2985


def python_bits(word: int, index: int) -> int:
    """The hash written out in plain Python integers, modulo 2**32."""
    low = 0xFFFFFFFF
    x = (index & low) ^ (word & low)
    x = (x ^ x >> 17) * 0xED5AD4BB & low
    x ^= word >> 32
    x = (x ^ x >> 11) * 0xAC4C1B51 & low
    x = (x ^ x >> 15) * 0x31848BAB & low
    return x ^ x >> 14


def spread(seed: int, step: int, start: int = 0, count: int = N) -> torch.Tensor:
    """The p = 0.5 mask as +1 and -1."""
    return 2.0 * keep_mask(seed, step, 0.5, start=start, count=count) - 1


def z(a: torch.Tensor, b: torch.Tensor) -> float:
    """Standard normal under independence of two +-1 sequences."""
    return float((a * b).mean() * math.sqrt(len(a)))


def test_tensor_hash_agrees_with_plain_python():
    indices = [0, 1, 2, 63, 12345, 2**31 - 1, 2**31, 2**32 - 1]
    for word in (0, 1, fold_key(0, 0), fold_key(7, 11), 2**64 - 1):
        signed = [i - 2**32 if i >= 2**31 else i for i in indices]
        got = mix(torch.tensor(signed, dtype=torch.int32), word).tolist()
        assert [g & 0xFFFFFFFF for g in got] == [python_bits(word, i) for i in indices]


def test_golden_bits_never_change():
    """Pinned: a change here voids every published run."""
    assert [
        fold_key(),
        fold_key(0),
        fold_key(0, 0),
        fold_key(1, 2, 3),
        fold_key("order", 1, 2),
    ] == GOLDEN_KEYS
    mask = keep_mask(3, 14, 0.5, start=15, count=64)
    assert sum(int(b) << i for i, b in enumerate(mask)) == GOLDEN_MASK
    assert int(keep_mask(0, 0, 0.3, start=2**33 + 5, count=10_000).sum()) == GOLDEN_COUNT


def test_mask_depends_on_the_global_index_and_not_on_the_division():
    whole = keep_mask(5, 9, 0.4, start=100, count=1000)
    parts = [keep_mask(5, 9, 0.4, start=a, count=b - a) for a, b in ((100, 101), (101, 1100))]
    assert torch.equal(whole, torch.cat(parts))


def test_index_has_64_bits_and_the_high_word_counts():
    edge = 2**32
    across = random_bits(1, 2, start=edge - 3, count=6, device="cpu")
    apart = [random_bits(1, 2, start=edge + i, count=1, device="cpu") for i in range(-3, 3)]
    assert torch.equal(across, torch.cat(apart))
    low, high = spread(1, 2), spread(1, 2, start=edge)
    assert abs(z(low, high)) < 5


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_share_kept_is_p(p: float):
    for seed, step in ((0, 0), (0, 1), (1, 0), (2**40, 10**6)):
        kept = int(keep_mask(seed, step, p, start=0, count=N).sum())
        assert abs(kept - N * p) < 5 * math.sqrt(N * p * (1 - p))


def test_p_is_honoured_to_2_to_the_minus_31():
    """An element is kept exactly from p = (u + 1) / 2**31 on, u its 31 random bits."""
    word = fold_key(0, 0, 0)
    for index in range(200):
        u = python_bits(word, index) & 0x7FFFFFFF
        just, below = (u + 1) / 2**31, u / 2**31
        if below > 0:
            assert not keep_mask(0, 0, below, start=index, count=1).item()
        assert just == 1 or keep_mask(0, 0, just, start=index, count=1).item()


def test_a_tiny_and_a_nearly_whole_p_stay_inside():
    assert keep_mask(0, 0, 1e-12, start=0, count=N).sum() <= 1
    assert keep_mask(0, 0, 1 - 1e-12, start=0, count=N).sum() >= N - 1
    assert keep_mask(0, 0, 1.0, start=0, count=N).all()


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 16, 32, 64, 100, 128, 256, 1000, 1024, 4096])
def test_neighbours_at_a_lag_are_independent(lag: int):
    for step in range(8):
        m = spread(0, step)
        assert abs(z(m[lag:], m[:-lag])) < 5


def test_steps_seeds_and_parameters_are_independent():
    first = spread(0, 0)
    others = [spread(0, s) for s in (*range(1, 17), 64, 128, 1000, 2**31, 2**32)]
    others += [spread(s, 0) for s in (*range(1, 17), 64, 2**32, 2**63)]
    others += [spread(0, 0, start=k * N) for k in range(1, 9)]
    assert max(abs(z(first, other)) for other in others) < 5


def test_consecutive_steps_are_independent_at_every_lag():
    """A key that is merely added would make one step's mask the shifted mask of another."""
    a, b = spread(0, 10)[: 1 << 17], spread(0, 11)[: 1 << 17]
    correlation = torch.fft.irfft(torch.fft.rfft(a).conj() * torch.fft.rfft(b), n=len(a))
    assert float(correlation.abs().max()) / math.sqrt(len(a)) < 6  # 131,072 lags


def test_patterns_of_16_neighbours_are_uniform():
    for step in range(4):
        mask = keep_mask(0, step, 0.5, start=0, count=16 * N)
        patterns = (mask.view(-1, 16) * 2 ** torch.arange(16)).sum(1)
        counts = torch.bincount(patterns, minlength=1 << 16)
        assert 1e-6 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-6


def test_patterns_of_one_element_over_16_steps_are_uniform():
    masks = torch.stack([keep_mask(0, s, 0.5, start=0, count=N) for s in range(16)], 1)
    counts = torch.bincount((masks * 2 ** torch.arange(16)).sum(1), minlength=1 << 16)
    assert 1e-6 < stats.chisquare(counts.numpy()).pvalue < 1 - 1e-6


def test_every_output_bit_is_fair_and_reacts_to_every_input_bit():
    index = torch.arange(1 << 15, dtype=torch.int32) * 0x5851F42D  # no two differ by one bit only
    for word in (fold_key(0, 0, 0), fold_key(0, 1, 0)):
        base = mix(index.clone(), word)
        for flipped in range(32):
            other = mix(index ^ (1 << flipped if flipped < 31 else -(2**31)), word)
            change = (base ^ other)[:, None] >> torch.arange(32) & 1
            shares = change.double().mean(0)
            assert ((shares - 0.5).abs() < 5 * 0.5 / math.sqrt(len(index))).all(), flipped


def test_torchs_random_state_is_left_alone():
    before = torch.get_rng_state()
    keep_mask(0, 0, 0.5, start=0, count=100)
    randint(torch.arange(10), 3, "word", 1)
    assert torch.equal(before, torch.get_rng_state())


def test_draw_is_uniform_and_a_function_of_the_index():
    index = torch.arange(90_000)
    drawn = randint(index, 9, "crop", 0, 1)
    assert 1e-6 < stats.chisquare(torch.bincount(drawn, minlength=9).numpy()).pvalue
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    assert torch.equal(randint(index[order], 9, "crop", 0, 1), drawn[order])
    assert not torch.equal(randint(index, 9, "crop", 0, 2), drawn)


@pytest.mark.parametrize("count", [0, 1, (1 << 22) + 5])
def test_kept_elements_are_counted_by_the_mask(count: int):
    expected = int(keep_mask(5, 9, 0.3, start=3, count=count).sum())
    assert count_kept(5, 9, 0.3, start=3, count=count) == expected
    assert count_kept(5, 9, 1.0, start=3, count=count) == count


@pytest.mark.parametrize("start", [0, 17, 2**32 - 10, 2**33 - 1])
@pytest.mark.parametrize("every", [1, 2, 27, 2**20 + 3, 2**31 - 1, 2**31 + 5, 2**32, 2**33 + 1])
def test_every_so_many_of_the_indices(start: int, every: int):
    ours = random_bits(5, 9, start=start, count=20, device="cpu", every=every)
    apart = [random_bits(5, 9, start=start + k * every, count=1, device="cpu") for k in range(20)]
    assert torch.equal(ours, torch.cat(apart))


def test_units_are_rows_of_the_first_dimension_or_the_whole():
    sizes = {
        (64, 3, 7, 7): (1, 147, 9408),
        (10, 20): (1, 20, 200),
        (5,): (1, 1, 5),
        (): (1, 1, 1),
        (0, 4): (1, 4, 1),
        (4, 0): (1, 1, 1),
    }
    for shape, expected in sizes.items():
        assert tuple(unit_size(shape, g) for g in GRANULARITIES) == expected


@pytest.mark.parametrize("unit", [1, 3, 250])
def test_elements_kept_by_units_are_counted_by_their_first_ones(unit: int):
    whole = keep_mask(5, 9, 0.3, start=2**32 - 300, count=750)
    assert count_kept(5, 9, 0.3, start=2**32 - 300, count=750, unit=unit) == unit * int(
        whole[::unit].sum()
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_draw_the_same_bits():
    here = keep_bits(1, 2, 0.37, start=2**32 - 1000, count=N, device="cpu")
    there = keep_bits(1, 2, 0.37, start=2**32 - 1000, count=N, device="cuda")
    assert torch.equal(here, there.cpu())


@pytest.mark.slow
def test_a_compiled_kernel_draws_the_same_bits():
    def hashed(index: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return rounds(index.clone(), low, high)

    index, compiled = torch.arange(N, dtype=torch.int32), torch.compile(hashed)
    for step in range(3):
        word = fold_key(0, step, 0)
        halves = (torch.tensor(to_int32(w), dtype=torch.int32) for w in (word, word >> 32))
        assert torch.equal(compiled(index, *halves), mix(index.clone(), word))
