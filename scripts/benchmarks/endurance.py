"""Test endurance: kill or disturb runs, resume them, and compare with undisturbed runs bitwise."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch

import run as entry
from lrd.launchers.slurm_queue import read_jobs
from lrd.loggers.jsonl import JSONLLogger
from lrd.optim import LRDropout
from lrd.runs.store import TIMES, Run, RunIndex
from lrd.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
# train.checkpoint_every: without a checkpoint a killed run would begin again
_QUICK = ["train.epochs=4", "model.hidden=[64]", "train.threads=1", "train.checkpoint_every=1"]
_OPTIMIZERS = ("sgdm", "rmsprop", "rmsprop_authors", "adam", "amsgrad", "radam")
_KILLED = -signal.SIGKILL
# What a run imports on its way, seconds long: imported once, for all forked processes.
_IMPORTS = ("lrd.training.runner", "tasks.classification", "sklearn.datasets")


def count_differing_bytes(a: Run, b: Run) -> int:
    """Compare what two runs of one configuration must agree on: metrics, results and weights."""
    x, y = _reproducible_bytes(a), _reproducible_bytes(b)
    pairs = [(x.get(name, b""), y.get(name, b"")) for name in x.keys() | y.keys()]
    return sum(
        abs(len(p) - len(q)) + sum(i != j for i, j in zip(p, q, strict=False)) for p, q in pairs
    )


def _reproducible_bytes(run: Run) -> dict[str, bytes]:
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in run.metrics]
    results = {k: run.metadata.get(k) for k in ("final", "best", "status")}
    state = torch.load(run.folder / "last.pt", weights_only=True)["model"]
    weights = {k: v.contiguous().flatten().view(torch.uint8) for k, v in state.items()}
    return {
        "metrics": json.dumps(lines).encode(),
        "results": json.dumps(results).encode(),
        **{name: bytes(tensor.tolist()) for name, tensor in weights.items()},
    }


def _import_once() -> None:
    for module in _IMPORTS:
        import_module(module)


def _die(*args: Any, **kwargs: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _step_and_die(optimizer: LRDropout, *args: Any) -> NoReturn:
    optimizer._publish = _die  # the end of a step; by then weights and moments are updated
    optimizer.step(*args)
    raise AssertionError("unreachable")


def _write_half_a_line(logger: JSONLLogger, numbers: dict[str, Any]) -> NoReturn:
    logger.file.write(json.dumps(numbers).encode()[:40])
    logger.file.flush()
    _die()


# Where a run can be killed: the function under way, its replacement, and how often a run of _QUICK
# calls it.
_KILL_POINTS: dict[str, tuple[Any, str, Callable[..., NoReturn], int]] = {
    "step": (LRDropout, "step", _step_and_die, 40),
    "evaluation": (Trainer, "_require_finite", _die, 8),
    "metrics": (JSONLLogger, "on_epoch", _write_half_a_line, 4),
    "flush": (os, "fsync", _die, 12),
    "rename": (os, "replace", _die, 6),
}


def _kill_at(point: str, call: int) -> None:
    """Make this process kill itself at the given call, counted from 1, of a kill point."""
    owner, name, replacement, _ = _KILL_POINTS[point]
    original, calls = getattr(owner, name), itertools.count(1)

    def counted(*args: Any, **kwargs: Any) -> Any:
        return (replacement if next(calls) == call else original)(*args, **kwargs)

    setattr(owner, name, counted)


class _Deck:
    """The kill points in random order, each as often as any other.

    A point is dealt until a kill has happened there. ``misses`` counts the runs that ended before.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.left, self.misses = rng, list[str](), 0
        self.counts = dict.fromkeys([*_KILL_POINTS, "time"], 0)

    def deal(self) -> str:
        self.left = self.left or self.rng.sample(list(self.counts), len(self.counts))
        return self.left[-1]

    def count(self, killed: bool) -> None:
        self.misses = 0 if killed else self.misses + 1
        if killed:
            self.counts[self.left.pop()] += 1


def _start(arguments: Sequence[str], log: Path, prepare: Callable[[], None] | None = None) -> int:
    """Start ``run.py`` in a fork of this process, which has the imports; return its process id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if prepare is not None:
        prepare()
    sys.argv = ["run.py", *arguments]
    status = entry.main()
    sys.stdout.flush()
    os._exit(status)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _start_and_kill(arguments: Sequence[str], log: Path, deck: _Deck) -> int:
    """Start a run and kill it at the next point of ``deck``, earlier after a miss.

    Returns the exit status.
    """
    point, rng, latest = deck.deal(), deck.rng, 0.5**deck.misses
    if point == "time":
        child = _start(arguments, log)
        time.sleep(rng.uniform(0.05, 0.8 * latest))
        os.kill(child, signal.SIGKILL)
    else:
        call = rng.randint(1, max(1, int(_KILL_POINTS[point][3] * latest)))
        child = _start(arguments, log, lambda: _kill_at(point, call))
    status = _wait(child)
    deck.count(status == _KILLED)
    return status


def _compare_killed(overrides: Sequence[str], kills: int, deck: _Deck) -> tuple[int, int, int]:
    """Run one configuration undisturbed and killed, with as many seeds as ``kills`` take.

    Returns the number of runs, resumes and differing bytes.
    """
    left, resumes, seed = kills, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        sides = [Path(folder) / side for side in ("undisturbed", "killed")]
        while left > 0:
            seed += 1
            undisturbed, killed = (
                [*overrides, f"seed={seed}", f"run.dir={side}"] for side in sides
            )
            if status := _wait(_start(undisturbed, log)):
                raise SystemExit(f"the run itself failed with status {status}:\n{log.read_text()}")
            status, starts = _KILLED, 0
            while status == _KILLED:
                starts += 1
                if left > 0:
                    status = _start_and_kill(killed, log, deck)
                    left -= status == _KILLED
                else:
                    status = _wait(_start(killed, log))
            resumes += starts - 1
            if status:
                end = log.read_text()[-2000:]
                raise SystemExit(f"a resume failed with status {status}:\n{end}")
        differing, (a_runs, b_runs) = 0, (RunIndex(side).runs for side in sides)
        for a, b in zip(a_runs, b_runs, strict=True):
            assert (a.fingerprint, a.seed) == (b.fingerprint, b.seed)
            differing += count_differing_bytes(a, b)
    return len(a_runs), resumes, differing


def kill_and_compare(
    kills: int, overrides: Sequence[str], seed: int, every_optimizer: bool = False
) -> int:
    """Kill runs by SIGKILL, resume them and compare them with undisturbed runs; print a report.

    Args:
        kills: number of kills, divided among the configurations.
        overrides: settings of the runs.
        seed: of when and where to kill.
        every_optimizer: run each optimizer with and without LRD.

    Returns:
        Exit status: 1 if any byte differs.
    """
    configurations = [[*_QUICK, *overrides]]
    if every_optimizer:
        grid = itertools.product(_OPTIMIZERS, (1, 0.5))
        configurations = [[*configurations[0], f"optim={o}", f"lrd.p={p}"] for o, p in grid]
    deck, totals = _Deck(random.Random(seed)), [0, 0, 0]
    _import_once()
    for number, settings in enumerate(configurations):
        share = kills // len(configurations) + (number < kills % len(configurations))
        result = _compare_killed(settings, share, deck)
        totals = [total + value for total, value in zip(totals, result, strict=True)]
        print(f"{' '.join(settings)}: {share} kills, {result[2]} differing bytes")
    where = ", ".join(f"{point} {count}" for point, count in deck.counts.items())
    print(f"runs {totals[0]}, kills {sum(deck.counts.values())} ({where})")
    print(f"resumes {totals[1]}, differing bytes {totals[2]}")
    return 1 if totals[2] else 0


def sweep_with_writers(writers: int, overrides: Sequence[str]) -> int:
    """Sweep the same runs from several processes at once; each run must be done exactly once.

    Returns the exit status: 1 if a run is missing, incomplete or done twice.
    """
    seeds, epochs = writers + 2, 4  # more runs than writers
    _import_once()
    sweep = ["-m", *_QUICK, *overrides, "seed=" + ",".join(map(str, range(seeds)))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs = [folder / f"{i}.log" for i in range(writers)]
        children = [_start([*sweep, f"run.dir={folder}/runs"], log) for log in logs]
        statuses = [_wait(child) for child in children]
        trained = sum(log.read_text().count("epoch 1/") for log in logs)
        finished = RunIndex(folder / "runs").with_status("finished")
        complete = sum(len(run.metrics) == epochs for run in finished)
    print(
        f"{writers} writers, {seeds} runs: {len(finished)} finished, {complete} of them complete,"
    )
    print(f"{trained} trained in all; exit statuses {sorted(statuses)} (3: left to another)")
    right = len(finished) == complete == trained == seeds and set(statuses) <= {0, 3}
    return 0 if right else 1


# A sweep on SLURM


SLURM_CPUS = 4  # two jobs at once: the others wait
_RATES = [*(f"{k / 100:g}" for k in range(1, 6)), "1e+18"]  # the last makes the loss infinite
_EPOCHS = 200
_SWEEP = ["-m", "optim=sgdm", f"optim.lr={','.join(_RATES)}", f"train.epochs={_EPOCHS}"]
_SWEEP += ["model.hidden=[128]", "train.threads=1"]


@contextmanager
def local_slurm(folder: Path) -> Iterator[str]:
    """Start a SLURM of ``SLURM_CPUS`` in ``folder``, and stop it. Yields its SLURM_CONF."""
    script = str(ROOT / "scripts" / "slurm_local.sh")
    settings = {"SLURM_LOCAL": str(folder), "SLURM_LOCAL_CPUS": str(SLURM_CPUS)}
    environment = {**os.environ, **settings}
    started = subprocess.run([script, "start"], stdout=subprocess.PIPE, text=True, env=environment)
    if started.returncode:
        raise SystemExit(started.returncode)
    try:
        yield started.stdout.strip().partition("=")[2]
    finally:
        subprocess.run([script, "stop"], env=environment)


def _show(*command: str) -> None:
    """Print a command, run it, and print its output."""
    print("$", *command, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout.rstrip(), flush=True)


def _learning_rate(record: dict[str, Any]) -> str:
    return f"{record['config']['optim']['lr']:g}"


def _by_learning_rate(root: str) -> dict[str, Run]:
    return {_learning_rate(run.metadata): run for run in RunIndex(root).runs}


def _wait_for_progress(rates: Sequence[str], count: int, submitter: subprocess.Popen[str]) -> None:
    """Wait until ``count`` runs of these learning rates are between epoch 5 and the middle."""
    deadline = time.monotonic() + 600
    while True:
        runs = _by_learning_rate("runs")
        lengths = [len(runs[rate].metrics) for rate in rates if rate in runs]
        if sum(5 <= length < _EPOCHS / 2 for length in lengths) >= count:
            return
        if submitter.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("error: the sweep was over before it could be disturbed")
        time.sleep(0.2)


def _disturb(submitter: subprocess.Popen[str]) -> None:
    """Signal, requeue, preempt and cancel jobs of the sweep."""

    def job(rate: str) -> str:
        (job,) = (
            job.id for job in read_jobs("runs").values() if _learning_rate(job.record) == rate
        )
        return job

    _wait_for_progress(_RATES[:2], 2, submitter)
    _show("scontrol", "requeue", job(_RATES[1]))
    # While others of the array wait, SLURM 22.05 delivers the signal and reports that it could
    # not: scancel would send it again every few seconds.
    _show("timeout", "2", "scancel", "--signal=USR2", job(_RATES[0]))
    _show(sys.executable, f"{ROOT}/scripts/runs.py")
    _wait_for_progress(_RATES[2:-2], 1, submitter)
    _show("srun", "--partition=urgent", f"--ntasks={SLURM_CPUS}", "echo", "urgent")
    _show("scancel", job(_RATES[-2]))
    _show("squeue")


def _compare_with_local() -> int:
    """Run the same sweep on this machine and return the number of differing bytes."""
    local = [sys.executable, f"{ROOT}/run.py", *_SWEEP, "run.dir=local"]
    subprocess.run(local, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours, theirs = _by_learning_rate("local"), _by_learning_rate("runs")
    differing = 0
    for rate in _RATES[:-1]:
        count, job = count_differing_bytes(ours[rate], theirs[rate]), theirs[rate].metadata["job"]
        logs = Path("runs/.submitit").glob(f"{job}/*.out")
        resumes = sum(log.read_text().count("resuming after epoch") for log in logs)
        print(f"lr {rate:5} job {job:6} resumes {resumes}, differing bytes {count}")
        differing += count
    states = {theirs[_RATES[-1]].status, ours[_RATES[-1]].status}
    print(f"lr {_RATES[-1]:5} {' and '.join(states)}, as expected")
    return differing


def disturb_slurm_sweep() -> int:
    """Disturb a sweep on SLURM in the working directory, submit again and compare; print a report.

    Returns the exit status: 1 if any byte differs.
    """
    command = [sys.executable, f"{ROOT}/run.py", *_SWEEP, "+cluster=slurm"]
    command.append(f"cluster.cpus_per_task={SLURM_CPUS // 2}")
    print("$", *command, "&", flush=True)
    with Path("submitter.txt").open("w") as out:
        submitter = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
        _disturb(submitter)
        status = submitter.wait()
    print("$ wait\n" + Path("submitter.txt").read_text().rstrip())
    print(f"exit status {status}")
    list_runs = [sys.executable, f"{ROOT}/scripts/runs.py"]
    for again in (list_runs, command, command, list_runs):
        _show(*again)
    differing = _compare_with_local()
    print(f"{len(_RATES) - 1} runs, differing bytes {differing}")
    return 1 if differing else 0


def disturb_local_slurm() -> int:
    """Start a SLURM in a temporary directory, disturb a sweep there, and stop it."""
    with tempfile.TemporaryDirectory() as folder, local_slurm(Path(folder) / "slurm") as conf:
        os.chdir(folder)
        os.environ["SLURM_CONF"] = conf
        try:
            return disturb_slurm_sweep()
        finally:
            os.chdir(ROOT)
