"""Sections ``startup``, ``page`` and ``sweep``: time of whole commands."""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lrd.analysis.resolve import expand_sweep, resolve
from lrd.runs.store import RunStore
from scripts.benchmarks.measure import Options
from scripts.benchmarks.report import BenchmarkTable, Bound, Measurement, measurements

_ROOT = Path(__file__).resolve().parents[2]
# What idle threads of GNU's OpenMP do by default, where OMP_WAIT_POLICY is not set: spin so often.
_SPINNING = {"GOMP_SPINCOUNT": "300000"}

Commands = tuple[Mapping[str, str], list[list[str]]]


def measure_startup(options: Options) -> Iterator[BenchmarkTable]:
    """Yield the table of user and system seconds of ``import lrd`` and of every ``--help``.

    The target is that of the commands in ``scripts/``; ``run.py`` composes a configuration.
    """
    commands = {"import lrd": ["-c", "import lrd"], "run.py --help": ["run.py", "--help"]}
    scripts = [path.name for path in sorted((_ROOT / "scripts").glob("[!_]*.py"))]
    commands |= {f"{name} --help": [f"scripts/{name}", "--help"] for name in scripts}
    samples: dict[str, list[float]] = {label: [] for label in commands}
    for turn in range(options.rounds_or(5) + 1):
        for label, arguments in commands.items():
            seconds = _cpu_seconds(arguments)
            if turn:  # the first turn reads the files from disk and compiles them
                samples[label].append(seconds)
    targets = {f"{name} --help": Bound("<=", 0.5, "value") for name in scripts}
    lines = [
        Measurement(label, "s", seconds, target=targets.get(label))
        for label, seconds in samples.items()
    ]
    yield BenchmarkTable("startup", "CPU time (user and system) of a new process", "", lines)


def _cpu_seconds(arguments: list[str]) -> float:
    """Return the CPU time of ``python ARGUMENTS``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=_ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure_pages(options: Options) -> Iterator[BenchmarkTable]:
    """Yield seconds of ``scripts/report.py`` over all studies, from invented runs of Table 1: three
    seeds of each configuration and some of the quickstart, then eleven seeds."""
    small = [("table1", ["seed=0,1,2"]), ("quickstart", ["optim=adam", "seed=range(0,5)"])]
    contents = {"100 runs": (small, 8.0), "330 runs": ([("table1", ["seed=range(0,11)"])], 20.0)}
    if options.quick:
        contents = {"2 runs": ([("quickstart", ["optim=adam", "seed=0"])], math.inf)}
    lines = []
    for label, (sweeps, most) in contents.items():
        with tempfile.TemporaryDirectory() as folder:
            for experiment, overrides in sweeps:
                for job in expand_sweep(experiment, [*overrides, f"run.dir={folder}"]):
                    _invent_run(job)
            samples = []
            for _ in range(1 if options.quick else options.rounds_or(3)):
                started = time.perf_counter()
                study = ["quickstart"] if options.quick else []  # all of them
                _cpu_seconds(["scripts/report.py", *study, "--runs", folder])
                samples.append(time.perf_counter() - started)
        lines.append(Measurement(label, "s", samples, target=Bound("<=", most, "value")))
    yield BenchmarkTable("page", "the page of all studies", "", lines)


def _invent_run(overrides: Sequence[str]) -> None:
    """Write a finished run of full length, whose numbers mean nothing."""
    config = resolve(overrides).config
    run = RunStore(config).run
    final = 90 + config.optim["lr"] + config.seed / 10 + config.lrd.p
    metrics = []
    for epoch in range(1, config.train.epochs + 1):
        left = math.exp(-6 * epoch / config.train.epochs)
        accuracy = final - 50 * left
        metrics.append({"epoch": epoch, "step": epoch, "train_loss": left, "seconds": 1.0})
        metrics[-1] |= {"train_accuracy": accuracy, "test_accuracy": accuracy}
    last = {"value": metrics[-1]["test_accuracy"], "epoch": config.train.epochs}
    score = {"name": "test_accuracy", "maximize": True, "unit": "%"}
    run = run.update(status="finished", score=score, scale=config.scale, final=last, best=last)
    (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(m)}\n" for m in metrics))


def measure_sweeps(options: Options) -> Iterator[BenchmarkTable]:
    """Yield seconds of a sweep of four runs, then of two runs at once; FCNet on the digits."""
    epochs = f"train.epochs={1 if options.quick else 60}"
    sweep = ["-m", epochs, "seed=0,1" if options.quick else "seed=0,1,2,3"]
    # per row: the environment, and the arguments of each process that starts at once
    in_turn: Commands = ({}, [sweep])
    rows = {"in turn": in_turn, "+cluster=local": ({}, [[*sweep, "+cluster=local"]])}
    if options.quick:
        yield _table("two runs of a sweep", {"in turn": in_turn}, {}, rounds=1)
        return
    rows["in turn, one thread each"] = ({}, [[*sweep, "train.threads=1"]])
    rounds = options.rounds_or(5)
    yield _table("four runs of a sweep", rows, {"+cluster=local": 1.0}, rounds)
    two = [[epochs, f"seed={seed}"] for seed in range(2)]
    rows = {"one run": ({}, two[:1]), "two at once": ({}, two)}
    rows["two at once, idle threads spin"] = (_SPINNING, two)
    yield _table("whole runs", rows, {"two at once": 2.0}, rounds)


def _table(
    title: str, rows: Mapping[str, Commands], most: Mapping[str, float], rounds: int
) -> BenchmarkTable:
    samples: dict[str, list[float]] = {label: [] for label in rows}
    for _ in range(rounds):
        for label, (environment, commands) in rows.items():
            samples[label].append(_seconds(environment, commands))
    targets = {label: Bound("<=", bound) for label, bound in most.items()}
    baseline = next(iter(rows))
    lines = measurements(samples, baseline, unit="s", targets=targets)
    return BenchmarkTable("sweep", title, baseline, lines)


def _seconds(environment: Mapping[str, str], commands: Sequence[list[str]]) -> float:
    """Return how long it takes until ``run.py`` with each of ``commands``, at once, has ended."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "run.py",
                    *command,
                    f"run.dir={folder}",
                    f"hydra.sweep.dir={folder}",
                ],
                cwd=_ROOT,
                env={**kept, **environment},
                stdout=subprocess.DEVNULL,
            )
            for command in commands
        ]
        failed = [process.wait() for process in processes]
        seconds = time.perf_counter() - started
    if any(failed):
        raise RuntimeError(f"run.py ended with status {max(failed)}")
    return seconds
