"""Order, augmentation, loss and scores of the classification task."""

from functools import cache
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms.v2 import functional as v2

from lrd.task import Batch, Dataset, Setup
from tasks.classification import Classification, crop_and_flip
from tasks.images import CIFAR10, MNIST, Digits, Images

CPU = torch.device("cpu")


class Given(Images):
    """Synthetic samples: planes of row + 1, column + 1 and noise, without scaling.

    The first two tell where a crop was taken: padding is 0 in both.
    """

    shape = (3, 12, 12)
    white = 1.0
    crop = CIFAR10.crop

    def __init__(self, setup: Setup, count: int, holdout: int = 0) -> None:
        super().__init__(setup, "given", holdout)
        self.count = count

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(train))
        row, column = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
        noise = torch.randint(256, (self.count, 12, 12), generator=generator)
        planes = [(row + 1).expand_as(noise), (column + 1).expand_as(noise), noise]
        labels = torch.randint(10, (self.count,), generator=generator)
        return torch.stack(planes, 1).to(torch.uint8), labels


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def task(count: int = 203, holdout: int = 0, **settings: Any) -> Classification:
    setup = Setup(**{"batch_size": 32, **settings})
    return Classification(setup, dataset=Given(setup, count, holdout), model=linear)


def gather(batches: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Index, pixels and labels of all batches, sorted by sample."""
    parts = [(b.index, b.inputs, b.targets) for b in batches]
    index, inputs, targets = (torch.cat(p) for p in zip(*parts, strict=True))
    by = index.argsort()
    return index[by], inputs[by], targets[by]


def equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def same_batches(a: list[Batch], b: list[Batch]) -> bool:
    parts = ((x.inputs, x.targets, x.index) for x in a), ((y.inputs, y.targets, y.index) for y in b)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(*parts, strict=True))


def order(task: Classification, epoch: int = 0) -> Tensor:
    return torch.cat([b.index for b in task.train_batches(epoch)])


def test_an_epoch_sees_each_sample_once_in_random_order_with_a_small_last_batch():
    of = task()
    batches = list(of.train_batches(0))
    assert [len(b) for b in batches] == [32] * 6 + [11] and of.steps_per_epoch == 7
    index, _, labels = gather(batches)
    assert torch.equal(index, torch.arange(203))
    assert torch.equal(labels, of.data.read(train=True)[1])
    assert (order(of) == torch.arange(203)).sum() < 10
    assert task(count=192).steps_per_epoch == 6


def test_an_epoch_entered_in_its_middle_has_the_same_batches():
    whole = list(task().train_batches(3))
    for start in range(8):
        assert same_batches(list(task().train_batches(3, start=start)), whole[start:])


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_ranks_share_each_batch_of_one_rank_pixel_by_pixel(world: int):
    alone = list(task().train_batches(1, start=2))
    ranks = [list(task().train_batches(1, 2, rank, world)) for rank in range(world)]
    for batch, *shares in zip(alone, *ranks, strict=True):
        assert equal(gather(shares), gather([batch]))
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_a_samples_pixels_do_not_depend_on_batch_size_or_holdout():
    index, pixels, _ = gather(task().train_batches(2))
    assert equal(gather(task(batch_size=77).train_batches(2))[:2], (index, pixels))
    assert torch.equal(order(task(batch_size=77), 2), order(task(), 2))
    rest, some, _ = gather(task(holdout=50).train_batches(2))
    assert len(rest) == 153 and torch.equal(some, pixels[rest])


@pytest.mark.parametrize("other", [(0, 1), (1, 0)])
def test_another_epoch_or_seed_draws_another_order_and_other_crops(other: tuple[int, int]):
    a, b = task(seed=0), task(seed=other[0])
    assert (order(a, 0) == order(b, other[1])).sum() < 10
    _, before, _ = gather(a.train_batches(0))
    _, after, _ = gather(b.train_batches(other[1]))
    assert (before == after).flatten(1).all(1).sum() < 10  # 203 / 162 by chance


def test_torchs_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), list(task().train_batches(0))
    list(task(holdout=9).eval_batches())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same_batches(list(task().train_batches(0)), first)


@cache
def crops(seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the crop's offsets down and right of 8,100 samples, and whether each was mirrored."""
    batches = task(8100, seed=seed, batch_size=1024).train_batches(epoch)
    _, pixels, _ = gather(batches)
    row, left, right = pixels[:, 0, 6, 6], pixels[:, 1, 6, 5], pixels[:, 1, 6, 6]
    flip = right < left
    return (row - 3).long(), (torch.where(flip, left, right) - 3).long(), flip.long()


@pytest.mark.parametrize("seed, epoch", [(0, 0), (0, 1), (0, 99), (1, 0), (2**62, 0)])
def test_all_81_crops_and_both_mirrorings_are_equally_likely(seed: int, epoch: int):
    down, right, flip = crops(seed, epoch)
    cells = torch.bincount((down * 9 + right) * 2 + flip, minlength=162)
    assert len(cells) == 162 and stats.chisquare(cells.numpy()).pvalue > 1e-3
    for drawn in (down, right, flip):
        assert stats.chisquare(torch.bincount(drawn).numpy()).pvalue > 1e-3


def test_crops_of_neighbours_and_of_successive_epochs_are_independent():
    now, later = crops(0, 0), crops(0, 1)
    pairs = [pair for x, y in zip(now, later, strict=True) for pair in ((x, y), (x[:-1], x[1:]))]
    for x, y in [*pairs, *pairwise(now)]:
        table = np.zeros((9, 9))
        np.add.at(table, (x.numpy(), y.numpy()), 1)
        table = table[table.any(1)][:, table.any(0)]
        result: Any = stats.chi2_contingency(table)
        assert result.pvalue > 1e-3


@pytest.mark.parametrize("padding, shape", [(4, (3, 32, 32)), (2, (1, 9, 14))])
def test_crop_and_flip_is_torchvisions_image_by_image(padding: int, shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    sides = 2 * padding + 1
    images = torch.randint(256, (2 * sides**2, *shape), generator=generator, dtype=torch.uint8)
    every = torch.cartesian_prod(torch.arange(sides), torch.arange(sides), torch.arange(2))
    down, right, flip = every.unbind(1)
    ours = crop_and_flip(images, padding, down, right, flip.bool())
    for image, result, (top, left, mirrored) in zip(images, ours, every.tolist(), strict=True):
        reference = v2.crop(v2.pad(image, [padding]), top, left, *shape[1:])
        assert torch.equal(result, v2.horizontal_flip(reference) if mirrored else reference)


def stub(kind: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> Classification:
    """The task on a data set of this kind that holds ``images``."""
    labels = torch.arange(len(images)) % 10
    monkeypatch.setattr(kind, "read", lambda self, train: (images, labels))
    return Classification(Setup(batch_size=16), dataset=kind(Setup(), name="stub"), model=linear)


def test_cifar_is_normalized_as_by_torchvision(monkeypatch: pytest.MonkeyPatch):
    images = torch.arange(256, dtype=torch.uint8).repeat(36).view(-1, 3, 32, 32)
    normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    reference = torch.stack(
        [normalize(transforms.ToTensor()(i.permute(1, 2, 0).numpy())) for i in images]
    )
    (batch,) = stub(CIFAR10, images, monkeypatch).eval_batches()
    assert batch.inputs.dtype == torch.float32
    torch.testing.assert_close(batch.inputs, reference, rtol=0, atol=1e-6)


def test_the_padding_of_a_crop_is_black_before_normalization(monkeypatch: pytest.MonkeyPatch):
    white = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    _, pixels, _ = gather(stub(CIFAR10, white, monkeypatch).train_batches(0))
    mean, std = (torch.tensor(v) for v in (CIFAR10.mean, CIFAR10.std))
    torch.testing.assert_close(pixels.amin((0, 2, 3)), -mean / std)
    torch.testing.assert_close(pixels.amax((0, 2, 3)), (1 - mean) / std)


@pytest.mark.parametrize("kind, white", [(MNIST, 255), (Digits, 16)])
def test_gray_sets_are_scaled_to_one_and_never_augmented(
    kind: Any, white: int, monkeypatch: pytest.MonkeyPatch
):
    values = torch.arange(50 * prod(kind.shape)) % (white + 1)
    images = values.view(-1, *kind.shape).to(torch.uint8)
    of = stub(kind, images, monkeypatch)
    for batches in (of.train_batches(0), of.eval_batches()):
        assert torch.equal(gather(batches)[1], images.float() / white)


def test_a_steps_loss_and_accuracy_are_the_batchs():
    of = task()
    torch.manual_seed(0)
    batch, model = next(of.train_batches(0)), of.model()
    step = of.step(model, batch)
    logits = model(batch.inputs).detach()
    right = int((logits.argmax(1) == batch.targets).sum())
    assert 0 < right < 32
    torch.testing.assert_close(step.losses, {"loss": F.cross_entropy(logits, batch.targets)})
    assert {n: float(v) for n, v in step.stats.items()} == {"accuracy": 100 * right}
    assert step.losses["loss"].requires_grad and not step.stats["accuracy"].requires_grad


class Half(nn.Module):
    """Any network with its logits in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).bfloat16()


def test_losses_are_taken_in_float32_whatever_the_networks_precision():
    of = task(eval_batch_size=203)
    model = Half(of.model())
    batch = next(of.train_batches(0))
    expected = F.cross_entropy(model(batch.inputs).float(), batch.targets)
    torch.testing.assert_close(of.step(model, batch).losses["loss"], expected)
    (batch,) = of.eval_batches()
    with torch.inference_mode():
        whole = F.cross_entropy(model(batch.inputs).float(), batch.targets)
    assert scores(of, model)["test_loss"] == pytest.approx(float(whole), rel=1e-5)


def scores(of: Classification, model: nn.Module, world: int = 1) -> dict[str, float]:
    metrics = of.metrics()
    with torch.inference_mode():
        for rank in range(world):
            for batch in of.eval_batches(rank, world):
                of.eval_step(model, batch, metrics)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


@pytest.mark.parametrize("holdout, name", [(0, "test"), (60, "holdout")])
def test_evaluation_is_over_the_whole_set_whatever_the_batches_and_ranks(holdout: int, name: str):
    of = task(holdout=holdout)
    model = of.model()
    _, split = of.data.splits()
    images, labels = split.images[split.index].double(), split.labels[split.index]
    with torch.no_grad():
        logits = model.double()(images)
    expected = {
        f"{name}_loss": float(F.cross_entropy(logits, labels)),
        f"{name}_accuracy": 100 * float((logits.argmax(1) == labels).double().mean()),
    }
    model.float()
    for size, world in [(1, 1), (7, 1), (1000, 1), (7, 2), (50, 3)]:
        found = scores(task(holdout=holdout, eval_batch_size=size), model, world)
        assert found == pytest.approx(expected, rel=1e-5)
    assert of.score.name == f"{name}_accuracy" and of.score.better(51.0, 50.0)


def test_evaluation_batches_are_of_the_given_size_and_share_the_set_between_ranks():
    of = task(eval_batch_size=50)
    assert [len(b) for b in of.eval_batches()] == [50, 50, 50, 50, 3]
    whole = gather(of.eval_batches())
    assert torch.equal(whole[0], torch.arange(203))
    images, labels = of.data.read(train=False)
    assert equal(whole[1:], (images.float(), labels))
    shares = [b for rank in range(3) for b in of.eval_batches(rank, 3)]
    assert equal(gather(shares), whole)


def test_nothing_is_read_before_a_batch_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    def fail(self: Given, train: bool) -> None:
        raise OSError("read")

    monkeypatch.setattr(Given, "read", fail)
    of = task()
    assert isinstance(of.model(), nn.Module) and of.metrics() and of.score
    with pytest.raises(OSError, match="^read$"):
        _ = of.steps_per_epoch


def test_both_parts_are_read_once(monkeypatch: pytest.MonkeyPatch):
    asked, whole = [], Given.read
    monkeypatch.setattr(
        Given, "read", lambda self, train: asked.append(train) or whole(self, train)
    )
    of = task()
    for epoch in (0, 1):
        _ = list(of.train_batches(epoch)), list(of.eval_batches()), of.steps_per_epoch
    assert sorted(asked) == [False, True]


def test_a_data_set_of_another_kind_is_rejected():
    with pytest.raises(ValueError, match="dataset must hold labeled images.*got Dataset: choose"):
        Classification(Setup(), dataset=Dataset(), model=linear)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_see_the_same_batches():
    here, there = task(), task(device=torch.device("cuda", 0))
    assert next(there.train_batches(0)).inputs.is_cuda
    for ours, theirs in (
        (here.train_batches(4, start=1), there.train_batches(4, start=1)),
        (here.eval_batches(), there.eval_batches()),
    ):
        back = [Batch(b.inputs.cpu(), b.targets.cpu(), b.index.cpu()) for b in theirs]
        assert same_batches(list(ours), back)
