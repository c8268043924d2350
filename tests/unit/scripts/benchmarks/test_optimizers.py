"""The optimizers that the benchmarks compare take the steps that they should."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from lrd.optim import LRDropout, keep_mask
from lrd.optim.kernels.c import CKernels
from lrd.optim.kernels.eager import EagerKernels
from scripts.benchmarks import optimizers as opt
from scripts.benchmarks.optimizer_step import step_memory
from tests.helpers.earlier_commit import commit_lrd

CPU = torch.device("cpu")


def parameters(*shapes: tuple[int, ...]) -> list[Parameter]:
    return opt.make_parameters(opt.NAIVE, shapes, CPU)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_naive_adam_at_p_1_is_torchs_adam(decay: float):
    sides = [parameters((5, 7), (11,)) for _ in range(2)]
    optimizers = (
        opt.NaiveAdam(sides[0], lr=0.01, weight_decay=decay, p=1.0),
        torch.optim.Adam(sides[1], lr=0.01, weight_decay=decay),
    )
    for step in range(20):
        for params, optimizer in zip(sides, optimizers, strict=True):
            torch.manual_seed(step)
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
    for a, b in zip(*sides, strict=True):
        torch.testing.assert_close(a, b)


def test_naive_adam_drops_updates_but_no_moments():
    (dropped,), (full,) = parameters((4000,)), parameters((4000,))
    for param, p in ((dropped, 0.25), (full, 1.0)):
        before = param.detach().clone()
        optimizer = opt.NaiveAdam([param], p=p)
        optimizer.step()
        kept = (param.detach() != before).float().mean().item()
        assert kept == pytest.approx(p, abs=0.04)
        param.grad, state = None, optimizer.state[param]
        param.moments = state["m"], state["v"]  # type: ignore[attr-defined]
    assert all(map(torch.equal, dropped.moments, full.moments))  # type: ignore[attr-defined]


def test_the_settings_are_those_of_the_papers_runs():
    kind, settings = opt.paper_settings("sgdm")
    assert kind is torch.optim.SGD
    assert settings == {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    assert opt.paper_settings("amsgrad")[1]["amsgrad"] is True


@pytest.mark.parametrize("name", opt.OPTIMIZER_NAMES)
def test_every_variant_of_torchs_takes_the_same_step(name: str):
    ends = []
    for variant in opt.torch_variants(name):
        params = parameters((5, 7))
        optimizer = opt.make_optimizer(name, variant, params)
        optimizer.step()
        ends.append(params[0].detach())
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0])


@pytest.mark.parametrize(
    ("variant", "path"),
    [(opt.LRD_EAGER, "snapshot"), (opt.LRD_SNAPSHOT, "snapshot"), (opt.LRD_FUSED, "fused")],
)
def test_each_variant_of_ours_keeps_the_mask_on_its_path(variant: str, path: str):
    params = parameters((3000,))
    optimizer = opt.make_optimizer("adam", variant, params, p=0.3)
    optimizer.step()
    before = params[0].detach().clone()
    optimizer.step()
    mask = keep_mask(0, 1, 0.3, start=0, count=3000)
    assert torch.equal(params[0].detach() != before, mask)
    assert isinstance(optimizer, LRDropout) and optimizer.path == path
    opt.check_paths([optimizer])


def test_a_step_by_another_path_is_refused():
    optimizer = opt.make_optimizer("adam", opt.LRD_FUSED, parameters((5,)))
    optimizer.step()  # makes the state
    with pytest.raises(AssertionError, match="the step was snapshot, not fused"):
        opt.check_paths([optimizer])


def test_the_eager_variant_alone_uses_no_compiled_kernel(monkeypatch: pytest.MonkeyPatch):
    used: list[str] = []
    for kind in (CKernels, EagerKernels):

        def restore(*args: object, kind: type = kind) -> None:
            used.append(kind.__name__)

        monkeypatch.setattr(kind, "restore", restore)
    for variant in (opt.LRD_EAGER, opt.LRD_SNAPSHOT):
        opt.make_optimizer("adam", variant, parameters((5,))).step()
    assert used == ["EagerKernels", "CKernels"]


def test_without_compiled_kernels_only_the_eager_variant_exists(monkeypatch: pytest.MonkeyPatch):
    assert opt.lrd_variants(CPU) == [opt.LRD_EAGER, opt.LRD_SNAPSHOT, opt.LRD_FUSED]
    monkeypatch.setattr(opt, "kernels_for", lambda device: EagerKernels())
    assert opt.lrd_variants(CPU) == [opt.LRD_EAGER]


@contextmanager
def earlier(
    folder: Path, monkeypatch: pytest.MonkeyPatch, edits: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, opt.EarlierCode]]:
    commit = commit_lrd(folder, edits)
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))
    with opt.earlier_code(commit) as code:
        yield commit, code


def test_the_earlier_code_and_todays_never_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The earlier code counts steps by 2, and its kernels drop every update."""
    edits = {
        "optim/lr_dropout.py": ("self.t += 1", "self.t += 2"),
        "optim/kernels/c.py": ("? {news['w']} : w", "? w : w"),
    }
    ours = {name: module for name, module in sys.modules.items() if name.startswith("lrd.")}
    paths = list(sys.path)
    with earlier(tmp_path, monkeypatch, edits) as (commit, code):
        variants = {f"LRD at {commit}, fused": "fused", f"LRD at {commit}, snapshot": "snapshot"}
        assert code.implementations == variants
        moved, counts = {}, {}
        for variant in (opt.LRD_FUSED, *variants):
            (param,) = opt.make_parameters(variant, [(300,)], CPU, code)
            optimizer = opt.make_optimizer("adam", variant, [param], earlier=code)
            optimizer.step()
            before = param.detach().clone()
            optimizer.step()
            opt.check_paths([optimizer])
            moved[variant] = bool((param != before).any())
            counts[variant] = optimizer.t  # type: ignore[attr-defined]
        assert list(moved.values()) == [True, False, True] and list(counts.values()) == [2, 4, 4]
        prefix = f"lrd_at_{commit}_"
        imported = [name.partition(".")[2] for name in sys.modules if name.startswith(prefix)]
        assert "optim.kernels.c" in imported  # by its step
    assert not any(name.startswith(prefix) for name in sys.modules)
    assert all(sys.modules[name] is module for name, module in ours.items())
    assert sys.path == paths


def test_an_earlier_fused_step_gets_its_names_and_its_flat_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flat = """
def flatten_parameters(groups):
    for group in groups:
        for param in group["params"]:
            param.flat = True
"""
    edits = {
        "optim/options.py": (
            'IMPLEMENTATIONS = ("auto", "fused", "snapshot"',
            'IMPLEMENTATIONS = ("auto", "single_pass", "generic"',
        ),
        "optim/flat_params.py": ("", flat),
    }
    with earlier(tmp_path, monkeypatch, edits) as (commit, code):
        names = {"fused": "single_pass", "snapshot": "generic"}
        wanted = {f"LRD at {commit}, {today}": name for today, name in names.items()}
        assert code.implementations == wanted
        flattened = {
            variant: hasattr(opt.make_parameters(variant, [(5,)], CPU, code)[0], "flat")
            for variant in (*wanted, opt.LRD_FUSED)
        }
        assert list(flattened.values()) == [True, False, False]


def test_a_commit_without_the_optimizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    edits = {"optim/options.py": ("IMPLEMENTATIONS", "import lrd.nothing\nIMPLEMENTATIONS")}
    with pytest.raises(ValueError, match="--against must be a commit with lrd/optim/lr_dropout.py"):
        with earlier(tmp_path, monkeypatch, edits):
            pass
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="must be a commit that has lrd/, got abc"):
        with opt.earlier_code("abc"):
            pass


def test_without_a_commit_there_is_no_earlier_code():
    with opt.earlier_code(None) as code:
        assert not code.implementations


def test_torchs_fused_adam_has_two_moments_and_no_scratch():
    steady, first = step_memory("adam", opt.TORCH_FUSED, [torch.Size([50, 100])], CPU)
    assert steady == pytest.approx(8, abs=0.1) and first == pytest.approx(8, abs=0.1)
