"""Worker processes: any number of them gives the same samples in the same order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lrd.runs.store import TIMES, Run, find_runs
from lrd.task import Setup
from tasks.data.dataloader import SampleKey, SeededDataLoader, close_all

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    close_all()


def read(sample: SampleKey) -> tuple[int, torch.Tensor]:
    if sample.number == 99:
        raise ValueError("the file of 99\ncannot be read")
    return sample.number, torch.rand(3)


def collate(samples: Sequence[Any]) -> tuple[list[int], torch.Tensor]:
    numbers, drawn = zip(*samples, strict=True)
    return list(numbers), torch.stack(drawn)


def loader(workers: int = 0, seed: int = 0) -> SeededDataLoader:
    return SeededDataLoader(read, collate, Setup(seed=seed, workers=workers))


def asked(epoch: int, *groups: Sequence[int]) -> list[list[SampleKey]]:
    return [[SampleKey("train", epoch, n) for n in group] for group in groups]


GROUPS = ([5, 2], [7, 1, 3], [0], [4, 6])


def gather(of: SeededDataLoader, epoch: int = 0, groups: Any = GROUPS) -> dict[int, list[float]]:
    out = {}
    for numbers, drawn in of.batches(asked(epoch, *groups)):
        out |= {n: row.tolist() for n, row in zip(numbers, drawn, strict=True)}
    return out


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches_in_the_same_order(workers: int):
    many, alone = loader(workers), loader()
    for epoch in range(3):  # by the same processes
        batches = list(many.batches(asked(epoch, *GROUPS)))
        assert [numbers for numbers, _ in batches] == list(GROUPS)
        assert gather(many, epoch) == gather(alone, epoch)


def test_what_a_sample_draws_depends_on_seed_epoch_and_number_alone():
    of = loader()
    whole = gather(of)
    assert gather(of, groups=([6, 0], [2])).items() <= whole.items()
    assert len({tuple(v) for v in whole.values()}) == 8
    again = gather(of, epoch=1)
    assert all(again[n] != whole[n] for n in whole)
    other = gather(loader(seed=1))
    assert all(other[n] != whole[n] for n in whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_abandoned_epoch_does_not_affect_the_next(workers: int):
    of = loader(workers)
    for _ in of.batches(asked(0, *GROUPS)):
        break
    assert gather(of, 1) == gather(loader(), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_read_error_has_the_readers_message(workers: int):
    with pytest.raises(ValueError) as error:
        list(loader(workers).batches(asked(0, [1, 99])))
    assert str(error.value) == "the file of 99\ncannot be read"


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_torchs_generator_alone(workers: int):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    gather(loader(workers))
    assert torch.equal(torch.get_rng_state(), before)


SMALL = [
    *("task=shapes_seg", "dataset.crop=33", "train.batch_size=4", "train.threads=1"),
    *("train.epochs=2", "train.max_steps=8", "eval.every=2", "eval.final_mode=whole"),
    "eval.pictures_every=0",
]


def numbers(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in run.metrics]


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_to_its_process_group_resumes_to_the_same_numbers(
    cli, tmp_path: Path
):
    """A cluster or a terminal signals the whole group: the workers get the signal too."""
    arguments = [*SMALL, f"run.dir={tmp_path / 'stopped'}", "data.workers=2"]
    command = [sys.executable, "run.py", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    ) as stopped:
        children = Path(f"/proc/{stopped.pid}/task/{stopped.pid}/children")
        while stopped.poll() is None and len(children.read_text().split()) < 2:
            time.sleep(0.02)
        time.sleep(0.5)
        os.killpg(stopped.pid, signal.SIGTERM)
        assert stopped.wait(60) == 143
    for folder, workers in (("stopped", 1), ("peace", 0)):
        done = cli(*SMALL, f"run.dir={tmp_path / folder}", f"data.workers={workers}")
        assert done.status == 0, done.err
    ours, theirs = (next(find_runs(tmp_path / folder)) for folder in ("stopped", "peace"))
    assert numbers(ours) == numbers(theirs)
