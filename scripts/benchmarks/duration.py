"""Section ``hours``: how long the paper's experiments take, from a few steps of each."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from lrd.analysis.resolve import expand_sweep
from lrd.config.compose import compose
from scripts.benchmarks.datasets import is_on_disk
from scripts.benchmarks.measure import ChildProcess, Options
from scripts.benchmarks.report import BenchmarkTable, Measurement
from scripts.benchmarks.workloads import WARMUP_STEPS, Workload, lrd_loop


@dataclass(frozen=True)
class TimedExperiment:
    """What trains in an experiment.

    Args:
        data: ``dataset=``.
        model: ``model=``.
        images: number of images of an epoch.
        cpu_batch: batch size on a CPU, if the experiment's needs too much memory.
        extra: further settings of photos, of which those on disk are enough.
    """

    data: str
    model: str
    images: int
    cpu_batch: int | None = None
    extra: tuple[str, ...] = ()


_PHOTOS = ("dataset.partial=true", "model.weights=none", "eval.pictures_every=0")
EXPERIMENTS = {  # the others train one of these networks
    "table1_mnist": TimedExperiment("mnist", "fcnet", 60_000),
    "table1_cifar10": TimedExperiment("cifar10", "resnet34", 50_000),
    "table1_cifar100": TimedExperiment("cifar100", "densenet121", 50_000),
    "figure8": TimedExperiment(
        "voc_seg", "pspnet50", 10_582, cpu_batch=4, extra=(*_PHOTOS, "dataset.sbd=false")
    ),
    "figure9": TimedExperiment("voc_det", "ssd300_vgg16", 16_551, cpu_batch=8, extra=_PHOTOS),
}
_STEPS = 3  # of a turn
_log = logging.getLogger(__name__)


def measure_hours(options: Options) -> Iterator[BenchmarkTable]:
    """Yield a table with a line for each experiment whose photos are on disk."""
    names = list(EXPERIMENTS)[:1] if options.quick else list(EXPERIMENTS)
    workloads = {name: _workload(options, name) for name in names}
    lines = []
    for name, workload in workloads.items():
        if workload is None:
            continue
        _log.info("hours: %s", name)
        epochs = compose([f"+experiment={name}"]).train.epochs
        with ChildProcess(lrd_loop, workload, ["optim=adam", "lrd.p=0.5"], False) as child:
            child.turn(WARMUP_STEPS)
            turns = [child.turn(_STEPS) for _ in range(options.rounds_or(3))]
        runs, images = len(expand_sweep(name)), EXPERIMENTS[name].images
        label = f"{name}: {runs} runs of {epochs} epochs, {workload.describe()}"
        seconds = [runs * epochs * images / turn.images_per_second for turn in turns]
        lines.append(Measurement(label, "h", [value / 3600 for value in seconds]))
    notes = [
        f"one run at a time, without evaluation; {_STEPS} steps of Adam with LRD a turn, after "
        f"{WARMUP_STEPS} of warm-up, times the steps of all runs"
    ]
    yield BenchmarkTable("hours", "duration of the paper's experiments", "", lines, notes=notes)


def _workload(options: Options, name: str) -> Workload | None:
    """Return what trains, its settings composed once, or None where its photos are missing."""
    timed = EXPERIMENTS[name]
    if not timed.extra:
        workload = Workload.of(options, timed.data, timed.model)
    elif not is_on_disk(timed.data, options.root):
        return None
    else:
        device = options.device.type
        batch = timed.cpu_batch if device == "cpu" else None
        workload = Workload(
            f"{timed.model} on {timed.data}",
            *(timed.data, timed.model, device, options.threads, options.root),
            batch=batch or compose([f"+experiment={name}"]).train.batch_size,
            extra=timed.extra,
        )
    workload.config()  # a mistake ends the section before it measures anything
    return workload
