"""The toy task: its function and minima, independent starts, and the scores."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from scipy.integrate import solve_ivp
from torch import Tensor

from lrd import LRDropout
from lrd.config.compose import compose, to_config
from lrd.loggers.base import Logger
from lrd.optim.masks import keep_mask
from lrd.schedules import Constant
from lrd.task import Setup
from lrd.training import builder
from lrd.training.trainer import Trainer
from tasks.toy import OutcomeShares, Points, Starts, Toy
from tasks.toy_function import BAD, BEYOND, DOMAIN, GOOD, NEAR, f, is_near

CENTRES = (1.5, 2.25, 2.625)
NAMED = {"top": (-2.5, 2.8), "corner": (-3.5, -1.5), "plateau": (0.0, 1.0), "saddle": (0.0, 0.0)}


def slope(place: Any) -> np.ndarray:
    """The gradient of equation (3), by hand."""
    x, y = place
    terms = [(c - x**2 + x * y**k, k) for k, c in enumerate(CENTRES, 1)]
    dx = sum(2 * r * (y**k - 2 * x) for r, k in terms)
    dy = sum(2 * r * k * x * y ** (k - 1) for r, k in terms)
    return np.array([dx, dy])


class Kept(Logger):
    """Every epoch's numbers, and where all points are after every step."""

    def __init__(self, model: Any) -> None:
        self.model, self.lines, self.places = model, [], [model.at.detach().clone()]

    def on_step(self, epoch: int, step: int) -> None:
        self.places.append(self.model.at.detach().clone())

    def on_epoch(self, metrics: dict[str, Any]) -> None:
        self.lines.append(metrics)


def prepared(
    named: Mapping[str, Sequence[float]], p: float = 1, epochs: int = 40, **more: Any
) -> tuple[Trainer, Kept]:
    """Return a Trainer on the toy task, with ``steps`` steps per epoch, by default 1."""
    seed = more.get("seed", 0)
    setup = Setup(seed=seed)
    starts = Starts(setup, "toy", named, more.get("drawn", 1))
    task = Toy(setup, starts, Points, more.get("steps", 1))
    model = task.model()
    optimizer = LRDropout(torch.optim.Adam(model.parameters(), lr=0.1), p, seed)
    device = torch.device("cpu")
    trainer = Trainer(task, model, optimizer, Constant(), [], device, seed, epochs)
    kept = Kept(model)
    trainer.loggers = [kept]
    return trainer, kept


def trained(named: Mapping[str, Sequence[float]], p: float = 1, **more: Any) -> Kept:
    trainer, kept = prepared(named, p, **more)
    trainer.run()
    return kept


def path(kept: Kept, name: str) -> np.ndarray:
    return np.array([(line[f"x_{name}"], line[f"y_{name}"]) for line in kept.lines])


def test_the_function_is_equation_3():
    """Compare with values by hand, and torch's gradient with one by hand."""
    assert f(0, 7) == 1.5**2 + 2.25**2 + 2.625**2 == pytest.approx(14.203, abs=5e-4)
    assert f(-1, 2) == (1.5 - 1 - 2) ** 2 + (2.25 - 1 - 4) ** 2 + (2.625 - 1 - 8) ** 2
    for place in ((-3.1, 2.2), (-0.5, -1.9), (-1.3, 0.5)):
        x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in place)
        f(x, y).backward()
        assert [x.grad, y.grad] == pytest.approx(slope(place))


@pytest.mark.parametrize("minimum, value", [(GOOD, 0.0537), (BAD, 0.2753), (BEYOND, 0.1249)])
def test_the_minima_are_where_scipy_finds_them(minimum: tuple[float, float], value: float):
    away = np.add(minimum, (0.1, -0.1))
    found = optimize.minimize(lambda at: f(*at), away, method="Nelder-Mead", tol=1e-12)
    assert found.x == pytest.approx(minimum, abs=1e-4)
    assert found.fun == pytest.approx(value, abs=5e-5)


def test_the_good_minimum_is_the_least_value_on_the_domain():
    found = optimize.shgo(lambda at: f(*at), DOMAIN, n=128, sampling_method="sobol")
    assert found.x == pytest.approx(GOOD, abs=1e-4)
    assert any(local == pytest.approx(BAD, abs=1e-4) for local in found.xl)


@pytest.mark.parametrize("minimum", [GOOD, BAD])
def test_the_disc_around_a_minimum_lies_in_its_basin(minimum: tuple[float, float]):
    """The gradient flow from its rim and its inside ends at the minimum (scipy's LSODA)."""
    for radius, angle in ((r, 2 * math.pi * i / 12) for r in (NEAR / 2, NEAR) for i in range(12)):
        start = np.add(minimum, (radius * math.cos(angle), radius * math.sin(angle)))
        inside = all(low < v < high for v, (low, high) in zip(start, DOMAIN, strict=True))
        flow = solve_ivp(lambda t, at: -slope(at), (0, 20), start, method="LSODA")
        assert inside and flow.y[:, -1] == pytest.approx(minimum, abs=1e-2)


def test_the_disc_has_its_radius():
    x, y = torch.tensor([GOOD[0], GOOD[0] + 0.24, GOOD[0] + 0.18]), torch.full((3,), GOOD[1])
    assert is_near(x, y, GOOD).tolist() == [True, True, True]
    assert is_near(x, y + 0.18, GOOD).tolist() == [True, False, False]


def adam(start: Sequence[float], kept: Callable[[int], Sequence[bool]], steps: int) -> np.ndarray:
    """Kingma and Ba's Algorithm 1 on one start in float64, its moves where ``kept`` says so."""
    at, m, v = np.array(start, dtype=np.float64), np.zeros(2), np.zeros(2)
    places = []
    for t in range(1, steps + 1):
        g = slope(at)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        move = 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        at = at - np.array(kept(t - 1)) * move
        places.append(at)
    return np.array(places)


@pytest.mark.parametrize("p", [1, 0.5])
def test_every_start_follows_the_textbook_algorithm_on_it_alone(p: float):
    """A float64 reference of one start among 300 others; its mask follows from its indices."""
    run = trained(NAMED, p, drawn=300, seed=3)
    for i, (name, start) in enumerate(NAMED.items()):
        twin = adam(start, lambda t, i=i: keep_mask(3, t, p, start=2 * i, count=2).tolist(), 40)
        assert path(run, name) == pytest.approx(twin, abs=2e-3), name


def test_a_start_alone_takes_the_path_that_it_takes_among_others():
    together = trained(NAMED, drawn=500)
    for name in NAMED:
        alone = trained({name: NAMED[name]}, drawn=1)
        assert path(alone, name) == pytest.approx(path(together, name), rel=1e-4, abs=1e-5)


def test_how_often_an_epoch_is_logged_changes_no_path():
    often, seldom = trained(NAMED, 0.5, epochs=40), trained(NAMED, 0.5, epochs=4, steps=10)
    for name in NAMED:
        assert path(often, name)[9::10].tolist() == path(seldom, name).tolist()


def test_the_mask_hits_each_coordinate_by_itself():
    """Over 60 steps the masked coordinates of 400 stay, half of them; x is independent of y and
    of the next start."""
    places = torch.stack(trained({}, 0.5, drawn=200, epochs=60).places)
    moved = places.diff(dim=0) != 0
    masks = [keep_mask(0, t, 0.5, start=0, count=400).view(200, 2) for t in range(60)]
    assert torch.equal(moved, torch.stack(masks))
    assert stats.binomtest(int(moved.sum()), moved.numel(), 0.5).pvalue > 0.01
    for a, b in ((moved[..., 0], moved[..., 1]), (moved[:, :-1, 0], moved[:, 1:, 0])):
        table = [[int(((a == i) & (b == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        tested: Any = stats.chi2_contingency(table)
        assert tested.pvalue > 0.01


@pytest.mark.parametrize("p", [1, 0.5])
def test_where_the_gradient_is_zero_nothing_moves_with_lrd_or_without(p: float):
    """(0, 0) is a saddle of equation (3): its update is 0 with and without a mask."""
    assert slope((0, 0)).tolist() == [0, 0]
    assert not path(trained({"saddle": (0.0, 0.0)}, p), "saddle").any()


def points(seed: int, drawn: int = 2000, named: Any = NAMED) -> Tensor:
    return Starts(Setup(seed=seed), "toy", named, drawn).points()


def test_starts_are_the_named_ones_and_then_uniform_on_the_domain():
    starts = points(0)
    assert starts[:4].tolist() == torch.tensor(list(NAMED.values())).tolist()
    for axis, (low, high) in enumerate(DOMAIN):
        values = starts[4:, axis].numpy()
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01
    assert abs(np.corrcoef(starts[4:].T)[0, 1]) < 0.05


def test_drawn_starts_are_a_seeds_own_whatever_else_is_set():
    assert torch.equal(points(1)[4:], points(1, named={}))
    assert torch.equal(points(1)[:100], points(1, drawn=96))
    assert not (points(1)[4:] == points(2)[4:]).any(1).any()

    def built(*overrides: str) -> Tensor:
        config = to_config(compose(["task=toy", "seed=2", *overrides]))
        return builder.build(config).model.at  # type: ignore[return-value]

    assert torch.equal(built("lrd.p=1"), built("lrd.p=0.5", "optim=sgdm"))
    assert torch.equal(built()[-1000:], points(2, 1000)[4:])


# Two named starts, then five sampled: one in each disc, two outside the domain, one elsewhere.
PLACES = torch.tensor([[-1.0, 1.0], [5.0, 6.0], GOOD, BAD, [0.1, 1.0], [-2.0, 3.1], [-1.3, 0.5]])


def test_the_shares_are_of_the_drawn_starts():
    """Shares of five starts by hand. The start in the good disc was at the bad minimum before."""
    been = torch.tensor([True, True, True, False, False, True, False])
    metric = OutcomeShares(("a", "b"))
    metric.update(PLACES, been, torch.arange(7))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == {
        **{"good_basin": 20, "bad_basin": 20, "outside": 40, "elsewhere": 20},
        **{"reached_bad": 60, "escaped": 20},
        "mean_f": pytest.approx(float(np.mean([f(*at) for at in PLACES[2:].tolist()]))),
        **{"x_a": -1, "y_a": 1, "x_b": 5, "y_b": 6},
    }


def test_shares_of_parts_add_up_to_the_whole():
    been, index = torch.zeros(7, dtype=torch.bool), torch.arange(7)
    whole, parts = OutcomeShares(("a", "b")), OutcomeShares(("a", "b"))
    whole.update(PLACES, been, index)
    for part in (index[0::2], index[1::2]):
        parts.update(PLACES[part], been[part], part)
    sums, total = (torch.stack([*metric.compute().values()]) for metric in (parts, whole))
    assert torch.allclose(sums, total) and total[2] == 40


def test_who_passed_the_bad_minimum_and_left_it_has_escaped():
    trainer, _ = prepared({}, epochs=1)
    model: Any = trainer.model
    batch = next(trainer.task.train_batches(0))
    model.at.data[:] = torch.tensor(BAD)
    trainer.task.step(model, batch)
    model.at.data[:] = torch.tensor(GOOD)
    trainer.task.step(model, batch)
    found = trainer.evaluate()
    assert (found["good_basin"], found["reached_bad"], found["escaped"]) == (100, 100, 100)


def test_a_resumed_run_counts_the_minima_reached_before():
    whole = trained(NAMED, 0.5, drawn=40, epochs=60)
    trainer, _ = prepared(NAMED, 0.5, drawn=40, epochs=60)

    class Stop(Exception):
        pass

    def stop(trainer: Trainer) -> None:
        if trainer.state.epoch == 30:
            raise Stop

    trainer.on_epoch_end = stop
    with pytest.raises(Stop):
        trainer.run()
    state = trainer.state_dict()
    assert state["model"]["reached_bad"].any()
    further, kept = prepared(NAMED, 0.5, drawn=40, epochs=60)
    further.load_state_dict(state)
    further.run()
    shares = ("reached_bad", "escaped", "good_basin", "mean_f", "x_top")
    assert [[line[s] for s in shares] for line in kept.lines] == [
        [line[s] for s in shares] for line in whole.lines[30:]
    ]


def test_the_loss_is_the_sum_and_the_log_has_the_mean():
    (line,) = trained(NAMED, drawn=96, epochs=1).lines
    at_first = [f(*at) for at in points(0, 96).double().tolist()]
    assert line["train_loss"] == pytest.approx(sum(at_first))
    assert line["train_f"] == pytest.approx(sum(at_first) / 100)


def test_the_command_runs_it_and_logs_the_paths(cli: Callable[..., Any]):
    done = cli("task=toy", "train.epochs=3", "task.steps=2", "dataset.drawn=50")
    assert done.status == 0, done.err
    assert "7 named starts, 50 drawn on [-4, 0] x [-2, 3]" in done.out
    assert "good basin" in done.out and "run: runs/toy/" in done.out


ERRORS = {
    "dataset.drawn=0": "dataset.drawn must be a whole number of at least 1, got 0",
    "dataset.drawn=10000001": "dataset.drawn must be at most 10000000, got 10000001",
    "dataset.drawn=1.5": "dataset.drawn must be a whole number of at least 1, got 1.5",
    "dataset.named.top=3": "dataset.named.top must be [x, y], got 3",
    "dataset.named.top=[1,2,3]": "dataset.named.top must be [x, y], got [1, 2, 3]",
    "dataset.named.top=[a,2]": "dataset.named.top must be [x, y], got ['a', 2]",
    "+dataset.named={a-b: [0, 0]}": "dataset.named must have names of letters and digits, got a-b",
    "task.steps=0": "task.steps must be a whole number of at least 1, got 0",
    "task.steps=2.5": "task.steps must be a whole number of at least 1, got 2.5",
    "dataset=digits": "dataset must hold starts for this task, got Digits: choose toy",
    "model=fcnet": "model must fit the task, got FCNet",
    "task=digits": "dataset must hold labeled images for this task, got Starts",
}


@pytest.mark.parametrize(("override", "line"), ERRORS.items(), ids=ERRORS)
def test_mistakes_are_one_line(override: str, line: str):
    asked = ["task=toy", override]
    if override == "task=digits":
        asked = [override, "dataset=toy"]
    with pytest.raises(ValueError) as caught:
        builder.build(to_config(compose(asked)))
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
