"""A run that is stopped in the middle of an epoch and resumed: its numbers, waits and graphs."""

import pytest
import torch

from lrd.training.trainer import Trainer
from tests.simulated_gpu.runs import (
    Command,
    Events,
    assert_equal,
    few_images,
    in_epochs,
    stop_after,
    train,
)

__all__ = ["few_images", "in_epochs"]
pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("few_images")]

DIGITS = ("task=digits", "model.hidden=[16]", "train.max_steps=19")  # 12 steps an epoch
GRAPH = "train.cuda_graph=true"
# The run, and the step after which it stops; after 11 the next batch is the small one of the end.
RUNS = {
    "adam": ((*DIGITS, "optim=adam", GRAPH), 11),
    "radam": ((*DIGITS, "optim=radam", "lrd.implementation=snapshot"), 5),
    "rmsprop": ((*DIGITS, "optim=rmsprop", "lrd.implementation=snapshot", "regularizer=sd"), 5),
    "nadam": ((*DIGITS, "optim._target_=torch.optim.NAdam", GRAPH), 14),
    "bf16": ((*DIGITS, "train.precision=bf16", "train.accumulate=2", "regularizer=nl"), 14),
    "shapes_det": (("task=shapes_det", "train.batch_size=2", "train.max_steps=4"), 3),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, cli: Command, in_epochs: Events, monkeypatch: pytest.MonkeyPatch
):
    arguments, stop = RUNS[name]
    devices: list[dict[str, set[str]]] = []
    end_epoch = Trainer._end_epoch

    def end(self: Trainer, began: float) -> None:
        devices.append(_devices(self))
        end_epoch(self, began)

    monkeypatch.setattr(Trainer, "_end_epoch", end)
    whole = train(cli, "whole", *arguments, "train.device=cuda")
    of_whole = dict(in_epochs)
    in_epochs.clear()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, stop)
        train(cli, "parts", *arguments, "train.device=cuda", status=130)
    in_epochs.clear()
    parts = train(cli, "parts", *arguments, "train.device=cuda")
    assert_equal(whole, parts)
    kinds = {kind for kind, _ in of_whole}
    assert {kind for kind, _ in in_epochs} <= kinds, in_epochs
    assert all(each == devices[0] for each in devices), devices
    assert any(kind == "REPLAY" for kind in kinds) == (GRAPH in arguments)
    assert any(kind == "REPLAY" for kind, _ in in_epochs) == (GRAPH in arguments)


def _devices(trainer: Trainer) -> dict[str, set[str]]:
    """Return where the optimizer's state lies, by its names."""
    found: dict[str, set[str]] = {}
    for state in trainer.optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                found.setdefault(name, set()).add(value.device.type)
    return found
