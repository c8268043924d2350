"""Schedules: the paper's epochs, whatever the run's length, through torch's own scheduler."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
)

from lrd.schedules import Constant, Cosine, Poly, PSchedule, Schedule, Steps, Warmup


def rates(schedule: Schedule, total: int) -> list[float]:
    return [0.1 * schedule(step, total) for step in range(total)]


def torchs(make: type, total: int, **settings: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, out = make(optimizer, **settings), []
    for _ in range(total):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


def test_constant():
    assert rates(Constant(), 5) == [0.1] * 5


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 391])
def test_the_papers_milestones_fall_on_epochs_100_and_150(steps_per_epoch: int):
    total, schedule = 200 * steps_per_epoch, Steps([0.75, 0.5])
    changes = [s for s in range(1, total) if schedule(s, total) != schedule(s - 1, total)]
    assert changes == [100 * steps_per_epoch, 150 * steps_per_epoch]
    ours = rates(schedule, total)
    assert ours == pytest.approx(torchs(MultiStepLR, total, milestones=changes))


def test_fractions_of_a_third_fall_on_whole_epochs_too():
    """SSD's 2/3 and 5/6 of the run, which no float represents."""
    schedule = Steps([2 / 3, 5 / 6])
    changes = [s for s in range(1, 1200) if schedule(s, 1200) != schedule(s - 1, 1200)]
    assert changes == [800, 1000]


@pytest.mark.parametrize(("warmup", "total", "first"), [(0.05, 100, 5), (0.25, 8, 2), (0, 4, 1)])
def test_warmup_is_torchs_linear_rise(warmup: float, total: int, first: int):
    """torch starts at start_factor and has all of it after total_iters steps."""
    start = {"start_factor": 1 / first, "total_iters": first - 1}
    assert rates(Warmup(warmup), total) == pytest.approx(torchs(LinearLR, total, **start))


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_is_torchs(floor: float):
    expected = torchs(CosineAnnealingLR, 50, T_max=50, eta_min=0.1 * floor)
    assert rates(Cosine(floor=floor), 50) == pytest.approx(expected)


def test_a_cosine_after_a_warmup_is_both_one_after_the_other():
    ours = rates(Cosine(warmup=0.2, floor=0.1), 50)
    assert ours[:10] == pytest.approx(rates(Warmup(0.2), 50)[:10])
    assert ours[10:] == pytest.approx(rates(Cosine(floor=0.1), 40))
    assert ours[9] == ours[10] == 0.1


def test_poly_is_torchs():
    ours = rates(Poly(0.9), 50)
    assert ours == pytest.approx(torchs(PolynomialLR, 50, total_iters=50, power=0.9))
    assert Poly(0.9)(50, 50) == 0 == Poly(0.9)(51, 50)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (Steps([0.5, 0.75], warmup=0.1), (MultiStepLR, {"milestones": [20, 30]})),
        (Poly(0.9, warmup=0.1), (PolynomialLR, {"total_iters": 40, "power": 0.9})),
    ],
)
def test_a_warmup_multiplies_the_schedule(schedule: Schedule, theirs: tuple[type, dict[str, Any]]):
    rise = torchs(LinearLR, 40, start_factor=1 / 4, total_iters=3)
    make, settings = theirs
    fall = torchs(make, 40, **settings)
    assert rates(schedule, 40) == pytest.approx(
        [r * f / 0.1 for r, f in zip(rise, fall, strict=True)]
    )


@pytest.mark.parametrize("make", [Warmup, Cosine, Steps, Poly])
def test_a_warmup_is_a_fraction_of_the_run(make: Callable[..., Schedule]):
    with pytest.raises(ValueError, match=r"schedule.warmup must be .* \[0, 1\), got 500"):
        make(warmup=500)


def test_it_drives_torchs_lambda_scheduler():
    schedule = Steps([0.5])
    got = torchs(LambdaLR, 10, lr_lambda=lambda step: schedule(step, 10))
    assert got == pytest.approx([0.1] * 5 + [0.01] * 5)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"schedule.milestones must be fractions.*got \[100\]"):
        Steps([100])
    with pytest.raises(ValueError, match="schedule.power must be above 0, got 0"):
        Poly(0)


@pytest.mark.parametrize(("p", "end"), [(0.5, 1.0), (1.0, 0.3), (0.2, 0.7), (0.1, 1e-12)])
def test_a_linear_and_a_cosine_p_are_torchs_rates(p: float, end: float):
    """torch's schedulers of a rate of 0.1, read as p; and both by hand at a few steps."""
    linear, cosine = (PSchedule(p, end, s) for s in ("linear", "cosine"))
    line = torchs(LinearLR, 40, start_factor=1.0, end_factor=0.5, total_iters=40)
    wave = torchs(CosineAnnealingLR, 40, T_max=40, eta_min=0.05)
    for keep, rates_there in ((linear, line), (cosine, wave)):
        way = [(0.1 - rate) / 0.05 for rate in rates_there]
        got = [keep(step, 40) for step in range(40)]
        assert got == pytest.approx([p + (end - p) * w for w in way], abs=1e-9)
        assert all(0 < q <= 1 for q in got)
        assert (keep(0, 40), keep(20, 40)) == (p, pytest.approx((p + end) / 2))
        assert keep(40, 40) == pytest.approx(end, abs=1e-15)
    assert linear(10, 40) == pytest.approx(0.75 * p + 0.25 * end)
    assert cosine(10, 40) == pytest.approx(p + (end - p) * (1 - 0.5**0.5) / 2)


def test_a_constant_p_is_p_to_the_bit_and_the_default():
    for p in (0.1, 0.3, 0.7, 1.0):
        assert {PSchedule(p)(step, 77) for step in range(78)} == {p}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_p_stays_in_its_range_to_the_last_of_many_steps(schedule: str):
    total = 10**9
    for p, end in ((0.3, 1.0), (1.0, 1e-9), (1e-9, 1.0), (1.0, 1.0)):
        keep = PSchedule(p, end, schedule)
        assert all(0 < keep(step, total) <= 1 for step in (0, 1, total // 3, total - 1))
    assert PSchedule(1.0, 1.0, schedule)(total // 3, total) == 1
