"""Object detection (paper, section 4.3): SSD300 on PASCAL VOC07 and VOC12."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision import tv_tensors

from lrd.task import Batch, ModelFactory, Score, Setup, Step
from tasks import augment, pictures
from tasks.augment import normalised
from tasks.average_precision import AveragePrecision
from tasks.metrics import Ratio
from tasks.photographs import Photographs
from tasks.voc import Entry
from tasks.voc_boxes import Objects, VOCBoxes

SURE = 0.5  # the score from which pictures show a detection
LOSSES = ("box_loss", "class_loss")


class Detection(Photographs[VOCBoxes]):
    """Box and class loss of SSD; mAP at IoU 0.5 in %, and the same loss on the evaluation data.

    A model has ``size``, ``mean`` and ``std`` of the images that it wants, and gives for normalised
    ones (n, 3, size, size) and their objects ``{"losses", "sums", "positives"}`` and, in eval
    mode, ``"detections"`` (:mod:`tasks.models.ssd`). The loss of evaluation is a sum over all its
    images by the sum of their matched priors, so that no division into batches shows.
    """

    def __init__(self, setup: Setup, dataset: VOCBoxes, model: ModelFactory) -> None:
        if not isinstance(dataset, VOCBoxes):
            raise ValueError(
                f"dataset must hold images with boxes for this task, got {type(dataset).__name__}: "
                "choose voc_det or shapes_det"
            )
        super().__init__(setup, dataset)
        self._network = partial(model, classes=1 + len(dataset.classes))
        self.split = "holdout" if dataset.holdout else "test"
        self.score = Score(f"{self.split}_map", maximize=True, unit="%")

    def model(self) -> nn.Module:
        made: Any = self._network()
        self.size, self.mean, self.std = made.size, made.mean, made.std
        self._augment = augment.detection(made.size)
        self._resize = augment.resized(made.size)
        return made

    def read(self, entry: Entry, train: bool, number: int) -> tuple[Tensor, dict[str, Tensor], int]:
        """Bytes (3, size, size) and the objects on them; for evaluation with the image's own size
        and the objects as they lie there."""
        return *self._placed(*self.data.read(entry), train), number

    def _placed(
        self, image: Tensor, objects: Objects, train: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own = as_dict(objects, image.shape[-2:])
        transform = self._augment if train else self._resize
        picture, moved = transform(tv_tensors.Image(image), own)
        target = {name: value.as_subclass(Tensor) for name, value in moved.items()}
        if not train:
            target["whole"] = objects.boxes
            target["sides"] = torch.tensor(image.shape[-2:])
        return picture.as_subclass(Tensor), target

    def collate(self, samples: list[Any]) -> Batch:
        images, targets, numbers = zip(*samples, strict=True)
        return Batch(torch.stack(images), list(targets), torch.tensor(numbers))

    def sent(self, batch: Batch, train: bool) -> Batch:
        """Normalised images (n, 3, size, size) and a dictionary of tensors for each."""
        targets = [{k: self.to(v) for k, v in target.items()} for target in batch.targets]
        images = normalised(self.to(batch.inputs), self.mean, self.std)
        return Batch(images, targets, self.to(batch.index))

    def step(self, model: nn.Module, batch: Batch) -> Step:
        out = model(batch.inputs, batch.targets)
        return Step(out["losses"], {}, out["positives"].sum())

    def metrics(self) -> dict[str, Metric]:
        losses: dict[str, Metric] = {f"{self.split}_{name}": Ratio() for name in LOSSES}
        precision = AveragePrecision(self.data.classes, self.split)
        return {**losses, f"{self.split}_loss": Ratio(), "precision": precision}

    def eval_step(self, model: nn.Module, batch: Batch, metrics: dict[str, Metric]) -> None:
        out = model(batch.inputs, batch.targets)
        for name in LOSSES:
            metrics[f"{self.split}_{name}"].update(out["sums"][name], out["positives"])
        both = out["sums"][LOSSES[0]] + out["sums"][LOSSES[1]]
        metrics[f"{self.split}_loss"].update(both, out["positives"])
        pairs = list(zip(out["detections"], batch.targets, strict=True))
        found = [self._whole(detected, target["sides"]) for detected, target in pairs]
        truths = [{**target, "boxes": target["whole"]} for _, target in pairs]
        metrics["precision"].update(found, truths, batch.index)

    def _whole(self, detected: dict[str, Tensor], sides: Tensor) -> dict[str, Tensor]:
        """Detections in the pixels of the image as it lies on disk."""
        scale = (sides / self.size).flip(0).repeat(2)
        return {**detected, "boxes": detected["boxes"] * scale}

    def pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """The image with its objects, and with what is detected at a score of 0.5 or more."""
        drawn = {}
        for number, entry in enumerate(self.shown()):
            image, objects = self.data.read(entry)
            sample = (*self._placed(image, objects, False), number)
            batch = self.sent(self.collate([sample]), train=False)
            (detected,) = model(batch.inputs)["detections"]
            moved = self._whole(detected, batch.targets[0]["sides"])
            found = {name: value.cpu() for name, value in moved.items()}
            sure = found["scores"] >= SURE
            boxes, labels = found["boxes"][sure], found["labels"][sure]
            scores = found["scores"][sure].tolist()
            said = [f"{n} {s:.2f}" for n, s in zip(self._names(labels), scores, strict=True)]
            truth = self._names(objects.labels)
            parts = [
                pictures.framed(image, objects.boxes, objects.labels, truth),
                pictures.framed(image, boxes, labels, said),
            ]
            drawn[entry.name] = pictures.beside(parts)
        return drawn

    def _names(self, labels: Tensor) -> list[str]:
        return [self.data.classes[int(label) - 1] for label in labels]


def as_dict(objects: Objects, size: Any) -> dict[str, Tensor]:
    """For torchvision's transforms: boxes on a canvas of ``size`` (h, w), labels, difficult."""
    boxes = tv_tensors.BoundingBoxes(objects.boxes, format="XYXY", canvas_size=tuple(size))  # type: ignore[call-arg]
    return {"boxes": boxes, "labels": objects.labels, "difficult": objects.difficult}
