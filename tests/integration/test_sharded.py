"""LRDropout over sharded parameters: the masks of the whole ones, on two gloo ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import sharded_worker as worker
from tests.helpers.masks import mask

CASES = [
    *(f"rows,{n},{i},element" for n in ("adam", "momentum") for i in ("fused", "snapshot")),
    *("rows,adam,reference,element", "rows,nadam,snapshot,element"),
    *("rows,adam,snapshot,row", "rows,adam,snapshot,tensor", "rows,adam,reference,row"),
    *("columns,adam,fused,element", "columns,adam,snapshot,element", "columns,adam,snapshot,row"),
    *("columns,adam,reference,row", "replicated,adam,fused,element"),
]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[torch.Tensor]]]:
    out = tmp_path_factory.mktemp("sharded") / "traces.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.helpers.sharded_worker", str(out), *CASES]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_steps_of_one(case: str, traces: dict[str, list[list[torch.Tensor]]]):
    """Masks equal numpy's bit for bit; weights equal the unsharded run's to rounding."""
    layout, name, implementation, granularity = case.split(",")
    one = worker.train("whole", name, implementation, granularity)
    before = [worker.whole(param) for param in worker.network().parameters()]
    for step, (ours, theirs) in enumerate(zip(traces[case], one, strict=True)):
        start = 0
        for old, new, whole in zip(before, ours, theirs, strict=True):
            keep = torch.from_numpy(mask(3, step, 0.4, start, tuple(old.shape), granularity))
            assert torch.equal(new != old, keep)
            torch.testing.assert_close(new, whole, rtol=1e-6, atol=1e-7)
            start += old.numel()
        before = ours


def test_a_placement_without_global_indices_is_refused_before_anything_moves():
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.tensor import DTensor, Partial, init_device_mesh

    from lrd import LRDropout

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        param = nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
        param.grad = DTensor.from_local(torch.ones(4), mesh, [Partial()])
        lrd = LRDropout(torch.optim.SGD([param], lr=1.0))
        with pytest.raises(ValueError, match="parameters must be replicated, or sharded along"):
            lrd.step()
        assert (param.to_local() == 1).all()  # type: ignore[attr-defined]
        assert lrd.t == 0
    finally:
        dist.destroy_process_group()
