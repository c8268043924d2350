"""Whole runs in a process with a simulated GPU."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from lrd.runs.store import find_runs
from lrd.training.runner import _RunSession
from lrd.training.trainer import Trainer
from tasks.image_task import ImageTask
from tests.simulated_gpu.plugin import gpu

TIMES = {"seconds", "train_seconds", "images_per_second", "data_wait"}
FIXED = ("train.threads=1", "data.workers=0", "eval.pictures_every=0")
Command = Callable[..., Any]
Events = Counter[tuple[str, str]]


@dataclass
class Result:
    """What a run left: the numbers of each epoch, all tensors of its state, its record."""

    metrics: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def train(cli: Command, folder: str, *arguments: str, status: int = 0) -> Result:
    """Call ``run.py`` and return what it left in ``folder``."""
    done = cli(*FIXED, "run.keep=last", f"run.dir={folder}", *arguments)
    assert done.status == status, done.err + done.out
    (run,) = find_runs(folder)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    metrics = [{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines]
    state = torch.load(run.folder / "last.pt", map_location="cpu", weights_only=True)
    return Result(metrics, dict(_tensors("", state)), run.metadata)


def _tensors(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        yield name, value
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        yield from _tensors(f"{name}.{key}", item)


def assert_equal(one: Result, other: Result) -> None:
    """Require every number and every tensor to be the same, bit for bit.

    Numbers below 1e-38 count as 0, to which a run flushes them on a CPU and not on a GPU.
    """
    assert one.metrics == other.metrics
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(_flushed(tensor), _flushed(other.tensors[name])), name


def _flushed(x: Tensor) -> Tensor:
    return x.masked_fill(x.abs() < torch.finfo(x.dtype).tiny, 0) if x.is_floating_point() else x


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Stop runs by SIGINT, after ``steps`` steps."""
    original = _RunSession._on_step_end

    def stop(self: Any, trainer: Any) -> None:
        if trainer.state.total == steps:
            signal.raise_signal(signal.SIGINT)
        original(self, trainer)

    patch.setattr(_RunSession, "_on_step_end", stop)


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segmentation and detection on 16 training and 2 evaluation images."""
    entries = ImageTask.entries.func

    def few(self: Any) -> dict[str, Any]:
        found = entries(self)
        return {"train": found["train"][:16], "eval": found["eval"][:2]}

    shortened = cached_property(few)
    shortened.__set_name__(ImageTask, "entries")
    monkeypatch.setattr(ImageTask, "entries", shortened)


@pytest.fixture
def in_epochs(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Counts what waits inside epochs, after the run's first two steps, which make memory."""
    events: Events = Counter()
    monkeypatch.setattr(gpu, "events", events)
    monkeypatch.setattr(gpu, "watching", False)
    end_epoch, on_step_end = Trainer._end_epoch, _RunSession._on_step_end

    training = True

    def unwatched(self: Trainer, began: float) -> None:
        nonlocal training
        before, gpu.watching, training = gpu.watching, False, False
        end_epoch(self, began)
        gpu.watching, training = before and not self.finished, True

    def watched(self: Any, trainer: Trainer) -> None:
        gpu.watching = False
        on_step_end(self, trainer)  # may end the run
        gpu.watching = training and trainer.state.total >= 2  # evaluation calls it too

    monkeypatch.setattr(Trainer, "_end_epoch", unwatched)
    monkeypatch.setattr(_RunSession, "_on_step_end", watched)
    return events


def needs_data(name: str) -> None:
    """Skip a test on real data where there are none."""
    if name.startswith(("mnist", "cifar")) and not os.environ.get("LRD_DATA"):
        pytest.skip("real data: set LRD_DATA to its folder")
