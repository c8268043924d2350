"""Single parts on the simulated GPU: the optimizer's step, a checkpoint."""

from pathlib import Path

import pytest
import torch

from lrd.optim import LRDropout
from lrd.training.checkpoint import CheckpointWriter, load_checkpoint
from tests.simulated_gpu.plugin import gpu

pytestmark = pytest.mark.simulated


def trained(device: str, implementation: str) -> tuple[list[torch.Tensor], LRDropout]:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(n, generator=generator, device="cpu") for n in (700, 3, 1300)]
    params = [x.to(device).requires_grad_() for x in starts]
    base = torch.optim.AdamW(params, lr=0.1, weight_decay=0.1)
    optimizer = LRDropout(base, p=0.3, seed=5, implementation=implementation)
    for _ in range(4):
        optimizer.zero_grad()
        sum(p.square().sum() for p in params).backward()  # type: ignore[union-attr]
        optimizer.step()
    return [p.detach().cpu() for p in params], optimizer


@pytest.mark.parametrize("implementation", ["fused", "snapshot", "reference"])
@pytest.mark.parametrize("default", ["cpu", "cuda"])
def test_a_step_is_that_of_a_cpu_and_waits_for_nothing(implementation: str, default: str):
    """Triton's kernels, interpreted; also with new tensors on the GPU by default."""
    here, _ = trained("cpu", implementation)
    torch.set_default_device(default)
    try:
        there, optimizer = trained("cuda", implementation)
        optimizer.step()
        with gpu.watch() as events:
            optimizer.step()
    finally:
        torch.set_default_device(None)
    assert optimizer.path == implementation
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert not events


def test_a_checkpoint_is_copied_without_waiting(tmp_path: Path):
    state = {"model": {"w": torch.arange(5.0, device="cuda")}}
    writer = CheckpointWriter(background=True)
    writer.write(tmp_path / "first.pt", state, {})  # which pins memory
    with gpu.watch() as events:
        writer.write(tmp_path / "second.pt", state, {})
        state["model"]["w"].zero_()
        writer.wait()
    writer.close()
    own_thread = "lrd/training/checkpoint.py:CheckpointWriter.write.<locals>.write"
    assert {place for _, place in events} == {own_thread}
    loaded = load_checkpoint(tmp_path / "second.pt", {})["model"]["w"]
    assert loaded.tolist() == [0, 1, 2, 3, 4]
