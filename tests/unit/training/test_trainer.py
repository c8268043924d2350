"""The loop around a task: order of events, sums, resume, determinism, the data it sees."""

import copy
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric

from lrd import LRDropout
from lrd.loggers.base import Logger
from lrd.regularizers import Regularizer
from lrd.runs.store import TIMES
from lrd.schedules import Constant, PSchedule, Schedule, Steps
from lrd.task import Batch, Score, Step, Task, epoch_order
from lrd.training.builder import compile_forward
from lrd.training.instantiate import TorchSchedule
from lrd.training.trainer import Trainer


class Regression(Task):
    """A task that is no classification: two losses, 50 samples, batches of 8."""

    score = Score("test_mse", maximize=False)
    steps_per_epoch = 7  # type: ignore[assignment]

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(50, 4, generator=generator)
        self.y = self.x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))

    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        for index in epoch_order(50, 0, epoch).split(8)[start:]:
            yield Batch(self.x[index], self.y[index], index)

    def step(self, model: nn.Module, batch: Batch) -> Step:
        out = model(batch.inputs)
        size = sum(p.square().sum() for p in model.parameters()) * torch.tensor(1e-3)
        close = ((out - batch.targets).abs() < 1).sum()
        return Step({"mse": F.mse_loss(out, batch.targets), "size": size}, {"close": close})

    def metrics(self) -> dict[str, Metric]:
        return {"test_mse": MeanMetric()}

    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        yield Batch(self.x, self.y, torch.arange(50))

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        assert not model.training and not torch.is_grad_enabled()
        metrics["test_mse"].update((model(batch.inputs) - batch.targets).square())


class Memory(Logger):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.steps: list[tuple[int, int]] = []

    def on_step(self, epoch: int, step: int) -> None:
        self.steps.append((epoch, step))

    def on_epoch(self, metrics: dict[str, Any]) -> None:
        self.lines.append({k: v for k, v in metrics.items() if k not in TIMES})


def trainer(
    epochs: int = 4,
    schedule: Schedule | None = None,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Trainer:
    task = Regression()
    torch.manual_seed(5)
    model = task.model()
    base = torch.optim.Adam(task.param_groups(model), lr=0.01)
    settings = {"regularizers": [], "loggers": [Memory()], **settings}
    return Trainer(
        task=task,
        model=model,
        optimizer=LRDropout(base, p=0.5, seed=5, **(options or {})),
        schedule=schedule or Constant(),
        device=torch.device("cpu"),
        seed=5,
        epochs=epochs,
        **settings,
    )


def lines(trainer: Trainer) -> list[dict[str, Any]]:
    sink = trainer.loggers[0]
    assert isinstance(sink, Memory)
    return sink.lines


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_it_equals_a_loop_written_by_hand():
    """The slow twin: plain PyTorch, with the sums taken sample by sample."""
    ours = trainer(epochs=3, schedule=Steps([0.5], 0.1))
    ours.run()
    twin, step = trainer(), 0
    for epoch in range(3):
        twin.model.train()
        losses, sizes, close = [], [], 0
        for batch in twin.task.train_batches(epoch):
            from lrd.training.trainer import seed_generators

            seed_generators(torch.device("cpu"), 5, step)
            twin.optimizer.param_groups[0]["lr"] = 0.01 * (0.1 if step >= round(0.5 * 21) else 1)
            out = twin.task.step(twin.model, batch)
            loss = out.losses["mse"] + out.losses["size"]
            twin.optimizer.zero_grad()
            loss.backward()
            twin.optimizer.step()
            losses.append(loss.item())
            sizes.append(out.losses["size"].item())
            close += int(out.stats["close"])
            step += 1
        line = lines(ours)[epoch]
        assert line["train_loss_sum"] == pytest.approx(sum(losses))
        assert line["train_loss"] == pytest.approx(sum(losses) / 7)
        assert line["train_size"] == pytest.approx(sum(sizes) / 7)
        assert line["train_close"] == pytest.approx(close / 50)
        assert (line["epoch"], line["step"]) == (epoch + 1, step)
    assert torch.equal(weights(ours), weights(twin))
    assert lines(ours)[-1]["lr"] == pytest.approx(0.001)


def test_the_test_score_is_the_models_in_eval_mode():
    ours = trainer(epochs=2)
    ours.run()
    task, model = ours.task, ours.model.eval()
    assert isinstance(task, Regression)
    with torch.no_grad():
        expected = F.mse_loss(model(task.x), task.y).item()
    assert lines(ours)[-1]["test_mse"] == pytest.approx(expected)


BEYOND = dict(
    p_schedule=PSchedule(0.3, 0.9, "cosine"), options=dict(granularity="row", rescale=True)
)


@pytest.mark.parametrize("settings", [{}, BEYOND], ids=["paper", "beyond"])
@pytest.mark.parametrize(
    ("stop", "max_steps"), [*((s, None) for s in range(1, 15)), (7, 9), (8, 9), (9, 9), (7, 7)]
)
def test_a_run_stopped_after_any_step_goes_on_bitwise(
    stop: int, max_steps: int | None, settings: dict[str, Any], tmp_path: Path
):
    settings = {**settings, "max_steps": max_steps}
    straight = trainer(epochs=2, **settings)
    straight.run()

    class Stop(Exception):
        pass

    def safe_point(now: Trainer) -> None:
        if now.state.total == stop:
            torch.save(now.state_dict(), tmp_path / "state.pt")
            raise Stop

    first = trainer(epochs=2, on_step_end=safe_point, **settings)
    with pytest.raises(Stop):
        first.run()
    second = trainer(epochs=2, **settings)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.run()
    assert torch.equal(weights(straight), weights(second))
    assert lines(first) + lines(second) == lines(straight)


def test_max_steps_ends_the_run_and_still_evaluates():
    short = trainer(epochs=4, max_steps=9)
    short.run()
    assert [(n["epoch"], n["step"]) for n in lines(short)] == [(1, 7), (2, 9)]
    whole = trainer(epochs=4)
    whole.run()
    assert lines(short)[0] == lines(whole)[0]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was():
    broken = trainer(epochs=4)

    def poison(now: Trainer) -> None:
        if now.state.total == 16:
            next(now.model.parameters()).data.fill_(float("nan"))

    broken.on_step_end = poison
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 3.*2 epochs before it"):
        broken.run()
    assert [n["epoch"] for n in lines(broken)] == [1, 2]


def test_hooks_of_regularizers_see_every_step_in_order():
    seen: list[tuple[str, int]] = []

    class Spy(Regularizer):
        def on_batch(self, batch: Batch, step: int) -> Batch:
            seen.append(("batch", step))
            return Batch(batch.inputs, torch.zeros_like(batch.targets), batch.index)

        def on_gradients(self, optimizer: torch.optim.Optimizer, step: int) -> None:
            seen.append(("gradients", step))
            for group in optimizer.param_groups:
                for param in group["params"]:
                    param.grad.zero_()

    spied = trainer(epochs=1, regularizers=[Spy()])
    before = weights(spied)
    spied.run()
    assert seen == [(kind, step) for step in range(7) for kind in ("batch", "gradients")]
    assert torch.equal(weights(spied), before)
    assert lines(spied)[0]["train_loss"] != pytest.approx(0, abs=1e-6)


def test_a_regularizer_that_does_nothing_changes_nothing():
    plain, with_one = trainer(epochs=2), trainer(epochs=2, regularizers=[Regularizer()])
    plain.run()
    with_one.run()
    assert lines(plain) == lines(with_one)


def test_global_generators_do_not_decide_what_a_run_draws():
    results = []
    for seed in (1, 2):
        ours = trainer(epochs=1)
        torch.manual_seed(seed)  # as other code in the process might
        ours.run()
        results.append(weights(ours))
    assert torch.equal(*results)


def test_sinks_hear_of_every_step():
    ours = trainer(epochs=2)
    ours.run()
    sink = ours.loggers[0]
    assert isinstance(sink, Memory)
    assert sink.steps == list(itertools.product((0, 1), range(1, 8)))


def test_the_share_kept_is_logged():
    ours = trainer(epochs=1)
    ours.run()
    from lrd.optim.masks import keep_mask

    count = len(weights(ours))
    assert (
        lines(ours)[0]["fraction_kept"]
        == keep_mask(5, 6, 0.5, start=0, count=count).double().mean().item()
    )


@pytest.mark.parametrize("max_steps", [None, 9])
def test_p_goes_by_its_schedule_over_the_whole_run(max_steps: int | None):
    """Of 3 epochs of 7 steps, wherever ``max_steps`` ends them; a group's own p stays."""
    ours, seen = trainer(epochs=3, p_schedule=PSchedule(0.2, 0.8, "linear")), []
    ours.max_steps = max_steps
    ours.on_step_end = lambda now: seen.append(now.optimizer.p)
    ours.optimizer.param_groups[0]["keep_p"] = 0.6
    ours.run()
    each = [0.2 + 0.6 * step / 21 for step in range(21)][:max_steps]
    steps = [p for p, before in zip(seen, [None, *seen], strict=False) if p != before]
    assert steps == pytest.approx(each)
    assert ours.optimizer.param_groups[0]["keep_p"] == 0.6
    assert lines(ours)[-1]["fraction_kept"] == pytest.approx(0.6, abs=0.15)


def test_a_p_by_schedule_is_that_of_a_loop_by_hand():
    ours = trainer(epochs=2, p_schedule=PSchedule(0.2, 0.8, "cosine"))
    ours.run()
    twin = trainer(epochs=2)
    ps = iter([0.2 + 0.6 * (1 - math.cos(math.pi * step / 14)) / 2 for step in range(14)])
    twin.optimizer.register_step_pre_hook(lambda lrd, *_: setattr(lrd, "p", next(ps)))
    twin.run()
    assert torch.equal(weights(ours), weights(twin))
    assert lines(ours) == lines(twin)


class Plain(Regression):
    """Without dropout, whose draws depend on the sizes of the batches."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))


class Masked(Plain):
    """Its loss is a mean over some of the samples, in some micro-batches over none."""

    def step(self, model: nn.Module, batch: Batch) -> Step:
        valid = batch.index % 5 == 0
        loss = (model(batch.inputs) - batch.targets).square()[valid].sum() / valid.sum().clamp(1)
        return Step({"mse": loss}, {"close": valid.sum()}, count=valid.sum())


def of_task(task: Task, **settings: Any) -> Trainer:
    torch.manual_seed(5)
    model = task.model()
    base = torch.optim.Adam(model.parameters(), lr=0.01)
    given: dict[str, Any] = dict(
        schedule=Constant(),
        regularizers=[],
        device=torch.device("cpu"),
        seed=5,
        epochs=3,
        batch_size=8,
        loggers=[Memory()],
    )
    return Trainer(task, model, LRDropout(base, p=0.5, seed=5), **(given | settings))


@pytest.mark.parametrize("accumulate", [2, 3, 4, 8])
@pytest.mark.parametrize("task", [Plain, Masked])
def test_micro_batches_make_the_step_of_the_whole_batch(task: type[Task], accumulate: int):
    """To rounding, also of batches that they do not divide, such as an epoch's last one."""
    whole, split = of_task(task()), of_task(task(), accumulate=accumulate)
    sizes: list[int] = []
    first = next(split.model.children())
    first.register_forward_pre_hook(lambda m, inputs: sizes.append(len(inputs[0])))
    whole.run()
    split.run()
    torch.testing.assert_close(weights(split), weights(whole), rtol=1e-4, atol=1e-6)
    for line, other in zip(lines(split), lines(whole), strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    assert max(size for size in sizes if size != 50) == math.ceil(8 / accumulate)


def test_regularizers_see_micro_batches_and_the_whole_gradient():
    seen: list[tuple[str, int]] = []

    class Spy(Regularizer):
        def on_batch(self, batch: Batch, step: int) -> Batch:
            seen.append(("batch", len(batch)))
            return batch

        def on_gradients(self, optimizer: torch.optim.Optimizer, step: int) -> None:
            seen.append(("gradients", step))

    of_task(Plain(), accumulate=2, regularizers=[Spy()], max_steps=2).run()
    assert seen == [(k, n) for s in (0, 1) for k, n in [("batch", 4)] * 2 + [("gradients", s)]]


def test_a_batch_is_split_by_samples():
    index = torch.arange(5)
    whole = Batch((index * 2, {"x": index[:, None]}), [f"t{i}" for i in range(5)], index, True)
    first, *_, last = whole.split(2)
    assert len(first) == 2 and first.targets == ["t0", "t1"] and first.replicated
    assert torch.equal(last.inputs[0], torch.tensor([8]))
    assert torch.equal(last.inputs[1]["x"], torch.tensor([[4]])) and last.targets == ["t4"]
    assert next(Batch(index, None, index).split(3)).targets is None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_clipped_as_by_hand_after_the_regularizers(accumulate: int):
    class Larger(Regularizer):
        def on_gradients(self, optimizer: torch.optim.Optimizer, step: int) -> None:
            for param in optimizer.param_groups[0]["params"]:
                param.grad.mul_(100)

    ours = of_task(Plain(), clip_norm=0.7, regularizers=[Larger()], accumulate=accumulate)
    twin = of_task(Plain())
    norms: list[float] = []

    def clip(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for p in optimizer.param_groups[0]["params"]]
        norm = torch.cat([100 * g.flatten() for g in grads]).norm()
        for grad in grads:
            grad.mul_(100 * min(1.0, 0.7 / norm.item()))

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad.flatten() for p in optimizer.param_groups[0]["params"]]
        norms.append(torch.cat(grads).norm().item())

    twin.optimizer.register_step_pre_hook(clip)
    ours.optimizer.register_step_pre_hook(note)
    twin.run()
    ours.run()
    torch.testing.assert_close(weights(ours), weights(twin), rtol=1e-3, atol=1e-5)
    assert len(norms) == 21 and max(norms) == pytest.approx(0.7, rel=1e-4)


TORCHS: list[tuple[type[LRScheduler], dict[str, Any], dict[str, Any]]] = [
    # a class, what a user gives, what that means for 21 steps
    (lr_scheduler.StepLR, {"step_size": 4}, {}),
    (lr_scheduler.MultiStepLR, {"milestones": [3, 9]}, {}),
    (lr_scheduler.ExponentialLR, {"gamma": 0.9}, {}),
    (lr_scheduler.CosineAnnealingLR, {}, {"T_max": 21}),
    (lr_scheduler.CosineAnnealingLR, {"T_max": 5, "eta_min": 1e-3}, {}),
    (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 5}, {}),
    (lr_scheduler.PolynomialLR, {"power": 2.0}, {"total_iters": 21}),
    (lr_scheduler.LinearLR, {"total_iters": 6}, {}),
    (lr_scheduler.OneCycleLR, {"max_lr": 0.02, "total_steps": None}, {"total_steps": 21}),
    (lr_scheduler.CyclicLR, {"base_lr": 1e-3, "max_lr": 0.02, "step_size_up": 4}, {}),
]


@pytest.mark.parametrize(("kind", "given", "more"), TORCHS)
def test_a_scheduler_of_torch_is_that_of_a_loop_by_hand_and_resumes_bitwise(
    kind: type[LRScheduler], given: dict[str, Any], more: dict[str, Any], tmp_path: Path
):
    schedule = TorchSchedule(kind, given)
    schedule.check(of_task(Plain()).optimizer)
    ours, rates = of_task(Plain(), schedule=schedule), []
    ours.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(
            (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"])
        )
    )
    ours.run()
    hand = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler, expected = kind(hand, **(given | more)), []  # type: ignore[call-arg]
    for _ in range(21):
        expected.append((hand.param_groups[0]["lr"], hand.param_groups[0]["betas"]))
        hand.step()
        scheduler.step()
    assert rates == expected

    class Stop(Exception):
        pass

    def stop(now: Trainer) -> None:
        if now.state.total == 10:
            torch.save(now.state_dict(), tmp_path / "state.pt")
            raise Stop

    settings: dict[str, Any] = dict(schedule=schedule, accumulate=2, clip_norm=0.1)
    whole, first = of_task(Plain(), **settings), of_task(Plain(), **settings, on_step_end=stop)
    whole.run()
    with pytest.raises(Stop):
        first.run()
    second = of_task(Plain(), **settings)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.run()
    assert torch.equal(weights(second), weights(whole))
    assert lines(first) + lines(second) == lines(whole)


def test_a_scheduler_that_ends_before_the_run_is_refused():
    schedule = TorchSchedule(lr_scheduler.OneCycleLR, {"max_lr": 0.02, "total_steps": 20})
    with pytest.raises(ValueError, match=r"schedule.total_steps must be at least the run's 21"):
        of_task(Plain(), schedule=schedule)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_stops_the_run_and_others_are_left_out(bad: float):
    class Broken(Plain):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def metrics(self) -> dict[str, Metric]:
            return {n: MeanMetric("disable") for n in ("test_mse", "test_iou_17")}

        def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
            for name, metric in metrics.items():
                metric.update(bad if name == self.name else 1.0)

    broken = of_task(Broken("test_mse"))
    with pytest.raises(FloatingPointError, match=f"test_mse is {bad} in epoch 1"):
        broken.run()
    assert lines(broken) == []
    partly = of_task(Broken("test_iou_17"))
    partly.run()
    assert all("test_mse" in line and "test_iou_17" not in line for line in lines(partly))
    assert len(lines(partly)) == 3


@pytest.mark.parametrize("eval_every", [1, 2])
def test_a_statistic_that_is_not_finite_is_left_out_of_every_line(eval_every: int):
    class Undefined(Plain):
        def step(self, model: nn.Module, batch: Batch) -> Step:
            step = super().step(model, batch)
            return Step(step.losses, {"ratio": torch.tensor(math.nan)})

    ours = of_task(Undefined(), eval_every=eval_every)
    ours.run()
    assert len(lines(ours)) == 3 and not any("train_ratio" in line for line in lines(ours))
    json.loads(json.dumps(lines(ours), allow_nan=False))


def test_a_compiled_model_is_compiled_for_whole_batches_alone():
    """Not for the last batch of an epoch, which is smaller, nor for evaluation."""
    shapes: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        seen = [t.shape for t in inputs if t.dim() == 2 and t.shape[1] == 4]
        shapes.extend(shape for shape in seen if shape != (16, 4))  # but the first layer's weight
        return graph.forward

    ours = trainer(epochs=2, batch_size=8, compiled=True)
    compile_forward(ours.model, backend=backend)
    ours.run()
    assert [n["epoch"] for n in lines(ours)] == [1, 2]
    assert shapes == [torch.Size([8, 4])]


class Careful(Regression):
    """Evaluates once more after the last epoch, several scores at once, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluated: list[str] = []

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        self.evaluated.append("each")
        super().eval_step(model, batch, metrics)

    def final_metrics(self) -> dict[str, Metric]:
        return {"whatever": Several()}

    def final_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        assert not model.training and not torch.is_grad_enabled()
        self.evaluated.append("final")
        metrics["whatever"].update(model(batch.inputs) - batch.targets)

    def visualize(self, model: nn.Module) -> dict[str, Tensor]:
        assert not model.training and not torch.is_grad_enabled()
        return {"one": torch.zeros(3, 2, 2, dtype=torch.uint8)}


class Several(MeanMetric):
    def update(self, value: Tensor) -> None:  # type: ignore[override]
        super().update(value.abs())

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {"test_mae": super().compute(), "test_count": self.weight}


def careful(epochs: int = 5, **settings: Any) -> tuple[Trainer, Careful, list[int]]:
    task, drawn = Careful(), []
    made = trainer(epochs, **settings)

    class Album(Memory):
        def on_images(self, epoch: int, images: dict[str, Any]) -> None:
            assert images.keys() == {"one"}
            drawn.append(epoch)

    fields = vars(made).keys() & Trainer.__dataclass_fields__.keys()
    given = {name: getattr(made, name) for name in fields} | {"task": task, "loggers": [Album()]}
    return Trainer(**given), task, drawn


@pytest.mark.parametrize("max_steps", [None, 30])
def test_after_the_last_epoch_the_task_is_scored_once_more_and_carefully(max_steps: int | None):
    ours, task, _ = careful(max_steps=max_steps)
    ours.run()
    assert task.evaluated == ["each"] * 5 + ["final"]
    off = (ours.model(task.x) - task.y).abs().mean().item()
    last = lines(ours)[-1]
    assert (last["test_mae"], last["test_count"]) == (pytest.approx(off), 50)
    assert all("test_mae" not in line for line in lines(ours)[:-1])


def test_evaluation_and_pictures_every_few_epochs_and_after_the_last_one():
    ours, task, drawn = careful(eval_every=2, pictures_every=3)
    ours.run()
    assert [n["epoch"] for n in lines(ours) if "test_mse" in n] == [2, 4, 5]
    assert task.evaluated == ["each"] * 3 + ["final"] and drawn == [3, 5]
    whole, _, none = careful()
    whole.run()
    assert none == [] and torch.equal(weights(ours), weights(whole))
    assert lines(whole)[-1] == lines(ours)[-1]


def test_the_share_of_time_spent_waiting_for_data_is_logged():
    class Slow(Regression):
        def train_batches(self, *args: Any, **kwargs: Any) -> Iterator[Batch]:
            for batch in super().train_batches(*args, **kwargs):
                time.sleep(0.05)
                yield batch

    shares = []
    for task in (Slow(), Regression()):
        made = trainer(epochs=1)
        made.task, told = task, []
        made.loggers[0].on_epoch = told.append  # type: ignore[method-assign]
        made.run()
        shares.append(told[0]["data_wait"])
    assert 0.5 < shares[0] <= 1 and 0 <= shares[1] < shares[0]


def test_the_keep_probability_is_assigned_only_when_it_changes(monkeypatch: pytest.MonkeyPatch):
    assigned: list[float] = []

    class Watched(LRDropout):
        @property
        def p(self) -> float:
            return super().p

        @p.setter
        def p(self, value: float) -> None:
            assigned.append(value)
            self._p = value

    for schedule, count in ((None, 0), (PSchedule(0.5, 0.9, "linear"), 13)):
        ours = trainer(epochs=2, p_schedule=schedule)
        ours.optimizer.__class__ = Watched
        assigned.clear()
        ours.run()
        assert len(assigned) == count  # 14 steps, the first at the p that is set


class Averaging(torch.optim.SGD):
    """Weights for training and weights for use, as Schedule-Free optimizers have: here 1 apart."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.param_groups[0]["training"] = False
        self.calls: list[str] = []

    @torch.no_grad()
    def _switch(self, training: bool) -> None:
        (group,) = self.param_groups
        if group["training"] != training:
            self.calls.append("train" if training else "eval")
            group["training"] = training
            for param in group["params"]:
                param.mul_(3 if training else 1 / 3)  # inexact on purpose

    def train(self) -> None:
        self._switch(True)

    def eval(self) -> None:
        self._switch(False)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert self.param_groups[0]["training"]
        super().step()


def averaging(**settings: Any) -> Trainer:
    made = trainer(epochs=3, **settings)
    made.optimizer = LRDropout(Averaging(made.model.parameters(), lr=1e-3), p=0.5, seed=5)
    made.__post_init__()
    return made


def test_an_optimizer_with_modes_trains_in_one_and_is_scored_in_the_other():
    ours, seen = averaging(), []
    evaluate = ours.evaluator.scores

    def scores(*arguments: Any) -> Any:
        seen.append(ours.optimizer.param_groups[0]["training"])
        return evaluate(*arguments)

    ours.evaluator.scores = scores  # type: ignore[method-assign]
    ours.run()
    base = ours.optimizer.base
    assert isinstance(base, Averaging)
    assert base.calls == ["train", "eval"] * 3 and seen == [False] * 3


@pytest.mark.parametrize("when", ["step", "evaluation"])
def test_a_run_with_modes_resumes_bitwise(when: str):
    class Stop(Exception):
        pass

    whole = averaging()
    whole.run()
    saved: list[Any] = []

    def stop(at: Trainer) -> None:
        evaluating = not at.optimizer.param_groups[0]["training"]
        if at.state.epoch == 1 and at.state.step > 1 and evaluating == (when == "evaluation"):
            saved.append(copy.deepcopy(at.state_dict()))
            raise Stop

    first = averaging(on_step_end=stop)
    with pytest.raises(Stop):
        first.run()
    second = averaging()
    second.load_state_dict(saved[0])
    second.run()
    assert torch.equal(weights(second), weights(whole))
    assert lines(second) == lines(whole)[1:]
