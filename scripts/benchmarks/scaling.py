"""Section ``growth``: how the cost of a step scales with one setting at a time."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from scripts.benchmarks import optimizers as opt
from scripts.benchmarks.measure import Options, Work, measure_tensor_memory
from scripts.benchmarks.optimizer_step import time_steps
from scripts.benchmarks.report import BenchmarkTable, Measurement, measurements
from scripts.benchmarks.workloads import Workload, lrd_loop

_log = logging.getLogger(__name__)


def measure_scaling(options: Options) -> Iterator[BenchmarkTable]:
    """Yield a table of each sweep: parameters, tensors, keep probability and batch size."""
    count = 50_000 if options.quick else 5_000_000
    counts = [10**4, 10**5] if options.quick else [10**5, 10**6, 10**7, 10**8]
    tensors = [1, 10] if options.quick else [1, 5, 20, 100, 500]
    keep = [0.1, 0.9] if options.quick else [0.1, 0.3, 0.5, 0.7, 0.9]
    title, points = "number of parameters, in 10 tensors", [(n, n, 10, opt.P) for n in counts]
    yield _sweep(options, "parameters", title, points)
    title = f"number of tensors, {count:,} parameters in all"
    yield _sweep(options, "tensors", title, [(n, count, n, opt.P) for n in tensors])
    title = f"keep probability, {count:,} parameters in 100 tensors"
    yield _sweep(options, "p", title, [(p, count, 100, p) for p in keep])
    yield _batch_sizes(options)


def equal_sizes(count: int, tensors: int) -> list[torch.Size]:
    """Return shapes of vectors with ``count`` elements together, each a multiple of 4."""
    return [torch.Size([max(4, count // tensors // 4 * 4)])] * tensors


def _sweep(
    options: Options, x: str, title: str, points: Sequence[tuple[float, int, int, float]]
) -> BenchmarkTable:
    """Measure steps of Adam at every point: (x, number of parameters, of tensors, p)."""
    variants = [opt.TORCH_FUSED, *opt.lrd_variants(options.device)[-2:]]
    lines: list[Measurement] = []
    for value, count, tensors, p in points:
        _log.info("growth: %s %g", x, value)
        sizes = equal_sizes(count, tensors)
        samples, bytes_ = time_steps(options, "adam", variants, sizes, rounds=7, p=p)
        memory = {label: steady for label, (steady, _) in bytes_.items()}
        lines += measurements(
            samples, opt.TORCH_FUSED, unit="ms", scale=1000, memory=memory, x=value
        )
    title = f"adam's step by {title}"
    return BenchmarkTable("growth", title, opt.TORCH_FUSED, lines, memory="B/param", x=x)


def _batch_sizes(options: Options) -> BenchmarkTable:
    """Measure training without LRD and with either implementation, by batch size."""
    sizes = [16, 32] if options.quick else [32, 64, 128, 256, 512, 1024]
    baseline, available = "no LRD", opt.lrd_variants(options.device)
    arms = {baseline: "lrd.p=1"}
    if opt.LRD_FUSED in available:
        arms[opt.LRD_SNAPSHOT] = "lrd.implementation=snapshot"
        arms[opt.LRD_FUSED] = "lrd.implementation=fused"
    base = Workload.of(options, "mnist", "fcnet")
    lines: list[Measurement] = []
    for size in sizes:
        _log.info("growth: batch %d", size)
        workload = replace(base, batch=size, extra=(*base.extra, f"eval.batch_size={size}"))
        # In this process: the arms set the same threads and precision for the process.
        turns = {label: lrd_loop(workload, ["train=paper", arm]) for label, arm in arms.items()}
        steps = 2 if options.quick else max(10, 12_800 // size)
        samples: dict[str, list[float]] = {label: [] for label in arms}
        for number in range(1 + options.rounds_or(5)):
            for label, turn in turns.items():
                done = turn(steps)
                if number:  # the first turn warms up
                    samples[label].append(done.images_per_second)
        memory = {label: _training_memory(workload, arm) for label, arm in arms.items()}
        lines += measurements(samples, baseline, unit="images/s", memory=memory, x=size)
    title = f"training {base.title} (train=paper) by the batch size"
    return BenchmarkTable("growth", title, baseline, lines, "higher", "MB", "batch size")


def _training_memory(workload: Workload, override: str) -> float:
    """Return the peak MB of tensors in training, on one batch so that data count little."""
    toy = replace(workload, images=(workload.batch, workload.batch))

    def make() -> Work:
        turn = lrd_loop(toy, ["train=paper", override])
        return lambda: turn(None)

    return measure_tensor_memory(make, torch.device(workload.device))[0] / 1e6
