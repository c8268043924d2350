"""Kill runs at their worst moments, start them again, and compare with runs left in peace.

    python scripts/endurance.py --kills 30
    python scripts/endurance.py --kills 36 --every-optimizer
    python scripts/endurance.py --writers 8            8 processes sweep one experiment at once
    python scripts/endurance.py --kills 10 task=mnist train.epochs=1 train.max_steps=60

Prints kills, resumes and differing bytes (0), exit status 1 if any differ. Needs no network; runs
go to a temporary folder. A kill is SIGKILL: in the middle of an optimizer step (moved, not yet
restored), in evaluation, half through a line of metrics.jsonl, before a flush to disk, before a
rename, or at a random time.
"""

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import lrd.training.runner  # noqa: F401  torch and all, once: the children start from here
import run as entry
from lrd.loggers.jsonl import JSONLLogger
from lrd.optim.snapshot import ElementSnapshot
from lrd.runs.store import TIMES, Run, find_runs
from lrd.training.trainer import Trainer

QUICK = ["train.epochs=4", "model.hidden=[64]", "train.threads=1"]
OPTIMIZERS = ("sgdm", "rmsprop", "rmsprop_authors", "adam", "amsgrad", "radam")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_line(sink: JSONLLogger, numbers: dict[str, Any]) -> None:
    sink.file.write(json.dumps(numbers).encode()[:40])
    sink.file.flush()
    die()


# Where a run may be killed: the function that is on its way, what happens instead of it, and how
# often it is called in a run of QUICK.
POINTS: dict[str, tuple[Any, str, Callable[..., None], int]] = {
    "step": (ElementSnapshot, "restore", lambda *a, **k: die(), 40),
    "evaluation": (Trainer, "_require_finite", lambda *a, **k: die(), 8),
    "metrics": (JSONLLogger, "epoch", half_a_line, 4),
    "flush": (os, "fsync", lambda *a, **k: die(), 12),
    "rename": (os, "replace", lambda *a, **k: die(), 6),
}


def arm(point: str, after: int) -> None:
    """Make this process kill itself the ``after``-th time that it comes to ``point``."""
    owner, name, instead, _ = POINTS[point]
    original, calls = getattr(owner, name), itertools.count(1)

    def counted(*args: Any, **kwargs: Any) -> Any:
        return (instead if next(calls) == after else original)(*args, **kwargs)

    setattr(owner, name, counted)


def start(arguments: Sequence[str], log: Path, arming: Callable[[], None] | None = None) -> int:
    """``run.py`` in a child that starts from this process's imports; returns its id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if arming is not None:
        arming()
    sys.argv = ["run.py", *arguments]
    status = entry.main()
    sys.stdout.flush()
    os._exit(status)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_once(arguments: Sequence[str], log: Path, dice: random.Random) -> tuple[str, int]:
    """Start a run and kill it somewhere; the point, and the exit status (-9 if it was killed)."""
    point = dice.choice([*POINTS, "time"])
    if point == "time":
        child = start(arguments, log)
        time.sleep(dice.uniform(0.05, 0.8))
        os.kill(child, signal.SIGKILL)
    else:
        after = dice.randint(1, POINTS[point][3])
        child = start(arguments, log, lambda: arm(point, after))
    return point, wait(child)


def kept(run: Run) -> dict[str, bytes]:
    """What must not depend on how a run came about, as bytes."""
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in run.metrics]
    results = {k: run.record[k] for k in ("final", "best", "status")}
    state = torch.load(run.folder / "last.pt", weights_only=True)["model"]
    weights = {k: v.contiguous().flatten().view(torch.uint8) for k, v in state.items()}
    return {
        "metrics": json.dumps(lines).encode(),
        "results": json.dumps(results).encode(),
        **{name: bytes(tensor.tolist()) for name, tensor in weights.items()},
    }


def differing_bytes(a: dict[str, bytes], b: dict[str, bytes]) -> int:
    pairs = [(a.get(name, b""), b.get(name, b"")) for name in a.keys() | b.keys()]
    return sum(
        abs(len(x) - len(y)) + sum(p != q for p, q in zip(x, y, strict=False)) for x, y in pairs
    )


def torture(cell: Sequence[str], kills: int, dice: random.Random, folder: Path) -> dict[str, Any]:
    """Run ``cell`` in peace and under ``kills`` kills, in as many runs (seeds) as that takes."""
    counts = dict.fromkeys([*POINTS, "time"], 0)
    resumes = differing = seed = 0
    log = folder / "log.txt"
    while sum(counts.values()) < kills:
        seed += 1
        names = [*cell, f"seed={seed}"]
        if status := wait(start([*names, f"run.dir={folder}/peace"], log)):
            raise SystemExit(f"the run itself failed with status {status}:\n{log.read_text()}")
        killed = -signal.SIGKILL
        while killed == -signal.SIGKILL:
            if sum(counts.values()) < kills:
                point, killed = kill_once([*names, f"run.dir={folder}/war"], log, dice)
                counts[point] += killed == -signal.SIGKILL
            else:
                killed = wait(start([*names, f"run.dir={folder}/war"], log))
            resumes += 1
        resumes -= 1
        if killed:
            raise SystemExit(f"a resume failed with status {killed}:\n{log.read_text()[-2000:]}")
    peace, war = ([*find_runs(folder / side)] for side in ("peace", "war"))
    for a, b in zip(peace, war, strict=True):
        assert (a.fingerprint, a.seed) == (b.fingerprint, b.seed)
        differing += differing_bytes(kept(a), kept(b))
    return {"counts": counts, "resumes": resumes, "differing": differing, "runs": len(peace)}


def kills(total: int, cells: list[list[str]], seed: int) -> int:
    dice = random.Random(seed)
    counts, sums = dict.fromkeys([*POINTS, "time"], 0), [0, 0, 0]
    for number, cell in enumerate(cells):
        share = total // len(cells) + (number < total % len(cells))
        with tempfile.TemporaryDirectory() as folder:
            result = torture(cell, share, dice, Path(folder))
        for point, count in result["counts"].items():
            counts[point] += count
        for i, name in enumerate(("runs", "resumes", "differing")):
            sums[i] += result[name]
        print(f"{' '.join(cell)}: {share} kills, {result['differing']} differing bytes")
    where = ", ".join(f"{point} {count}" for point, count in counts.items())
    print(f"runs {sums[0]}, kills {sum(counts.values())} ({where})")
    print(f"resumes {sums[1]}, differing bytes {sums[2]}")
    return 1 if sums[2] else 0


def writers(count: int, arguments: list[str]) -> int:
    """``count`` processes sweep the same cells over one folder, each cell done exactly once."""
    seeds, epochs = 10, 4
    sweep = ["-m", *QUICK, *arguments, "seed=" + ",".join(map(str, range(seeds)))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep.append(f"run.dir={folder}/runs")
        children = [start(sweep, folder / f"{i}.log") for i in range(count)]
        statuses = [wait(child) for child in children]
        logs = [(folder / f"{i}.log").read_text() for i in range(count)]
        trained = sum(log.count("epoch 1/") for log in logs)
        finished = [run for run in find_runs(folder / "runs") if run.status == "finished"]
        whole = sum(len(run.metrics) == epochs for run in finished)
    print(f"{count} writers, {seeds} cells: {len(finished)} finished, {whole} of them whole, ")
    print(f"{trained} trained in all; exit statuses {sorted(statuses)} (3: left to another)")
    right = len(finished) == whole == trained == seeds and set(statuses) <= {0, 3}
    return 0 if right else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="settings of the runs")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of when and where to kill")
    parser.add_argument("--every-optimizer", action="store_true", help="each with and without LRD")
    parser.add_argument("--writers", type=int, help="sweep with so many processes instead")
    args = parser.parse_intermixed_args()
    if args.writers:
        return writers(args.writers, args.overrides)
    cells = [[*QUICK, *args.overrides]]
    if args.every_optimizer:
        grid = itertools.product(OPTIMIZERS, (1, 0.5))
        cells = [[*cells[0], f"optim={optim}", f"lrd.p={p}"] for optim, p in grid]
    return kills(args.kills, cells, args.seed)


if __name__ == "__main__":
    sys.exit(main())
