"""The training loops of the benchmarks, and the operations that they compute."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from scripts.benchmarks.datasets import torchvision_dataset
from scripts.benchmarks.measure import Options
from scripts.benchmarks.scaling import equal_sizes
from scripts.benchmarks.training_loop import flops_per_image
from scripts.benchmarks.workloads import Workload, lrd_loop, plain_loop, train_plain_epoch
from tasks.models.fcnet import FCNet


def test_the_plain_loop_trains():
    torch.manual_seed(0)
    model = FCNet((1, 28, 28), 10, hidden=[64])
    data = torchvision_dataset("mnist", "", 96)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    loader = DataLoader(data, 32, shuffle=True)

    def epoch(steps: int | None = None) -> dict[str, float]:
        return train_plain_epoch(model, optimizer, loader, torch.device("cpu"), steps)

    first, *_, last = (epoch() for _ in range(30))
    assert first["images"] == last["images"] == 96
    assert last["loss"] < 0.5 * first["loss"] and last["accuracy"] > 80
    assert epoch(steps=2)["images"] == 64


def toy(**changes: Any) -> Workload:
    made = Workload.of(Options(quick=True), "mnist", "fcnet")
    return replace(made, **changes)


def test_a_turn_of_the_lrd_loop_is_an_epoch_or_its_first_steps():
    turn = lrd_loop(toy(), ["train=paper"])
    for steps, images in ((3, 96), (None, 256), (3, 96)):
        done = turn(steps)
        assert done.images == pytest.approx(images)
        assert 0 < done.seconds < done.total_seconds
    assert done.record["implementation"] == "fused"


@pytest.mark.parametrize("naive", [False, True])
def test_a_turn_of_the_plain_loop_is_an_epoch_or_its_first_steps(naive: bool):
    turn = plain_loop(toy(), naive, 0)
    assert [turn(steps).images for steps in (3, None)] == [96, 256]


def test_the_plain_loop_sets_no_switches_of_ours(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any) -> None:
        raise AssertionError("lrd.build sets switches of torch for the whole process")

    monkeypatch.setattr("lrd.training.builder.build", refuse)
    plain_loop(toy(), False, 0)


@pytest.mark.parametrize("exact", [False, True])
def test_the_plain_loop_has_torchs_switches_or_those_of_train_paper(exact: bool):
    """The comparison of equal arithmetic is a row of its own."""
    cudnn = torch.backends.cudnn
    cudnn.benchmark = cudnn.allow_tf32 = exact  # neither as it shall be
    plain_loop(toy(), False, 0, exact)
    assert (cudnn.benchmark, cudnn.allow_tf32) == (not exact, not exact)
    lrd_loop(toy(), ["train=paper"])
    assert (cudnn.benchmark, cudnn.allow_tf32) == (False, False)


def test_operations_equal_a_count_by_hand():
    weights = [784 * 32, 32 * 10]
    by_hand = 2 * (3 * sum(weights) - weights[0])  # the images need no gradient
    assert flops_per_image(toy()) == by_hand


def test_a_sweep_divides_the_same_number_among_its_tensors():
    for tensors in (1, 5, 500):
        sizes = equal_sizes(5_000_000, tensors)
        assert len(sizes) == tensors and sum(s.numel() for s in sizes) == 5_000_000
