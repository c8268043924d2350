"""A rank of a sharded training; ``torchrun --nproc-per-node 2 sharded_worker.py OUT KIND ...``.

Rank zero saves, per step, the whole weights and whether each element moved.
"""

import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

from lrd import LRDropout

OPTIMIZERS: dict[str, Any] = {
    "adam": lambda q: torch.optim.Adam(q, lr=0.05),
    "momentum": lambda q: torch.optim.SGD(q, lr=0.05, momentum=0.9),
    "nadam": lambda q: torch.optim.NAdam(q, lr=0.05),
}
STEPS = 6


def network() -> nn.Sequential:
    """With odd sizes: shards are uneven, and one rank has none of the last bias."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1))


def shard(model: nn.Sequential, layout: str) -> None:
    """Shard rows as FSDP2 does, or columns as tensor parallelism does, or replicate."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if layout == "rows":
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return
    for layer in model:
        for name, param in list(layer.named_parameters()):
            columns = layout == "columns" and param.dim() == 2
            part = distribute_tensor(param.detach(), mesh, [Shard(1) if columns else Replicate()])
            setattr(layer, name, nn.Parameter(part))


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def gradients(model: nn.Module, step: int) -> None:
    """The same gradients on any number of ranks, whatever the layout."""
    for number, param in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(100 * step + number)
        grad = torch.randn(param.shape, generator=generator)
        if isinstance(param, DTensor):
            param.grad = distribute_tensor(grad, param.device_mesh, param.placements)
        else:
            param.grad = grad


def train(layout: str, name: str, implementation: str, granularity: str) -> list[list[Tensor]]:
    """Weights after each step. Halfway the optimizer goes through a checkpoint."""

    def made(p: float, seed: int) -> LRDropout:
        base = OPTIMIZERS[name](model.parameters())
        return LRDropout(base, p, seed, implementation, granularity)

    model = network()
    if layout != "whole":
        shard(model, layout)
    optimizer, trace = made(0.4, 3), []
    for step in range(STEPS):
        if step == STEPS // 2:
            saved = get_optimizer_state_dict(model, optimizer)
            optimizer = made(0.9, 99)
            set_optimizer_state_dict(model, optimizer, saved)
        gradients(model, step)
        optimizer.step()
        trace.append([whole(param) for param in model.parameters()])
    assert optimizer.path == ("snapshot" if name == "nadam" else implementation), optimizer.path
    return trace


def main(out: str, *cases: str) -> None:
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    traces = {case: train(*case.split(",")) for case in cases}
    if dist.get_rank() == 0:
        torch.save(traces, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
