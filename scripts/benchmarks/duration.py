"""Section ``hours``: how long the paper's experiments take, from a few steps of each."""

import logging
from collections.abc import Iterator

from lrd.analysis.resolve import expand_sweep
from scripts.benchmarks.datasets import is_on_disk
from scripts.benchmarks.measure import ChildProcess, Options
from scripts.benchmarks.report import BenchmarkTable, Measurement
from scripts.benchmarks.workloads import WARMUP_STEPS, Workload, lrd_loop

# Experiment: data, model, images of an epoch. The others train one of these networks.
EXPERIMENTS = {
    "table1_mnist": ("mnist", "fcnet", 60_000),
    "table1_cifar10": ("cifar10", "resnet34", 50_000),
    "table1_cifar100": ("cifar100", "densenet121", 50_000),
    "figure8": ("voc_seg", "pspnet50", 10_582),
    "figure9": ("voc_det", "ssd300_vgg16", 16_551),
}
_STEPS = 3  # of a turn
_BATCH, _CPU_BATCH = {"voc_seg": 16, "voc_det": 32}, {"voc_seg": 4, "voc_det": 8}  # less memory
_log = logging.getLogger(__name__)


def measure_hours(options: Options) -> Iterator[BenchmarkTable]:
    """Yield a table with a line for each experiment whose data are on disk."""
    lines, workloads = [], {}
    for name, (data, model, _) in list(EXPERIMENTS.items())[: 1 if options.quick else None]:
        if workload := _workload(options, data, model):
            workloads[name] = workload, workload.config([f"+experiment={name}"]).train.epochs
    for name, (workload, epochs) in workloads.items():
        _log.info("hours: %s", name)
        jobs, images = expand_sweep(name), EXPERIMENTS[name][-1]
        with ChildProcess(lrd_loop, workload, ["optim=adam", "lrd.p=0.5"], False) as child:
            child.turn(WARMUP_STEPS)
            turns = [child.turn(_STEPS) for _ in range(options.rounds_or(3))]
        label = f"{name}: {len(jobs)} runs of {epochs} epochs, {workload.describe()}"
        seconds = [len(jobs) * epochs * images / turn.images_per_second for turn in turns]
        lines.append(Measurement(label, "h", [value / 3600 for value in seconds]))
    notes = [
        f"one run at a time, without evaluation; {_STEPS} steps of Adam with LRD a turn, after "
        f"{WARMUP_STEPS} of warm-up, times the steps of all runs"
    ]
    yield BenchmarkTable("hours", "duration of the paper's experiments", "", lines, notes=notes)


def _workload(options: Options, data: str, model: str) -> Workload | None:
    """Return what trains, or None where its photos are not on disk."""
    if not data.startswith("voc"):
        return Workload.of(options, data, model)
    if not is_on_disk(data, options.root):
        return None
    batch = _CPU_BATCH[data] if options.device.type == "cpu" else _BATCH[data]
    extra = ["dataset.partial=true", "model.weights=none", "eval.pictures_every=0"]
    if data == "voc_seg":
        extra.append("dataset.sbd=false")
    device, threads, root = options.device.type, options.threads, options.root
    title = f"{model} on {data}"
    return Workload(title, data, model, device, threads, root, batch, extra=tuple(extra))
