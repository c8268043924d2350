"""The paper's toy example (section 3.2, equation 3, Figure 4): two parameters, no data.

Many starts run at once and independently: the optimizers here update a coordinate from its own
gradients alone. Two starts at the same point differ only by LRD's mask.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lrd.rng import random_bits
from lrd.task import Batch, Dataset, ModelFactory, Score, Setup, Step, Task
from tasks.toy_function import BAD, DOMAIN, GOOD, f, is_near

MAX_DRAWN = 10_000_000  # fits in memory


class Starts(Dataset):
    """Starting points. The paper does not print its own.

    Args:
        setup: Gives the seed. The sampled points depend on nothing else.
        name: The data set's name in messages.
        named: Chosen points, each (x, y), by name.
        drawn: How many points to sample uniformly from the domain.
    """

    recipe: ClassVar[int] = 1

    def __init__(
        self, setup: Setup, name: str, named: Mapping[str, Sequence[float]], drawn: int = 1000
    ) -> None:
        if type(drawn) is not int or drawn < 1:
            raise ValueError(f"dataset.drawn must be a whole number of at least 1, got {drawn}")
        if drawn > MAX_DRAWN:
            raise ValueError(f"dataset.drawn must be at most {MAX_DRAWN}, got {drawn}")
        for start, place in named.items():
            if not re.fullmatch(r"\w+", start, re.ASCII):
                raise ValueError(
                    f"dataset.named must have names of letters and digits, got {start}"
                )
            numbers = isinstance(place, Sequence) and all(type(v) in (int, float) for v in place)
            if not numbers or len(place) != 2:
                raise ValueError(f"dataset.named.{start} must be [x, y], got {place}")
        self.setup, self.name, self.named, self.drawn = setup, name, dict(named), drawn

    def points(self) -> Tensor:
        """Return x and y of every start, float32 (n, 2), the named starts first."""
        words = random_bits("toy", self.setup.seed, start=0, count=2 * self.drawn, device="cpu")
        unit = (words & 0x7FFFFFFF).double().view(-1, 2) / 2**31
        low, high = torch.tensor(DOMAIN, dtype=torch.float64).T
        named = torch.tensor(list(self.named.values()), dtype=torch.float64).view(-1, 2)
        return torch.cat([named, low + unit * (high - low)]).float()


class Points(nn.Module):
    """The current point ``at`` (n, 2) of each start, and whether it was ever in the disc of BAD."""

    recipe: ClassVar[int] = 1

    reached_bad: Tensor

    def __init__(self, starts: Tensor) -> None:
        super().__init__()
        self.at = nn.Parameter(starts.clone())
        self.register_buffer("reached_bad", torch.zeros(len(starts), dtype=torch.bool))

    def forward(self, index: Tensor) -> Tensor:
        at = self.at[index]
        if self.training:
            x, y = at.detach().unbind(1)
            self.reached_bad[index] |= is_near(x, y, BAD)
        return at


class Toy(Task):
    """f, summed over the starts, so that each start has the same gradient as alone.

    Every step updates every start, regardless of ``train.batch_size``; each rank trains all starts.
    A point that leaves the domain keeps moving: the paper mentions no border. See
    :class:`OutcomeShares` for the scores.

    Args:
        setup: The run's settings.
        dataset: The starting points.
        model: Builds the model from ``starts`` (n, 2).
        steps: Steps per epoch. With one step the log holds the whole path of the named starts.
    """

    recipe: ClassVar[int] = 1

    score = Score("good_basin", maximize=True, unit="%")
    loss_is_mean = False

    def __init__(self, setup: Setup, dataset: Starts, model: ModelFactory, steps: int = 20) -> None:
        if not isinstance(dataset, Starts):
            raise ValueError(
                f"dataset must hold starts for this task, got {type(dataset).__name__}: choose toy"
            )
        if type(steps) is not int or steps < 1:
            raise ValueError(f"task.steps must be a whole number of at least 1, got {steps}")
        self.setup, self.data, self.steps = setup, dataset, steps
        self._network = model

    @property
    def steps_per_epoch(self) -> int:
        return self.steps

    def describe(self) -> str:
        (x0, x1), (y0, y1) = DOMAIN
        where = f"[{x0:g}, {x1:g}] x [{y0:g}, {y1:g}]"
        return f"{len(self.data.named)} named starts, {self.data.drawn} drawn on {where}"

    def model(self) -> nn.Module:
        return self._network(starts=self.data.points())

    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        for _ in range(start, self.steps):
            for batch in self.eval_batches():
                yield replace(batch, replicated=world > 1)

    def step(self, model: nn.Module, batch: Batch) -> Step:
        points = model(batch.inputs)
        values = f(*points.unbind(1))
        return Step({"loss": values.sum()}, {"f": values.detach().sum()})

    def metrics(self) -> dict[str, Metric]:
        return {"outcomes": OutcomeShares(tuple(self.data.named))}

    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        count = len(self.data.named) + self.data.drawn
        index = torch.arange(rank, count, world, device=self.setup.device)
        yield Batch(index, None, index)

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        reached_bad: Tensor = model.reached_bad[batch.index]  # type: ignore[index, assignment]
        metrics["outcomes"].update(model(batch.inputs), reached_bad, batch.index)


class OutcomeShares(Metric):
    """Where the starts are: shares of the sampled starts in %, and the points of the named starts.

    Four shares add up to 100: ``good_basin`` and ``bad_basin``, within NEAR of that minimum;
    ``outside`` the domain; and ``elsewhere``. ``reached_bad`` is the share that is in the disc of
    BAD or was there before a step, ``escaped`` the part of it that is now in the disc of GOOD.
    ``mean_f`` is the mean of f over the sampled starts; ``x_<name>`` and ``y_<name>`` are the
    coordinates of the named starts.
    """

    shares = ("good_basin", "bad_basin", "outside", "elsewhere", "reached_bad", "escaped")
    sums: Tensor
    count: Tensor
    places: Tensor

    def __init__(self, named: Sequence[str]) -> None:
        super().__init__()
        self.named = tuple(named)
        shapes = {"sums": (len(self.shares) + 1,), "count": (), "places": (len(named), 2)}
        for state, shape in shapes.items():
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(self, points: Tensor, reached_bad: Tensor, index: Tensor) -> None:
        """Add the ``points`` (n, 2) of starts ``index`` (n,); ``reached_bad`` (n,) bool."""
        named = index < len(self.named)
        self.places[index[named]] += points[named]
        points, reached_bad = points[~named], reached_bad[~named]
        x, y = points.unbind(1)
        good, bad = is_near(x, y, GOOD), is_near(x, y, BAD)
        low, high = torch.tensor(DOMAIN, device=points.device).T
        outside = ((points < low) | (points > high)).any(1)
        reached_bad = reached_bad | bad
        shares = [good, bad, outside, ~(good | bad | outside), reached_bad, reached_bad & good]
        self.sums += torch.stack([100.0 * s for s in shares] + [f(x, y)]).sum(1)
        self.count += len(points)

    def compute(self) -> dict[str, Tensor]:
        means = self.sums / self.count
        scores: dict[str, Tensor] = {}
        scores.update(zip((*self.shares, "mean_f"), means, strict=True))
        for name, (x, y) in zip(self.named, self.places, strict=True):
            scores |= {f"x_{name}": x, f"y_{name}": y}
        return scores
