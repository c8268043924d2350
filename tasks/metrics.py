"""Scores that torchmetrics lacks: IoU as VOC computes it, a ratio of sums, VOC's mAP."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from tasks.data.voc import VOID

MIN_IOU = 0.5  # from which a detection matches an object
# Columns of AveragePrecision's states; column 2 is a detection's score, or an object's difficult.
IMAGE, LABEL, SCORE, DIFFICULT, BOX = 0, 1, 2, 2, slice(3, 7)
_Rows = NDArray[np.float64]
_Flags = NDArray[np.bool_]


class IoU(MulticlassConfusionMatrix):
    """Intersection over union per class, its mean, pixel accuracy and mean class accuracy, in %.

    As in the VOC evaluation, all images share one confusion matrix. Pixels labeled VOID do not
    count. A class that is in neither truth nor prediction is left out of the means and of the
    result. Without labeled pixels all are 0. A class's accuracy is the share of its pixels that are
    predicted as it.

    :meth:`compute` returns ``{name}_miou``, ``{name}_pixel_accuracy``, ``{name}_macc`` and
    ``{name}_iou_<class>``.

    Args:
        classes: Names of all classes, the background included.
        name: Prefix of the scores' names.
    """

    def __init__(self, classes: Sequence[str], name: str) -> None:
        super().__init__(len(classes), ignore_index=VOID, validate_args=False)
        self.classes, self.name = tuple(classes), name

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count pixels by true and predicted label, both int64 of any equal shape.

        torchmetrics, under ``torch.use_deterministic_algorithms``, builds a table of pixels by
        pairs of labels instead; a count of integers is deterministic as it is.
        """
        count, labeled = len(self.classes), target != VOID
        pairs = target[labeled] * count + preds[labeled]
        self.confmat += torch.bincount(pairs, minlength=count**2).view(count, count)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        matrix = self.confmat.double().cpu()
        hits = matrix.diag()
        union = matrix.sum(0) + matrix.sum(1) - hits
        iou = 100 * hits / union.clamp(min=1)
        accuracy = 100 * hits / matrix.sum(1).clamp(min=1)  # rows are the truth
        seen = union > 0
        scores = {
            "miou": iou[seen].mean() if seen.any() else torch.zeros(()),
            "pixel_accuracy": 100 * hits.sum() / matrix.sum().clamp(min=1),
            "macc": accuracy[seen].mean() if seen.any() else torch.zeros(()),
        }
        scores |= {f"iou_{c}": v for c, v, s in zip(self.classes, iou, seen, strict=True) if s}
        return {f"{self.name}_{k}": v for k, v in scores.items()}


class RatioMetric(Metric):
    """The sum of ``total`` divided by the sum of ``count``, 0 if the latter is 0, in float64."""

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


class AveragePrecision(Metric):
    """VOC's mean average precision at an IoU of 0.5, in %, as the devkit computes it: over
    VOC2007's 11 points of recall, and as the area under the curve of VOC2010 and later.

    Boxes are (x1, y1, x2, y2) in continuous coordinates. VOC's pixel box (xmin, ymin, xmax, ymax)
    counts from 1 and includes both ends; here it is (xmin - 1, ymin - 1, xmax, ymax). The width
    x2 - x1 is then the devkit's xmax - xmin + 1, so the IoU is the devkit's too.

    In descending order of score, each detection of a class is assigned to the object of its image
    and class with the highest IoU, difficult objects included. If that IoU is at least 0.5, the
    object's first detection is a true positive and the later ones are false positives; detections
    of a difficult object count as neither. A detection below 0.5 is a false positive. Recall counts
    only objects that are not difficult. Two details differ from ``VOCevaldet.m`` and ``VOCap.m``:
    detections with equal scores are ordered by image number, then by their order within the image,
    and recall is compared in integers.

    :meth:`compute` returns float64 scalars on the CPU on any device: ``{name}_map`` (11 points),
    ``{name}_map_area`` and ``{name}_ap_<class>`` (11 points). A class with no object that is not
    difficult is left out of the result and of the means. Without classes both means are 0.

    The states hold all detections and objects, 56 bytes each, so the result depends neither on the
    division of the images into batches and ranks nor on their order. Add each image once. A million
    detections take a few seconds on one core.

    Args:
        classes: Names without the background; labels are 1 .. ``len(classes)``.
        name: Prefix of the scores' names.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    detections: list[Tensor]
    truths: list[Tensor]

    def __init__(self, classes: Sequence[str], name: str) -> None:
        super().__init__()
        self.classes, self.name = tuple(classes), name
        self.add_state("detections", [], dist_reduce_fx="cat")
        self.add_state("truths", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        super().reset()
        # torchmetrics gathers a tensor of another shape and type from a rank without images
        for rows in (self.detections, self.truths):
            rows.append(torch.empty(0, 7, dtype=torch.float64, device=self.device))

    def update(
        self, detections: list[dict[str, Tensor]], truths: list[dict[str, Tensor]], index: Tensor
    ) -> None:
        """Add n images without synchronizing the device.

        Args:
            detections: For each image ``boxes`` (k, 4), ``scores`` (k,) and ``labels`` (k,) int64.
                k may be 0 and differs between images.
            truths: For each image ``boxes`` (m, 4), ``labels`` (m,) int64 and ``difficult`` (m,)
                bool. m may be 0 and differs between images.
            index: The images' numbers in the evaluation set, (n,) int64.
        """
        numbers = index.to(self.device)
        for number, found, truth in zip(numbers, detections, truths, strict=True):
            self.detections.append(self._rows(number, found, "scores"))
            self.truths.append(self._rows(number, truth, "difficult"))

    def _rows(self, number: Tensor, image: dict[str, Tensor], third: str) -> Tensor:
        """Return float64 (k, 7): image number, label, score or difficult, box."""
        labels, *others = (image[k].to(self.device) for k in ("labels", third, "boxes"))
        columns = [number.expand_as(labels), labels, *others]
        return torch.column_stack([column.double() for column in columns])

    def compute(self) -> dict[str, Tensor]:
        found, truth = (dim_zero_cat(r).cpu().numpy() for r in (self.detections, self.truths))
        for rows in (found, truth):
            assert np.isin(rows[:, LABEL], np.arange(len(self.classes)) + 1).all()
        # both sorts are stable: equal rows stay in the order of their image
        found = found[np.lexsort((found[:, IMAGE], -found[:, SCORE], found[:, LABEL]))]
        truth = truth[np.lexsort((truth[:, IMAGE], truth[:, LABEL]))]
        hit, counted = _true_positives(found, truth)
        easy = truth[truth[:, DIFFICULT] == 0, LABEL]
        each: dict[str, tuple[float, float]] = {}
        for label, name in enumerate(self.classes, 1):
            if objects := int((easy == label).sum()):
                each[name] = _averages(hit[counted & (found[:, LABEL] == label)], objects)
        points, area = np.mean(list(each.values()), 0) if each else (0.0, 0.0)
        scores = {"map": points, "map_area": area} | {f"ap_{c}": v for c, (v, _) in each.items()}
        return {
            f"{self.name}_{k}": torch.tensor(100 * float(v), dtype=torch.float64)
            for k, v in scores.items()
        }


def _true_positives(found: _Rows, truth: _Rows) -> tuple[_Flags, _Flags]:
    """Return two flags per detection, (k,) each: true positive; true or false positive.

    ``found`` is in order of precedence within each class, ``truth`` sorted by label, then image.
    """
    match = _matches(found, truth)
    difficult = np.append(truth[:, DIFFICULT] != 0, False)  # at -1, no match: a false positive
    counted = ~difficult[match]
    first = np.zeros(len(found), bool)
    first[np.unique(match, return_index=True)[1]] = True
    return first & counted & (match >= 0), counted


def _matches(found: _Rows, truth: _Rows) -> NDArray[np.int64]:
    """Return (k,): for each detection the row of ``truth`` of its class and image with the highest
    IoU, the first of equals, or -1 if that IoU is below 0.5.

    ``truth`` is sorted by label, then image.
    """
    images = 1 + max(rows[:, IMAGE].max(initial=0) for rows in (found, truth))
    groups, wanted = (rows[:, LABEL] * images + rows[:, IMAGE] for rows in (truth, found))
    start, end = (np.searchsorted(groups, wanted, side) for side in ("left", "right"))
    best, match = np.zeros(len(found)), np.full(len(found), -1)
    for turn in range((end - start).max(initial=0)):  # the most objects of a class in an image
        rows = np.flatnonzero(start + turn < end)
        objects = start[rows] + turn
        iou = _box_iou(found[rows, BOX], truth[objects, BOX])
        more = iou > best[rows]
        best[rows[more]], match[rows[more]] = iou[more], objects[more]
    match[best < MIN_IOU] = -1
    return match


def _box_iou(a: _Rows, b: _Rows) -> _Rows:
    """Return (k,): IoU of boxes (k, 4), row by row; 0 or NaN if a box is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):  # a diverged network needs no warning
        sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        shared = sides.clip(min=0).prod(1)
        area, other = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
        union = area + other - shared
        return np.divide(shared, union, out=np.zeros(len(a)), where=shared > 0)


def _averages(hit: _Flags, objects: int) -> tuple[float, float]:
    """Return a class's average precision over 11 points and as an area, both in [0, 1].

    Args:
        hit: (k,), whether each detection is a true positive, in descending order of score.
        objects: How many objects there are, above 0.
    """
    hits = hit.cumsum()
    precision = hits / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the highest from this recall on
    # recall >= t / 10 in integers: as floats, 3 / 10 is less than 3 * 0.1
    at = np.searchsorted(10 * hits, objects * np.arange(11))
    points = np.append(envelope, 0.0)[at]
    return float(points.mean()), float(envelope[hit].sum() / objects)
