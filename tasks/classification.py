"""Image classification (paper, section 4.1): data on the device, augmented there in batches."""

from collections.abc import Iterator
from functools import cached_property, partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchvision.transforms.v2 import functional as v2

from lrd.rng import randint
from lrd.task import Batch, ModelFactory, Prediction, Score, Setup, Step, Task, epoch_order, shard
from tasks.data.augment import channel_constants
from tasks.images import Images, Split


class Classification(Task):
    """Cross entropy and accuracy in %, on a data set of :mod:`tasks.images`.

    Args:
        setup: The run's settings.
        dataset: The data set, not yet read.
        model: Builds the network from ``shape`` (c, h, w) and the number of ``classes``.
    """

    recipe: ClassVar[int] = 1

    def __init__(self, setup: Setup, dataset: Images, model: ModelFactory) -> None:
        if not isinstance(dataset, Images):
            raise ValueError(
                f"dataset must hold labeled images for this task, got {type(dataset).__name__}: "
                "choose digits, mnist, cifar10 or cifar100"
            )
        self.setup, self.data = setup, dataset
        self._network = partial(model, shape=dataset.shape, classes=dataset.classes)
        self.split = "holdout" if dataset.holdout else "test"
        self.score = Score(f"{self.split}_accuracy", maximize=True, unit="%")
        self.labels = dataset.classes

    @cached_property
    def _splits(self) -> tuple[Split, Split]:
        return self.data.splits()

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._splits[0].index) // self.setup.batch_size)

    def model(self) -> nn.Module:
        return self._network()

    def manifest(self) -> str | None:
        return self.data.manifest()

    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        split, _ = self._splits
        order = epoch_order(len(split.index), self.setup.seed, epoch)
        if split.index.is_cuda:
            order = order.pin_memory().to(split.index.device, non_blocking=True)
        for chosen in order.split(self.setup.batch_size)[start:]:
            own, replicated = shard(chosen, rank, world)
            index = split.index[own]
            images = split.images[index]
            if self.data.crop:
                images = random_crop_and_flip(
                    images, index, self.data.crop, seed=self.setup.seed, epoch=epoch
                )
            yield Batch(self._normalize(images), split.labels[index], index, replicated)

    def step(self, model: nn.Module, batch: Batch) -> Step:
        logits = model(batch.inputs).float()
        correct = (logits.detach().argmax(1) == batch.targets).sum()
        return Step({"loss": F.cross_entropy(logits, batch.targets)}, {"accuracy": 100.0 * correct})

    def metrics(self) -> dict[str, Metric]:
        # float64 hides how the samples are divided into batches and ranks
        names = (f"{self.split}_loss", f"{self.split}_accuracy")
        return {n: MeanMetric(nan_strategy="disable").set_dtype(torch.float64) for n in names}

    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        _, split = self._splits
        for index in split.index[rank::world].split(self.setup.eval_batch_size):
            yield Batch(self._normalize(split.images[index]), split.labels[index], index)

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        logits = model(batch.inputs).float()
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        metrics[f"{self.split}_loss"].update(losses)
        metrics[f"{self.split}_accuracy"].update(100.0 * (logits.argmax(1) == batch.targets))

    def predict(self, model: nn.Module, image: Tensor) -> Prediction:
        """Return the five most probable labels of an image, resized to the data set's shape."""
        channels, *size = self.data.shape
        if channels == 1:
            image = v2.rgb_to_grayscale(image)
        resized = v2.resize_image(image, size, antialias=True)
        pixels = (resized.float() * (self.data.white / 255)).to(self.setup.device)
        chances = model(self._normalize(pixels[None])).float().softmax(1)[0].cpu()
        found = chances.topk(min(5, len(chances)))
        names = self.data.names or range(len(chances))
        top = {str(names[int(i)]): float(p) for p, i in zip(*found, strict=True)}
        text = ", ".join(f"{name} {100 * p:.1f} %" for name, p in top.items())
        return Prediction(text, {"top": top})

    def _normalize(self, images: Tensor) -> Tensor:
        """Scale uint8 images (n, c, h, w) to [0, 1], then normalize each channel; float32."""
        mean, std = (
            channel_constants(tuple(v), self.data.white, images.device)
            for v in (self.data.mean, self.data.std)
        )
        return (images.float() - mean) / std


def random_crop_and_flip(
    images: Tensor, index: Tensor, padding: int, *, seed: int, epoch: int
) -> Tensor:
    """Pad images (n, c, h, w) with zeros, crop them at random, and flip half of them.

    Crop and flip of a sample depend on (seed, epoch, its ``index``) alone.
    """
    down, right = (
        randint(index, 2 * padding + 1, f"crop {axis}", seed, epoch) for axis in ("down", "right")
    )
    return crop_and_flip(
        images, padding, down, right, randint(index, 2, "flip", seed, epoch).bool()
    )


def crop_and_flip(
    images: Tensor, padding: int, down: Tensor, right: Tensor, flip: Tensor
) -> Tensor:
    """Pad images (n, c, h, w) with zeros, crop at (down, right), and mirror where ``flip``.

    ``down``, ``right`` and ``flip`` are (n,). The result has the input's shape and is channels last
    in memory.
    """
    count, _, height, width = images.shape
    across = torch.arange(width, device=images.device)
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.where(flip[:, None], across.flip(0), across)
    padded = F.pad(images, [padding] * 4)
    sample = torch.arange(count, device=images.device)
    cropped = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
