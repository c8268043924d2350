"""An optimizer over tensors of its own, and the memory that its step takes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks import optimizers as opt
from benchmarks.memory import in_use
from lrd.optim.lr_dropout import LRDropout


@dataclass
class Subject:
    """An optimizer over parameters of its own that have gradients."""

    params: list[torch.nn.Parameter]
    optimizer: opt.Steps

    @staticmethod
    def of(
        name: str, form: str, sizes: list[torch.Size], device: torch.device, p: float = opt.P
    ) -> "Subject":
        params = opt.parameters(sizes, device)
        opt.lay_out(form, params)
        opt.give_gradients(params)
        return Subject(params, opt.make(name, form, params, p))


def step_memory(
    name: str, form: str, sizes: list[torch.Size], device: torch.device
) -> tuple[float, float]:
    """Bytes a parameter beyond parameters and gradients: state and scratch of a step, and the peak
    of the first three steps, in which state is made and moved."""
    params = opt.parameters(sizes, device)
    opt.lay_out(form, params)
    opt.give_gradients(params)
    steady, at_first = in_use(lambda: opt.make(name, form, params).step, device)
    count = sum(size.numel() for size in sizes)
    return steady / count, at_first / count


def check_path(subjects: Mapping[str, Subject]) -> None:
    """What was timed as the single pass must have been it."""
    if opt.SINGLE in subjects:
        lrd = subjects[opt.SINGLE].optimizer
        assert isinstance(lrd, LRDropout) and lrd.path == "single_pass", "no single pass was taken"
