"""The local launcher's output stream and the GPUs of its workers;
tests/integration/test_local_launcher.py runs sweeps."""

import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrd.config.compose import compose, to_config
from lrd.launchers.base import JobResult
from lrd.launchers.local import LocalLauncher, PrefixedStdout


def test_lines_are_complete_and_have_the_job_number():
    out = io.StringIO()
    writer = PrefixedStdout(out, "[3]")
    print("\n[3] optim=adam", file=writer)
    print("epoch", 1, end="", file=writer)
    assert out.getvalue() == "[3] optim=adam\n"
    print("/2", file=writer)
    assert out.getvalue() == "[3] optim=adam\n[3] epoch 1/2\n" and not writer.isatty()


@pytest.mark.parametrize(
    ("settings", "environment", "expected"),
    [
        ([], None, {"0": 1, "1": 1, "2": 1}),
        (["cluster.cells_per_gpu=4"], None, {"0": 4, "1": 4, "2": 4}),
        (["cluster.jobs=2"], None, {"0": 1, "1": 1}),
        (["cluster.jobs=4", "cluster.cells_per_gpu=2"], None, {"0": 2, "1": 1, "2": 1}),
        (["cluster.jobs=50"], None, {"0": 1, "1": 1, "2": 1}),
        ([], "5, GPU-8a1, 0", {"5": 1, "GPU-8a1": 1, "0": 1}),
        (["train.device=cpu", "cluster.jobs=4"], None, {None: 4}),
        (["train.device=cpu"], None, {None: 6}),
    ],
)
def test_workers_take_the_gpus_in_turn(
    settings: list[str],
    environment: str | None,
    expected: dict[str | None, int],
    monkeypatch: pytest.MonkeyPatch,
):
    """On a machine of three GPUs and six cores."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    started: list[Any] = []

    def run(self: LocalLauncher, overrides: Any, workers: Any, signals: Any) -> list[JobResult]:
        started.append((overrides, workers))
        return [JobResult() for _ in overrides]

    monkeypatch.setattr(LocalLauncher, "_run", run)
    config = to_config(compose(settings))
    job: Any = SimpleNamespace(overrides=(), config=config, run=SimpleNamespace(folder=Path("r")))
    assert len(list(LocalLauncher().start([job] * 20, 0))) == 20
    ((overrides, workers),) = started
    assert Counter(worker.get("CUDA_VISIBLE_DEVICES") for worker in workers) == expected
    assert set(overrides) == {(f"train.threads={max(1, 6 // len(workers))}",)}
