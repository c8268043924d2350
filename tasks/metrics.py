"""Scores that torchmetrics has no single object for."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from tasks.voc import VOID


class Overlap(MulticlassConfusionMatrix):
    """Intersection over union, its mean over classes and pixel accuracy, in %, of one confusion
    matrix over all images, as the VOC evaluation has it.

    Pixels labelled VOID count nowhere; a class that neither truth nor prediction has is left out,
    of the mean and of what :meth:`compute` gives: ``{name}_miou``, ``{name}_pixel_accuracy`` and
    ``{name}_iou_<class>``. Without a labelled pixel the first two are 0.
    """

    def __init__(self, classes: Sequence[str], name: str) -> None:
        super().__init__(len(classes), ignore_index=VOID, validate_args=False)
        self.classes, self.name = tuple(classes), name

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        matrix = self.confmat.double().cpu()
        hits = matrix.diag()
        union = matrix.sum(0) + matrix.sum(1) - hits
        iou = 100 * hits / union.clamp(min=1)
        there = union > 0
        scores = {
            "miou": iou[there].mean() if there.any() else torch.zeros(()),
            "pixel_accuracy": 100 * hits.sum() / matrix.sum().clamp(min=1),
        }
        scores |= {f"iou_{c}": v for c, v, t in zip(self.classes, iou, there, strict=True) if t}
        return {f"{self.name}_{k}": v for k, v in scores.items()}


class Ratio(Metric):
    """One sum divided by another, 0 where the other is 0, in float64."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        self.total += total.sum()
        self.count += count.sum()

    def compute(self) -> Tensor:
        return self.total / self.count.clamp(min=1)
