"""Semantic segmentation (paper, section 4.2): PSPNet on PASCAL VOC2012."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchvision.transforms.v2 import functional as v2

from lrd.task import Batch, ModelFactory, Prediction, Score, Setup, Step
from tasks.data import augment, augment_masks, visualize
from tasks.data.labeled_images import Entry
from tasks.data.voc import VOID
from tasks.image_task import ImageTask
from tasks.inference import EVAL_MODES, predict_probabilities
from tasks.metrics import IoU
from tasks.voc_masks import Masks


class Segmentation(ImageTask[Masks]):
    """Cross entropy per pixel with an auxiliary loss; mean IoU and pixel accuracy in %.

    A model maps images to ``{"out": logits}`` of the images' size, in training also to ``"aux"``,
    whose loss has the weight ``aux_weight``. The last small batch of an epoch is left out, as in
    PSPNet: the batch norm after the 1 x 1 bin needs two images.

    Evaluation predicts each image by itself, as a ``whole`` or by ``sliding`` windows
    (:mod:`tasks.inference`). The scores' names contain the mode.

    Args:
        setup: The run's settings.
        dataset: The data set, not yet read.
        model: Builds the network from the number of ``classes``, the background included.
        aux_weight: Weight of the auxiliary loss, at least 0.
    """

    recipe: ClassVar[int] = 2

    eval_modes = tuple(EVAL_MODES)
    drop_last = True

    def __init__(
        self, setup: Setup, dataset: Masks, model: ModelFactory, aux_weight: float = 0.4
    ) -> None:
        if not isinstance(dataset, Masks):
            raise ValueError(
                f"dataset must hold images with masks for this task, got {type(dataset).__name__}: "
                "choose voc_seg, shapes_seg or masks"
            )
        if aux_weight < 0:
            raise ValueError(f"task.aux_weight must be at least 0, got {aux_weight}")
        if setup.batch_size < 2:
            raise ValueError(
                f"train.batch_size must be at least 2 for this task, got {setup.batch_size}: the "
                "batch norm after the pyramid's 1 x 1 bin needs two images"
            )
        super().__init__(setup, dataset)
        self.aux_weight = aux_weight
        self.classes = ("background", *dataset.classes)
        self._network = partial(model, classes=len(self.classes))
        self.split = "holdout" if dataset.holdout else "val"
        self.mode = setup.eval_mode or "whole"
        self.final_mode = setup.eval_final_mode or self.mode
        self.score = Score(f"{self.split}_{self.mode}_miou", maximize=True, unit="%")
        self._augment = augment_masks.SegmentationTransform(dataset.crop)

    def read(self, entry: Entry, train: bool, number: int) -> tuple[bool, Tensor, Tensor, int]:
        """Return an image (3, h, w) and its labels (h, w), uint8, augmented for training."""
        image, mask = self.data.read(entry)
        if train:
            image, mask = self._augment(image, mask)
        return train, image, mask, number

    def collate(self, samples: list[Any]) -> Batch:
        """Return images and labels: tensors for training, where all sizes are equal, else lists."""
        train, images, masks, numbers = zip(*samples, strict=True)
        if train[0]:
            return Batch(torch.stack(images), torch.stack(masks), torch.tensor(numbers))
        return Batch(list(images), list(masks), torch.tensor(numbers))

    def to_device(self, batch: Batch, train: bool) -> Batch:
        """Return normalized images (n, 3, h, w) and int64 labels (n, h, w) for training, otherwise
        lists of uint8 images and labels."""
        index = self.to(batch.index)
        if train:
            images, masks = self.to(batch.inputs), self.to(batch.targets)
            return Batch(augment.normalize(images), masks.long(), index)
        return Batch([*map(self.to, batch.inputs)], [*map(self.to, batch.targets)], index)

    def model(self) -> nn.Module:
        return self._network()

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return one group, or body and rest if the model has a ``head_lr_factor`` for the rest."""
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
            "iou": IoU(self.classes, f"{self.split}_{self.mode}"),
        }

    def final_metrics(self) -> dict[str, Metric]:
        scales, base_size = self.setup.eval_scales, self.setup.eval_base_size
        base = "" if base_size is None else f"_base{base_size}"
        suffix = f"{base}{'' if scales == (1.0,) else '_multiscale'}"
        if self.final_mode == self.mode and not suffix:
            return {}
        return {"iou": IoU(self.classes, f"{self.split}_{self.final_mode}{suffix}")}

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        for image, target in zip(batch.inputs, batch.targets, strict=True):
            chances = self._predict(model, image, self.mode)
            metrics["iou"].update(chances.argmax(0), target.long())
            each = F.nll_loss(
                chances.clamp_min(1e-12).log()[None],
                target.long()[None],
                reduction="none",
                ignore_index=VOID,
            )
            metrics[f"{self.split}_loss"].update(each[0][target != VOID])

    def final_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        for image, target in zip(batch.inputs, batch.targets, strict=True):
            metrics["iou"].update(self._predict_finally(model, image).argmax(0), target.long())

    def _predict(self, model: nn.Module, image: Tensor, mode: str, **sizes: Any) -> Tensor:
        """Return probabilities (c, h, w) for a uint8 image (3, h, w)."""
        pixels = augment.normalize(image)
        return predict_probabilities(model, pixels, mode, self.data.crop, **sizes)

    def _predict_finally(self, model: nn.Module, image: Tensor) -> Tensor:
        scales, base_size = self.setup.eval_scales, self.setup.eval_base_size
        return self._predict(model, image, self.final_mode, scales=scales, base_size=base_size)

    def predict(self, model: nn.Module, image: Tensor) -> Prediction:
        """Return the label of each pixel (``mask``), drawn over the image too (``overlay``), and
        each label's share of the pixels. The image keeps its size."""
        shrunk = self.data.shrink(image)
        labels = self._predict_finally(model, self.to(shrunk)).argmax(0).to("cpu", torch.uint8)
        mask = v2.resize_mask(labels[None], list(image.shape[-2:]))[0]
        counts = mask.flatten().bincount(minlength=len(self.classes)) / mask.numel()
        shares = {n: float(c) for n, c in zip(self.classes, counts, strict=True) if c}
        text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        overlay = visualize.overlay(image, mask)
        return Prediction(text, {"shares": shares}, {"mask": mask, "overlay": overlay})

    def visualize(self, model: nn.Module) -> dict[str, Tensor]:
        """Draw image, truth and prediction side by side in VOC's colors."""
        drawn = {}
        for entry in self.preview_samples():
            image, mask = self.data.read(entry)
            labels = self._predict(model, self.to(image), self.mode).argmax(0).cpu()
            parts = [image, visualize.colorize(mask), visualize.colorize(labels)]
            drawn[entry.name] = visualize.side_by_side(parts)
        return drawn


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of (n, c, h, w), averaged over the labeled pixels; 0 without any."""
    logits = logits.float()
    if torch.are_deterministic_algorithms_enabled():  # CUDA's sum over rows is, over maps it is not
        logits, targets = logits.movedim(1, -1).flatten(0, -2), targets.flatten()
    total = F.cross_entropy(logits, targets, ignore_index=VOID, reduction="sum")
    return total / (targets != VOID).sum().clamp(min=1)
