"""The segmentation task: batches, loss, scores, sample predictions, and runs of run.py."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as v2
from torchvision.utils import make_grid

from lrd.config.compose import compose
from lrd.config.compose import to_config as checked
from lrd.runs.store import find_runs
from lrd.task import Setup, epoch_order
from lrd.training import builder
from tasks.data import augment, augment_masks
from tasks.data.labeled_images import Entry
from tasks.data.visualize import colorize
from tasks.models.pspnet import PSPNet18
from tasks.segmentation import Segmentation
from tasks.voc_masks import ShapesMasks, VOCMasks


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


class Tiny(nn.Module):
    """Logits from a pixel's colors; an auxiliary head that ignores them."""

    head_lr_factor = 1.0

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.top = nn.Conv2d(3, 4, 1), nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {"out": self.top(torch.relu(self.body(x)))}
        return out | ({"aux": 0 * out["out"]} if self.training else {})


def task(crop: int = 33, holdout: int = 0, **settings: Any) -> Segmentation:
    setup = Setup(**{"batch_size": 8, "eval_batch_size": 3, **settings})
    data = ShapesMasks(setup, "shapes_seg", crop=crop, holdout=holdout)
    return Segmentation(setup, dataset=data, model=Tiny)


def same(a: Any, b: Any) -> bool:
    return all(
        torch.equal(x.inputs, y.inputs)
        and torch.equal(x.targets, y.targets)
        and torch.equal(x.index, y.index)
        for x, y in zip(a, b, strict=True)
    )


def test_an_epoch_is_whole_batches_of_crops_in_the_order_of_the_seed():
    of = task(batch_size=12)
    batches = list(of.train_batches(1))
    assert of.steps_per_epoch == len(batches) == 64 // 12
    order = torch.cat([b.index for b in batches])
    assert torch.equal(order, epoch_order(64, 0, 1)[:60])
    for b in batches:
        assert b.inputs.shape == (12, 3, 33, 33) and b.inputs.dtype == torch.float32
        assert b.targets.shape == (12, 33, 33) and b.targets.dtype == torch.int64
        assert set(b.targets.unique().tolist()) <= {0, 1, 2, 3, 255}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_whatever_the_workers_and_wherever_an_epoch_is_entered(workers: int):
    whole = list(task().train_batches(2))
    of = task(workers=workers)
    assert same(of.train_batches(2), whole)
    assert same(of.train_batches(2, start=5), whole[5:])
    of.close()


def test_ranks_share_each_batch_sample_by_sample():
    alone = list(task().train_batches(0, start=6))
    ranks = [list(task().train_batches(0, 6, rank, 3)) for rank in range(3)]
    for batch, *shares in zip(alone, *ranks, strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(share.index, batch.index[rank::3])
            assert torch.equal(share.inputs, batch.inputs[rank::3])


def test_another_epoch_or_seed_draws_other_crops_of_the_same_images():
    def by_sample(of: Segmentation, epoch: int) -> dict[int, Tensor]:
        return {
            int(n): x
            for b in of.train_batches(epoch)
            for n, x in zip(b.index, b.inputs, strict=True)
        }

    first = by_sample(task(), 0)
    for other in (by_sample(task(), 1), by_sample(task(seed=1), 0)):
        assert first.keys() == other.keys() and len(first) == 64
        assert not any(torch.equal(first[n], other[n]) for n in first)


def test_the_loss_is_cross_entropy_where_pixels_count_and_the_auxiliary_one_weighted():
    of = task()
    batch = next(of.train_batches(0))
    model = of.model().train()
    step = of.step(model, batch)
    logits = model(batch.inputs)["out"].permute(0, 2, 3, 1).flatten(0, 2)
    truth = batch.targets.flatten()
    counted = truth != 255
    by_hand = -logits.log_softmax(1)[counted].gather(1, truth[counted][:, None]).mean()
    assert step.losses["main_loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert step.losses["aux_loss"].item() == pytest.approx(0.4 * np.log(4), rel=1e-5)
    torch.use_deterministic_algorithms(True)
    again = of.step(model, batch).losses["main_loss"]
    assert again.item() == pytest.approx(by_hand.item(), rel=1e-5)
    torch.use_deterministic_algorithms(False)
    batch.targets.fill_(255)
    assert of.step(model, batch).losses["main_loss"].item() == 0


def test_evaluation_sees_each_image_whole_and_scores_are_those_of_a_loop_by_hand():
    of = task()
    model = of.model().eval()
    metrics = of.metrics()
    images, hits, union, losses = 0, torch.zeros(4), torch.zeros(4), []
    with torch.inference_mode():
        for batch in of.eval_batches():
            images += len(batch)
            of.eval_step(model, batch, metrics)
            for image, target in zip(batch.inputs, batch.targets, strict=True):
                mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
                std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
                logits = model(((image / 255 - mean) / std)[None])["out"]
                losses.append(
                    F.cross_entropy(
                        logits, target[None].long(), ignore_index=255, reduction="none"
                    )[0][target != 255]
                )
                guess = logits[0].argmax(0)
                for c in range(4):
                    ours, theirs = (guess == c) & (target != 255), target == c
                    hits[c] += (ours & theirs).sum()
                    union[c] += (ours | theirs).sum()
    assert images == 16
    assert metrics["val_loss"].compute().item() == pytest.approx(torch.cat(losses).mean().item())
    scores = metrics["iou"].compute()
    there = union > 0
    expected = 100 * (hits[there] / union[there]).mean().item()
    assert float(scores["val_whole_miou"]) == pytest.approx(expected, rel=1e-5)


def test_scores_do_not_depend_on_how_many_images_are_loaded_at_once():
    def score(size: int) -> dict[str, float]:
        of = task(eval_batch_size=size)
        torch.manual_seed(0)
        model, metrics = of.model().eval(), of.metrics()
        with torch.inference_mode():
            for batch in of.eval_batches():
                of.eval_step(model, batch, metrics)
        return {k: float(v) for k, v in metrics["iou"].compute().items()}

    assert score(1) == score(5) == score(16)


def test_the_final_evaluation_is_there_where_it_differs_and_its_name_says_how():
    def names(**settings: Any) -> list[str]:
        final = task(**settings).final_metrics()
        return [n for m in final.values() for n in m.compute() if n.endswith("_miou")]

    with pytest.warns(UserWarning, match="compute"):  # nothing was counted yet
        assert names(eval_final_mode="sliding") == ["val_sliding_miou"]
        assert names(eval_scales=(0.5, 1.0)) == ["val_whole_multiscale_miou"]
        assert names(eval_base_size=512) == ["val_whole_base512_miou"]
        both = {"eval_base_size": 64, "eval_scales": (0.5,), "eval_final_mode": "sliding"}
        assert names(**both) == ["val_sliding_base64_multiscale_miou"]
    assert names() == names(eval_mode="sliding") == []
    assert task(holdout=5).score.name == "holdout_whole_miou"
    assert task(eval_mode="sliding").score.name == "val_sliding_miou"


def test_the_heads_rate_is_the_optimizers_times_its_factor():
    configuration = ["task=shapes_seg", "optim=sgdm", "model.head_lr_factor=10", "optim.lr=0.01"]
    parts = builder.build(checked(compose(configuration)))
    body, rest = parts.optimizer.param_groups
    assert (body["lr"], rest["lr"]) == pytest.approx((0.01, 0.1))
    model: Any = parts.model
    assert [id(p) for p in body["params"]] == [id(p) for p in model.body.parameters()]
    together = {id(p) for group in (body, rest) for p in group["params"]}
    assert together == {id(p) for p in model.parameters()}
    parts = builder.build(checked(compose(["task=shapes_seg"])))
    assert len(parts.optimizer.param_groups) == 1


def test_the_papers_and_pspnets_settings_come_with_the_pair_of_task_and_optimizer():
    for optim, lr, factor in (("adam", 0.001, 1), ("sgdm", 0.01, 10)):
        config = checked(compose(["task=voc_seg", f"optim={optim}"]))
        assert (config.optim["lr"], config.optim["weight_decay"]) == (lr, 1e-4)
        assert config.model["head_lr_factor"] == factor
        assert (config.train.epochs, config.train.batch_size) == (50, 16)
        assert config.schedule == {"_target_": "lrd.schedules.Poly", "power": 0.9}
        assert (config.eval.mode, config.eval.final_mode) == ("whole", "sliding")
        assert config.dataset["crop"] == 473 and config.model["weights"] == "imagenet"


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("task=shapes_seg model=resnet18", "model must fit the task, got ResNet18: "),
        ("task=shapes_seg dataset=digits", "dataset must hold images with masks for this task"),
        ("task=shapes_seg train.batch_size=1", "train.batch_size must be at least 2"),
        ("task=shapes_seg train.batch_size=65", "must be at most the 64 training images"),
        ("task=shapes_seg eval.mode=half", "eval.mode must be one of whole, sliding, got half"),
        ("task=shapes_seg eval.scales=[0]", "eval.scales must be a list of numbers above 0"),
        ("task=shapes_seg eval.base_size=0", "eval.base_size must be at least 1, or null, got 0"),
        ("eval.base_size=512", "eval.base_size must be left out, Classification evaluates in one"),
        ("eval.mode=whole", "eval.mode must be left out, Classification evaluates in one way"),
        ("eval.scales=[0.5]", "eval.scales must be left out, Classification evaluates in one"),
        ("task=shapes_seg task.aux_weight=-1", "task.aux_weight must be at least 0, got -1"),
        ("task=voc_seg model.weights=/nowhere", "model.weights must be imagenet, none or the"),
        ("task=voc_seg model.weights=none data.root=/nowhere", "train.txt is missing: unpack VOC"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(cli, arguments: str, line: str):
    done = cli(*arguments.split())
    assert done.status == 2 and line in done.err and len(done.err.splitlines()) == 1
    assert not list(find_runs("runs"))


QUICK = [
    *("task=shapes_seg", "dataset.crop=33", "train.batch_size=4", "train.threads=1"),
    *("train.epochs=2", "train.max_steps=18", "eval.pictures_every=1"),
]


def test_a_run_has_scores_pictures_and_what_there_was_of_the_data(cli):
    done = cli(*QUICK)
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    assert run.folder.parts[1] == "shapes_seg"
    first, last = run.metrics
    for name in ("miou", "pixel_accuracy", "macc", "iou_background"):
        assert 0 <= first[f"val_whole_{name}"] <= 100
        assert f"val_sliding_{name}" not in first and 0 <= last[f"val_sliding_{name}"] <= 100
    assert first["train_loss"] == pytest.approx(first["train_main_loss"] + first["train_aux_loss"])
    assert 0 < first["data_wait"] < 1
    assert run.final == last["val_whole_miou"]
    about = "shapes_seg: 64 of 64 training images and 16 of 16 validation images"
    assert run.metadata["data"] == about and about in done.out
    pictures = sorted((run.folder / "pictures").glob("*/*.png"))
    assert len(pictures) == 12 and {p.name for p in pictures} == {"epoch0001.png", "epoch0002.png"}
    of = task()
    entry = next(e for e in of.entries["eval"] if e.name == pictures[0].parent.name)
    image, mask = of.data.read(entry)
    drawn = torch.from_numpy(np.array(Image.open(pictures[0]))).permute(2, 0, 1)
    height, width = mask.shape
    assert torch.equal(drawn[:, 4 : 4 + height, 4 : 4 + width], image)
    truth = drawn[:, 4 : 4 + height, 8 + width : 8 + 2 * width]
    colors = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 255: (224, 224, 192)}
    for label, color in colors.items():
        assert (truth[:, mask == label].T == torch.tensor(color)).all()


def test_the_last_epoch_is_evaluated_and_drawn_whatever_every_says(cli):
    assert cli(*QUICK, "eval.every=5", "eval.pictures_every=5", "eval.final_mode=whole").status == 0
    (run,) = find_runs("runs")
    first, last = run.metrics
    assert "val_whole_miou" not in first and "val_whole_miou" in last
    assert run.metadata["best"] == run.metadata["final"]
    assert {p.name for p in run.folder.glob("pictures/*/*")} == {"epoch0002.png"}


def test_voc_segmentation_takes_the_shapes_as_any_data_set(cli):
    done = cli(
        *("task=voc_seg", "dataset=shapes_seg", "model=pspnet18", "dataset.crop=33"),
        *("train.max_steps=1", "train.threads=1", "eval.final_mode=whole"),
    )
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    assert run.identity["optim.weight_decay"] == 1e-4 and run.metrics[0]["step"] == 1


def test_a_picture_is_the_same_for_a_label_whatever_image_it_is_in():
    labels = torch.tensor([[0, 15], [20, 255]], dtype=torch.uint8)
    expected = [[(0, 0, 0), (192, 128, 128)], [(0, 64, 128), (224, 224, 192)]]
    assert colorize(labels).permute(1, 2, 0).tolist() == [[list(c) for c in r] for r in expected]


def overlay(image: Tensor, labels: Tensor) -> Tensor:
    """An image (3, h, w) under the colors of its labels (h, w), where they are not 0."""
    mixed = 0.4 * image + 0.6 * colorize(labels)
    return torch.where(labels == 0, image, mixed.round().to(torch.uint8))


def drawn(of: Segmentation, name: str, folder: Path) -> Tensor:
    """Draw a training batch with masks over its images; save it in ``folder`` or LRD_PICTURES for
    inspection."""
    batch = next(of.train_batches(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (augment.MEAN, augment.STD))
    images = ((batch.inputs * std + mean) * 255).round().to(torch.uint8)
    masks = batch.targets.to(torch.uint8)
    rows = [
        torch.cat([image, overlay(image, mask)], 2)
        for image, mask in zip(images, masks, strict=True)
    ]
    picture = make_grid(torch.stack(rows), nrow=2, padding=4, pad_value=255)
    file = Path(os.environ.get("LRD_PICTURES", folder)) / f"{name}.png"
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file)
    return torch.stack(rows)


def test_a_batch_is_drawn_with_its_masks_over_it(tmp_path: Path):
    rows = drawn(task(crop=97), "shapes_batch", tmp_path)
    assert rows.shape == (8, 3, 97, 194)
    image, under = rows.int().chunk(2, 3)
    batch = next(task(crop=97).train_batches(0))
    image, under = (x.permute(0, 2, 3, 1) for x in (image, under))
    nothing, circle = batch.targets == 0, batch.targets == 1
    assert torch.equal(image[nothing], under[nothing])
    assert (under[circle][:, 0] - 0.4 * image[circle][:, 0] - 0.6 * 128).abs().max() <= 1


def test_a_batch_of_real_voc_is_drawn_with_its_masks_over_it(real_data: Path, tmp_path: Path):
    setup = Setup(batch_size=8, root=str(real_data))
    data = VOCMasks(setup, "voc_seg", sbd=False, partial=True)
    rows = drawn(Segmentation(setup, data, Tiny), "voc_batch", tmp_path)
    assert rows.shape == (8, 3, 473, 946)


def test_real_voc_trains_and_is_scored(cli, real_data: Path):
    done = cli(
        *("task=voc_seg", "model=pspnet18", "dataset.sbd=false", "dataset.partial=true"),
        *("dataset.resolution=0.1", "dataset.crop=33", "train.max_steps=2", "train.batch_size=4"),
        *("eval.final_mode=whole", f"data.root={real_data}", "data.workers=1"),
    )
    assert done.status == 0, done.err
    (run,) = find_runs("runs")
    (line,) = run.metrics
    assert "311 of 1,464 training images and 321 of 1,449 validation images" in run.metadata["data"]
    assert "iou_person" in json.dumps(line)


@pytest.mark.slow
def test_eight_images_are_overfit(monkeypatch: pytest.MonkeyPatch):
    """Overfitting, with LRD: mean IoU above 0.9 on the eight images trained on, not augmented; of
    each the middle, where all three shapes occur."""
    splits, read = ShapesMasks.splits, ShapesMasks.read

    def eight(self: ShapesMasks) -> tuple[list[Entry], list[Entry]]:
        train, _ = splits(self)
        return train[:8], train[:8]

    def middle(self: ShapesMasks, entry: Entry) -> tuple[Tensor, Tensor]:
        image, mask = read(self, entry)
        return v2.center_crop(image, [49, 49]), v2.center_crop_mask(mask[None], [49, 49])[0]

    monkeypatch.setattr(ShapesMasks, "splits", eight)
    monkeypatch.setattr(ShapesMasks, "read", middle)
    monkeypatch.setattr(
        augment_masks, "SegmentationTransform", lambda crop: lambda image, mask: (image, mask)
    )
    config = checked(
        compose(
            [
                *("task=shapes_seg", "train.batch_size=8", "train.epochs=30", "lrd.p=0.5"),
                *("schedule=constant", "eval.every=30", "eval.final_mode=whole", "train.threads=1"),
            ]
        )
    )
    parts = builder.build(config)
    trainer, _ = builder.build_trainer(config, parts)
    for layer in trainer.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.5  # with 0.1 the averages follow the weights too slowly
    trainer.run()
    assert isinstance(trainer.model, PSPNet18)
    assert trainer.evaluate()["val_whole_miou"] > 90
