"""Time an epoch of a run, and count what synchronizes the host with the device within one.

python -m scripts.gpu.epochs FILE SETTING=VALUE ...
"""

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lrd.config.compose import compose, to_config
from lrd.loggers.base import Logger, Metrics
from lrd.training import builder
from scripts.gpu.parts import PROJECT

# Calls of CUDA's runtime that synchronize the host with the device.
SYNCHRONIZING = (
    *("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy"),
    *("cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize"),
)


class _EpochSeconds(Logger):
    def __init__(self) -> None:
        self.metrics: list[Metrics] = []

    def on_epoch(self, metrics: Metrics) -> None:
        self.metrics.append(metrics)


def measure_epochs(overrides: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Train three epochs as run.py does, the third profiled; yield the result as it grows.

    ``startup_seconds``: what the first epoch takes longer than the second, with reading the data
    and compiling; ``epoch_seconds`` and ``images_per_second`` of the second, the former with its
    evaluation. ``synchronizations`` of the third, without evaluation: calls by name, which include
    the one that ends an epoch and the profiler's own; ``waiting_lines``: the lines that torch says
    synchronize.
    """
    began = time.perf_counter()
    config = to_config(compose(list(overrides)))
    parts = builder.build(config)
    trainer, implementation = builder.build_trainer(config, parts)
    logger, steps = _EpochSeconds(), parts.task.steps_per_epoch
    trainer.loggers = [logger]

    def train_epoch() -> None:
        trainer.epochs = trainer.state.epoch + 1
        trainer.run()

    train_epoch()
    first = time.perf_counter() - began
    train_epoch()
    second = logger.metrics[1]
    result: dict[str, Any] = {
        "steps": steps,
        "startup_seconds": max(0.0, first - second["seconds"]),
        "epoch_seconds": second["seconds"],
        "images_per_second": second["images_per_second"],
        "data_wait": second["data_wait"],
        "precision": parts.precision,
        "implementation": implementation,
    }
    yield result
    trainer.evaluate = lambda last=False: {}
    cuda = parts.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _warned_lines(cuda) as lines, profile(activities=activities) as profiler:
        train_epoch()
    averages = profiler.key_averages()
    print(averages.table(sort_by="self_cuda_time_total" if cuda else "self_cpu_time_total",
                         row_limit=25))  # fmt: skip
    calls = {event.key: event.count for event in averages if event.key in SYNCHRONIZING}
    yield {**result, "synchronizations": calls, "waiting_lines": dict(lines)}


@contextmanager
def _warned_lines(cuda: bool) -> Iterator[Counter[str]]:
    """Count the lines of which torch warns that they synchronize, on a GPU."""
    lines: Counter[str] = Counter()
    if not cuda:
        yield lines
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchroniz" in str(warning.message):
            path = Path(warning.filename)
            inside = path.is_relative_to(PROJECT)
            lines[f"{path.relative_to(PROJECT) if inside else path.name}:{warning.lineno}"] += 1


if __name__ == "__main__":
    for found in measure_epochs(sys.argv[2:]):
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
