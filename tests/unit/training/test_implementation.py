"""How a run's optimizer steps: chosen by its base, recorded, repeated by a resume."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lrd.config.compose import compose, to_config
from lrd.runs.store import find_runs
from lrd.training import builder, runner

QUICK = ["model.hidden=[8]", "train.threads=1"]


def chosen(*overrides: str, recorded: str | None = None) -> str:
    config = to_config(compose([*QUICK, *overrides]))
    record = {"implementation": recorded} if recorded else None
    return builder.build_trainer(config, builder.build(config), record)[1]


@pytest.mark.parametrize(
    ("overrides", "recorded", "implementation"),
    [
        (["optim=adam"], None, "fused"),
        (["optim._target_=torch.optim.NAdam"], None, "snapshot"),
        (["lrd.granularity=row"], None, "snapshot"),
        (["lrd.p=1"], None, "base"),
        (["lrd.p=1", "lrd.schedule=linear", "lrd.p_end=0.5"], None, "fused"),
        (["optim=adam"], "generic", "snapshot"),
        (["optim=adam"], "single_pass", "fused"),
        (["optim=adam"], "reference", "reference"),
        (["optim=adam"], "base", "fused"),
        (["lrd.granularity=row"], "fused", "snapshot"),
        (["lrd.implementation=snapshot"], "fused", "snapshot"),
        (["lrd.implementation=generic"], None, "snapshot"),  # as a record of earlier runs has it
        (["lrd.implementation=single_pass"], None, "fused"),
    ],
)
def test_the_choice(overrides: list[str], recorded: str | None, implementation: str):
    assert chosen(*overrides, recorded=recorded) == implementation


def stop_after_two_epochs(patch: pytest.MonkeyPatch) -> None:
    original = runner._RunSession._on_epoch_end

    def stop(self: Any, trainer: Any) -> None:
        original(self, trainer)
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt

    patch.setattr(runner._RunSession, "_on_epoch_end", stop)


def test_a_run_continues_by_another_implementation_and_says_so(cli: Callable[..., Any]):
    """Stopped as fused, continued as reference: the same masks, numbers to rounding."""
    whole = cli(*QUICK, "train.epochs=4", "lrd.implementation=reference", "run.dir=whole")
    assert whole.status == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after_two_epochs(patch)
        assert cli(*QUICK, "train.epochs=4", "train.checkpoint_every=1").status == 130
    (run,) = find_runs("runs")
    assert run.metadata["implementation"] == "fused"
    done = cli(*QUICK, "train.epochs=4", "lrd.implementation=reference")
    assert "note: implementation was fused, is reference" in done.out
    (ours,), (reference,) = find_runs("runs"), find_runs("whole")
    assert ours.fingerprint == reference.fingerprint  # how is no part of what
    for a, b in zip(ours.metrics, reference.metrics, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["fraction_kept"] == b["fraction_kept"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fast_on_a_gpu_captures_trains_and_resumes(cli: Callable[..., Any]):
    """Forward and backward as a graph: as good as train=paper, and the same after a stop."""
    fast = ["train=fast", "train.device=cuda", "train.epochs=12"]
    assert cli(*fast).status == 0 and cli("train.device=cuda", "train.epochs=12").status == 0
    scores = {run.metadata["precision"]: run.final for run in find_runs("runs")}
    assert abs(scores["bf16"] - scores["fp32"]) < 3 and scores["bf16"] > 90
    stopped = [*fast, "train.max_steps=70", "train.deterministic=true", "run.dir=whole"]
    assert cli(*stopped).status == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after_two_epochs(patch)
        assert cli(*stopped[:-1], "run.dir=parts").status == 130
    assert cli(*stopped[:-1], "run.dir=parts").status == 0
    (whole,), (parts,) = find_runs("whole"), find_runs("parts")
    assert [n["train_loss"] for n in whole.metrics] == [n["train_loss"] for n in parts.metrics]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "task",
    [["task=digits"], ["task=shapes_seg", "eval.final_mode=whole"], ["task=shapes_det"]],
    ids=lambda task: task[0],
)
def test_a_gpu_repeats_a_deterministic_run_bit_for_bit(cli: Callable[..., Any], task: list[str]):
    command = [*task, "train.device=cuda", "train.deterministic=true", "train.max_steps=3"]
    for folder in ("one", "two"):
        done = cli(*command, "train.batch_size=4", "eval.pictures_every=0", f"run.dir={folder}")
        assert done.status == 0, done.err
    (one,), (two,) = find_runs("one"), find_runs("two")
    assert [n["train_loss"] for n in one.metrics] == [n["train_loss"] for n in two.metrics]
    assert one.final == two.final
