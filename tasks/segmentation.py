"""Semantic segmentation (paper, section 4.2): PSPNet on PASCAL VOC2012."""

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchvision import tv_tensors

from lrd.task import Batch, ModelFactory, Score, Setup, Step, Task, epoch_order
from tasks import augment, pictures
from tasks.augment import VOID, normalised
from tasks.loading import Loader, Sample
from tasks.metrics import Overlap
from tasks.models.distributed import synchronised
from tasks.predict import MODES, probabilities
from tasks.voc import Entry
from tasks.voc_masks import VOCMasks

SHOWN = 6  # evaluation images of which pictures are drawn


class Segmentation(Task):
    """Cross entropy per pixel with an auxiliary loss; mean IoU and pixel accuracy in %.

    A model gives ``{"out": logits}`` of the images' size, in training also ``"aux"``, which counts
    ``aux_weight``. Batches are whole: what is left over at an epoch's end is not trained on, as in
    PSPNet, whose batch norm behind the 1 x 1 bin needs two images.

    Evaluation is of each image by itself, ``whole`` or by ``sliding`` windows
    (:mod:`tasks.predict`); the scores' names say which.
    """

    eval_modes = tuple(MODES)

    def __init__(
        self, setup: Setup, dataset: VOCMasks, model: ModelFactory, aux_weight: float = 0.4
    ) -> None:
        if not isinstance(dataset, VOCMasks):
            raise ValueError(
                f"dataset must hold images with masks for this task, got {type(dataset).__name__}: "
                "choose voc_seg or shapes_seg"
            )
        if aux_weight < 0:
            raise ValueError(f"task.aux_weight must be at least 0, got {aux_weight}")
        if setup.batch_size < 2:
            raise ValueError(
                f"train.batch_size must be at least 2 for this task, got {setup.batch_size}: the "
                "batch norm behind the pyramid's 1 x 1 bin needs two images"
            )
        self.setup, self.data, self.aux_weight = setup, dataset, aux_weight
        self.classes = ("background", *dataset.classes)
        self._network = partial(model, classes=len(self.classes))
        self.split = "holdout" if dataset.holdout else "val"
        self.mode = setup.eval_mode or "whole"
        self.final_mode = setup.eval_final_mode or self.mode
        self.score = Score(f"{self.split}_{self.mode}_miou", maximize=True, unit="%")
        self._augment = augment.segmentation(dataset.crop)

    @cached_property
    def _entries(self) -> dict[str, list[Entry]]:
        train, evaluation = self.data.splits()
        if len(train) < self.setup.batch_size:
            raise ValueError(
                f"train.batch_size must be at most the {len(train)} training images of "
                f"{self.data.name}, got {self.setup.batch_size}"
            )
        return {"train": train, "eval": evaluation}

    @cached_property
    def _loader(self) -> Loader:
        return Loader(self._read, _collate, self.setup)

    def _read(self, sample: Sample) -> tuple[str, Tensor, Tensor, int]:
        """Bytes of one image and of its labels; augmented if it is to be trained on."""
        image, mask = self.data.read(self._entries[sample.part][sample.number])
        if sample.part == "train":
            image, mask = self._augment(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return sample.part, image.as_subclass(Tensor), mask.as_subclass(Tensor), sample.number

    def close(self) -> None:
        if "_loader" in vars(self):
            self._loader.close()

    @property
    def steps_per_epoch(self) -> int:
        return len(self._entries["train"]) // self.setup.batch_size

    def describe(self) -> str:
        return self.data.describe(*(len(entries) for entries in self._entries.values()))

    def model(self) -> nn.Module:
        return synchronised(self._network(), self.setup.device)

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The body and, where its rate differs, all that stands on it."""
        factor = getattr(model, "head_lr_factor", 1.0)
        body = getattr(model, "body", None)
        if factor == 1 or body is None:
            return super().param_groups(model)
        own = list(body.parameters())
        rest = [p for p in model.parameters() if all(p is not q for q in own)]
        return [{"params": own}, {"params": rest, "lr_factor": factor}]

    def train_batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        order = epoch_order(len(self._entries["train"]), self.setup.seed, epoch)
        parts = order.split(self.setup.batch_size)[start : self.steps_per_epoch]
        shares = [[Sample("train", epoch, n) for n in part[rank::world].tolist()] for part in parts]
        for images, masks, numbers in self._loader.batches(shares):
            inputs, targets = normalised(self._sent(images)), self._sent(masks).long()
            yield Batch(inputs, targets, self._sent(numbers))

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.setup.device, non_blocking=True)

    def step(self, model: nn.Module, batch: Batch) -> Step:
        out = model(batch.inputs)
        losses = {"main_loss": _loss(out["out"], batch.targets)}
        if "aux" in out:
            losses["aux_loss"] = self.aux_weight * _loss(out["aux"], batch.targets)
        return Step(losses, {})

    def metrics(self) -> dict[str, Metric]:
        return {
            f"{self.split}_loss": MeanMetric(nan_strategy="disable").set_dtype(torch.float64),
            "overlap": self._overlap(self.mode),
        }

    def _overlap(self, mode: str) -> Metric:
        return Overlap(self.classes, f"{self.split}_{mode}")

    def final_metrics(self) -> dict[str, Metric]:
        if self.final_mode == self.mode and self.setup.eval_scales == (1.0,):
            return {}
        several = "" if self.setup.eval_scales == (1.0,) else "_multiscale"
        return {"overlap": self._overlap(self.final_mode + several)}

    def eval_batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Lists of images (3, h, w) and of labels (h, w), each of a size of its own."""
        numbers = torch.arange(len(self._entries["eval"]))[rank::world]
        parts = numbers.split(self.setup.eval_batch_size)
        wanted = [[Sample("eval", 0, n) for n in part.tolist()] for part in parts]
        for images, masks, index in self._loader.batches(wanted):
            inputs, targets = ([self._sent(x) for x in group] for group in (images, masks))
            yield Batch(inputs, targets, self._sent(index))

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        for image, target in zip(batch.inputs, batch.targets, strict=True):
            chances = self._predict(model, image)
            metrics["overlap"].update(chances.argmax(0), target.long())
            each = F.nll_loss(
                chances.clamp_min(1e-12).log()[None],
                target.long()[None],
                reduction="none",
                ignore_index=VOID,
            )
            metrics[f"{self.split}_loss"].update(each[0][target != VOID])

    def final_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        for image, target in zip(batch.inputs, batch.targets, strict=True):
            chances = self._predict(model, image, self.final_mode, self.setup.eval_scales)
            metrics["overlap"].update(chances.argmax(0), target.long())

    def _predict(
        self,
        model: nn.Module,
        image: Tensor,
        mode: str | None = None,
        scales: tuple[float, ...] = (1.0,),
    ) -> Tensor:
        pixels = normalised(image)
        return probabilities(model, pixels, mode or self.mode, self.data.crop, scales)

    def pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """Image, truth and prediction side by side in VOC's palette."""
        entries = self._entries["eval"]
        chosen = torch.linspace(0, len(entries) - 1, min(SHOWN, len(entries))).long().tolist()
        drawn = {}
        for entry in (entries[i] for i in dict.fromkeys(chosen)):
            image, mask = self.data.read(entry)
            labels = self._predict(model, self._sent(image)).argmax(0).cpu()
            parts = [image, pictures.colours(mask), pictures.colours(labels)]
            drawn[entry.name] = pictures.beside(parts)
        return drawn


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy (n, c, h, w) averaged over the pixels that count; 0 if none does."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=VOID, reduction="sum")
    return total / (targets != VOID).sum().clamp(min=1)


def _collate(samples: list[Any]) -> tuple[Any, Any, Tensor]:
    """Images, labels and the samples' numbers; what is trained on, all of one size, as tensors."""
    parts, images, masks, numbers = zip(*samples, strict=True)
    if parts[0] == "train":
        return torch.stack(images), torch.stack(masks), torch.tensor(numbers)
    return list(images), list(masks), torch.tensor(numbers)
