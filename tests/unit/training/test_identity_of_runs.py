"""A run says what it was: other code or other data never pass for a finished or unfinished run."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lrd.analysis.matching import describe_mixture
from lrd.runs.store import find_runs
from lrd.training import runner
from tests.unit.training.test_implementation import stop_after_two_epochs

OPTIMIZER = """
import torch

class Signed(torch.optim.Optimizer):
    def __init__(self, params, lr=0.001):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())
"""
DATA = """
from pathlib import Path

import torch
from tasks.images import Images

class Squares(Images):
    shape, classes = (1, 4, 4), 2

    def read(self, train):
        count = int(Path("count.txt").read_text()) if train else 20
        generator = torch.Generator().manual_seed(count)
        labels = torch.arange(count) % 2
        noise = torch.randint(0, 50, (count, 1, 4, 4), generator=generator)
        return (noise + 100 * labels[:, None, None, None]).to(torch.uint8), labels
"""
QUICK = ["model.hidden=[8]", "train.threads=1", "train.epochs=3"]
SAVED = "train.checkpoint_every=1"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write a module of the user's, and forget what was imported of it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def module(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield module
    for name in ("signed_of_mine", "squares_of_mine"):
        sys.modules.pop(name, None)


def own_optimizer(*more: str) -> list[str]:
    target = "optim._target_=signed_of_mine.Signed"
    return [
        *QUICK,
        SAVED,
        target,
        "~optim.weight_decay",
        "run.allow=[signed_of_mine]",
        "lrd.p=1",
        *more,
    ]


def test_an_edited_optimizer_trains_again_and_both_runs_stay(
    cli: Callable[..., Any], write: Callable[[str, str], None]
):
    write("signed_of_mine", OPTIMIZER)
    assert cli(*own_optimizer()).status == 0
    write("signed_of_mine", OPTIMIZER + "\n# a comment\n")
    assert "finished already" in cli(*own_optimizer()).out
    write("signed_of_mine", OPTIMIZER.replace(".sign()", ".mul(1.0)"))
    done = cli(*own_optimizer())
    assert done.status == 0 and "finished already" not in done.out
    one, two = find_runs("runs")
    assert one.final != two.final
    (changed,) = {k for k in one.identity if one.identity[k] != two.identity[k]}
    assert changed == "source.signed_of_mine"


def stop_and_edit(cli: Callable[..., Any], write: Callable[[str, str], None]) -> None:
    write("signed_of_mine", OPTIMIZER)
    with pytest.MonkeyPatch.context() as patch:
        stop_after_two_epochs(patch)
        assert cli(*own_optimizer()).status == 130
    write("signed_of_mine", OPTIMIZER.replace(".sign()", ".mul(1.0)"))


def test_an_unfinished_run_of_other_code_is_refused_in_one_line(
    cli: Callable[..., Any], write: Callable[[str, str], None]
):
    stop_and_edit(cli, write)
    done = cli(*own_optimizer())
    assert done.status == 2 and len(list(find_runs("runs"))) == 1
    (line,) = done.err.strip().splitlines()
    for part in ("unfinished", "source.signed_of_mine=sha256:", "run.force=true"):
        assert part in line
    write("signed_of_mine", OPTIMIZER)
    assert cli(*own_optimizer()).status == 0  # restored: the run is resumed
    (run,) = find_runs("runs")
    assert run.status == "finished" and len(run.metrics) == 3


def test_forced_a_run_of_new_code_starts_beside_the_unfinished_one(
    cli: Callable[..., Any], write: Callable[[str, str], None]
):
    stop_and_edit(cli, write)
    assert cli(*own_optimizer("run.force=true")).status == 0
    assert sorted(run.status for run in find_runs("runs")) == ["finished", "interrupted"]


def own_data(*more: str) -> list[str]:
    target = "dataset._target_=squares_of_mine.Squares"
    return [*QUICK, SAVED, target, "run.allow=[squares_of_mine]", *more]


def test_data_that_grew_are_noticed_at_a_resume_and_after_the_end(
    cli: Callable[..., Any], write: Callable[[str, str], None]
):
    write("squares_of_mine", DATA)
    Path("count.txt").write_text("60")
    with pytest.MonkeyPatch.context() as patch:
        stop_after_two_epochs(patch)
        assert cli(*own_data()).status == 130
    Path("count.txt").write_text("120")
    done = cli(*own_data())
    assert done.status == 2 and done.err.count("\n") == 1
    assert "unfinished, with other data" in done.err and "run.name=NAME" in done.err
    Path("count.txt").write_text("60")
    assert cli(*own_data()).status == 0
    assert "finished already" in cli(*own_data()).out
    Path("count.txt").write_text("120")
    done = cli(*own_data())
    assert done.status == 2 and "finished, with other data" in done.err
    Path("count.txt").unlink()  # no data here: the result is what it is
    assert "finished already" in cli(*own_data()).out


def test_the_record_says_how_the_run_was_made(cli: Callable[..., Any]):
    assert cli(*QUICK, "seed=3").status == 0
    (run,) = find_runs("runs")
    record = run.metadata
    assert (
        record["command"]
        == "python run.py 'model.hidden=[8]' train.threads=1 train.epochs=3 seed=3"
    )
    assert record["packages"]["torch"] == record["versions"]["torch"].partition("+")[0] or (
        record["packages"]["torch"] == record["versions"]["torch"]
    )
    assert {"hydra-core", "numpy"} <= record["packages"].keys()
    assert record["batch_norm"] == "over the batch" and record["precision"] == "fp32"
    assert record["data_manifest"] is None and record["threads"] == 1


def test_a_mixture_names_the_seeds_of_each_kind():
    values = pd.Series(["bf16", "fp32", "bf16"], index=[0, 1, 2])
    assert describe_mixture(values) == "bf16 (seeds 0, 2), fp32 (seed 1)"
    assert describe_mixture(values.iloc[[0, 2]]) == "" == describe_mixture(values.iloc[:0])
    assert describe_mixture(pd.Series([None, None], index=[0, 1])) == ""


def test_batch_norm_over_shards_is_recorded():
    from torch import nn

    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    kind = runner._batch_norm_kind
    assert kind(network, 1) == "over the batch" == kind(nn.Linear(3, 3), 4)
    assert kind(network, 4) == "over shards of 4 ranks"
    assert kind(nn.SyncBatchNorm.convert_sync_batchnorm(network), 4) == "over the batch"
