"""SD, NL, NG and DG: what each does, by how much, and that it does nothing else."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from lrd import LRDropout, rng
from lrd.config.compose import CONFIGS, compose, to_config
from lrd.optim.masks import keep_mask
from lrd.regularizers import GradientDropout, NoisyGradient, NoisyLabel, Regularizer, normal
from lrd.rng import fold_key
from lrd.runs.store import find_runs
from lrd.task import Batch
from lrd.training import builder
from lrd.training.trainer import Trainer
from tasks.images import Digits
from tests.unit.optim.test_masks import python_bits
from tests.unit.training.test_trainer import Memory, lines, weights

KINDS = ("sd", "nl", "ng", "dg")
ZERO = {
    "sd": "regularizer.sd.p_sd=1",
    "nl": "regularizer.nl.rate=0",
    "ng": "regularizer.ng.eta=0",
    "dg": "regularizer.dg.p=1",
}
SMALL = ("model.hidden=[24]", "train.epochs=2", "train.threads=1", "eval.pictures_every=0")


def made(*overrides: str) -> Trainer:
    """A Trainer on the digits, as run.py builds it."""
    config = to_config(compose([*SMALL, *overrides]))
    trainer, _ = builder.build_trainer(config, builder.build(config))
    trainer.loggers = [Memory()]
    return trainer


def trained(*overrides: str) -> Trainer:
    trainer = made(*overrides)
    trainer.run()
    return trainer


def same(a: Trainer, b: Trainer) -> bool:
    return torch.equal(weights(a), weights(b)) and lines(a) == lines(b)


# What holds for all four.


@pytest.fixture(scope="module")
def plain() -> Trainer:
    return trained()


@pytest.mark.parametrize("kind", KINDS)
def test_at_strength_zero_a_run_is_bitwise_the_run_without(kind: str, plain: Trainer):
    assert same(trained(f"regularizer={kind}", ZERO[kind]), plain)
    assert not same(trained(f"regularizer={kind}"), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_that_is_random_changes(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Initialisation, data order, augmentation, and which weights LRD lets move."""
    monkeypatch.setattr(Digits, "crop", 2)

    def watched(*overrides: str) -> tuple[Tensor, list[Tensor]]:
        trainer = made("seed=7", "optim=sgdm", *overrides)
        start, seen, step = weights(trainer), [weights(trainer)], trainer.task.step
        batches: list[Tensor] = []

        def spy(model: nn.Module, batch: Batch) -> Any:
            batches.extend((batch.index.clone(), batch.inputs.clone()))
            return step(model, batch)

        def safe_point(now: Trainer) -> None:
            if now.model.training:
                moved = weights(now) != seen[-1]
                mask = keep_mask(7, now.state.total - 1, 0.5, start=0, count=len(moved))
                assert moved.any() and not (moved & ~mask).any()
                seen.append(weights(now))

        trainer.task.step, trainer.on_step_end = spy, safe_point  # type: ignore[method-assign]
        trainer.run()
        assert len(seen) == 25
        return start, batches

    (start, batches), (without, plain) = watched(f"regularizer={kind}"), watched()
    assert torch.equal(start, without)
    assert all(torch.equal(a, b) for a, b in zip(batches, plain, strict=True))


@pytest.mark.parametrize("stop", [5, 12])
def test_a_run_with_all_of_them_and_lrd_resumes_bitwise(stop: int, tmp_path: Path):
    everything = ("regularizer=[sd,nl,ng,dg]", "seed=1")
    straight = trained(*everything)

    class Stop(Exception):
        pass

    def safe_point(now: Trainer) -> None:
        if now.state.total == stop:
            torch.save(now.state_dict(), tmp_path / "state.pt")
            raise Stop

    first = made(*everything)
    first.on_step_end = safe_point
    with pytest.raises(Stop):
        first.run()
    second = made(*everything)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    without = made("seed=1").state_dict()
    assert state.keys() == without.keys() and state["model"].keys() == without["model"].keys()
    second.load_state_dict(state)
    second.run()
    assert torch.equal(weights(straight), weights(second))
    assert lines(first) + lines(second) == lines(straight)


@pytest.mark.parametrize("lists", [("[sd,nl,ng]", "[ng,sd,nl]"), ("[ng,dg]", "[dg,ng]")])
def test_the_order_in_which_they_are_listed_does_not_matter(lists: tuple[str, str]):
    """One fingerprint stands for both, so both must be one run."""
    one, other = (trained(f"regularizer={order}") for order in lists)
    assert same(one, other)


MISTAKES = {
    ("sd", "p_sd=0"): "sd.p_sd must be in (0, 1] (the probability to KEEP a unit), got 0",
    ("sd", "p_sd=1.1"): "sd.p_sd must be in (0, 1] (the probability to KEEP a unit), got 1.1",
    ("sd", "p_sd=high"): "sd.p_sd must be in (0, 1] (the probability to KEEP a unit), got high",
    ("nl", "rate=-0.1"): "nl.rate must be in [0, 1], got -0.1",
    ("nl", "rate=2"): "nl.rate must be in [0, 1], got 2",
    ("nl", "rate=true"): "nl.rate must be in [0, 1], got True",
    ("ng", "eta=-1"): "ng.eta must be at least 0, got -1",
    ("ng", "eta=inf"): "ng.eta must be at least 0, got inf",
    ("ng", "gamma=-0.5"): "ng.gamma must be at least 0, got -0.5",
    ("ng", "gamma=nan"): "ng.gamma must be at least 0, got nan",
    ("dg", "p=0"): "dg.p must be in (0, 1] (the probability to KEEP a gradient), got 0",
    ("dg", "p=null"): "dg.p must be in (0, 1] (the probability to KEEP a gradient), got None",
}


@pytest.mark.parametrize(("wrong", "line"), MISTAKES.items(), ids=map(" ".join, MISTAKES))
def test_a_bad_setting_is_one_line(wrong: tuple[str, str], line: str):
    kind, setting = wrong
    with pytest.raises(ValueError) as caught:
        made(f"regularizer={kind}", f"regularizer.{kind}.{setting}")
    assert str(caught.value) == f"regularizer.{line}"


def test_two_of_one_class_would_draw_the_same_and_are_refused():
    second = "+regularizer.other={_target_:lrd.regularizers.NoisyGradient,eta:0.2}"
    with pytest.raises(ValueError) as caught:
        made("regularizer=ng", second)
    assert str(caught.value) == (
        "regularizer.other must be of another class than regularizer.ng, whose random stream it "
        "would share, got NoisyGradient"
    )


@pytest.mark.parametrize(
    ("kind", "task", "line"),
    [
        ("sd", "shapes_det", "regularizer=sd must have a model.*, got SSDLite320MobileNet:"),
        ("nl", "shapes_det", "regularizer=nl must have a task.*, got Detection: leave nl out"),
        ("nl", "shapes_seg", "regularizer=nl must have a task.*, got Segmentation: leave nl"),
    ],
)
def test_what_does_not_apply_is_refused_by_name(kind: str, task: str, line: str):
    with pytest.raises(ValueError, match=line) as caught:
        builder.build(to_config(compose([f"task={task}", f"regularizer={kind}", ZERO[kind]])))
    assert "\n" not in str(caught.value)


# Noisy label.


def labelled(count: int, classes: int = 10) -> Batch:
    targets = torch.arange(count) % classes
    return Batch(torch.zeros(count, 1), targets, torch.arange(count) * 7)


class Labels:
    """As much of a task as NL asks of."""

    def __init__(self, labels: int | None) -> None:
        self.labels = labels


def noisy(rate: float, labels: int = 10, seed: int = 0) -> NoisyLabel:
    made = NoisyLabel(rate, seed)
    made.on_model(nn.Identity(), Labels(labels))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("labels", [2, 10])
def test_a_label_changes_at_the_rate_and_to_any_other_alike(rate: float, labels: int):
    count, batch = 100_000, labelled(100_000, labels)
    for step in (0, 1, 20_000):
        new = noisy(rate, labels).on_batch(batch, step)
        assert torch.equal(batch.targets, labelled(count, labels).targets)
        assert new.inputs is batch.inputs and new.targets.dtype == torch.int64
        changed = new.targets != batch.targets
        deviation = math.sqrt(count * rate * (1 - rate))
        assert abs(int(changed.sum()) - count * rate) <= 5 * deviation
        pairs = batch.targets[changed] * labels + new.targets[changed]
        others = ~torch.eye(labels, dtype=torch.bool)
        counts = torch.bincount(pairs, minlength=labels**2).view(labels, labels)[others]
        assert len(counts) == labels * (labels - 1) and (rate < 1 or changed.all())
        assert 1e-6 < stats.chisquare(counts.numpy()).pvalue


def test_changes_depend_on_seed_step_and_sample_alone():
    batch, once = labelled(50_000), noisy(0.3)
    new = once.on_batch(batch, 3).targets
    order = torch.randperm(50_000, generator=torch.Generator().manual_seed(0))
    part = Batch(batch.inputs[order], batch.targets[order], batch.index[order])
    assert torch.equal(once.on_batch(part, 3).targets, new[order])
    changed = (new != batch.targets).double()
    for other in (once.on_batch(batch, 4), noisy(0.3, seed=1).on_batch(batch, 3)):
        pair = torch.stack([changed, (other.targets != batch.targets).double()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / math.sqrt(50_000)


def test_a_task_of_one_label_has_no_other():
    with pytest.raises(ValueError, match="one of several labels a sample"):
        noisy(0.1, labels=1)


# Noise on the gradient, and dropout of it.


def problem(kind: Callable[..., Optimizer] = SGD, **settings: Any) -> tuple[Optimizer, Tensor]:
    """An optimizer over parameters with gradients, the first frozen, one without, one strided,
    and for each element in order whether it has a gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7,), (40, 11), (2, 2), (4, 3, 2, 5), (13,)]
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for number, param in enumerate(params):
        if number == 0:
            param.requires_grad_(False)
        elif number != 3:
            param.grad = torch.randn(param.shape, generator=generator)
    params[4].grad = params[4].grad.to(memory_format=torch.channels_last)  # type: ignore[union-attr]
    groups = [{"params": params[:3]}, {"params": params[3:]}]
    has = [torch.full((p.numel(),), p.grad is not None) for p in params]
    return kind(groups, **{"lr": 0.1, **settings}), torch.cat(has)


def params(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def gradients(optimizer: Optimizer) -> Tensor:
    """All of them in order, row-major; 0 where there is none."""
    each = (torch.zeros_like(p) if p.grad is None else p.grad for p in params(optimizer))
    return torch.cat([g.reshape(-1).clone() for g in each])


def values(optimizer: Optimizer) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in params(optimizer)])


def python_noise(seed: int, step: int, count: int, variance: float) -> list[float]:
    """The noise written out: the upper 24 bits as the middle of an interval of [-1, 1]."""
    drawn = (python_bits(fold_key("ng", seed, step, 0), index) for index in range(count))
    tops = ((bits if bits < 2**31 else bits - 2**32) >> 8 for bits in drawn)
    middles = ((top + 0.5) / 2**23 for top in tops)
    return [math.sqrt(variance) * float(stats.norm.ppf((1 + m) / 2)) for m in middles]


@pytest.mark.parametrize("step", [0, 1, 5000])
def test_noise_is_that_of_plain_python_at_the_global_index(step: int):
    optimizer, has = problem()
    before = gradients(optimizer)
    NoisyGradient(0.1, 0.55, seed=4).on_gradients(optimizer, step)
    noise = python_noise(4, step, len(has), 0.1 / (1 + step) ** 0.55)
    expected = before + torch.tensor(noise) * has
    assert torch.allclose(gradients(optimizer), expected, rtol=1e-5, atol=1e-6)
    assert params(optimizer)[0].grad is None and params(optimizer)[3].grad is None


@pytest.mark.parametrize(("eta", "gamma"), [(0.1, 0.55), (0.5, 0.0), (2.0, 1.0)])
def test_the_variance_decays_as_stated_and_the_noise_is_normal(eta: float, gamma: float):
    count = 1 << 18
    weight = nn.Parameter(torch.zeros(512, 512))
    optimizer, last = SGD([weight]), torch.zeros(count)
    for step in (0, 1, 10, 1000, 78_000):
        weight.grad = torch.zeros_like(weight)
        NoisyGradient(eta, gamma).on_gradients(optimizer, step)
        variance = eta / (1 + step) ** gamma
        noise = weight.grad.flatten().double() / math.sqrt(variance)
        assert abs(noise.square().mean() - 1) < 5 * math.sqrt(2 / count)
        assert abs(noise.mean()) < 5 / math.sqrt(count)
        assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6
        for other in (last, noise.roll(1), noise.roll(512)):
            assert abs(float((noise * other).mean())) < 5 / math.sqrt(count)
        last = noise


def test_a_normal_number_is_its_quantile_out_to_the_ends():
    ends = torch.tensor([-(2**31), 2**31 - 1, 0, -1, 2**30, 12345678], dtype=torch.int32)
    middles = ((ends >> 8).double() + 0.5) / 2**23
    expected = stats.norm.ppf((1 + middles.numpy()) / 2)
    assert normal(ends).numpy() == pytest.approx(expected, rel=1e-5)
    assert expected[1] == -expected[0] == pytest.approx(5.42, abs=0.005)
    assert 2 * stats.norm.sf(expected[1]) == pytest.approx(1 / 17e6, rel=0.02)


@pytest.mark.parametrize("regularizer", [NoisyGradient(seed=3), GradientDropout(0.3, seed=3)])
def test_chunks_do_not_change_the_bits(regularizer: Regularizer, monkeypatch: pytest.MonkeyPatch):
    def changed() -> Tensor:
        optimizer, _ = problem()
        regularizer.on_gradients(optimizer, 6)
        return gradients(optimizer)

    whole = changed()
    for size in (1, 7, 100):
        with monkeypatch.context() as patch:
            patch.setitem(rng.CHUNK, "cpu", size)
            assert torch.equal(changed(), whole)


@pytest.mark.parametrize("regularizer", [NoisyGradient(), GradientDropout()])
def test_a_sparse_gradient_is_left_to_be_refused(regularizer: Regularizer):
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = LRDropout(SGD(table.parameters()), 1.0)
    table(torch.tensor([1, 2])).sum().backward()
    regularizer.on_gradients(optimizer, 0)
    with pytest.raises(ValueError, match="gradients must be dense"):
        optimizer.step()


@pytest.mark.parametrize("step", [0, 3])
def test_the_gradient_is_masked_by_lrds_function_at_the_global_index(step: int):
    optimizer, has = problem()
    before, dropout = gradients(optimizer), GradientDropout(0.3, seed=2)
    dropout.on_gradients(optimizer, step)
    mask = keep_mask(dropout.mask_seed, step, 0.3, start=0, count=len(has))
    assert torch.equal(gradients(optimizer), torch.where(mask, before, 0))
    assert params(optimizer)[0].grad is None and params(optimizer)[3].grad is None


def test_with_plain_sgd_it_is_bitwise_lrd():
    """w - lr * 0 is w: a whole run of the digits, by the two ways."""
    plain = ("optim=sgdm", "optim.momentum=0", "seed=5")
    dropped = trained(*plain, "lrd.p=1", "regularizer=dg", "regularizer.dg.p=0.4")
    (dropout,) = dropped.regularizers
    assert isinstance(dropout, GradientDropout) and dropout.mask_seed != 5
    lrd = made(*plain, "lrd.p=0.4", "lrd.implementation=snapshot")
    lrd.optimizer.seed = dropout.mask_seed
    lrd.run()
    assert torch.equal(weights(dropped), weights(lrd))


STATES: list[tuple[Any, dict[str, Any], str, Any]] = [
    (SGD, {"momentum": 0.9}, "momentum_buffer", lambda g: 0.81 * g[0] + 0.9 * g[1] + g[2]),
    (Adam, {}, "exp_avg", lambda g: 0.1 * (0.81 * g[0] + 0.9 * g[1] + g[2])),
    (
        *(Adam, {}, "exp_avg_sq"),
        lambda g: 0.001 * (0.999**2 * g[0] ** 2 + 0.999 * g[1] ** 2 + g[2] ** 2),
    ),
]


@pytest.mark.parametrize(("kind", "settings", "name", "moment"), STATES)
def test_lrds_moments_see_every_gradient_and_dgs_what_is_kept(
    kind: Callable[..., Optimizer], settings: dict[str, Any], name: str, moment: Any
):
    """Three steps with the same masks for both; the moments in closed form."""
    dropout = GradientDropout(0.5)
    moments, moved = [], []
    for p in (0.5, 1.0):
        base, has = problem(kind, **settings)
        optimizer = LRDropout(base, p, dropout.mask_seed)
        start, seen = values(base), []
        for step in range(3):
            for number, param in enumerate(params(base)):
                if param.grad is not None:
                    noise = torch.Generator().manual_seed(10 * step + number)
                    param.grad = torch.randn(param.shape, generator=noise)
            seen.append(gradients(base))
            if p == 1:
                dropout.on_gradients(optimizer, step)
                mask = keep_mask(dropout.mask_seed, step, 0.5, start=0, count=len(has))
                seen[-1] = seen[-1] * mask
            optimizer.step()
        states = [base.state[q].get(name, torch.zeros_like(q)) for q in params(base)]
        moments.append(torch.cat([s.reshape(-1) for s in states]))
        assert torch.allclose(moments[-1], moment(seen), rtol=1e-4, atol=1e-7)
        moved.append(values(base) - start)
    assert not torch.allclose(*moments) and not torch.allclose(*moved)


def test_weight_decay_acts_on_every_weight():
    optimizer, has = problem(SGD, weight_decay=0.2)
    start, g, dropout = values(optimizer), gradients(optimizer), GradientDropout(0.5)
    dropout.on_gradients(optimizer, 0)
    optimizer.step()
    mask = keep_mask(dropout.mask_seed, 0, 0.5, start=0, count=len(has))
    expected = start - 0.1 * has * (mask * g + 0.2 * start)
    assert torch.allclose(values(optimizer), expected)


# The arms.

ARMS = {
    **{"base": ("", 1), "lrd": ("", 0.5), "sd": ("sd", 1), "nl": ("nl", 1), "ng": ("ng", 1)},
    **{"dg": ("dg", 1), "lrd_sd": ("sd", 0.5), "lrd_ng": ("ng", 0.5)},
}


@pytest.mark.parametrize(("arm", "what"), ARMS.items(), ids=ARMS)
def test_an_arm_is_a_regularizer_and_a_p(arm: str, what: tuple[str, float]):
    for task in ([], ["+experiment=quickstart", "task=cifar10"]):
        config = to_config(compose([*task, f"+arm={arm}"]))
        assert ("".join(config.regularizer), config.lrd.p) == what


def test_the_papers_values_are_the_defaults():
    every = to_config(compose(["regularizer=[sd,nl,ng,dg]"])).regularizer
    for node in every.values():
        del node["_target_"]
    assert every == {
        **{"sd": {"p_sd": 0.9}, "nl": {"rate": 0.05}},
        **{"ng": {"eta": 0.1, "gamma": 0.55}, "dg": {"p": 0.5}},
    }


def test_the_command_line_wins_over_an_arm():
    config = to_config(compose(["+arm=lrd_sd", "regularizer.sd.p_sd=0.8", "lrd.p=0.3"]))
    assert config.regularizer["sd"]["p_sd"] == 0.8 and config.lrd.p == 0.3
    assert to_config(compose(["lrd.p=0.3", "+arm=lrd_sd"])).lrd.p == 0.3
    assert set(to_config(compose(["+arm=sd", "regularizer=[nl,ng]"])).regularizer) == {"nl", "ng"}


def test_all_arms_run_as_one_sweep(cli):
    assert set(ARMS) <= {path.stem for path in (CONFIGS / "arm").glob("*.yaml")}
    short = ["model.hidden=[16]", "train.epochs=1"]
    done = cli("-m", f"+arm={','.join(ARMS)}", *short)
    assert done.status == 0, done.err
    assert [run.state for run in find_runs("runs")] == ["finished"] * 8
    assert "finished already" in cli(*short, "lrd.p=1").out  # an arm is nothing but its settings
    assert cli(*short, "regularizer=[sd,nl,ng,dg]").status == 0
