"""Schedules: the paper's epochs, whatever the run's length, through torch's own scheduler."""

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, PolynomialLR

from lrd.schedules import Constant, Poly, Schedule, Steps


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


def test_poly_is_torchs():
    ours = rates(Poly(0.9), 50)
    assert ours == pytest.approx(torchs(PolynomialLR, 50, total_iters=50, power=0.9))
    assert Poly(0.9)(50, 50) == 0 == Poly(0.9)(51, 50)


def test_it_drives_torchs_lambda_scheduler():
    schedule = Steps([0.5])
    got = torchs(LambdaLR, 10, lr_lambda=lambda step: schedule(step, 10))
    assert got == pytest.approx([0.1] * 5 + [0.01] * 5)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"schedule.milestones must be fractions.*got \[100\]"):
        Steps([100])
    with pytest.raises(ValueError, match="schedule.power must be above 0, got 0"):
        Poly(0)
