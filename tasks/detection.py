"""Object detection (paper, section 4.3): SSD300 on PASCAL VOC07 and VOC12."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lrd.task import Batch, ModelFactory, Prediction, Score, Setup, Step
from tasks.data import augment, augment_boxes, visualize
from tasks.data.labeled_images import Entry
from tasks.image_task import ImageTask
from tasks.metrics import AveragePrecision, RatioMetric
from tasks.voc_boxes import Boxes, Objects

MIN_SHOWN_SCORE = 0.5  # of the detections that are drawn; where none has it,
SHOWN_BELOW = 3  # the highest so many
LOSS_NAMES = ("box_loss", "class_loss")


class Detection(ImageTask[Boxes]):
    """SSD's box and class loss; mAP at IoU 0.5 in %, and the same losses on the evaluation data.

    A model has the ``size``, ``mean`` and ``std`` of its images. It maps normalized images
    (n, 3, size, size) and their objects to ``{"losses", "sums", "positives"}`` and, in eval mode,
    ``"detections"`` (:mod:`tasks.models.ssd`). The evaluation loss is a sum over all images divided
    by the sum of their matched priors, so it does not depend on the batches.

    Args:
        setup: The run's settings.
        dataset: The data set, not yet read.
        model: Builds the network from the number of ``classes``, the background included.
    """

    recipe: ClassVar[int] = 3

    def __init__(self, setup: Setup, dataset: Boxes, model: ModelFactory) -> None:
        if not isinstance(dataset, Boxes):
            raise ValueError(
                f"dataset must hold images with boxes for this task, got {type(dataset).__name__}: "
                "choose voc_det, shapes_det or boxes"
            )
        super().__init__(setup, dataset)
        self._network = partial(model, classes=1 + len(dataset.classes))
        self.split = "holdout" if dataset.holdout else "test"
        self.score = Score(f"{self.split}_map", maximize=True, unit="%")

    def model(self) -> nn.Module:
        network: Any = self._network()
        self.size, self.mean, self.std = network.size, network.mean, network.std
        self._augment = augment_boxes.DetectionTransform(network.size)
        return network

    def read(self, entry: Entry, train: bool, number: int) -> tuple[Tensor, dict[str, Tensor], int]:
        """Return an image, uint8 (3, size, size), with its objects; for evaluation also with the
        original image's size and boxes."""
        return *self._transformed(*self.data.read(entry), train), number

    def _transformed(
        self, image: Tensor, objects: Objects, train: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        original = as_dict(objects)
        if train:
            return self._augment(image, original)
        resized, target = augment_boxes.resize(image, original, self.size)
        target["original_boxes"] = objects.boxes
        target["original_size"] = torch.tensor(image.shape[-2:])
        return resized, target

    def collate(self, samples: list[Any]) -> Batch:
        """Make a batch whose targets are, by name, one tensor of all images and its rows of each:
        few copies to a device."""
        images, targets, numbers = zip(*samples, strict=True)
        columns = {name: [target[name] for target in targets] for name in targets[0]}
        joined = {n: (torch.cat(c), [len(rows) for rows in c]) for n, c in columns.items()}
        return Batch(torch.stack(images), joined, torch.tensor(numbers))

    def to_device(self, batch: Batch, train: bool) -> Batch:
        """Return normalized images (n, 3, size, size) and a dictionary of tensors for each."""
        columns = [self.to(joined).split(rows) for joined, rows in batch.targets.values()]
        targets = [dict(zip(batch.targets, own, strict=True)) for own in zip(*columns, strict=True)]
        images = augment.normalize(self.to(batch.inputs), self.mean, self.std)
        return Batch(images, targets, self.to(batch.index))

    def step(self, model: nn.Module, batch: Batch) -> Step:
        out = model(batch.inputs, batch.targets)
        return Step(out["losses"], {}, out["positives"].sum())

    def metrics(self) -> dict[str, Metric]:
        losses: dict[str, Metric] = {f"{self.split}_{name}": RatioMetric() for name in LOSS_NAMES}
        precision = AveragePrecision(self.data.classes, self.split)
        return {**losses, f"{self.split}_loss": RatioMetric(), "precision": precision}

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        out = model(batch.inputs, batch.targets)
        for name in LOSS_NAMES:
            metrics[f"{self.split}_{name}"].update(out["sums"][name], out["positives"])
        total = out["sums"][LOSS_NAMES[0]] + out["sums"][LOSS_NAMES[1]]
        metrics[f"{self.split}_loss"].update(total, out["positives"])
        pairs = zip(out["detections"], batch.targets, strict=True)
        found = [self._rescale(detected, target["original_size"]) for detected, target in pairs]
        truths = [{**target, "boxes": target["original_boxes"]} for target in batch.targets]
        metrics["precision"].update(found, truths, batch.index)

    def _rescale(self, detected: dict[str, Tensor], size: Tensor) -> dict[str, Tensor]:
        """Return detections in pixels of the original image of ``size`` (h, w)."""
        scale = (size / self.size).flip(0).repeat(2)
        return {**detected, "boxes": detected["boxes"] * scale}

    def visualize(self, model: nn.Module) -> dict[str, Tensor]:
        """Draw images with their objects, next to the detections that ``predict`` draws."""
        drawn = {}
        for entry in self.preview_samples():
            image, objects = self.data.read(entry)
            truth = self._names(objects.labels)
            parts = [
                visualize.draw_boxes(image, objects.boxes, objects.labels, truth),
                self._draw(image, self._detect(model, image)),
            ]
            drawn[entry.name] = visualize.side_by_side(parts)
        return drawn

    def predict(self, model: nn.Module, image: Tensor) -> Prediction:
        """Return all detections, those of the highest score first, and draw those with a score of
        at least 0.5, or the highest three if none has it. Boxes are in pixels of the image: x1,
        y1, x2, y2."""
        found = self._detect(model, image)
        captions, boxes = self._captions(found), found["boxes"].tolist()
        names, scores = self._names(found["labels"]), found["scores"].tolist()
        items = zip(names, scores, boxes, strict=True)
        objects = [{"label": n, "score": s, "box": box} for n, s, box in items]
        text = ", ".join(captions[: _count_shown(found["scores"])])
        if not scores:
            text = "nothing found"
        elif scores[0] < MIN_SHOWN_SCORE:
            text = f"nothing with a score of {MIN_SHOWN_SCORE} or more; highest: {text}"
        return Prediction(text, {"objects": objects}, {"boxes": self._draw(image, found)})

    def _detect(self, model: nn.Module, image: Tensor) -> dict[str, Tensor]:
        """Return the detections of an image, uint8 (3, h, w), in its pixels, on the CPU, those of
        the highest score first."""
        resized = self.to(augment_boxes.resize_image(image, self.size))
        (detected,) = model(augment.normalize(resized[None], self.mean, self.std))["detections"]
        found = self._rescale(detected, self.to(torch.tensor(image.shape[-2:])))
        order = found["scores"].argsort(descending=True, stable=True)
        return {name: value[order].cpu() for name, value in found.items()}

    def _draw(self, image: Tensor, detected: dict[str, Tensor]) -> Tensor:
        count = _count_shown(detected["scores"])
        found = {name: value[:count] for name, value in detected.items()}
        return visualize.draw_boxes(image, found["boxes"], found["labels"], self._captions(found))

    def _captions(self, found: dict[str, Tensor]) -> list[str]:
        names, scores = self._names(found["labels"]), found["scores"].tolist()
        return [f"{n} {s:.2f}" for n, s in zip(names, scores, strict=True)]

    def _names(self, labels: Tensor) -> list[str]:
        return [self.data.classes[int(label) - 1] for label in labels]


def as_dict(objects: Objects) -> dict[str, Tensor]:
    """Return boxes, labels and difficult by name."""
    return {"boxes": objects.boxes, "labels": objects.labels, "difficult": objects.difficult}


def _count_shown(scores: Tensor) -> int:
    """Return how many of the detections are drawn; ``scores`` descend."""
    return int((scores >= MIN_SHOWN_SCORE).sum()) or min(SHOWN_BELOW, len(scores))
