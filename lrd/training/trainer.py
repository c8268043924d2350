"""The one training loop: Algorithm 1 of the paper around a task, on CPU or GPU.

Inside an epoch nothing synchronizes with the device: losses and scores are summed there and read
once per epoch.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lrd.loggers.base import Logger, Metrics
from lrd.optim import LRDropout
from lrd.regularizers import Regularizer
from lrd.rng import fold_key
from lrd.schedules import PSchedule, Schedule
from lrd.task import Batch, Step, Task
from lrd.training.cuda_graphs import GraphedStep, prefetch_to_device
from lrd.training.distributed import SINGLE_PROCESS, DistributedContext
from lrd.training.evaluator import Evaluator, force_eager
from lrd.training.instantiate import TorchSchedule


@dataclass
class TrainState:
    """How far a run is, and the sums of the current epoch.

    ``epoch``: complete epochs; ``step``: steps of the current epoch; ``total``: steps of the run;
    ``samples``: samples of the epoch; ``seconds`` of training and, of those, ``waited`` for data.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0
    samples: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: Step, loss: Tensor, samples: int) -> None:
        """Count one step; sums are float64 on the device."""
        for sums, values in (
            (self.losses, {**step.losses, "loss": loss}),
            (self.stats, step.stats),
        ):
            for name, value in values.items():
                if name not in sums:
                    sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
                sums[name] += value
        self.step += 1
        self.total += 1
        self.samples += samples

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield ``batches`` and add the time spent waiting for each to ``waited``."""
        rest = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(rest, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def epoch_metrics(self) -> Metrics:
        """Return mean losses per batch, their sum, and stats per sample. Synchronizes."""
        losses = {name: float(total) for name, total in self.losses.items()}
        return {
            "train_loss_sum": losses["loss"],
            **{f"train_{name}": total / self.step for name, total in losses.items()},
            **{f"train_{name}": float(s) / self.samples for name, s in self.stats.items()},
        }

    def all_reduce(self, ranks: DistributedContext) -> "TrainState":
        """Return the state with the sums of all ``ranks``; all of them must call."""
        samples = ranks.all_reduce_sum({"": torch.tensor(self.samples)})
        return replace(
            self,
            samples=int(samples[""]),
            losses=ranks.all_reduce_sum(self.losses),
            stats=ranks.all_reduce_sum(self.stats),
        )

    def reset_sums(self) -> None:
        """Set the sums to zero, because another rank has them."""
        self.samples = 0
        for total in (*self.losses.values(), *self.stats.values()):
            total.zero_()

    def next_epoch(self) -> None:
        self.__init__(epoch=self.epoch + 1, total=self.total)


@dataclass
class Trainer:
    """Everything a run consists of; :meth:`run` is the loop.

    On several ranks each has a Trainer of the same run, and all ranks must call its methods.

    Args:
        p_schedule: p over the run; by default the optimizer's p throughout.
        clip_norm: The largest norm of a gradient; regularizers act before, the optimizer after it.
        accumulate: Micro-batches of a step.
        on_step_end: Called where :meth:`state_dict` is complete: after each step and, because
            evaluation changes no state, before each evaluation batch. May raise to end the run.
        on_epoch_end: Called once the epoch is logged. May raise to end the run.
    """

    task: Task
    model: nn.Module
    optimizer: LRDropout
    schedule: Schedule | TorchSchedule
    regularizers: Sequence[Regularizer]
    device: torch.device
    seed: int
    epochs: int
    max_steps: int | None = None
    p_schedule: PSchedule | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    bf16: bool = False
    eval_every: int = 1
    pictures_every: int = 0
    log_every: int | None = None
    batch_size: int | None = None
    compiled: bool = False
    cuda_graph: bool = False
    ranks: DistributedContext = SINGLE_PROCESS
    loggers: list[Logger] = field(default_factory=list)
    on_step_end: Callable[["Trainer"], None] = lambda trainer: None
    on_epoch_end: Callable[["Trainer"], None] = lambda trainer: None
    state: TrainState = field(default_factory=TrainState)

    def __post_init__(self) -> None:
        self.total_steps = self.epochs * self.task.steps_per_epoch
        self.steps = min(self.total_steps, self.max_steps or self.total_steps)
        self.p_schedule = self.p_schedule or PSchedule(self.optimizer.p)
        if isinstance(schedule := self.schedule, Schedule):
            self.scheduler = LambdaLR(self.optimizer, lambda step: schedule(step, self.total_steps))
        else:
            self.scheduler = schedule(self.optimizer, self.total_steps)
        self.evaluator = Evaluator(
            self.task, self.model, self.device, self.ranks, self.bf16, self.compiled
        )
        self.network = self.model
        self.compute_gradients = self._compute_gradients
        if self.cuda_graph and self.device.type == "cuda":
            self.compute_gradients = GraphedStep(
                self._compute_gradients, self.params, self.batch_size
            )

    @property
    def params(self) -> list[Tensor]:
        """The optimizer's parameters."""
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def run(self) -> None:
        """Train from the current state to the end.

        Raises:
            FloatingPointError: A loss or the score is not finite.
        """
        at = self.state
        self.network = self.ranks.wrap(self.model)
        while not self.finished:
            began = time.perf_counter() - at.seconds
            self.model.train()
            batches = self.task.train_batches(at.epoch, at.step, self.ranks.rank, self.ranks.world)
            for batch in at.timed(prefetch_to_device(batches, self.device)):
                if at.total == self.max_steps:
                    break
                seed_generators(self.device, self.seed, at.total, self.ranks.rank)
                self._set_optimizer_mode("train")
                step, loss = self._gradients(batch)  # f_t(W_{t-1}) and G_t
                metrics = self._step_metrics(loss) if self._logs_step else None
                for regularizer in self.regularizers:
                    regularizer.on_gradients(self.optimizer, at.total)
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(self.params, self.clip_norm)
                self._set_keep_probability()
                self.optimizer.step()  # M_t, V_t, D_t and W_t = W_{t-1} - alpha D_t dW_t
                self.scheduler.step()
                at.add(step, loss, self.ranks.num_counted(batch))
                at.seconds = time.perf_counter() - began
                for logger in self.loggers:
                    logger.on_step(at.epoch, at.step)
                    if metrics is not None:
                        logger.on_step_metrics(metrics)
                self.on_step_end(self)
            self._end_epoch(began)

    @property
    def _logs_step(self) -> bool:
        return self.log_every is not None and (self.state.total + 1) % self.log_every == 0

    def _step_metrics(self, loss: Tensor) -> Metrics:
        """Return loss, norm of the gradient and learning rate of the current step. Synchronizes
        once."""
        loss = self.ranks.all_reduce_sum({"loss": loss.double()})["loss"]
        norm = nn.utils.get_total_norm([p.grad for p in self.params if p.grad is not None])
        values = torch.stack([loss, norm.double()]).tolist()
        values.append(float(self.optimizer.param_groups[0]["lr"]))
        named = zip(("loss", "gradient_norm", "lr"), values, strict=True)
        finite = {name: value for name, value in named if math.isfinite(value)}  # JSON has no NaN
        return {"epoch": self.state.epoch + 1, "step": self.state.total + 1, **finite}

    def _set_optimizer_mode(self, mode: str) -> None:
        """Tell an optimizer whose weights differ between training and use (Schedule-Free)."""
        if (switch := getattr(self.optimizer, mode, None)) is not None:
            switch()

    def _set_keep_probability(self) -> None:
        assert self.p_schedule is not None
        p = self.p_schedule(self.state.total, self.total_steps)
        if p != self.optimizer.p:
            self.optimizer.p = p

    def _gradients(self, batch: Batch) -> tuple[Step, Tensor]:
        """Compute the gradients of a batch, in micro-batches if there are; return losses and sum.

        A micro-batch counts as many times as its losses have terms, on all ranks together, so that
        the gradient is that of the whole batch, up to floating-point error.
        """
        if self.accumulate == 1:
            return self.compute_gradients(self._regularized(batch))
        ranks = self.ranks
        size = self._micro_batch_size(batch)
        parts = list(batch.split(size))
        losses, stats, terms = dict[str, Tensor](), dict[str, Tensor](), None
        self.optimizer.zero_grad()
        for number, part in enumerate(parts, 1):
            with ranks.defer_all_reduce(self.network, number < len(parts)):
                step = self._forward(self._regularized(part), size)
                count = ranks.count_terms(step, part)
                step = Step({n: x * count for n, x in step.losses.items()}, step.stats)
                ranks.backward(reduce(add, step.losses.values()))
            for sums, values in ((losses, step.losses), (stats, step.stats)):
                for name, value in values.items():
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach()
            terms = count if terms is None else terms + count
        assert terms is not None
        total = ranks.all_reduce_sum({"": terms})[""].clamp(min=1)
        torch._foreach_div_([p.grad for p in self.params if p.grad is not None], total)
        losses = {name: x / total for name, x in losses.items()}
        if batch.replicated:
            stats = {name: x / ranks.world for name, x in stats.items()}
        return Step(losses, stats), reduce(add, losses.values())

    def _micro_batch_size(self, batch: Batch) -> int:
        """Return how many samples a micro-batch of this rank has; the last one may have fewer."""
        full = (self.batch_size or len(batch) * self.ranks.world) // self.ranks.world
        return max(1, math.ceil(full / self.accumulate))

    def require_batches_for_batch_norm(self) -> None:
        """Try an epoch's last micro-batch if it has one sample, which batch norm may refuse.

        Raises:
            ValueError: The network takes no batch of one sample.
        """
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        last = self.task.steps_per_epoch
        if not norms or self.steps < last or any(isinstance(m, nn.SyncBatchNorm) for m in norms):
            return
        batches = self.task.train_batches(0, last - 1, self.ranks.rank, self.ranks.world)
        *_, part = (batch := next(iter(batches))).split(self._micro_batch_size(batch))
        if len(part) > 1:
            return
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        try:
            with torch.no_grad():
                self.model.train()
                self._forward(self._regularized(part), full=2)
        except ValueError as error:
            raise ValueError(
                "train.batch_size must leave no batch of one image, in train.accumulate parts, for "
                f"this network, whose batch norm needs two, got {self.batch_size} in "
                f"{self.accumulate}: change one of them"
            ) from error
        finally:
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])

    def _regularized(self, batch: Batch) -> Batch:
        for regularizer in self.regularizers:
            batch = regularizer.on_batch(batch, self.state.total)
        return batch

    def _forward(self, batch: Batch, full: int) -> Step:
        """Return the losses. A compiled model is compiled for batches of ``full`` samples only."""
        with (
            force_eager(self.compiled and len(batch) < full),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            return self.task.step(self.network, batch)

    def _compute_gradients(self, batch: Batch) -> tuple[Step, Tensor]:
        """Run forward and backward; return detached losses and their sum."""
        self.optimizer.zero_grad()
        step = self._forward(batch, (self.batch_size or 0) // self.ranks.world)
        step = self.ranks.scale_losses(step, batch)
        loss = reduce(add, step.losses.values())
        self.ranks.backward(loss)
        losses, stats = ({n: x.detach() for n, x in d.items()} for d in (step.losses, step.stats))
        return replace(step, losses=losses, stats=stats), loss.detach()

    def _end_epoch(self, began: float) -> None:
        """Read the sums (the epoch's one synchronization), evaluate and log."""
        at = self.state.all_reduce(self.ranks)
        metrics = {"epoch": at.epoch + 1, "step": at.total, **at.epoch_metrics()}
        train_seconds = time.perf_counter() - began
        self._require_finite(metrics)
        last = at.epoch + 1 == self.epochs or at.total == self.max_steps
        if last or (at.epoch + 1) % self.eval_every == 0:
            metrics |= self.evaluate(last)
            self._require_finite(metrics)
        # A score of nothing, such as that of a class without samples, is no number, nor JSON.
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        metrics |= {
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "fraction_kept": self.optimizer.fraction_kept(),
            "seconds": time.perf_counter() - began,
            "train_seconds": train_seconds,
            "images_per_second": at.samples / train_seconds,
            "data_wait": at.waited / train_seconds,
        }
        every = self.pictures_every
        if every and (last or (at.epoch + 1) % every == 0) and self.ranks.is_rank_zero:
            self._log_predictions(at.epoch + 1)
        self.state.next_epoch()
        for logger in self.loggers:
            logger.on_epoch(metrics)
        self.on_epoch_end(self)

    def _require_finite(self, metrics: Metrics) -> None:
        """Raise FloatingPointError if a loss or the score that counts is not finite."""
        for name, value in metrics.items():
            counts = name.endswith("loss") or name == self.task.score.name
            if counts and not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} in epoch {metrics['epoch']}: lower optim.lr; the "
                    f"{self.state.epoch} epochs before it are kept"
                )

    def evaluate(self, last: bool = False) -> Metrics:
        """Return the current scores; after the ``last`` epoch the task's final ones too."""
        self._set_optimizer_mode("eval")
        return self.evaluator.scores(last, lambda: self.on_step_end(self))

    def _log_predictions(self, epoch: int) -> None:
        images = self.evaluator.sample_predictions()
        for logger in self.loggers if images else ():
            logger.on_images(epoch, images)

    @property
    def finished(self) -> bool:
        """Whether the last epoch, or the one that ``max_steps`` ends, is evaluated and logged."""
        at = self.state
        return at.epoch == self.epochs or (at.total == self.max_steps and at.step == 0)

    def state_dict(self, full: bool | None = None) -> dict[str, Any]:
        """Return everything a resume needs, as tensors and plain values.

        Without ``full`` only the weights and the progress, by default if the run is finished.
        """
        progress = self.state.all_reduce(self.ranks)
        state: dict[str, Any] = {"model": self.model.state_dict(), "progress": dict(vars(progress))}
        if not self.finished if full is None else full:
            state["optimizer"] = self.optimizer.state_dict()
            state["host_state"] = self._names_of_host_state()
            state["scheduler"] = self.scheduler.state_dict()
        return state

    def _names_of_host_state(self) -> list[str]:
        """Return what the optimizer keeps on the host for parameters on a GPU, and reads there.

        A load would move it to the parameters, but for step counts, and every step would wait.
        """
        return sorted(
            {
                name
                for param, own in self.optimizer.state.items()
                for name, value in own.items()
                if isinstance(value, Tensor) and value.is_cpu and not param.is_cpu
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`state_dict` returned.

        Raises:
            ValueError: Its progress has other fields, as that of another version may have.
        """
        if other := state["progress"].keys() ^ vars(self.state).keys():
            raise ValueError(f"progress differs in {', '.join(sorted(other))}")
        self.model.load_state_dict(state["model"])
        self.state = TrainState(**state["progress"])
        for sums in (self.state.losses, self.state.stats):
            sums.update({name: total.to(self.device) for name, total in sums.items()})
        if not self.ranks.is_rank_zero:
            self.state.reset_sums()  # rank zero has the sums of all ranks
        if not self.finished:
            self.optimizer.load_state_dict(state["optimizer"])
            for own in self.optimizer.state.values():
                own.update({n: own[n].cpu() for n in state.get("host_state", ()) if n in own})
            self.scheduler.load_state_dict(state["scheduler"])


def seed_generators(device: torch.device, seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators from (seed, step, rank), for code that still uses them."""
    key = fold_key("torch", seed, step, rank)
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)
