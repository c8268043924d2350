"""Runs as training leaves them, without training: for the tests of what reads them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import CellResults
from lrd.analysis.studies import CellSpec
from lrd.config.compose import compose, to_config
from lrd.config.schema import Config
from lrd.runs.store import Run, RunIndex, RunStore

Line = dict[str, float]
PROVENANCE: dict[str, Any] = {
    "started": "2026-03-01T08:00:00+00:00",
    "ended": "2026-03-02T09:30:00+00:00",
    "score": {"name": "test_accuracy", "maximize": True, "unit": "%"},
    "versions": {"lrd": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "torchvision": "0.29.1"},
    "commit": "0123456789ab",
    "hardware": {"cpu": "Testing CPU", "cores": 2, "gpu": None},
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "implementation": "generic",
}


def configured(root: Path, *overrides: str) -> Config:
    return to_config(compose([f"run.dir={root}", *overrides]))


def finish(config: Config, seed: int, lines: Sequence[Line], **record: Any) -> Run:
    """The finished run of a seed with these metrics; ``record`` replaces what it says of itself."""
    run = RunStore(replace(config, seed=seed)).run
    scores = [line["test_accuracy"] for line in lines]
    best = max(scores)
    told = PROVENANCE | {
        "status": "finished",
        "scale": config.scale,
        "choices": {"model": "fcnet", "optim": config.optim["_target_"].rpartition(".")[2]},
        "final": {"value": scores[-1], "epoch": len(lines)},
        "best": {"value": best, "epoch": 1 + scores.index(best)},
    }
    run = run.update(**told | record)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.jsonl").write_text(text)
    return run


def numbers(epoch: int, seed: int = 0) -> dict[str, Any]:
    """What a loop logs of an epoch: exact in binary nowhere, best at the second."""
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "train_loss": (seed + 0.1 + 0.2) / epoch,
        "test_accuracy": 90.0 + (2.5 if epoch == 2 else -seed),
        "seconds": 1.25,
    }


def curve(final: float, epochs: int, wobble: float = 0.0) -> list[Line]:
    """A run that learns: accuracy rises to ``final``, the loss falls; a second an epoch."""
    lines = []
    for epoch in range(1, epochs + 1):
        left = math.exp(-6 * epoch / epochs) if epoch < epochs else 0.0
        noise = wobble * math.sin(epoch * 12.9898 + final)
        lines.append(
            {
                "epoch": epoch,
                "train_loss": 0.01 + 2.3 * left * (1 + 0.1 * noise),
                "train_accuracy": final + 1 - 50 * left + noise * left,
                "test_accuracy": final - 50 * left + noise * left,
                "seconds": 1.0,
                "train_seconds": 0.9,
            }
        )
    return lines


def grid(
    root: Path,
    experiment: str,
    optims: Iterable[str],
    seeds: int,
    epochs: int,
    *overrides: str,
    gain: float = 0.5,
) -> dict[tuple[str, str], list[Run]]:
    """Every optimizer with and without LRD, which is better by ``gain``, give or take the seed."""
    made = {}
    for place, optim in enumerate(optims):
        for p in ("1", "0.5"):
            asked = (f"+experiment={experiment}", f"optim={optim}", f"lrd.p={p}", *overrides)
            config = configured(root, *asked)
            lift = gain if p != "1" else 0.0
            made[optim, p] = [
                finish(config, s, curve(90 + place + lift * (1 + 0.1 * s) + 0.05 * s, epochs, 0.5))
                for s in range(seeds)
            ]
    return made


@cache
def composed(*overrides: str) -> Config:
    return to_config(compose(overrides))


def begin(root: Path, seed: int, *overrides: str) -> Run:
    """The run of a configuration, not yet written."""
    config = composed(*overrides)
    return RunStore(replace(config, seed=seed, run=replace(config.run, dir=str(root)))).run


def finish_with(root: Path, value: float, *overrides: str, seed: int = 0, **record: Any) -> Run:
    """A finished run of one epoch with this final score; ``record`` replaces what it says."""
    run = begin(root, seed, *overrides)
    made = {"implementation": "generic", "threads": 1, "versions": {"torch": "2.99"}}
    made |= {"hardware": {"cpu": "A CPU", "cores": 2, "gpu": None}}
    run = run.update(**{"status": "finished", "score": PROVENANCE["score"], **made, **record})
    line = {"epoch": 1, run.metadata["score"]["name"]: value}
    (run.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return run


def results_of(
    curves: Mapping[int, Sequence[float | None]],
    published: float | None = None,
    failed: Sequence[int] = (),
    score: Mapping[str, Any] | None = None,
    key: str = "",
) -> CellResults:
    """A configuration with the score of every epoch by seed, in memory; None: an epoch without."""
    kind: Mapping[str, Any] = score or PROVENANCE["score"]
    runs = []
    for seed, values in curves.items():
        run = Run(Path(f"none/data/mark/seed{seed}"), {"status": "finished", "score": kind})
        run.metadata.update(seed=seed, fingerprint="mark")
        lines = [
            {"epoch": epoch, "step": 9} | ({} if value is None else {key or kind["name"]: value})
            for epoch, value in enumerate(values, 1)
        ]
        run.__dict__["metrics"] = lines  # in place of a file
        runs.append(run)
    for seed in failed:
        record = {"status": "failed", "seed": seed, "fingerprint": "mark"}
        runs.append(Run(Path(f"none/data/mark/failed{seed}"), record))
    index = RunIndex("none")
    index.runs = tuple(runs)
    return CellResults(CellSpec("table1_mnist", (), published), {}, "mark", RunFrames(index))
