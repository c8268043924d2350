"""The detection task: batches, loss, scores, sample predictions, and runs of run.py."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from lrd.config.compose import compose
from lrd.config.compose import to_config as checked
from lrd.runs.store import find_runs
from lrd.task import Batch, Setup, epoch_order
from lrd.training import builder
from tasks.data import augment_boxes
from tasks.data.labeled_images import Entry
from tasks.data.visualize import draw_boxes
from tasks.detection import Detection
from tasks.models.ssd import SSDLite320MobileNet
from tasks.voc_boxes import ShapesBoxes, VOCBoxes
from tests.helpers import voc_layout


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Knowing(nn.Module):
    """Detects exactly the targets; its losses are the numbers of boxes."""

    size, mean, std = 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Any]:
        assert images.shape[1:] == (3, 64, 64)
        each = torch.tensor([float(len(t["boxes"])) for t in targets])
        sums = {"box_loss": each * self.scale, "class_loss": 3 * each}
        positives = 2 * each
        out: dict[str, Any] = {
            "losses": {name: value.sum() / positives.sum() for name, value in sums.items()},
            "sums": sums,
            "positives": positives,
        }
        if not self.training:
            out["detections"] = [
                {"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["boxes"]))}
                for t in targets
            ]
        return out


def task(holdout: int = 0, kind: type[nn.Module] = Knowing, **settings: Any) -> Detection:
    setup = Setup(**{"batch_size": 12, "eval_batch_size": 5, **settings})
    made = Detection(setup, ShapesBoxes(setup, "shapes_det", holdout=holdout), kind)
    made.model()
    return made


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(a.targets, b.targets, strict=True)
    return (
        torch.equal(a.inputs, b.inputs)
        and torch.equal(a.index, b.index)
        and all(torch.equal(x[name], y[name]) for x, y in pairs for name in x.keys() | y.keys())
    )


def test_an_epoch_is_every_image_in_the_order_of_the_seed_with_its_boxes_inside_it():
    of = task()
    batches = list(of.train_batches(1))
    assert of.steps_per_epoch == len(batches) == 6 and len(batches[-1]) == 4
    assert torch.equal(torch.cat([b.index for b in batches]), epoch_order(64, 0, 1))
    for target in (t for b in batches for t in b.targets):
        boxes = target["boxes"]
        assert (boxes[:, 2:] > boxes[:, :2]).all() and 0 <= boxes.min() and boxes.max() <= 64
        assert set(target["labels"].tolist()) <= {1, 2, 3}
        assert len(boxes) == len(target["labels"]) == len(target["difficult"])


def test_a_batch_comes_to_the_device_in_as_few_copies_as_an_image():
    counts = []
    for size in (1, 16):
        of, copied = task(batch_size=size), list[Tensor]()
        of.to = lambda tensor, copied=copied: copied.append(tensor) or tensor
        batch = next(of.train_batches(0))
        assert len(batch) == len(batch.targets) == size
        counts.append(len(copied))
    assert counts == [5, 5]  # images, numbers; boxes, labels, difficult


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_whatever_the_workers_and_wherever_an_epoch_is_entered(workers: int):
    whole = list(task().train_batches(2))
    of = task(workers=workers)
    for start in (0, 4):
        batches = of.train_batches(2, start=start)
        assert all(same(a, b) for a, b in zip(batches, whole[start:], strict=True))
    of.close()
    assert not same(next(task().train_batches(1)), whole[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 7), (2, 2)])
def test_images_of_few_pixels_are_trained_on(tmp_path: Path, size: tuple[int, int]):
    height, width = size
    folder = voc_layout.boxes(tmp_path, "2007", trainval="a", test="a")
    voc_layout.picture(folder / "JPEGImages" / "a.jpg", size)
    voc_layout.annotation(folder / "Annotations" / "a.xml", ("cat", 1, 1, width, height))
    setup = Setup(batch_size=1, root=str(tmp_path))
    of = Detection(setup, VOCBoxes(setup, "few", voc12=False, partial=True), Knowing)
    of.model()
    for epoch in range(8):
        (batch,) = of.train_batches(epoch)
        assert batch.inputs.shape == (1, 3, 64, 64) and len(batch.targets[0]["boxes"]) == 1
    assert evaluated(of)["test_map"] == 100


def evaluated(of: Detection) -> dict[str, float]:
    model, metrics = Knowing(4).eval(), of.metrics()
    with torch.inference_mode():
        for batch in of.eval_batches():
            of.eval_step(model, batch, metrics)
    values = {name: metric.compute() for name, metric in metrics.items()}
    scores = values.pop("precision")
    return {name: float(v) for name, v in (values | scores).items()}


def test_detections_are_scored_in_the_pixels_of_the_image_on_disk():
    scores = evaluated(task())
    assert scores["test_map"] == scores["test_map_area"] == pytest.approx(100)
    assert {k for k in scores if "_ap_" in k} == {f"test_ap_{c}" for c in ShapesBoxes.classes}


def test_the_loss_of_evaluation_is_a_sum_by_a_sum_whatever_is_loaded_at_once():
    scores = evaluated(task())
    # every box costs 1 and 3, and matches 2 priors
    assert scores["test_box_loss"] == pytest.approx(0.5)
    assert scores["test_class_loss"] == pytest.approx(1.5)
    assert scores["test_loss"] == pytest.approx(2.0)
    assert evaluated(task(eval_batch_size=1)) == pytest.approx(scores)
    assert task(holdout=6).score.name == "holdout_map"


def test_training_losses_are_the_models():
    of = task()
    step = of.step(Knowing(4).train(), next(of.train_batches(0)))
    assert {k: v.item() for k, v in step.losses.items()} == {"box_loss": 0.5, "class_loss": 1.5}


def test_the_papers_and_ssds_settings_come_with_the_pair_of_task_and_optimizer():
    for optim in ("adam", "sgdm"):
        config = checked(compose(["task=voc_det", f"optim={optim}"]))
        assert (config.optim["lr"], config.optim["weight_decay"]) == (0.001, 5e-4)
        assert (config.train.epochs, config.train.batch_size) == (100, 32)
        assert config.schedule["milestones"] == pytest.approx([80 / 120, 100 / 120])
        assert config.dataset["voc12"] and config.model["weights"] == "imagenet"


def drawn(of: Detection, name: str, folder: Path) -> Tensor:
    """Draw a training batch with its boxes; save it in ``folder`` or LRD_PICTURES."""
    batch = next(of.train_batches(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (of.mean, of.std))
    images = ((batch.inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    pictures = [
        draw_boxes(i, t["boxes"], t["labels"], of._names(t["labels"]))
        for i, t in zip(images, batch.targets, strict=True)
    ]
    grid = make_grid(torch.stack(pictures), nrow=4, padding=4, pad_value=255)
    file = Path(os.environ.get("LRD_PICTURES", folder)) / f"{name}.png"
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(file)
    return torch.stack(pictures)


class Large(Knowing):
    size = 300


def test_a_batch_is_drawn_with_its_boxes(tmp_path: Path):
    assert drawn(task(kind=Large), "shapes_boxes", tmp_path).shape == (12, 3, 300, 300)


def test_a_batch_of_real_voc_is_drawn_with_its_boxes(real_data: Path, tmp_path: Path):
    setup = Setup(batch_size=12, root=str(real_data))
    of = Detection(setup, VOCBoxes(setup, "voc_det", voc12=False, partial=True), Large)
    of.model()
    assert drawn(of, "voc_boxes", tmp_path).shape == (12, 3, 300, 300)


def test_a_run_has_losses_scores_and_pictures(cli):
    done = cli(
        *("task=shapes_det", "train.max_steps=2", "train.batch_size=4", "train.threads=1"),
        *("eval.pictures_every=1", "eval.batch_size=4"),
    )
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    (line,) = run.metrics
    for part in ("train", "test"):
        both = line[f"{part}_box_loss"] + line[f"{part}_class_loss"]
        assert line[f"{part}_loss"] == pytest.approx(both) and np.isfinite(both)
    assert 0 <= line["test_map"] <= 100 and run.final == line["test_map"]
    about = "shapes_det: 64 of 64 training images and 16 of 16 test images"
    assert run.metadata["data"] == about
    assert len(list(run.folder.glob("pictures/*/epoch0001.png"))) == 6


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("task=shapes_det model=resnet18", "model must fit the task, got ResNet18: "),
        ("task=shapes_det dataset=shapes_seg", "dataset must hold images with boxes for this task"),
        ("task=shapes_det eval.mode=whole", "eval.mode must be left out, Detection evaluates in"),
        ("task=shapes_det train.batch_size=65", "must be at most the 64 training images"),
        ("task=voc_det model.weights=none data.root=/nowhere", "trainval.txt is missing: unpack"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(cli, arguments: str, line: str):
    done = cli(*arguments.split())
    assert done.status == 2 and line in done.err and len(done.err.splitlines()) == 1
    assert not list(find_runs("runs"))


@pytest.mark.slow
def test_eight_images_are_overfit(monkeypatch: pytest.MonkeyPatch):
    """Overfitting, with LRD: mAP above 0.9 on the eight images trained on, not augmented, at half
    the model's side, which costs a third of the time."""
    splits = ShapesBoxes.splits

    def eight(self: ShapesBoxes) -> tuple[list[Entry], list[Entry]]:
        train, _ = splits(self)
        return train[:8], train[:8]

    monkeypatch.setattr(SSDLite320MobileNet, "size", 160)
    monkeypatch.setattr(SSDLite320MobileNet, "maps", (10, 5, 3, 2, 1, 1))
    monkeypatch.setattr(ShapesBoxes, "splits", eight)
    monkeypatch.setattr(
        augment_boxes,
        "DetectionTransform",
        lambda size: partial(augment_boxes.resize, size=size),
    )
    config = checked(
        compose(
            [
                *("task=shapes_det", "train.batch_size=8", "train.epochs=30", "lrd.p=0.5"),
                *("optim.lr=0.002", "eval.every=30", "train.threads=1"),
            ]
        )
    )
    parts = builder.build(config)
    trainer, _ = builder.build_trainer(config, parts)
    for layer in trainer.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.5  # with 0.03 the initial value lasts more than 100 steps
    trainer.run()
    assert isinstance(trainer.model, SSDLite320MobileNet)
    assert trainer.evaluate()["test_map"] > 90


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ([0.2, 0.9, 0.5, 0.49], "square 0.90, square 0.50"),
        (
            [0.1, 0.3, 0.2, 0.4],
            "nothing with a score of 0.5 or more; highest: square 0.40, square 0.30, square 0.20",
        ),
        ([], "nothing found"),
    ],
)
def test_what_a_prediction_of_boxes_shows(scores: list[float], text: str):
    """Detections of a score of at least 0.5, whatever their order; else the highest three."""

    class Detector(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Any]:
            boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0]]).repeat(len(scores), 1)
            labels = torch.full((len(scores),), 2)
            return {
                "detections": [{"boxes": boxes, "labels": labels, "scores": torch.tensor(scores)}]
            }

    found = task().predict(Detector(), torch.zeros(3, 60, 80, dtype=torch.uint8))
    assert found.text == text
