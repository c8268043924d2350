"""How a run's optimizer steps: chosen by its length, recorded, repeated by a resume."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lrd import LRDropout
from lrd.optim import flat_params, kernels, select
from lrd.optim.select import select_implementation
from lrd.runs.store import find_runs
from lrd.training import runner

needs_compiler = pytest.mark.skipif(not kernels.can_compile("cpu"), reason="needs a C++ compiler")
SIZE = 1000


def adam(**settings: Any) -> LRDropout:
    param = torch.ones(SIZE, requires_grad=True)
    return LRDropout(torch.optim.Adam([param], **settings))


def lies_flat(lrd: LRDropout) -> bool:
    return flat_params.buffer_of(lrd.param_groups[0]["params"]) is not None


@needs_compiler
def test_auto_goes_by_elements_times_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", SIZE * 100)
    caplog.set_level("INFO", "lrd")
    short, long = adam(), adam()
    assert select_implementation(short, "auto", None, 99) == "generic"
    assert not caplog.messages and not lies_flat(short) and short.implementation == "auto"
    assert select_implementation(long, "auto", None, 100) == "single_pass"
    assert lies_flat(long) and long.implementation == "single_pass"
    assert caplog.messages[0].startswith("compiling the optimizer step once")
    assert len(caplog.messages) == 2


@needs_compiler
def test_a_resume_repeats_what_is_recorded(monkeypatch: pytest.MonkeyPatch):
    assert select_implementation(adam(), "auto", "single_pass", 1) == "single_pass"
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 1)
    assert select_implementation(adam(), "auto", "generic", 1) == "generic"
    monkeypatch.setattr(kernels, "COMPILE", False)
    assert select_implementation(adam(), "auto", "single_pass", 1) == "generic"


@needs_compiler
def test_a_base_without_a_rule_is_restored_by_a_compiled_kernel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 1)
    param = torch.ones(SIZE, requires_grad=True)
    lrd = LRDropout(torch.optim.NAdam([param]))
    assert (
        select_implementation(lrd, "auto", None, 1) == "generic" and lrd.implementation == "generic"
    )
    assert lies_flat(lrd)


def test_without_lrd_nothing_is_compiled_or_moved(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 1)
    for wanted in ("auto", "single_pass" if kernels.can_compile("cpu") else "generic"):
        lrd = adam()
        lrd.p = 1.0
        assert select_implementation(lrd, wanted, None, 1) == "generic"
        assert not caplog.messages and not lies_flat(lrd)


@needs_compiler
def test_a_p_that_falls_from_one_needs_its_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 1)
    lrd = adam()
    lrd.p = 1.0
    assert select_implementation(lrd, "auto", None, 10, smallest_p=0.5) == "single_pass"
    paths = []
    for p in (1.0, 0.75, 0.5, 1.0):
        lrd.p = p
        lrd.zero_grad()
        lrd.param_groups[0]["params"][0].square().sum().backward()
        lrd.step()
        paths.append(lrd.path)
    assert paths == ["base", "single_pass", "single_pass", "base"]


@needs_compiler
def test_a_compiler_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*args: Any) -> None:
        raise RuntimeError("g++: no such instruction\nand more")

    monkeypatch.setattr(select, "precompile_restore", fail)
    monkeypatch.setattr(kernels, "COMPILE", True)
    monkeypatch.setitem(kernels.COMPILE_THRESHOLD, "cpu", 1)
    with pytest.raises(ValueError, match=r"^lrd.implementation=single_pass could not be.*\(g\+\+"):
        select_implementation(adam(), "single_pass", None, 1)
    caplog.set_level("INFO", "lrd")
    lrd = adam()
    assert select_implementation(lrd, "auto", None, 1) == "generic"
    assert caplog.messages[-1].startswith("note: the compiler failed (g++: no such instruction)")
    assert not kernels.can_compile("cpu")
    lrd.param_groups[0]["params"][0].grad = torch.ones(SIZE)
    lrd.step()


QUICK = ["model.hidden=[8]", "train.threads=1"]


@needs_compiler
def test_a_run_goes_on_by_another_implementation_and_says_so(cli: Callable[..., Any]):
    """Stopped as single pass, gone on with as reference: the same masks, numbers to rounding."""
    whole = cli(*QUICK, "train.epochs=4", "lrd.implementation=reference", "run.dir=whole")
    assert whole.status == 0

    original = runner._RunSession._on_epoch_end

    def stop(self: Any, trainer: Any) -> None:
        original(self, trainer)
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner._RunSession, "_on_epoch_end", stop)
        assert cli(*QUICK, "train.epochs=4", "lrd.implementation=single_pass").status == 130
    (run,) = find_runs("runs")
    assert run.metadata["implementation"] == "single_pass"
    done = cli(*QUICK, "train.epochs=4", "lrd.implementation=reference")
    assert "note: implementation was single_pass, is reference" in done.out
    (ours,), (reference,) = find_runs("runs"), find_runs("whole")
    assert ours.fingerprint == reference.fingerprint  # how is no part of what
    for a, b in zip(ours.metrics, reference.metrics, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["fraction_kept"] == b["fraction_kept"]


def test_the_first_command_compiles_nothing(cli: Callable[..., Any], monkeypatch: Any):
    def compiled(*args: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(kernels, "compiled", compiled)
    done = cli("train.epochs=1")
    assert done.status == 0 and "compiling" not in done.out
    (run,) = find_runs("runs")
    assert run.metadata["implementation"] == "generic"
    assert (run.metadata["precision"], run.metadata["matmul"]) == ("fp32", "default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fast_on_a_gpu_captures_trains_and_resumes(cli: Callable[..., Any]):
    """Forward, backward and step as graphs: as good as train=paper, and the same after a stop."""
    fast = ["train=fast", "train.device=cuda", "train.epochs=12", "lrd.implementation=single_pass"]
    assert cli(*fast).status == 0 and cli("train.device=cuda", "train.epochs=12").status == 0
    scores = {run.metadata["precision"]: run.final for run in find_runs("runs")}
    assert abs(scores["bf16"] - scores["fp32"]) < 3 and scores["bf16"] > 90
    stopped = [*fast, "train.max_steps=70", "train.deterministic=true", "run.dir=whole"]
    assert cli(*stopped).status == 0

    original = runner._RunSession._on_epoch_end

    def stop(self: Any, trainer: Any) -> None:
        original(self, trainer)
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner._RunSession, "_on_epoch_end", stop)
        assert cli(*stopped[:-1], "run.dir=parts").status == 130
    assert cli(*stopped[:-1], "run.dir=parts").status == 0
    (whole,), (parts,) = find_runs("whole"), find_runs("parts")
    assert [n["train_loss"] for n in whole.metrics] == [n["train_loss"] for n in parts.metrics]
