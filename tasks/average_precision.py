"""PASCAL VOC's score of detections: mean average precision at an intersection over union of 0.5."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

MATCH = 0.5  # intersection over union from which on a detection has found an object
IMAGE, LABEL, SCORE, DIFFICULT, BOX = 0, 1, 2, 2, slice(3, 7)  # columns of the states
Rows = NDArray[np.float64]
Flags = NDArray[np.bool_]


class AveragePrecision(Metric):
    """Mean average precision, in %, as VOC's devkit has it: by VOC2007's 11 points of recall and as
    the area under the curve of VOC2010 and after.

    Boxes are (x1, y1, x2, y2) in continuous coordinates, where VOC's 1-based inclusive pixel box
    (xmin, ymin, xmax, ymax) is (xmin - 1, ymin - 1, xmax, ymax): the width x2 - x1 is the devkit's
    xmax - xmin + 1, so intersection over union is the devkit's too.

    Per class, detections of all images in descending score each take the object of their image
    that they overlap most, difficult ones included. From 0.5 on the first to take an object is a
    true positive and the next are false ones; a difficult object makes them neither. A detection
    below 0.5 is a false positive. Only objects that are not difficult count for recall. Detections
    of one score are in order of image number, then as their image lists them, and recall is
    compared in integers; nothing else differs from ``VOCevaldet.m`` and ``VOCap.m``.

    :meth:`compute` gives float64 scalars on the CPU, whatever the device: ``{name}_map`` (11
    points), ``{name}_map_area`` and ``{name}_ap_<class>`` (11 points). A class without an object
    that is not difficult is left out, of the means too; without any class both means are 0.

    The states are all detections and objects, 56 bytes each, so that neither the division of the
    images among batches and ranks nor their order matters. Each image is to be seen once. A million
    detections take a few seconds, on one core.

    ``classes`` are those without the background: labels are 1 .. ``len(classes)``.
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
        # what torchmetrics gathers from a rank without an image has another shape and type
        for rows in (self.detections, self.truths):
            rows.append(torch.empty(0, 7, dtype=torch.float64, device=self.device))

    def update(
        self, detections: list[dict[str, Tensor]], truths: list[dict[str, Tensor]], index: Tensor
    ) -> None:
        """Add n images; does not wait for the device.

        ``detections``, one entry an image: ``boxes`` (k, 4), ``scores`` (k,), ``labels`` (k,)
        int64. ``truths``: ``boxes`` (m, 4), ``labels`` (m,) int64, ``difficult`` (m,) bool. k and m
        may be 0 and differ between images. ``index`` (n,) int64: the number of each image in the
        evaluation set.
        """
        numbers = index.to(self.device)
        for number, found, truth in zip(numbers, detections, truths, strict=True):
            self.detections.append(self._rows(number, found, "scores"))
            self.truths.append(self._rows(number, truth, "difficult"))

    def _rows(self, number: Tensor, image: dict[str, Tensor], third: str) -> Tensor:
        """float64 (k, 7): image number, label, score or difficult, box."""
        labels, *others = (image[k].to(self.device) for k in ("labels", third, "boxes"))
        columns = [number.expand_as(labels), labels, *others]
        return torch.column_stack([column.double() for column in columns])

    def compute(self) -> dict[str, Tensor]:
        found, truth = (dim_zero_cat(r).cpu().numpy() for r in (self.detections, self.truths))
        for rows in (found, truth):
            assert np.isin(rows[:, LABEL], np.arange(len(self.classes)) + 1).all()
        # both sorts are stable, so what they leave equal stays as its image lists it
        found = found[np.lexsort((found[:, IMAGE], -found[:, SCORE], found[:, LABEL]))]
        truth = truth[np.lexsort((truth[:, IMAGE], truth[:, LABEL]))]
        hit, counted = _judged(found, truth)
        wanted = truth[truth[:, DIFFICULT] == 0, LABEL]
        each: dict[str, tuple[float, float]] = {}
        for label, name in enumerate(self.classes, 1):
            if objects := int((wanted == label).sum()):
                each[name] = _averages(hit[counted & (found[:, LABEL] == label)], objects)
        points, area = np.mean(list(each.values()), 0) if each else (0.0, 0.0)
        scores = {"map": points, "map_area": area} | {f"ap_{c}": v for c, (v, _) in each.items()}
        return {
            f"{self.name}_{k}": torch.tensor(100 * float(v), dtype=torch.float64)
            for k, v in scores.items()
        }


def _judged(found: Rows, truth: Rows) -> tuple[Flags, Flags]:
    """(k,) each: which detections are true positives, and which are true or false ones at all.

    ``found`` is in order of precedence within each class, ``truth`` sorted by label, then image.
    """
    match = _matches(found, truth)
    difficult = np.append(truth[:, DIFFICULT] != 0, False)  # at -1, no match: a false positive
    counted = ~difficult[match]
    first = np.zeros(len(found), bool)
    first[np.unique(match, return_index=True)[1]] = True
    return first & counted & (match >= 0), counted


def _matches(found: Rows, truth: Rows) -> NDArray[np.int64]:
    """(k,): the row of ``truth`` that each detection overlaps most, of its class in its image; the
    first of equals, -1 below 0.5. ``truth`` is sorted by label, then image."""
    images = 1 + max(rows[:, IMAGE].max(initial=0) for rows in (found, truth))
    groups, wanted = (rows[:, LABEL] * images + rows[:, IMAGE] for rows in (truth, found))
    start, end = (np.searchsorted(groups, wanted, side) for side in ("left", "right"))
    best, match = np.zeros(len(found)), np.full(len(found), -1)
    for turn in range((end - start).max(initial=0)):  # the most objects of a class in an image
        rows = np.flatnonzero(start + turn < end)
        objects = start[rows] + turn
        overlap = _overlap(found[rows, BOX], truth[objects, BOX])
        more = overlap > best[rows]
        best[rows[more]], match[rows[more]] = overlap[more], objects[more]
    match[best < MATCH] = -1
    return match


def _overlap(a: Rows, b: Rows) -> Rows:
    """(k,): intersection over union of boxes (k, 4), row by row; 0 or NaN if one is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):  # nor need a diverged network warn
        sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        shared = sides.clip(min=0).prod(1)
        area, other = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
        union = area + other - shared
        return np.divide(shared, union, out=np.zeros(len(a)), where=shared > 0)


def _averages(hit: Flags, objects: int) -> tuple[float, float]:
    """Average precision of one class by 11 points and as an area, both within 0 .. 1.

    ``hit`` (k,): true or false positive, in descending order; ``objects`` > 0: how many there are.
    """
    hits = hit.cumsum()
    precision = hits / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the highest from this recall on
    # recall >= t / 10 in integers: as floats, 3 / 10 is less than 3 * 0.1
    at = np.searchsorted(10 * hits, objects * np.arange(11))
    points = np.append(envelope, 0.0)[at]
    return float(points.mean()), float(envelope[hit].sum() / objects)
