"""Several ranks are one run: what two and three do is what one does, by the same masks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrd.runs.ranks import VARIABLES
from lrd.runs.store import TIMES, find_runs
from lrd.task import Batch, Step, shard
from lrd.training import distributed
from lrd.training.distributed import (
    SINGLE_PROCESS,
    DistributedContext,
    init_distributed,
    shutdown_distributed,
)
from tests.helpers.ranks_worker import SLOW, TRAINED

ROOT = Path(__file__).parents[2]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
Found = dict[tuple[int, int], dict[str, Any]]


def torchrun(count: int, *arguments: str | Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={count}", *map(str, arguments)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks, then one and three, leave behind (tests/helpers/ranks_worker.py)."""
    folder = tmp_path_factory.mktemp("ranks")
    work("2,1,3", folder)
    return folder


def work(counts: str, *arguments: str | Path) -> None:
    worker = [ROOT / "tests" / "helpers" / "ranks_worker.py", counts, *arguments]
    command = [sys.executable, *map(str, worker)]
    done = subprocess.run(command, env=QUIET, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def found(out: Path) -> Found:
    return {(w, r): torch.load(out / f"{w}-{r}.pt") for w in (1, 2, 3) for r in range(w)}


def several(found: Found, name: str) -> Iterator[dict[str, Any]]:
    """What each of several ranks has of a training."""
    for (world, _), of in found.items():
        if world > 1 and name in of:
            yield of[name]


@pytest.mark.parametrize("name", TRAINED)
def test_every_step_is_that_of_one_rank(found: Found, name: str):
    """To rounding."""
    alone = found[1, 0][name]["steps"]
    there = list(several(found, name))
    assert len(there) == 5
    for of in there:
        assert of["steps"].shape == alone.shape
        torch.testing.assert_close(of["steps"], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgdm", "odd", "micro", "rows", "toy"])
def test_masks_are_the_same_bit_for_bit(found: Found, name: str):
    """An element that moved with one rank moved with several, and no other one did."""
    alone = moved(found[1, 0][name]["steps"])
    assert 0.05 < alone.float().mean() < 0.95
    for of in several(found, name):
        assert torch.equal(moved(of["steps"]), alone)


def moved(steps: torch.Tensor) -> torch.Tensor:
    return steps[1:] != steps[:-1]


@pytest.mark.parametrize("name", TRAINED)
def test_ranks_stay_equal_to_the_bit(found: Found, name: str):
    for world in (2, 3):
        first = found[world, 0]
        for rank in range(1, world) if name in first else ():
            assert torch.equal(found[world, rank][name]["steps"], first[name]["steps"])


@pytest.mark.parametrize("name", TRAINED)
def test_sums_and_scores_are_of_all_samples_once(found: Found, name: str):
    """Training losses, and evaluation, of which three ranks have shares of different sizes."""
    (alone,) = ({k: v for k, v in e.items() if k not in TIMES} for e in last(found[1, 0], name))
    for of in several(found, name):
        (numbers,) = last({name: of}, name)
        assert numbers.keys() - set(TIMES) == alone.keys()
        assert {k: numbers[k] for k in alone} == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_micro_batches_make_the_steps_of_whole_batches(found: Found):
    whole = found[1, 0]["odd"]["steps"]
    for of in found.values():
        torch.testing.assert_close(of["micro"]["steps"], whole, rtol=1e-4, atol=1e-6)


def last(of: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return of[name]["epochs"][-1:]


def test_a_run_stopped_by_one_ranks_signal_goes_on_to_the_bit(out: Path):
    """All ranks stop after the same step, and the same number of them makes the same run."""
    for file in ("last.pt", "metrics.jsonl"):
        whole, stopped = (next((out / f).rglob(file)) for f in ("whole2", "same"))
        assert comparable(whole) == comparable(stopped)


def comparable(path: Path) -> Any:
    if path.suffix == ".pt":
        model = torch.load(path, weights_only=True)["model"]
        return {name: value.tolist() for name, value in model.items()}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


@pytest.mark.parametrize(("folder", "world"), [("fewer", 1), ("more", 3)])
def test_a_run_goes_on_with_another_number_of_ranks(out: Path, folder: str, world: int):
    (run,) = find_runs(out / folder)
    assert run.status == "finished" and run.metadata["ranks"] == world
    expected = comparable(next((out / "whole1").rglob("metrics.jsonl")))
    numbers = comparable(run.folder / "metrics.jsonl")
    assert [line.keys() for line in numbers] == [line.keys() for line in expected]
    for line, other in zip(numbers, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one rank, then each of two, has of the trainings on images."""
    folder = tmp_path_factory.mktemp("slow")
    work("1,2", folder, *SLOW)
    return [torch.load(folder / f"{file}.pt") for file in ("1-0", "2-0", "2-1")]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SLOW)
def test_the_slow_ones_are_those_of_one_rank_too(slow: list[dict[str, Any]], name: str):
    """Images from disk, batch norm at its averages."""
    alone, *both = (of[name] for of in slow)
    expected = last({name: alone}, name)[0]
    for of in both:
        torch.testing.assert_close(of["steps"], alone["steps"], rtol=1e-4, atol=1e-6)
        assert torch.equal(of["steps"], both[0]["steps"])
        numbers = last({name: of}, name)[0]
        there = {key: numbers[key] for key in expected.keys() - set(TIMES)}
        assert there == pytest.approx({k: expected[k] for k in there}, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_which_goes_on_alone(tmp_path: Path):
    """Killed in the middle of an epoch: one line, the last save whole, no number lost."""
    settings = ["model.hidden=[32]", "train.epochs=2000", "train.threads=1", f"run.dir={tmp_path}"]
    settings += ["train.checkpoint_every=1"]
    command = torchrun(2, ROOT / "run.py", *settings)
    with subprocess.Popen(command, env=QUIET, text=True, stderr=subprocess.PIPE, cwd=ROOT) as job:
        (run,) = epochs(tmp_path, 3)
        (child,) = [pid for pid in children(job.pid) if environment(pid).get("RANK") == "1"]
        os.kill(child, signal.SIGKILL)
        _, err = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "error: rank 0 has lost another rank, so the run ended; the same command resumes" in err
    (run,) = find_runs(tmp_path)
    assert run.status == "interrupted" and run.state == "partial"
    done = len(run.metrics)
    alone = [sys.executable, "run.py", *settings]
    with subprocess.Popen(alone, env=QUIET, text=True, stdout=subprocess.PIPE, cwd=ROOT) as job:
        epochs(tmp_path, done + 2)
        job.send_signal(signal.SIGTERM)
        text, _ = job.communicate(timeout=120)
    assert "note: ranks was 2, is 1: the numbers agree up to floating-point error" in text
    assert [line["epoch"] for line in run.metrics] == [*range(1, 1 + len(run.metrics))]


def epochs(root: Path, count: int) -> list[Any]:
    """The runs there, once they have logged ``count`` epochs."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        there = list(find_runs(root))
        if there and all(len(run.metrics) >= count for run in there):
            return there
        time.sleep(0.05)
    raise AssertionError("no epochs")


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_a_mistake_is_one_line_for_all_ranks():
    command = torchrun(2, ROOT / "run.py", "lrd.p=2")
    done = subprocess.run(command, env=QUIET, text=True, capture_output=True, cwd=ROOT, timeout=120)
    assert done.returncode != 0 and done.stderr.count("error: lrd.p must be in (0, 1]") == 1


@pytest.mark.slow
def test_any_error_of_one_rank_ends_all_and_the_others_name_it():
    """Also an error that cannot be sent. Without the exchange the others would wait for minutes."""
    worker = ROOT / "tests" / "helpers" / "failing_ranks.py"
    done = subprocess.run(torchrun(2, worker), env=QUIET, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    raised = {
        tuple(line.split(" ", 3)[:3]): line.split(" ", 3)[3] for line in done.stdout.splitlines()
    }
    for how, failing, other in (("on_all_ranks", "1", "0"), ("on_rank_zero", "0", "1")):
        on = f"(on rank {failing})"
        full = "OSError: [Errno 28] No space left on device"
        assert raised["disk", how, other] == f"{full} {on}: '/full'"
        assert raised["setting", how, other] == f"ValueError: lrd.p must be in (0, 1] {on}"
        failed = f"RankFailed: rank {failing} failed: "
        assert raised["memory", how, other] == failed + "MemoryError"
        assert raised["gpu", how, other] == failed + "OutOfMemoryError: CUDA out of memory."
        assert raised["bug", how, other] == failed + "NotSendable: two arguments"
        assert raised["disk", how, failing] == f"{full}: '/full'"  # its own error


OWN = """
import os
from torch.optim import SGD
class Failing(SGD):
    def step(self, closure=None):
        if os.environ["RANK"] == "1":
            raise MemoryError("no room\\nfor two lines")
        return super().step(closure)
"""


@pytest.mark.slow
def test_a_rank_that_fails_in_training_says_so_and_ends_the_others(tmp_path: Path):
    (tmp_path / "own_optimizer.py").write_text(OWN)
    settings = ["optim._target_=own_optimizer.Failing", "run.allow=[own_optimizer]", "lrd.p=1"]
    settings += ["model.hidden=[8]", f"run.dir={tmp_path}/runs"]
    environment = {**QUIET, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = torchrun(2, ROOT / "run.py", *settings)
    done = subprocess.run(command, env=environment, text=True, capture_output=True, cwd=ROOT)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "error: rank 1 failed (MemoryError: no room), so the run ended; the same" in errors[0]
    (run,) = find_runs(tmp_path / "runs")
    assert run.state == "partial" and "MemoryError" in (run.folder / "error.txt").read_text()


def test_shares_are_a_partition_but_of_too_few_samples():
    samples = torch.arange(10, 17)
    parts = [shard(samples, rank, 3) for rank in range(3)]
    assert sorted(torch.cat([part for part, _ in parts]).tolist()) == samples.tolist()
    assert not any(whole for _, whole in parts)
    for rank in range(3):
        part, whole = shard(samples[:2], rank, 3)
        assert whole and part.tolist() == [10, 11]


def test_one_process_by_itself_changes_and_asks_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed.distributed, "all_reduce", None)
    model, step = nn.Linear(2, 2), Step({"loss": torch.ones(())}, {})
    batch = Batch(None, None, torch.arange(3))
    assert SINGLE_PROCESS.wrap(model) is model and SINGLE_PROCESS.scale_losses(step, batch) is step
    assert SINGLE_PROCESS.convert_sync_batchnorm(model, torch.device("cuda")) is model
    assert list(SINGLE_PROCESS.lockstep([1, 2])) == [1, 2] and SINGLE_PROCESS.all_reduce_max(3) == 3
    assert SINGLE_PROCESS.all_reduce_max(None) is None and SINGLE_PROCESS.num_counted(batch) == 3
    assert not SINGLE_PROCESS.is_peer_lost(RuntimeError("gloo"))


def test_batch_norm_of_several_gpus_is_over_the_whole_batch():
    """torch has none for CPUs, where each rank's share stands for itself."""
    for device, kind in (("cuda", nn.SyncBatchNorm), ("cpu", nn.BatchNorm2d)):
        model = DistributedContext(0, 2).convert_sync_batchnorm(
            nn.Sequential(nn.BatchNorm2d(3)), torch.device(device)
        )
        assert type(model[0]) is kind  # type: ignore[index]


def test_a_rank_gives_its_threads_time_after_it_has_left(monkeypatch: pytest.MonkeyPatch):
    """Without it some starts of several ranks abort at their end, all work done."""
    told: list[str] = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: told.append("left"))
    monkeypatch.setattr("time.sleep", lambda seconds: told.append(f"waited {seconds}"))
    shutdown_distributed()
    assert told == ["left", "waited 0.5"]


def test_an_environment_that_is_not_whole_is_one_line(monkeypatch: pytest.MonkeyPatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    assert init_distributed(gpus=False) == SINGLE_PROCESS
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="must come with LOCAL_RANK, .*MASTER_PORT too"):
        init_distributed(gpus=False)
