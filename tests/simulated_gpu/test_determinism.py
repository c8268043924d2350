"""Every task trains under ``train.deterministic``: torch refuses none of its operations.

torch's CUDA code refuses an operation on the host, before it launches a kernel. So it is asked for
every operation of a run that may be nondeterministic on a GPU.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.simulated_gpu.plugin import gpu
from tests.simulated_gpu.runs import Command, few_images, train

__all__ = ["few_images"]
pytestmark = [pytest.mark.simulated, pytest.mark.usefixtures("few_images")]

RUNS = {
    "digits": ("task=digits", "model.hidden=[16]", "regularizer=[nl,ng,sd]"),
    "resnet": ("task=digits", "model=resnet8", "train.batch_size=32", "dataset.holdout=1397"),
    "shapes_seg": ("task=shapes_seg", "train.batch_size=2", "dataset.crop=33"),
    "shapes_det": ("task=shapes_det", "train.batch_size=2"),
    "toy": ("task=toy", "train.epochs=1"),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "asks_kernels", True)


@pytest.mark.parametrize("name", RUNS)
def test_a_task_trains_deterministically(name: str, cli: Command, asked: None):
    arguments = (*RUNS[name], "train.max_steps=2", "train.deterministic=true")
    assert len(train(cli, "gpu", *arguments, "train.device=cuda").metrics) == 1


REFUSED: dict[str, Callable[[torch.Tensor], Any]] = {
    "loss of maps": lambda x: F.cross_entropy(x, x[:, 0].long()),
    "averages of a grid": lambda x: F.adaptive_avg_pool2d(x, 3).sum().backward(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_torch_refuses_what_the_tasks_avoid(name: str, asked: None):
    torch.use_deterministic_algorithms(True)
    x = torch.zeros(2, 3, 9, 9, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="deterministic"):
        REFUSED[name](x)
