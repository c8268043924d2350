"""Inside an epoch nothing waits for the device, but for what is listed here with its reason."""

import pytest
import torch

from lrd.optim import LRDropout
from lrd.optim.masks import keep_mask
from tests.simulated_gpu.plugin import gpu
from tests.simulated_gpu.runs import Command, Events, few_images, in_epochs, needs_data, train

__all__ = ["few_images", "in_epochs"]
pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("few_images")]

DIGITS = ("task=digits", "model.hidden=[16]", "train.max_steps=19")
RUNS = {
    "adam": (*DIGITS, "train.cuda_graph=true"),
    "radam": (*DIGITS, "optim=radam", "regularizer=[nl,ng,sd]", "lrd.granularity=row"),
    "rmsprop": (*DIGITS, "optim=rmsprop_authors", "regularizer=dg", "train.clip_norm=1"),
    "cifar10": (
        *("task=cifar10", "model=resnet8", "+dataset.subset=36", "dataset.holdout=20"),
        *("train.batch_size=8", "train.max_steps=12", "optim=sgdm"),
    ),
    "shapes_seg": ("task=shapes_seg", "train.batch_size=2", "dataset.crop=33", "train.max_steps=4"),
    "shapes_det": ("task=shapes_det", "train.batch_size=2", "train.max_steps=4"),
    "toy": ("task=toy", "train.epochs=2"),
}


# Files, functions or threads that may wait, by the run and with the reason.
ALLOWED = {
    # Before it captures, torch waits for the device: once a run.
    ("adam", "lrd/training/cuda_graphs.py:GraphedStep._capture"),
    # SSD selects matched priors and negatives by masks, whose counts the host needs.
    ("shapes_det", "tasks/models/ssd.py"),
    ("shapes_det", "another thread"),  # their backward pass
}


@pytest.mark.parametrize("name", RUNS)
def test_nothing_inside_an_epoch_waits(name: str, cli: Command, in_epochs: Events):
    needs_data(name)
    train(cli, "runs", *RUNS[name], "train.device=cuda")
    allowed = tuple(place for run, place in ALLOWED if run == name)
    waits = {e: n for e, n in in_epochs.items() if e[0] not in ("CAPTURE", "REPLAY")}
    assert {e: n for e, n in waits.items() if not e[1].startswith(allowed)} == {}


def test_the_share_of_kept_elements_is_read_at_once():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).cuda()
    optimizer = LRDropout(torch.optim.Adam(layers.parameters()), p=0.5, seed=3)
    with gpu.watch() as events:
        share = optimizer.fraction_kept()
    assert sum(n for (kind, _), n in events.items() if kind.startswith("WAIT")) == 1
    assert share == float(keep_mask(3, -1, 0.5, start=0, count=26).double().mean())
