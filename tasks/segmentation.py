"""Semantic segmentation (paper, section 4.2): PSPNet on PASCAL VOC2012."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchvision import tv_tensors

from lrd.task import Batch, ModelFactory, Score, Setup, Step
from tasks import augment, pictures
from tasks.augment import normalised
from tasks.metrics import Overlap
from tasks.photographs import Photographs
from tasks.predict import MODES, probabilities
from tasks.voc import VOID, Entry
from tasks.voc_masks import VOCMasks


class Segmentation(Photographs[VOCMasks]):
    """Cross entropy per pixel with an auxiliary loss; mean IoU and pixel accuracy in %.

    A model gives ``{"out": logits}`` of the images' size, in training also ``"aux"``, which counts
    ``aux_weight``. Batches are whole: what is left over at an epoch's end is not trained on, as in
    PSPNet, whose batch norm behind the 1 x 1 bin needs two images.

    Evaluation is of each image by itself, ``whole`` or by ``sliding`` windows
    (:mod:`tasks.predict`); the scores' names say which.
    """

    eval_modes = tuple(MODES)
    whole_batches = True

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
        super().__init__(setup, dataset)
        self.aux_weight = aux_weight
        self.classes = ("background", *dataset.classes)
        self._network = partial(model, classes=len(self.classes))
        self.split = "holdout" if dataset.holdout else "val"
        self.mode = setup.eval_mode or "whole"
        self.final_mode = setup.eval_final_mode or self.mode
        self.score = Score(f"{self.split}_{self.mode}_miou", maximize=True, unit="%")
        self._augment = augment.segmentation(dataset.crop)

    def read(self, entry: Entry, train: bool, number: int) -> tuple[bool, Tensor, Tensor, int]:
        """Bytes of one image and of its labels; augmented if it is to be trained on."""
        image, mask = self.data.read(entry)
        if train:
            image, mask = self._augment(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return train, image.as_subclass(Tensor), mask.as_subclass(Tensor), number

    def collate(self, samples: list[Any]) -> Batch:
        """Images and labels; what is trained on, all of one size, as tensors, else lists."""
        train, images, masks, numbers = zip(*samples, strict=True)
        if train[0]:
            return Batch(torch.stack(images), torch.stack(masks), torch.tensor(numbers))
        return Batch(list(images), list(masks), torch.tensor(numbers))

    def sent(self, batch: Batch, train: bool) -> Batch:
        """Training: normalised images (n, 3, h, w) and labels (n, h, w) int64. Evaluation: lists of
        images (3, h, w) and of labels (h, w), bytes, each of a size of its own."""
        index = self.to(batch.index)
        if train:
            images, masks = self.to(batch.inputs), self.to(batch.targets)
            return Batch(normalised(images), masks.long(), index)
        return Batch([*map(self.to, batch.inputs)], [*map(self.to, batch.targets)], index)

    def model(self) -> nn.Module:
        return self._network()

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The body and, where its rate differs, all that stands on it."""
        factor = getattr(model, "head_lr_factor", 1.0)
        body = getattr(model, "body", None)
        if factor == 1 or body is None:
            return super().param_groups(model)
        own = list(body.parameters())
        known = {id(p) for p in own}
        rest = [p for p in model.parameters() if id(p) not in known]
        return [{"params": own}, {"params": rest, "lr_factor": factor}]

    def step(self, model: nn.Module, batch: Batch) -> Step:
        out = model(batch.inputs)
        losses = {"main_loss": _loss(out["out"], batch.targets)}
        if "aux" in out:
            losses["aux_loss"] = self.aux_weight * _loss(out["aux"], batch.targets)
        return Step(losses, {}, (batch.targets != VOID).sum())

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
        drawn = {}
        for entry in self.shown():
            image, mask = self.data.read(entry)
            labels = self._predict(model, self.to(image)).argmax(0).cpu()
            parts = [image, pictures.colours(mask), pictures.colours(labels)]
            drawn[entry.name] = pictures.beside(parts)
        return drawn


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy (n, c, h, w) averaged over the pixels that count; 0 if none does."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=VOID, reduction="sum")
    return total / (targets != VOID).sum().clamp(min=1)
